"""Runs the script of continuous integration with programs that do nothing."""

import os
import pathlib
import shutil
import signal
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / '.ci' / 'run'
# The score gate starts a process of its own, as a training run does.
PYTHON = '''#!/bin/bash
case "$*" in
  *slow*) echo $$ > gate; sleep 600 & echo $! > child; wait;;
  *) while [ ! -s child ]; do sleep 0.02; done; eval "$TESTS";;
esac
'''


@pytest.fixture
def folder(tmp_path):
  """Returns a copy of the checkout in which every program is a stand-in."""
  (tmp_path / '.ci').mkdir()
  shutil.copy(SCRIPT, tmp_path / '.ci' / 'run')
  (tmp_path / 'install.sh').touch()
  (tmp_path / '.venv' / 'bin').mkdir(parents=True)
  (tmp_path / '.venv' / 'bin' / 'activate').touch()
  (tmp_path / 'bin').mkdir()
  for name in ('dreamingv2', 'ruff', 'basedpyright', 'python'):
    path = tmp_path / 'bin' / name
    path.write_text(PYTHON if name == 'python' else '#!/bin/bash\n')
    path.chmod(0o755)
  return tmp_path


def start(folder, tests):
  return subprocess.Popen(
      ['bash', '.ci/run'], cwd=folder, start_new_session=True, env={
          **os.environ, 'PATH': f'{folder}/bin:{os.environ["PATH"]}',
          'TESTS': tests})


def alive(pid):
  try:
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return False
  return text.rpartition(')')[2].split()[0] != 'Z'


def left(folder):
  """Returns which processes of the score gate live on."""
  pids = [(folder / x).read_text().strip() for x in ('gate', 'child')]
  return [pid for pid in pids if alive(pid)]


def wait_until(condition):
  for _ in range(500):
    if condition():
      return True
    subprocess.run(['sleep', '0.02'], check=True)
  return False


def test_failed_check_leaves_no_process_behind(folder):
  assert start(folder, 'exit 3').wait(timeout=60) == 3
  assert wait_until(lambda: not left(folder))


def test_failed_linter_leaves_no_process_behind(folder):
  (folder / 'bin' / 'ruff').write_text(
      '#!/bin/bash\nwhile [ ! -s child ]; do sleep 0.02; done; exit 4\n')
  assert start(folder, 'echo > began').wait(timeout=60) == 4
  assert wait_until(lambda: not left(folder))
  assert not (folder / 'began').exists()


@pytest.mark.parametrize(
    'number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_checks_leave_no_process_behind(number, folder):
  process = start(folder, 'echo > began; sleep 600')
  assert wait_until((folder / 'began').exists) and len(left(folder)) == 2
  os.killpg(process.pid, number)  # As a terminal, or a server, does.
  assert process.wait(timeout=60) not in (0, None)
  assert wait_until(lambda: not left(folder))


def test_failed_gate_fails_the_checks(folder):
  # The gate first: it ends well as soon as its child is gone.
  code = 'kill $(cat gate) $(cat child)'
  assert start(folder, code).wait(timeout=60) not in (0, None)
  assert wait_until(lambda: not left(folder))
