"""Kills runs at any moment; tests what is lost, repeated or left over."""

import collections
import contextlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import config as configs
from dreamingv2.common import replay as replays
from tests.test_faults import ARGV
from tests.test_faults import assert_same_runs
from tests.test_faults import contents
from tests.test_faults import make_run
from tests.test_faults import runs
from tests.test_faults import saved

# Little to compile.
LITTLE = [
    '--dataset.length', '6', '--replay.minlen', '6', '--replay.maxlen', '6',
    '--imag_horizon', '2', '--contrastive.horizon', '1']
KILLED = pathlib.Path(__file__).with_name('killed.py')


class Killed(BaseException):
  """Stands for SIGKILL: the run ends without saving."""


def kill_after(run, steps):
  """Ends a run as if it were killed after a number of its steps."""
  left = iter(range(steps - 1))

  def step(transition, worker):
    if next(left, None) is None:
      raise Killed
  run._driver.on_step(step)


def test_kills_in_the_prefill_repeat_no_episode(tmp_path):
  """Kills it while it has only the checkpoint from the start of prefill."""
  argv = ['--prefill', '240', '--steps', '250', '--eval_eps', '0']
  sizes = []
  for steps in (70, 60, 110):  # Within the second, first and third episode.
    run = make_run(tmp_path, *argv)
    sizes.append(int(run.step))
    kill_after(run, steps)
    with pytest.raises(Killed):
      run.train()
  run = make_run(tmp_path, *argv)
  assert [*sizes, int(run.step)] == [0, 50, 100, 200]
  run.train()
  lines, episodes, _ = contents(tmp_path)
  assert len(episodes) == 5 and int(run.step) == 250
  for key in ('image', 'action'):
    assert len({x[key].tobytes() for x in episodes}) == len(episodes)
  assert len({x['action'][1:4].tobytes() for x in episodes}) == len(episodes)


def test_kill_in_the_prefill_without_a_checkpoint_repeats_no_episode(
    tmp_path):
  argv = ['--prefill', '110', '--steps', '120', '--eval_eps', '0']
  run = make_run(tmp_path, *argv)
  run._save = lambda: False  # The disk was full.
  kill_after(run, 70)
  with pytest.raises(Killed):
    run.train()
  make_run(tmp_path, *argv).train()
  _, episodes, _ = contents(tmp_path)
  assert len({x['image'].tobytes() for x in episodes}) == len(episodes) == 3


def begin(logdir, *argv):
  """Starts a deterministic program in a logdir."""
  return runs.start(
      logdir.parent, *ARGV, '--logdir', str(logdir), '--deterministic',
      'True', *argv)


def test_killed_program_goes_on_to_the_bit(tmp_path):
  """kill -9 after a checkpoint, then Ctrl-C, then a run to the end."""
  argv = ['--save_every', '10', '--eval_eps', '0', '--envs', '2']
  argv += ['--steps', '170', '--log_every', '20']
  whole, killed = (begin(tmp_path / x, *argv) for x in ('a', 'b'))
  runs.wait_for(lambda: saved(tmp_path / 'b') >= 120, killed)
  runs.check_workers(killed.pid)
  workers = runs.children(killed.pid)
  killed.kill()
  killed.communicate()
  assert workers
  runs.wait_for(lambda: not any(map(runs.alive, workers)), seconds=10)
  second, place = begin(tmp_path / 'b', *argv), saved(tmp_path / 'b')
  runs.wait_for(lambda: saved(tmp_path / 'b') > place, second)
  os.killpg(second.pid, signal.SIGINT)  # As a terminal does.
  _, err = runs.finish(second, 130)
  assert 'made again to the bit' in err
  assert f"by SIGINT; saved at step {saved(tmp_path / 'b')}." in err
  runs.finish(begin(tmp_path / 'b', *argv))
  runs.finish(whole)
  assert_same_runs(tmp_path / 'a', tmp_path / 'b')


@pytest.mark.slow
def test_program_killed_in_the_prefill_goes_on_to_the_bit(tmp_path):
  argv = ['--prefill', '400', '--steps', '430', '--eval_eps', '0']
  argv += ['--envs', '2', '--outputs', 'jsonl']
  whole = begin(tmp_path / 'a', *argv)
  folder = tmp_path / 'b' / 'train_episodes'
  killed = begin(tmp_path / 'b', *argv)
  runs.wait_for(lambda: len(list(folder.glob('*.npz'))) >= 3, killed)
  killed.kill()
  killed.communicate()
  assert saved(tmp_path / 'b') == 0
  _, err = runs.finish(begin(tmp_path / 'b', *argv))
  assert 'Resumed at step 0 ' in err and 'Prefill: 400 steps' in err
  runs.finish(whole)
  assert_same_runs(tmp_path / 'a', tmp_path / 'b')


class Killing:
  """Kills runs in chosen phases and checks what each kill leaves behind.

  Args:
    folder: Folder of the runs and of what they print.
    argv: Flags of every run.
    random: NumPy generator of the moments.
  """

  # A run gets these kills in this order, then the others at random.
  FIRST = ['start', 'prefill', 'resume', 'episode', 'prefill', 'pretraining']
  OTHERS = [
      'start', 'resume', 'compilation', 'update', 'update', 'evaluation',
      'evaluation', 'checkpoint', 'checkpoint', 'episode', 'log', 'log']
  OFTEN = ('update', 'checkpoint', 'episode', 'log')  # In one process.

  def __init__(self, folder, argv, random):
    self._folder, self._argv, self._random = folder, argv, random
    self._count = 0
    self._seconds = collections.defaultdict(list)  # Of a phase.
    self.phases = collections.Counter()  # In which kills fell.
    self.within_writes = 0
    self._server = subprocess.Popen(
        [sys.executable, str(KILLED)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True)

  def close(self):
    self._server.stdin.close()
    self._server.wait(timeout=60)

  def plan(self):
    """Returns phases in which one run is killed."""
    return [*self.FIRST, *self._random.permutation(self.OTHERS)]

  def play(self, logdir, phase='start', kill=True):
    """Runs until the kill or the end; returns whether it was killed."""
    most = 3 if phase in self.OFTEN else 1
    seconds = self._seconds[phase]
    self._count += 1
    order = {
        'argv': [*self._argv, '--logdir', str(logdir)], 'phase': phase,
        'log': str(self._folder / f'{self._count}.log'),
        'marks': str(self._folder / f'{self._count}.marks'),
        'number': int(self._random.integers(1, most + 1)),
        'delay': self._random.uniform(0, np.median(seconds)) if (
            kill and seconds) else -1}
    before = episodes(logdir)
    process, code = self._start(order)
    text = pathlib.Path(order['log']).read_text()
    assert code in (0, -signal.SIGALRM), f'{order} {code}\n{text}'
    assert 'Damaged' not in text and 'Traceback' not in text, text
    runs.wait_for(lambda: not session(process), seconds=15)
    if code:
      self.phases[self._read(order['marks'])] += 1
      self.within_writes += bool(list(logdir.rglob('*.tmp')))
    else:
      self._read(order['marks'])
    self._check(logdir, before)
    return bool(code)

  def _start(self, order):
    """Returns the process and its exit code."""
    if order['phase'] != 'start':
      print(json.dumps(order), file=self._server.stdin, flush=True)
      return map(int, self._server.stdout.readline().split())
    process = subprocess.Popen(
        [sys.executable, str(KILLED), json.dumps(order)],
        start_new_session=True)
    return process.pid, process.wait(timeout=600)

  def _read(self, marks):
    """Notes how long phases took; returns the one that was the last open."""
    pending = []
    for line in pathlib.Path(marks).read_text().splitlines():
      kind, name, seconds = line.split()
      if kind == 'begin':
        pending.append(name)
      else:
        pending.remove(name)
        self._seconds[name].append(float(seconds))
    return pending[-1] if pending else 'between'

  def _check(self, logdir, before):
    """Asserts that nothing is lost and everything can be read."""
    if 'False' in self._argv[-1:]:  # Else later ones are made again.
      assert before <= episodes(logdir)
    for path in logdir.glob('checkpoints/*.npz'):
      with np.load(path) as stored:
        assert len([stored[x] for x in stored]) > 50
    if (logdir / 'config.yaml').exists():
      configs.Config.load(logdir / 'config.yaml')


def episodes(logdir):
  return {x.name for x in (logdir / 'train_episodes').glob('*.npz')}


def session(leader):
  """Returns the living processes of a session."""
  found = []
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      state, _, _, number = path.read_text().rpartition(')')[2].split()[:4]
      found += [path] * (state != 'Z' and int(number) == leader)
  return found


def check_end(logdir, steps):
  """Asserts that a run is complete and has nothing twice."""
  lines, stored, _ = contents(logdir)
  replay = replays.Replay(logdir / 'train_episodes')
  assert len(stored) == replay.stats['loaded_episodes']
  assert replay.stats['damaged_episodes'] == 0
  assert checkpoints.peek(logdir / 'checkpoints')[0] == steps
  # The first action differs, too: no prefill began again.
  for rows in (slice(None), slice(1, 4)):
    assert len({x['action'][rows].tobytes() for x in stored}) == len(stored)
  assert len({x['image'].tobytes() for x in stored}) == len(stored)
  assert not [
      x for x in logdir.rglob('*')
      if x.suffix == '.tmp' or x.name in ('damaged', 'lock')]
  return len(stored), len(lines)


@pytest.mark.slow
@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize('jit', [False, True])
def test_kills_in_all_phases_lose_and_repeat_nothing(
    tmp_path, pytestconfig, jit, deterministic):
  """Kills runs again and again, a quarter of --kills with these settings."""
  kills = math.ceil(pytestconfig.getoption('kills') / 4)
  random = np.random.default_rng(
      [pytestconfig.getoption('kill_seed'), jit, deterministic])
  steps = 360
  killing = Killing(tmp_path, [
      *ARGV, '--steps', str(steps), '--prefill', '160', '--time_limit', '20',
      '--envs', '2', '--pretrain', '3', '--save_every', '40', '--eval_every',
      '80', '--outputs', 'jsonl', *LITTLE, '--jit', str(jit),
      '--deterministic', str(deterministic)], random)
  with contextlib.closing(killing):
    assert not killing.play(tmp_path / 'whole')
    finished = stored = 0
    while killing.phases.total() < kills:
      logdir, plan = tmp_path / f'run{finished}', killing.plan()
      while plan and killing.phases.total() < kills:
        if not killing.play(logdir, plan.pop(0)):
          break
      else:
        assert not killing.play(logdir, 'resume', kill=False)
      finished += 1
      stored += check_end(logdir, steps)[0]
      if deterministic:
        assert_same_runs(tmp_path / 'whole', logdir)
  print(
      f'jit {jit}, deterministic {deterministic}: {killing.phases.total()} '
      f'kills, {killing.within_writes} of them within a write, in '
      f'{dict(killing.phases)}; {finished} runs ended with {stored} episodes')
  if kills >= 10:
    assert len(killing.phases) > 5  # Else the kills show little.
