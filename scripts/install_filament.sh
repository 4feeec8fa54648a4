#!/usr/bin/env bash
# Installs a version of MuJoCo that includes Filament in a virtual environment;
# see docs/rendering.md.
#   bash scripts/install_filament.sh [FOLDER]     FOLDER is .venv by default
set -euo pipefail
python=$(realpath -s "${1:-.venv}")/bin/python

# The Vulkan loader and Mesa's software driver; they do not disturb a GPU's.
packages=(libvulkan1 mesa-vulkan-drivers)
if command -v apt-get > /dev/null && ! dpkg -s "${packages[@]}" &> /dev/null
then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -q
  $sudo apt-get install -qy --no-install-recommends "${packages[@]}"
fi

"$python" -m pip install -q --no-deps \
  mujoco==3.17.0 dm_control==1.0.50 fast-simplification==0.2.0
