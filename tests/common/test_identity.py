"""Environments tell their own name, and how they can be made again."""

import functools
import json

import gymnasium
import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2.common import envs
from dreamingv2.common import identity
from dreamingv2.common import suites


class Mine(gymnasium.Env):
  """Not registered."""

  observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
  action_space = gymnasium.spaces.Discrete(3)

  def __init__(self, lap=1):
    self.lap = lap


def build_mine(lap=1):
  return Mine(lap)


def build(made):
  """Makes the environment again, as a run does."""
  config = settings.defaults().update(identity.settings(made))
  make, _ = suites.constructor(config)
  return make()


def test_registered_environment_is_named_by_its_id_and_made_again():
  env = gymnasium.make('Pendulum-v1', g=9.0, max_episode_steps=33)
  made = identity.describe(env)
  assert made['task'] == made['make'] == 'gym_Pendulum-v1'
  assert made['arguments'] == {'g': 9.0, 'max_episode_steps': 33}
  assert made['class'].endswith('pendulum:PendulumEnv')
  again = build(json.loads(json.dumps(made)))
  assert again.unwrapped.g == 9.0 and again.spec.max_episode_steps == 33


def test_wrapped_environment_keeps_its_name_but_only_python_can_make_it():
  env = gymnasium.wrappers.TransformReward(
      gymnasium.make('CartPole-v1'), lambda x: x / 2)
  made = identity.describe(env)
  assert made['task'] == 'gym_CartPole-v1' and made['make'] == ''


def test_other_environments_are_named_by_module_and_class():
  made = identity.describe(Mine())
  assert made['task'] == made['class'] == f'{__name__}:Mine'
  assert made['make'] == ''
  wrapped = envs.ready(envs.GymWrapper(
      gymnasium.wrappers.OrderEnforcing(Mine()), 'x'))
  assert identity.of(wrapped) == made
  assert made['action'] == {'kind': 'Discrete', 'n': 3, 'start': 0}
  toy = identity.of(suites.make('toy', 'dummy'))
  assert toy['class'] == 'dreamingv2.common.envs:Dummy'


@pytest.mark.parametrize('constructor, lap', [
    (build_mine, 1), (Mine, 1), (functools.partial(build_mine, lap=3), 3)])
def test_constructor_that_has_a_name_is_called_again(constructor, lap):
  made = json.loads(json.dumps(identity.recipe(constructor)))
  assert build(made).lap == lap


@pytest.mark.parametrize('constructor', [
    lambda: Mine(), functools.partial(Mine, 3), gymnasium.make,
    functools.partial(Mine, lap=np.float32(3))])
def test_constructor_without_a_name_is_not_made_again(constructor):
  assert identity.recipe(constructor)['make'] == ''


def test_identity_is_told_from_the_environments_process():
  env = envs.Async(lambda: envs.ready(envs.Dummy()))
  try:
    assert env.identity['class'] == 'dreamingv2.common.envs:Dummy'
    # Before the agent's -1..1: what the simulator takes.
    assert env.identity['action']['shape'] == [6]
  finally:
    env.close()


@pytest.mark.parametrize('name, words', [
    ('gym_Absent-v0', "Environment `Absent` doesn't exist"),
    (f'{__name__}:Absent', 'Absent does not exist'),
    ('absent_module:f', 'absent_module'),
    ('os:system', "'os' belongs to Python"),
    (f'{__name__}:json.dumps', 'not defined by')])
def test_environment_that_is_gone_is_named(name, words):
  with pytest.raises((ImportError, ValueError), match=words):
    build({'make': name, 'arguments': {}, 'imports': ''})


def test_file_holds_the_spaces_of_the_agent(tmp_path):
  env = suites.make('toy', 'reach')
  assert identity.read(tmp_path) == {}
  identity.write(
      tmp_path, {**identity.of(env), 'source': 'suite'}, env.obs_space,
      env.act_space)
  obs, act = identity.agent_spaces(identity.read(tmp_path))
  assert obs == env.obs_space and act == env.act_space
  (tmp_path / identity.FILE).write_text('{"task": 3}')
  with pytest.raises(ValueError, match='lacks action, agent'):
    identity.read(tmp_path)
  (tmp_path / identity.FILE).write_text('[')
  with pytest.raises(ValueError, match='damaged'):
    identity.read(tmp_path)


def test_own_module_whose_name_begins_like_gymnasiums_ids_is_made_again():
  made = {
      'make': 'gym_pusht.envs:make_env', 'imports': '', 'arguments': {'n': 1}}
  assert identity.settings(made) == {
      'suite': 'module', 'task': 'gym_pusht.envs:make_env',
      'env_args': '{"n": 1}'}


def test_attribute_that_is_no_environment_does_not_name_one():
  env = gymnasium.make('Pendulum-v1').unwrapped
  env.env = 'a queue of events'
  assert identity.innermost(env) is env
