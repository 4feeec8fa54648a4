"""Tests restarts of environments that crash, hang or raise."""

import multiprocessing
import os
import re
import signal
import time

import numpy as np
import pytest

from dreamingv2.common import envs
from dreamingv2.common import worker


class Bad(envs.Dummy):
  """Fails in the way that the first entry of an action selects."""

  WAYS = {
      1: lambda: os.kill(os.getpid(), signal.SIGKILL),
      2: lambda: time.sleep(60),
      3: lambda: 1 / 0,
      4: lambda: int('x')}

  def step(self, action):
    way = int(action['action'][0])
    if way == 9:
      raise worker.Diverged('out of range')
    self.WAYS.get(way, int)()
    return super().step(action)


def act(way):
  return {'action': np.full(6, way, np.float32)}


@pytest.mark.parametrize('way, words', [
    (1, 'died with signal SIGKILL'),
    (2, r"gave up waiting for .* to answer 'step' for 1 s .*--env_timeout 1"),
    (3, '(?s)Traceback.*ZeroDivisionError'), (4, "(?s)invalid literal.*'x'")])
def test_kept_environment_is_started_again_with_the_reason(start, way, words):
  env = start(Bad, restarts=2, timeout=60)
  assert env.reset()()['is_first']
  env._host._host._timeout = 1 if way == 2 else 60  # Starting takes longer.
  promise = env.step(act(way))
  with pytest.warns(UserWarning, match=words) as record:
    with pytest.raises(worker.Lost):
      promise()
  assert '1 of at most 2 times within an hour' in str(record[0].message)
  assert env.reset()()['is_first']
  assert not env.step(act(0))()['is_first']


class Asleep(envs.Dummy):
  """Hangs when it is made, as a simulator that waits for a file."""

  def __init__(self, *args):
    time.sleep(60)


def test_environment_that_hangs_at_the_start_is_named(start):
  env = start(Asleep, restarts=2, timeout=1)
  with pytest.raises(RuntimeError, match=(
      r'waiting for environment worker \d+ \(process \d+\) to answer '
      r"'obs_space' for \d s \(--env_timeout 1\)")):
    assert env.obs_space


def test_kept_environment_gives_up_beyond_its_budget(start):
  env = start(Bad, restarts=1)
  env.reset()()
  with pytest.warns(UserWarning), pytest.raises(worker.Lost):
    env.step(act(3))()
  env.reset()()
  with pytest.raises(worker.GaveUp, match='after 1 restarts.*env_restarts'):
    env.step(act(3))()


def test_kept_environment_has_its_budget_back_after_an_hour(
    start, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(worker.time, 'monotonic', lambda: now[0])
  env = start(Bad, 'none', restarts=1)
  for _ in range(3):
    env.reset()()
    with pytest.warns(UserWarning), pytest.raises(worker.Lost):
      env.step(act(3))()
    now[0] += worker.HOUR + 1


def test_kept_environment_is_not_started_again_for_what_the_user_caused(
    start):
  """An error before the first observation would only happen again."""
  env = start(lambda: envs.Dummy('other'), restarts=5)
  with pytest.raises(ValueError, match='Dummy mode'):
    env.reset()()


@pytest.mark.filterwarnings('error')
def test_kept_environment_survives_bad_actions_and_divergence(start):
  env = start(lambda: envs.CheckAction(Bad()), restarts=5)
  env.reset()()
  with pytest.raises(worker.BadAction, match='not finite'):
    env.step(act(np.nan))()
  with pytest.raises(worker.Diverged, match='out of range'):
    env.step(act(9))()
  pid = env._host._host._process.pid
  assert env.reset()()['is_first']
  assert env._host._host._process.pid == pid


def test_promises_of_before_a_restart_are_lost_too(start):
  env = start(Bad, restarts=2)
  env.reset()()
  first, second = env.step(act(1)), env.step(act(0))
  with pytest.warns(UserWarning), pytest.raises(worker.Lost):
    first()
  with pytest.raises(worker.Lost):
    second()
  assert env.reset()()['is_first']


def test_async_tells_what_it_waits_for_and_since_when(start):
  env = start(Bad)
  env.reset()()
  assert env.waiting == ''
  env.step(act(2))
  time.sleep(1.1)
  assert re.fullmatch(
      r"environment worker \d+ \(process \d+\) to answer 'step' for [1-9] s",
      env.waiting)


def test_async_seeds_an_environment_that_can_be_and_no_other(start):
  env = start(lambda: envs.CheckAction(envs.Dummy()))
  firsts = []
  for number in (1, 2, 1):
    env.seed(number)()
    firsts.append(env.reset()()['vector'])
  np.testing.assert_array_equal(firsts[0], firsts[2])
  assert (firsts[0] != firsts[1]).any()

  class Plain:
    reset = dict
    close = dict
  assert start(Plain).seed(1)() is None


@pytest.mark.parametrize(
    'number', [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1])
def test_worker_ignores_signals_that_are_meant_for_the_run(start, number):
  env = start(Bad)
  env.reset()()
  os.kill(env._host._host._process.pid, number)
  time.sleep(0.05)
  assert not env.step(act(0))()['is_first']


class Parent(envs.Dummy):
  """Starts processes that outlive it, as some simulators do."""

  def __init__(self):
    super().__init__()
    child = multiprocessing.get_context('fork').Process(
        target=time.sleep, args=(30,))
    child.start()
    program = os.posix_spawn('/bin/sleep', ['sleep', '30'], os.environ)
    self._children = [child.pid, program]

  def success(self):
    return self._children


def test_death_of_a_process_is_seen_although_its_children_live_on(start):
  env = start(Parent)
  env.reset()()
  children = env.success()()
  begin = time.monotonic()
  os.kill(env._host._host._process.pid, signal.SIGKILL)
  try:
    with pytest.raises(worker.GaveUp, match='died with signal SIGKILL'):
      env.reset()()
    assert time.monotonic() - begin < 15
  finally:
    for child in children:
      os.kill(child, signal.SIGKILL)


class Chatty(envs.Dummy):
  """Prints much in each step, and dies when it is told to."""

  def step(self, action):
    os.write(2, b'x' * 2 ** 18 + b'\nnewest words\n')
    if action['action'][0]:
      os._exit(3)
    return super().step(action)


def test_what_a_process_prints_does_not_fill_the_disk(start):
  env = start(Chatty, restarts=1)
  env.reset()()
  for _ in range(20):
    env.step(act(0))()
    file = env._host._host._stderr
    assert os.fstat(file.fileno()).st_size < worker.STDERR_BYTES + 2 ** 19
  with pytest.warns(UserWarning, match='(?s)exit code 3.*newest words'):
    with pytest.raises(worker.Lost):
      env.step(act(1))()


def test_environment_that_may_not_restart_gives_up(start):
  env = start(Bad, restarts=0)
  env.reset()()
  with pytest.raises(worker.GaveUp, match='after 0 restarts.*env_restarts'):
    env.step(act(3))()
