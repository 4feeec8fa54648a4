#!/usr/bin/env bash
# Creates a virtual environment with the tested versions. If apt is available,
# also installs the libraries for rendering without a display.
#   bash install.sh [FOLDER]     FOLDER is .venv by default
set -euo pipefail
cd "$(dirname "$0")"
venv=${1:-.venv}
python=${PYTHON:-$(command -v python3.11 || command -v python3.12 ||
  command -v python3)}

# EGL and Mesa's software driver for it; they do not disturb a GPU's driver.
packages=(libegl1 libopengl0 libgl1-mesa-dri)
"$python" -c 'import ensurepip' 2> /dev/null || packages+=(python3-venv)
if command -v apt-get > /dev/null && ! dpkg -s "${packages[@]}" &> /dev/null
then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -q
  $sudo apt-get install -qy --no-install-recommends "${packages[@]}"
fi

"$python" -m venv "$venv"
"$venv/bin/python" -m pip install -q --no-deps -r constraints.txt -e .
