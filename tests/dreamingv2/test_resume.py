"""Tests the parts of a run; test_train and test_faults test whole runs."""

import random
import time
import types

import numpy as np
import pytest

from dreamingv2 import resume
from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import counter
from dreamingv2.common import when


def make_agent():
  agent = types.SimpleNamespace(loaded=None)
  agent.save = lambda: {'weight': np.arange(3.0)}
  agent.load = lambda arrays: setattr(agent, 'loaded', arrays)
  return agent


PROCESSES = types.SimpleNamespace(load=lambda checkpoint: checkpoint.load())


REPLAY = {
    'random': {}, 'total_steps': 0, 'total_episodes': 0, 'ongoing': []}


def test_state_gives_every_part_what_it_had(tmp_path):
  owner = types.SimpleNamespace(
      updates=7, due=['log', 'save'], every={}, replay=REPLAY)
  parts = {
      **{k: resume.Attribute(owner, k) for k in ('every', 'replay')},
      'step': counter.Counter(40),
      'updates': resume.Attribute(owner, 'updates'),
      'due': resume.Attribute(owner, 'due')}
  resume.State(tmp_path, 2, PROCESSES, {}).save(80, make_agent(), parts)
  owner.updates, owner.due = 0, []
  parts['step'].restore(0)
  agent = make_agent()
  meta = resume.State(tmp_path, 2, PROCESSES, {}).restore(agent, parts)
  assert owner.updates == 7 and list(owner.due) == ['log', 'save']
  assert int(parts['step']) == 40 and meta['updates'] == 7
  np.testing.assert_array_equal(agent.loaded['weight'], np.arange(3.0))


def test_state_without_checkpoint_changes_nothing(tmp_path):
  owner, agent = types.SimpleNamespace(updates=7), make_agent()
  state = resume.State(tmp_path, 2, PROCESSES, {})
  parts = {'updates': resume.Attribute(owner, 'updates')}
  assert state.newest is None and state.restore(agent, parts) is None
  assert owner.updates == 7 and agent.loaded is None


def test_parts_that_an_older_version_lacked_stay(tmp_path):
  checkpoints.Checkpoint(tmp_path, 2).save(80, {}, {
      'step': 40, 'updates': 3, 'every': {}, 'replay': REPLAY})
  owner = types.SimpleNamespace(updates=0, best=5.0, prefilled=False)
  parts = {k: resume.Attribute(owner, k) for k in vars(owner)}
  resume.State(tmp_path, 2, PROCESSES, {}).restore(make_agent(), parts)
  assert owner.updates == 3 and owner.best == 5.0
  assert owner.prefilled is True  # There was no earlier checkpoint then.


@pytest.mark.parametrize('meta', [
    {}, {'updates': -1}, {'updates': 10 ** 400}, {'updates': 'many'},
    {'replay': {}}, {'replay': None}, {'every': []},
    {'replay': {**REPLAY, 'total_steps': 10 ** 400}}, {'due': 'save'},
    {'best': 'high'}, {'drivers': []}, {'run': 'mine'}, {'seconds': None}])
def test_checkpoint_without_good_meta_data_is_set_aside(meta, tmp_path):
  good = {'step': 40, 'updates': 3, 'every': {}, 'replay': REPLAY}
  store = checkpoints.Checkpoint(tmp_path)
  store.save(80, {}, good)
  store.save(90, {}, {**good, **meta} if meta else {})
  owner = types.SimpleNamespace(updates=0)
  with pytest.warns(UserWarning, match='90.npz .moved.* no good'):
    state = resume.State(tmp_path, 2, PROCESSES, {})
  state.restore(make_agent(), {'updates': resume.Attribute(owner, 'updates')})
  assert owner.updates == 3


def save(folder, step, **meta):
  checkpoints.Checkpoint(folder).save(step, {}, {
      'step': 40, 'updates': 3, 'every': {}, 'replay': REPLAY, **meta})


@pytest.mark.parametrize('key', ['task', 'method'])
def test_checkpoint_of_another_run_is_named(key, tmp_path):
  own = {'task': 'toy_reach', 'method': 'dreamingv2'}
  save(tmp_path, 40, run=own)
  resume.State(tmp_path, 2, PROCESSES, own).restore(make_agent(), {})
  save(tmp_path, 80, run={**own, key: 'other'})
  state = resume.State(tmp_path, 2, PROCESSES, own)
  with pytest.raises(
      ValueError, match=f'another run .{key} other there and {own[key]} here'):
    state.restore(make_agent(), {})


@pytest.mark.parametrize('part, value', [
    (resume.Every({}), {'tea': 3}), (resume.Clock(), 'long'),
    (resume.Random(None, None), {}), (resume.Random(None, None), [])])
def test_part_that_cannot_be_restored_is_named(part, value, tmp_path):
  save(tmp_path, 40, part=value)
  state = resume.State(tmp_path, 2, PROCESSES, {})
  with pytest.raises(ValueError, match="'part' of the checkpoint of step 40"):
    state.restore(make_agent(), {'part': part})


def test_state_knows_that_all_checkpoints_are_lost(tmp_path):
  state = lambda: resume.State(tmp_path, 2, PROCESSES, {})
  assert not state().lost
  save(tmp_path, 40)
  assert not state().lost
  for path in tmp_path.glob('*.npz'):
    path.write_bytes(b'bad')
  with pytest.warns(UserWarning, match='Damaged'):
    assert state().lost
  assert state().lost  # Also at the next start.


def test_clock_adds_the_seconds_of_earlier_processes(monkeypatch):
  now = [1000.0]
  monkeypatch.setattr(time, 'time', lambda: now[0])
  clock = resume.Clock()
  now[0] += 5
  assert clock.state() == 5
  clock.restore(100)
  now[0] += 2
  assert clock.state() == 107


def test_clock_takes_other_seconds_and_may_not_know():
  now = iter([3.0, 7.0, 6.0, 9.0])
  clock = resume.Clock(lambda: next(now))
  assert clock.state() == 4
  assert clock.state() == 4  # CPU time of processes that are gone.
  clock.restore(float('nan'))  # An older version did not measure them.
  assert np.isnan(clock.state())


def test_generators_go_on_where_they_were():
  agent = counter.Counter(3)
  part = resume.Random(agent, None)
  state = part.state()
  draws = random.random(), np.random.rand()
  agent.restore(9)
  part.restore(state)
  assert (random.random(), np.random.rand()) == draws and int(agent) == 3


def test_schedules_and_metrics_come_back():
  schedules = {'log': when.Every(10), 'save': when.Every(5)}
  for every in schedules.values():
    every(20)
  state = resume.Every(schedules).state()
  fresh = {'log': when.Every(10), 'save': when.Every(5)}
  resume.Every(fresh).restore(state)
  assert [fresh[k](26) for k in ('log', 'save')] == [False, True]
  metrics = {}
  resume.Metrics(metrics).restore(
      resume.Metrics({'loss': [np.float32(2), 3]}).state())
  assert metrics == {'loss': [2.0, 3.0]}
