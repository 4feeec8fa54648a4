"""Breaks runs in every way that docs/faults.md promises to survive.

The short tests always run; the long ones (-m slow) start whole programs.
"""

import importlib.util
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2 import train
from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import command
from dreamingv2.common import config as configs
from dreamingv2.common import guards
from dreamingv2.common import logdir as logdirs
from dreamingv2.common import replay as replays
from dreamingv2.common import suites
from dreamingv2.common import worker
from tests.helpers import assert_equal
from tests.helpers import memory

_spec = importlib.util.spec_from_file_location(
    'test_train', pathlib.Path(__file__).with_name('test_train.py'))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)

# Prefill is one episode of 50 steps; then every 15th step has an update.
ARGV = [
    '--configs', 'debug', '--task', 'toy_reach', '--steps', '110',
    '--prefill', '40', '--train_every', '15', '--log_every', '30',
    '--eval_every', '60', '--save_every', '45', '--eval_eps', '1']


class Kicking:
  """Sends a signal to this process at given steps, counted over all envs."""

  def __init__(self, env, steps=(), number=signal.SIGTERM):
    self._env, self._steps, self._number = env, steps, number
    self._count = 0
    self.obs_space, self.act_space = env.obs_space, env.act_space
    self.seed, self.reset = env.seed, env.reset

  def step(self, action):
    self._count += 1
    obs = self._env.step(action)
    if self._count in self._steps:
      os.kill(os.getpid(), self._number)
    return obs


def make_run(logdir, *argv, kicks=(), eval_kicks=()):
  """Returns a Run with environments in this process."""
  config = settings.load_config([*ARGV, *argv])
  logdir.mkdir(parents=True, exist_ok=True)
  envs = [
      suites.make('toy', 'reach', seed=x, size=config.render_size)
      for x in (0, 999)]
  return train.Run(
      config, logdir, [Kicking(envs[0], kicks)],
      [Kicking(envs[1], eval_kicks)])


def contents(logdir):
  """Returns the metrics, the episodes and the variables of a run."""
  episodes = []
  for path in sorted((logdir / 'train_episodes').glob('*.npz')):
    with np.load(path) as stored:
      episodes.append(dict(stored))
  snapshot = checkpoints.Checkpoint(logdir / 'checkpoints').load()
  lines = runs.untimed(runs.read_metrics(logdir))
  return lines, episodes, snapshot.arrays


def assert_same_runs(left, right):
  left, right = contents(left), contents(right)
  assert left[0] == right[0] and len(left[0]) > 3
  assert len(left[1]) == len(right[1]) >= 2
  for one, other in zip(left[1], right[1], strict=True):
    assert_equal(one, other)
  assert_equal(left[2], right[2])


def test_run_stopped_anywhere_goes_on_to_the_bit(tmp_path, capfd):
  """Stops in the prefill, then in an evaluation, each time at another step."""
  make_run(tmp_path / 'whole').train()
  parts = [{'kicks': [30]}, {'eval_kicks': [20]}, {}]
  for number, kwargs in enumerate(parts):
    logdir = tmp_path / f'part{number}'
    if number:
      (tmp_path / f'part{number - 1}').rename(logdir)
    run = make_run(logdir, **kwargs)
    if not kwargs:
      run.train()
      continue
    with pytest.raises(guards.Stopped):
      run.train()
    assert 'Stopped by SIGTERM; saved at step' in capfd.readouterr().err
  assert_same_runs(tmp_path / 'whole', logdir)


def test_run_of_an_older_version_is_taken_up(tmp_path):
  run = make_run(tmp_path, '--steps', '60')
  run.train()
  store = checkpoints.Checkpoint(tmp_path / 'checkpoints')
  snapshot = store.load()
  keys = ('step', 'updates', 'every', 'replay')
  meta = {k: snapshot.meta[k] for k in keys}
  for key in ('newest', 'oldest', 'dropped', 'loaded_episodes'):
    del meta['replay'][key]
  store.save(snapshot.step, snapshot.arrays, meta)
  path = tmp_path / 'config.yaml'
  path.write_text(re.sub(  # Older runs lack keys of this version.
      r'\n *(env_restarts|env_timeout|keep|max_gib|max_skipped|stall_after)'
      r':.*', '', path.read_text()))
  config = settings.load_config([*ARGV, '--logdir', str(tmp_path)])
  assert len(config.diff(configs.Config.load(path))) > 3
  logdirs.prepare(config, 'toy', 'reach')
  run = make_run(tmp_path, '--steps', '75')
  assert (int(run.step), run.updates) == (60, 2)
  run.train()
  assert (int(run.step), run.updates) == (75, 3)


@pytest.mark.parametrize('error, code', [
    (guards.Stopped(signal.SIGTERM), 143),
    (guards.Stopped(signal.SIGUSR1), 138),
    (guards.Stopped(signal.SIGINT), 130), (KeyboardInterrupt(), 130),
    (guards.NotFinite('bad'), 3), (worker.GaveUp('bad'), 3),
    (replays.TooShort('bad'), 2)])
def test_exit_code_says_how_a_run_ended(error, code, monkeypatch):
  class Run:
    def __init__(self, *args, **kwargs):
      pass

    def train(self):
      raise error
  monkeypatch.setattr(train, 'Run', Run)
  with pytest.raises(SystemExit) as ending, command.entry():
    train.train(None, None, [], [])
  assert ending.value.code == code


def test_run_in_use_is_refused_before_anything_starts(
    tmp_path, capfd, monkeypatch):
  monkeypatch.setattr(train.suites, 'start', None)  # Would fail.
  with guards.Lock(tmp_path):
    message = runs.refused([*ARGV, '--logdir', str(tmp_path)], capfd)
  assert 'in use by another run' in message
  assert f'process {os.getpid()} ' in message


def poison(run, after):
  """Makes the batches of a run NaN after a number of updates."""
  inner = run.replay.sample

  def sample(batch, length):
    data = inner(batch, length)
    if run.updates >= after:
      data['reward'][:] = np.nan
    return data
  run.replay.sample = sample


def test_run_stops_where_updates_are_not_finite_and_keeps_its_state(
    tmp_path):
  argv = ['--max_skipped', '3', '--train_every', '5', '--save_every', '10',
          '--replay_reward_norm.momentum', '0.9', '--steps', '80',
          '--eval_eps', '0']
  run = make_run(tmp_path, *argv)
  poison(run, 4)
  with pytest.raises(guards.NotFinite, match='3 updates in a row'):
    run.train()
  assert run.updates == 4 + 3
  dump, = (tmp_path / 'not_finite').iterdir()
  with np.load(dump) as stored:
    assert np.isnan(stored['batch/reward']).all()
    assert all(
        np.isfinite(stored[k]).all() for k in stored
        if k.startswith('state/') and stored[k].dtype.kind == 'f')
  good = make_run(tmp_path, *argv)  # From the last checkpoint.
  good.train()
  assert int(good.step) == 80


def test_run_goes_on_without_disk_for_logs_and_checkpoints(
    tmp_path, capfd, monkeypatch):
  run = make_run(tmp_path, '--steps', '100')

  def full(*args, **kwargs):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(checkpoints, 'write_npz', full)
  monkeypatch.setattr(replays, 'write_npz', full)
  for output in run._logger._outputs:
    monkeypatch.setattr(type(output), '__call__', full)
  with pytest.warns(UserWarning, match='Episode kept in memory'):
    run.train()
  assert int(run.step) == 100
  assert run.replay.stats['loaded_episodes'] == 2
  err = capfd.readouterr().err
  assert 'Warning: no checkpoint was written' in err
  assert 'JSONLOutput could not write step' in err
  assert not run._save()
  assert not list(tmp_path.rglob('*.npz'))


def test_lost_terminal_stops_no_run(tmp_path, monkeypatch):
  run = make_run(tmp_path, '--steps', '60', '--eval_eps', '0')

  class Terminal:
    encoding = 'utf-8'

    def write(self, *args):
      if int(run.step) > 20:  # The connection breaks.
        raise BrokenPipeError(32, 'Broken pipe')
    flush = write

    def isatty(self):
      return True
  monkeypatch.setattr(train.sys, 'stderr', Terminal())
  monkeypatch.setattr(train.sys, 'stdout', Terminal())
  run.train()
  assert int(run.step) == 60
  assert len(runs.read_metrics(tmp_path)) > 1


def test_run_says_that_its_weights_are_new_or_of_another_run(
    tmp_path, capfd, monkeypatch):
  make_run(tmp_path / 'a', '--steps', '60', '--eval_eps', '0').train()
  paths = [*(tmp_path / 'a' / 'checkpoints').glob('*.npz')]
  shutil.copytree(tmp_path / 'a', tmp_path / 'b')
  config = settings.load_config([*ARGV, '--task', 'toy_torus'])
  with pytest.raises(ValueError, match='task toy_reach there and toy_torus'):
    train.Run(config, tmp_path / 'b', [suites.make('toy', 'reach')], [])
  capfd.readouterr()
  for path in paths:
    path.write_bytes(path.read_bytes()[:-99])
  with pytest.warns(UserWarning, match='Damaged file'):
    run = make_run(tmp_path / 'a', '--steps', '60', '--eval_eps', '0')
  err = capfd.readouterr().err
  assert 'a/checkpoints can be read, so that all weights are new' in err
  assert 'the episodes stay, with 50 steps' in err and run.updates == 0


def saved(logdir):
  paths = (logdir / 'checkpoints').glob('[0-9]*.npz')
  return max((int(path.stem) for path in paths), default=0)


def logged(process, logdir):
  """Returns what a program started by `launch` has printed so far."""
  return (logdir.parent / f'{process.pid}.log').read_text()


def launch(logdir, *argv):
  """Starts a program in a logdir; its output goes to a file beside it."""
  path = logdir.parent / 'log'
  with path.open('w') as file:
    process = subprocess.Popen(
        [sys.executable, str(runs.ROOT / 'train.py'), *ARGV, '--logdir',
         str(logdir), *argv], stdout=file, stderr=file,
        start_new_session=True)
  path.rename(logdir.parent / f'{process.pid}.log')
  return process


@pytest.mark.slow
def test_workers_that_are_killed_or_hang_are_started_again(tmp_path):
  logdir = tmp_path / 'run'
  process = launch(
      logdir, '--steps', '1e6', '--envs', '2', '--env_timeout', '20',
      '--stall_after', '1', '--eval_eps', '0')
  runs.wait_for(lambda: saved(logdir) > 90, process)
  first, second = runs.children(process.pid)[:2]
  os.kill(first, signal.SIGKILL)
  runs.wait_for(
      lambda: 'died with signal SIGKILL' in logged(process, logdir), process)
  place = saved(logdir)
  runs.wait_for(lambda: saved(logdir) > place, process)
  os.kill(second, signal.SIGSTOP)
  runs.wait_for(
      lambda: 'gave up waiting for' in logged(process, logdir), process)
  text = logged(process, logdir)
  assert re.search(
      r"Stalled for \d s in 'env', environment worker \d+ \(process "
      rf"{second}\) to answer 'step' for \d s, at worker.py:", text), text
  place = saved(logdir)
  runs.wait_for(lambda: saved(logdir) > place, process)
  process.terminate()
  assert process.wait(timeout=60) == 128 + signal.SIGTERM
  assert logged(process, logdir).count('was cut: the environment was') == 2
  assert not any(map(runs.alive, [first, second]))


@pytest.mark.slow
def test_program_survives_a_full_disk_and_resumes_when_there_is_room(tmp_path):
  logdir = tmp_path / 'run'
  logdir.mkdir()
  if os.system(f'mount -t tmpfs -o size=900k none {logdir} 2>/dev/null'):
    pytest.skip('may not mount')
  try:
    argv = ['--eval_eps', '0', '--save_every', '10']
    process = launch(logdir, *argv, '--steps', '400')
    assert process.wait(timeout=300) == 0, logged(process, logdir)
    text = logged(process, logdir)
    assert 'no checkpoint was written' in text
    place = saved(logdir)
    assert 0 < place < 400
    os.system(f'mount -o remount,size=50m {logdir}')
    process = launch(logdir, *argv, '--steps', '450')
    assert process.wait(timeout=300) == 0, logged(process, logdir)
    text = logged(process, logdir)
    assert f'Resumed at step {place} ' in text and 'Damaged' not in text
    assert saved(logdir) == 450
  finally:
    os.system(f'umount {logdir}')


@pytest.mark.slow
def test_memory_is_flat_over_20000_updates(tmp_path):
  """Prints the memory at every 1,000 updates; the replay holds 500 steps."""
  run = make_run(
      tmp_path, '--jit', 'True', '--steps', '2e4', '--train_steps', '20',
      '--train_every', '20', '--replay.capacity', '500', '--eval_eps', '0',
      '--log_every', '100', '--save_every', '500', '--max_skipped', '0')
  sizes, inner = [], run._update

  def update():
    inner()
    if run.updates % 1000 == 0:
      sizes.append(memory())
  run._jobs['train'] = update
  run.train()
  print('MiB at every 1000 updates:', [round(x) for x in sizes])
  assert len(sizes) >= 19
  # After the first quarter, when caches and the replay are full.
  assert sizes[-1] - sizes[4] < 0.005 * sizes[4]


def play(env, number, steps=20):
  """Returns the observations of an environment after it was seeded."""
  random = np.random.default_rng(number)
  shape = env.act_space['action'].shape
  env.seed(number)
  rows = [env.reset()]
  for _ in range(steps):
    action = random.uniform(-1, 1, shape).astype(np.float32)
    rows.append(env.step({'action': action}))
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


SIMULATE = """
import sys
import numpy as np
from dreamingv2.common import identity
from dreamingv2.common import suites
from dreamingv2.common import worker
from tests.test_faults import play
suite, task = sys.argv[1:]
from os import environ
environ.update({k: v for k, v in suites.prepare(suite).items() if v})
first = suites.make(suite, task, seed=3)
played = [play(first, number) for number in (1, 2, 3)]
again = play(suites.make(suite, task, seed=3), 3)
for key in again:
  np.testing.assert_array_equal(again[key], played[2][key], err_msg=key)
assert (played[0]['image'] != played[2]['image']).any()
inner = identity.innermost(first)._env
data = inner.sim.data._data if suite == 'robosuite' else inner.physics.data
data.qvel[:] = np.nan
try:
  first.step({'action': np.zeros(first.act_space['action'].shape, 'f4')})
except worker.Diverged as error:
  print('diverged:', error, flush=True)
first.reset()
__import__('os')._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize('suite, task', [
    ('dmc', 'manip_reach_duplo'), ('dmc', 'walker_walk'),
    ('robosuite', 'Door'), ('robosuite', 'Lift')])
def test_simulator_repeats_to_the_bit_and_says_when_it_diverges(suite, task):
  out = subprocess.run(
      [sys.executable, '-c', SIMULATE, suite, task], cwd=runs.ROOT,
      capture_output=True, text=True, timeout=300)
  assert 'diverged: ' in out.stdout, out.stdout + out.stderr
