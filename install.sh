#!/usr/bin/env bash
# Creates a virtual environment with the tested versions. If apt is available,
# also installs the libraries for rendering without a display.
#   bash install.sh [--gpu | --next] [FOLDER]     FOLDER is .venv by default
# --gpu adds the libraries of CUDA 12; --next takes TensorFlow 2.21.
set -euo pipefail
cd "$(dirname "$0")"
locks=(-r constraints.txt)
case ${1:-} in
  --gpu) locks+=(-r constraints-gpu.txt); shift ;;
  --next) locks=(-r constraints-next.txt); shift ;;
  -*) echo "Error: $1 is unknown; use --gpu or --next" >&2; exit 2 ;;
esac
venv=${1:-.venv}
python=${PYTHON:-$(command -v python3.11 || command -v python3.12 ||
  command -v python3 || echo python3)}
if ! "$python" -c 'import sys
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2> /dev/null
then
  echo "Error: $("$python" --version 2>&1 | tail -n 1) is not Python 3.11 or" \
    "3.12; install one (apt-get install python3.11, or uv python install" \
    "3.11) and set PYTHON to its path" >&2
  exit 2
fi

# TensorFlow would load these, often of a module system, instead of pip's.
if [[ ${locks[*]} == *gpu* ]]; then
  IFS=: read -ra folders <<< "${LD_LIBRARY_PATH:-}"
  for folder in "${folders[@]}"; do
    for name in cublas cudart cudnn cufft cupti curand cusolver cusparse nccl
    do
      [ "$folder" ] && compgen -G "$folder/lib$name*.so*" > /dev/null &&
        echo "Warning: $folder has lib$name, which hides the right one;" \
          "unset LD_LIBRARY_PATH before you train" >&2
    done
  done
fi

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
"$venv/bin/python" -m pip install -q --no-deps --no-compile "${locks[@]}" -e .
# On all cores, unlike pip, which also passes over what does not compile.
"$venv/bin/python" -m compileall -q -j 0 "$venv/lib" &> /dev/null || true
