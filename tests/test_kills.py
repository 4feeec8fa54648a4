"""Kills runs at any moment; tests what is lost, repeated or left over."""

import os
import signal
import time

import numpy as np
import pytest

from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import replay as replays
from tests.test_faults import ARGV
from tests.test_faults import assert_same_runs
from tests.test_faults import contents
from tests.test_faults import launch
from tests.test_faults import logged
from tests.test_faults import make_run
from tests.test_faults import runs
from tests.test_faults import saved


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
  """kill -9 after a checkpoint, then SIGUSR1, then a run to the end."""
  argv = ['--save_every', '10', '--eval_eps', '0', '--envs', '2']
  argv += ['--steps', '170', '--log_every', '20']
  whole, killed = (begin(tmp_path / x, *argv) for x in ('a', 'b'))
  runs.wait_for(lambda: saved(tmp_path / 'b') >= 120, killed)
  killed.kill()
  killed.communicate()
  second, place = begin(tmp_path / 'b', *argv), saved(tmp_path / 'b')
  runs.wait_for(lambda: saved(tmp_path / 'b') > place, second)
  second.send_signal(signal.SIGUSR1)
  _, err = runs.finish(second, 128 + signal.SIGUSR1)
  assert 'made again to the bit' in err and 'Stopped by SIGUSR1' in err
  runs.finish(begin(tmp_path / 'b', *argv))
  runs.finish(whole)
  assert_same_runs(tmp_path / 'a', tmp_path / 'b')


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


def kill_at(moment, logdir, process, random):
  """Kills a program; returns whether it was writing a file."""
  if moment == 'update':
    time.sleep(random.uniform(0, 1.5))
  folder = logdir / moment
  end = time.monotonic() + 20
  while moment != 'update' and time.monotonic() < end:
    if any(x.endswith('.tmp') for x in os.listdir(folder)):
      break
  process.kill()
  process.wait()
  return bool(list(logdir.rglob('*.tmp')))


@pytest.mark.slow
def test_fifty_kills_lose_no_episode_and_no_checkpoint(tmp_path):
  """SIGKILL in turn while a checkpoint or episode is written, or any time."""
  logdir, random = tmp_path / 'run', np.random.default_rng(0)
  argv = ['--steps', '1e6', '--save_every', '4', '--envs', '4',
          '--time_limit', '12', '--eval_eps', '0', '--train_every', '8']
  known, writing, steps = set(), 0, []
  for number in range(50):
    process = launch(logdir, *argv)
    place = saved(logdir)
    runs.wait_for(lambda: saved(logdir) > place, process)  # noqa: B023
    moment = ('checkpoints', 'train_episodes', 'update')[number % 3]
    writing += kill_at(moment, logdir, process, random)
    text = logged(process, logdir)
    assert 'Damaged' not in text and 'Traceback' not in text, text
    assert number == 0 or f'Resumed at step {steps[-1]} ' in text, text
    steps.append(saved(logdir))
    files = {x.name for x in (logdir / 'train_episodes').glob('*.npz')}
    assert known <= files
    known = files
  assert writing >= 20  # Else the kills show nothing.
  print(f'{len(known)} episodes, {writing} kills within a write, '
        f'checkpoints at {steps}')
  replay = replays.Replay(logdir / 'train_episodes')
  assert replay.stats['loaded_episodes'] == len(known)
  assert replay.stats['damaged_episodes'] == 0
  store = checkpoints.Checkpoint(logdir / 'checkpoints')
  assert store.load().step == steps[-1] and steps == sorted(steps)
  assert not list(logdir.rglob('*.tmp')) and not list(logdir.rglob('damaged'))
