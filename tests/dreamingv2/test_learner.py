"""Updates and their metrics, with an agent that only counts."""

import collections
import contextlib
import itertools
import types
import warnings

import numpy as np
import pytest

from dreamingv2 import learner as learners
from dreamingv2.common import guards


class Agent:
  """Counts its updates; `train` skips those of which `bad` is true."""

  def __init__(self, bad=()):
    self.count, self.skipped, self.bad = 0, 0, bad
    self.batches = []

  def train(self, data):
    self.batches.append(data)
    self.skipped += self.count in self.bad
    self.count += 1
    return None, {
        'model_loss': np.float32(self.count), 'model_skipped': self.skipped}

  def save(self):
    return {'count': self.count}

  def load(self, state):
    self.count = state['count']

  def report(self, data):
    return {'openl': data}


class Timer:
  """Counts how often each section was entered."""

  def __init__(self):
    self.sections = collections.Counter()

  def section(self, name):
    self.sections[name] += 1
    return contextlib.nullcontext()

  def result(self, reset):
    return {'data': 0.25}


class Logger(collections.UserDict):
  """Keeps what it was given, and counts the writes."""

  writes = 0

  def scalar(self, name, value):
    self[name] = value

  def add(self, values, prefix=''):
    self.update({f'{prefix}/{k}' if prefix else k: v
                 for k, v in values.items()})

  def write(self, fps):
    self.writes += 1


def make(folder, bad=(), limit=2):
  measured, times = [], []
  console = types.SimpleNamespace(
      measured=lambda kind, seconds: measured.append(kind),
      updated=lambda: None, compiled=times.extend)
  agent, timer = Agent(bad), Timer()
  made = learners.Learner(
      agent, itertools.count(10), timer, contextlib.nullcontext,
      guards.Skips(limit, folder / 'not_finite'), console)
  return made, types.SimpleNamespace(
      agent=agent, timer=timer, measured=measured, times=times)


def test_compiling_is_timed_and_undone(tmp_path):
  learner, seen = make(tmp_path)
  learner.compile('zeros')
  assert seen.agent.batches == ['zeros', 'zeros']
  assert len(seen.times) == 2 and seen.agent.count == 0
  assert not learner.updates and not learner.metrics
  assert seen.timer.sections == {'compile': 1}


def test_updates_take_batches_in_turn_and_are_counted(tmp_path):
  learner, seen = make(tmp_path)
  for _ in range(3):
    learner.update(0)
  assert seen.agent.batches == [10, 11, 12] and learner.updates == 3
  assert seen.measured == ['update'] * 3
  assert seen.timer.sections == {'data': 3, 'train': 3}
  assert learner.report() == {'openl': 13}


def test_log_writes_means_once(tmp_path):
  learner, _ = make(tmp_path)
  logger = Logger()
  learner.log(logger, {'seconds': 5.0})
  assert not logger.writes  # Nothing was learned yet.
  for _ in range(3):
    learner.update(0)
  learner.log(logger, {'seconds': 5.0, 'cpu_seconds': float('nan')})
  assert logger == {
      'model_loss': 2.0, 'model_skipped': 0.0, 'share/data': 0.25,
      'updates': 3, 'seconds': 5.0}
  learner.log(logger, {'seconds': 6.0})
  assert logger.writes == 1


def test_collapsed_code_is_told_when_it_is_logged(tmp_path):
  learner, seen = make(tmp_path)
  spreads, train = iter([0.5, 0.5, 1e-6, 1e-6]), seen.agent.train
  seen.agent.train = lambda data: (
      None, {**train(data)[1], 'code_spread': np.float32(next(spreads))})
  for words in ('', 'The latent code is the same for all frames'):
    learner.update(0), learner.update(0)
    with warnings.catch_warnings(record=True) as told:
      warnings.simplefilter('always')
      learner.log(Logger(), {'seconds': 5.0})
    assert [x for x in told if str(x.message).startswith(words)] == told
    assert len(told) == bool(words)


def test_restored_number_of_updates_goes_on(tmp_path):
  learner, _ = make(tmp_path)
  learner.updates = 41
  learner.update(0)
  assert learner.updates == 42


def test_too_many_skips_in_a_row_name_the_step(tmp_path, monkeypatch):
  dumped = []
  monkeypatch.setattr(
      guards.Skips, '_dump', lambda self, *args: dumped.append(args) or '')
  learner, _ = make(tmp_path, bad=(1, 2, 3))
  learner.update(7)
  learner.update(7)
  with pytest.raises(guards.NotFinite):
    learner.update(7)
  assert dumped[-1][-1] == '000000000007_3'
