"""Tests the report on a user's environment."""

import re

import gymnasium
import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2.common import conformance
from dreamingv2.common import envs

Box, Dict = gymnasium.spaces.Box, gymnasium.spaces.Dict
VECTOR = Box(-1, 1, (2,), np.float32)


class Env(gymnasium.Env):
  """Observes samples of a space, changed by `give(obs, step)`."""

  action_space = Box(-2, 2, (1,), np.float32)

  def __init__(self, space=VECTOR, give=lambda obs, step: obs, length=5):
    self.observation_space, self.give, self.length = space, give, length
    self.steps = 0

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.observation_space.seed(seed)
    self.count = 0
    return self.give(self.observation_space.sample(), 0), {}

  def step(self, action):
    assert action in self.action_space
    self.count += 1
    self.steps += 1
    obs = self.give(self.observation_space.sample(), self.count)
    return obs, float(action[0]), self.count == self.length, False, {}


def check(env, steps=23, **flags):
  return conformance.check(env, settings.defaults().update(flags), steps)


def test_good_environment_gets_a_report_without_faults():
  env = Env(Dict(
      image=Box(0, 255, (3, 20, 24), np.uint8), pose=VECTOR,
      mission=gymnasium.spaces.Text(5)))
  report = check(env)
  assert report.ok and not report.faults
  text = str(report)
  for words in (
      'ok    observation image: uint8 64x64x3', 'ok    action: 1 values in -1',
      'note  observation pose is left out: not matched by '
      "encoder.mlp_keys '$^'",
      'note  observation mission is left out: Text, which is not supported',
      'ok    episodes: 4, of 5 to 5 agent steps; 4 ended for good',
      'ok    seeds: the same seed repeats an episode', ' in 23 steps'):
    assert words in text
  assert text.endswith('\nNo fault: the agent can train on it.')


@pytest.mark.parametrize('give, words, count', [
    (lambda obs, step: obs + 4 * (step == 2), 'in -1..1, came float32 .2. fr',
     12),
    (lambda obs, step: obs[:1] if step == 4 else obs, 'came float32 .1.', 6),
    (lambda obs, step: obs * np.nan, 'not finite', 24),
    (lambda obs, step: None if step else obs, 'came NoneType', 24),
    (lambda obs, step: obs if step != 3 else {}['joint'],
     r"KeyError: 'joint' \(.*test_conformance.py:\d+\)", 8)])
def test_fault_is_told_in_one_line_with_its_number(give, words, count):
  """Every step is looked at, not only the first one."""
  report = check(Env(give=give), 24)
  (fault,) = report.faults
  assert not report.ok and '\n' not in fault
  assert re.search(words, fault) and fault.endswith(f' ({count} times)')
  assert str(report).endswith(f'FAULT {fault}\n1 fault')


@pytest.mark.parametrize('env, words', [
    (Env(Dict(reward=VECTOR)), "'reward' has a reserved name"),
    (Env(gymnasium.spaces.Text(3)), 'Text.*not supported'),
    (gymnasium.make_vec('CartPole-v1', 1, vectorization_mode='sync'),
     'SyncVectorEnv is several environments.*--envs'),
    (object(), 'returned object, which is no environment')])
def test_environment_that_cannot_be_wrapped_is_a_fault(env, words):
  (fault,) = check(env).faults
  assert re.search(words, fault)


def test_unbounded_action_is_a_fault_unless_it_gets_a_bound():
  env = Env()
  env.action_space = Box(-np.inf, np.inf, (1,), np.float32)
  assert 'set --action_bound' in check(env).faults[0]
  assert check(env, action_bound=3).ok


def test_what_may_be_meant_is_a_note():
  class Still(Env):
    """Has no end, no reward, the same observation, and ignores seeds."""

    def reset(self, **kwargs):
      self.rest = np.random.default_rng().random()
      return np.zeros(2, np.float32), {}

    def step(self, action):
      return np.zeros(2, np.float32), self.rest, False, False, {}

  report = check(Still())
  assert report.ok
  notes = [text for verdict, text in report.lines if verdict == 'note']
  for words in (
      'observation vector never changed; its values are 0 to 0', 'rewards: ',
      'no episode ended; one is cut after 50000 agent steps',
      'the same seed and actions give another episode'):
    assert any(words in x for x in notes)


def test_faults_end_a_check_that_finds_no_good_step():
  give = lambda obs, step: {}[f'joint {chr(97 + next(count))}']
  count = iter(range(26))
  report = check(Env(give=give), 300)
  assert len(report.faults) == conformance.MOST_FAULTS


@pytest.mark.parametrize('changes, words', [
    ({}, ''), ({'is_first': True}, 'step.. returned is_first True'),
    ({'is_terminal': True}, 'is_terminal without is_last'),
    ({'vector': np.zeros(8, np.float32)}, 'came float32 .8.'),
    ({'reward': np.float32(np.nan)}, "'reward'.*not finite")])
def test_our_interface_is_checked_as_well(changes, words):
  class Ours(envs.Dummy):
    def step(self, action):
      return {**super().step(action), **changes}

  report = check(Ours(length=9))
  assert report.ok == (not words)
  assert 'observation vector is left out: not matched by' in str(report)
  assert not words or re.search(words, report.faults[0])


def test_discrete_observation_of_too_many_values_is_left_out():
  """A table of one-hot vectors of 2**31 values was tried to be made."""
  many = gymnasium.spaces.Discrete(2 ** 31)
  report = check(Env(Dict(image=Box(0, 255, (8, 8, 3), np.uint8), id=many)))
  assert report.ok
  assert 'observation id is left out: more than 4096 values' in str(report)
  assert 'Discrete of at most 4096 values' in check(Env(many)).faults[0]
