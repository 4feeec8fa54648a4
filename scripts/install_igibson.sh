#!/usr/bin/env bash
# Builds iGibson 2.2.2's MeshRenderer and installs it in a virtual environment;
# see docs/rendering.md.
#   bash scripts/install_igibson.sh [FOLDER]     FOLDER is .venv by default
set -euo pipefail
python=$(realpath -s "${1:-.venv}")/bin/python
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

packages=()
command -v g++ > /dev/null && command -v make > /dev/null ||
  packages+=(build-essential)
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || packages+=(python3-dev)
if [ ${#packages[@]} -gt 0 ]
then
  sudo=$([ "$(id -u)" = 0 ] || echo sudo)
  $sudo apt-get update -q
  $sudo apt-get install -qy --no-install-recommends "${packages[@]}"
fi

tools=$build/tools
"$python" -m pip install -q --target "$tools" \
  'cmake<4' pybind11==2.13.6 setuptools==80.9.0 wheel==0.45.1
export PYTHONPATH=$tools PATH=$tools/bin:$PATH
"$python" -m pip download -q --no-deps --no-build-isolation \
  --no-binary igibson -d "$build" igibson==2.2.2
tar xzf "$build/igibson-2.2.2.tar.gz" -C "$build"
# iGibson's copy of pybind11 is too old for Python 3.11. CUDA is not needed,
# because images are copied to the CPU. Crypto++ would also build its tests.
sed -i -e 's/^add_subdirectory(pybind11)/find_package(pybind11 REQUIRED)/' \
  -e 's/^add_subdirectory(cryptopp)/add_subdirectory(cryptopp EXCLUDE_FROM_ALL)/' \
  -e 's/find_package(CUDAToolkit)//' \
  "$build/igibson-2.2.2/igibson/render/CMakeLists.txt"
pybind11_DIR=$tools/pybind11/share/cmake/pybind11 \
  "$python" -m pip install -q --no-deps --no-build-isolation \
  "$build/igibson-2.2.2"
# Packages that the renderer imports.
"$python" -m pip install -q --no-deps \
  bddl==1.0.1 freetype-py==2.5.1 future==1.0.0 ipython==9.18.1 \
  networkx==3.6.1 prompt_toolkit==3.0.53 py360convert==1.0.4 \
  pybullet==3.2.7 pyyaml==6.0.3 traitlets==5.16.1 transforms3d==0.4.2 \
  trimesh==5.2.0 wcwidth==0.9.4 fast-simplification==0.2.0
