"""Tests the installer and the locks without installing anything."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def read_lock(name):
  """Returns {package: version} of a file of exact versions."""
  lines = (ROOT / name).read_text().splitlines()
  pins = [x.split('==') for x in lines if x and not x.startswith('#')]
  return {re.sub('[-_.]+', '-', k).lower(): v for k, v in pins}


def install(*argv, version='', tmp_path, **environ):
  """Runs install.sh with a Python that only tells its version."""
  python = tmp_path / 'python'
  inside = f'[ "$1" = --version ] && echo Python {version} && exit; exit 1'
  if not version:  # A good version, but the script stops at ensurepip or venv.
    inside = f'[ "$1" = -m ] && exit 7; exec {sys.executable} "$@"'
  python.write_text(f'#!/bin/sh\n{inside}\n')
  python.chmod(0o755)
  return subprocess.run(
      ['bash', str(ROOT / 'install.sh'), *argv], capture_output=True,
      text=True, cwd='/', env={
          **os.environ, 'PYTHON': str(python), **environ})


def test_wrong_python_is_named_before_anything_is_made(tmp_path):
  done = install(str(tmp_path / 'venv'), version='3.9.1', tmp_path=tmp_path)
  line, = done.stderr.splitlines()
  assert done.returncode == 2 and not done.stdout
  assert 'Python 3.9.1 is not Python 3.11 or 3.12' in line
  assert 'apt-get install python3.11' in line and 'PYTHON' in line
  assert not (tmp_path / 'venv').exists()


def test_unknown_flag_is_refused(tmp_path):
  done = install('--gpus', tmp_path=tmp_path)
  assert done.returncode == 2
  assert done.stderr == 'Error: --gpus is unknown; use --gpu or --next\n'


@pytest.mark.parametrize('flag, warned', [('--gpu', True), ('--next', False)])
def test_libraries_that_hide_those_of_pip_are_named(flag, warned, tmp_path):
  (tmp_path / 'libcudnn.so.8').touch()
  done = install(flag, tmp_path=tmp_path, LD_LIBRARY_PATH=f':{tmp_path}')
  assert done.returncode == 7, done.stderr
  assert (f'{tmp_path} has libcudnn' in done.stderr) == warned
  assert 'libcublas' not in done.stderr


def test_gpu_lock_is_what_tensorflow_wants():
  if importlib.metadata.version('tensorflow') != read_lock(
      'constraints.txt')['tensorflow']:
    pytest.skip('the lock belongs to another TensorFlow')
  wanted = dict(re.findall(
      r'^(nvidia-[\w-]+) ?[(=]+([\d.]+)',
      '\n'.join(importlib.metadata.requires('tensorflow') or ()), re.M))
  assert len(wanted) == 12
  assert read_lock('constraints-gpu.txt') == wanted


def test_locks_lie_within_the_ranges_of_the_package():
  from packaging.requirements import Requirement
  text = (ROOT / 'setup.py').read_text()
  start = text.index('install_requires=[')
  ranges = [Requirement(x) for x in re.findall(
      r"'(.+?)'", text[start:text.index(']', start)].partition('[')[2])]
  assert len(ranges) > 12
  for name in ('constraints.txt', 'constraints-next.txt'):
    pins = read_lock(name)
    for entry in ranges:
      version = pins[re.sub('[-_.]+', '-', entry.name).lower()]
      assert version in entry.specifier, (name, str(entry))
  ours, others = map(read_lock, ('constraints.txt', 'constraints-next.txt'))
  assert others['tensorflow'].startswith('2.21.')
  assert others['tf-keras'].startswith('2.21.')
  # Whatever both have and TensorFlow does not decide is the same.
  moved = {k for k in ours.keys() & others.keys() if ours[k] != others[k]}
  assert moved == {
      'h5py', 'ml-dtypes', 'numpy', 'opencv-python-headless', 'protobuf',
      'tensorboard', 'tensorflow', 'tf-keras'}


def test_image_is_built_by_the_installer_alone():
  lines = (ROOT / 'Dockerfile').read_text().splitlines()
  runs = [x for x in lines if x.startswith('RUN')]
  assert runs[-1] == 'RUN bash install.sh $FLAGS' and len(runs) == 2
  assert 'libEGL_nvidia.so.0' in runs[0]
  assert any('compute,graphics,utility' in x for x in lines)
  assert 'FROM python:3.11' in '\n'.join(lines)
