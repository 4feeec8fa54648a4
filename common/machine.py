"""Describes the machine of a run, and silences libraries."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

import psutil

PACKAGES = (
    'dm_control', 'mujoco', 'numpy', 'robosuite', 'tensorflow',
    'tensorflow-cpu', 'tensorflow-probability', 'tf_keras')


def versions(version, root):
  """Returns one line with commit, machine and versions of libraries.

  Args:
    version: Version of this package.
    root: Folder of the checkout, if there is one.
  """
  commit = 'unknown'
  if (root / '.git').exists():  # Not that of a repository around an install.
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
      commit = subprocess.run(
          # A tag would stand in place of the commit.
          ['git', 'describe', '--always', '--dirty', '--abbrev=40',
           '--exclude=*'], cwd=root, capture_output=True, text=True,
          check=True).stdout.strip()
  parts = [
      f'dreamingv2 {version}', f'commit {commit}',
      f'{len(os.sched_getaffinity(0))} x {processor()}',
      f'python {platform.python_version()}']
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      parts.append(f'{name} {importlib.metadata.version(name)}')
  return ', '.join(parts)


def processor():
  """Returns the name of the CPU."""
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip().replace(',', ' ')
  return platform.machine()


def cpu_seconds():
  """Returns the CPU time of this process and of all that it has started."""
  total = 0.0
  own = psutil.Process()
  for process in (own, *own.children(recursive=True)):
    with contextlib.suppress(psutil.Error):  # It has just ended.
      times = process.cpu_times()
      # Those of children count here once they have ended.
      total += (times.user + times.system + times.children_user
                + times.children_system)
  return total


@contextlib.contextmanager
def quiet():
  """Hides what libraries print while they load."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  sys.stderr.flush()
  saved = os.dup(2)
  with open(os.devnull, 'w') as null:
    os.dup2(null.fileno(), 2)
  try:
    yield
  finally:
    sys.stderr.flush()
    os.dup2(saved, 2)
    os.close(saved)
