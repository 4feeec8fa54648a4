"""Trains through dreamingv2.api on all kinds of observations and actions.

Also what is refused before a training begins.
"""

import pathlib

import gymnasium
import numpy as np
import pytest

from dreamingv2 import api
from dreamingv2.common import envs
from tests.dreamingv2 import test_api

Box, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete


@pytest.fixture
def config(tmp_path):
  return test_api.small(tmp_path / 'run')


@pytest.mark.parametrize('obs, act', [
    (Box(-np.inf, 1, (8, 8, 3), np.float32), Discrete(2)),
    (gymnasium.spaces.Text(5), Discrete(2)),
    (gymnasium.spaces.Tuple([Discrete(2), Discrete(3)]), Discrete(2)),
    (Box(-1, 1, (3,)), Box(0, 99, (2,), np.int64)),
    (Box(-1, 1, (3,)), gymnasium.spaces.MultiDiscrete([99, 99])),
    (Box(-1, 1, (3,)), gymnasium.spaces.Dict(a=Discrete(2)))])
def test_unsupported_space_is_refused(obs, act, config, tmp_path):
  with pytest.raises(ValueError, match='not supported; supported are') as info:
    api.train(test_api.Env(obs, act), config)
  assert '\n' not in str(info.value)
  assert not (tmp_path / 'run').exists()


def test_actions_without_bounds_are_refused_or_scaled(config, tmp_path):
  make = lambda: test_api.Env(Box(-1, 1, (3,)), Box(-np.inf, np.inf, (2,)))
  with pytest.raises(ValueError, match='action_bound to the largest'):
    api.train(make(), config)
  assert not (tmp_path / 'run').exists()
  env = make()
  api.train(env, config.update({'steps': 50, 'action_bound': 3}))
  assert 2 < np.abs(env.actions[:45]).max() <= 3


def test_joint_choices_train_and_log_values_reach_the_metrics(config):
  env = test_api.Env(
      gymnasium.spaces.Dict(
          a=Box(-1, 1, (3,)), log_height=Box(2, 2.5, (), np.float64)),
      gymnasium.spaces.MultiDiscrete([2, 3]))
  agent = api.train(env, config)
  test_api.check_run(agent, config)
  assert agent.act_space.shape == (6,) and agent.act_space.discrete
  assert agent.wm.encoder.mlp_keys == ['a']
  heights = [x['mean_train_log_height'] for x in test_api.read(config)
             if 'mean_train_log_height' in x]
  assert len(heights) == 3 and all(2 <= x <= 2.5 for x in heights)
  assert 'log_height' not in np.load(next(pathlib.Path(
      config.logdir).glob('train_episodes/*.npz')))


def test_image_that_does_not_fit_its_space_is_told_before_training(config):
  """It trained in silence."""
  env = test_api.image_env()
  env.reset = lambda **kwargs: (np.zeros((3, 80, 96), np.uint8), {})
  with pytest.raises(ValueError, match=(
      r"'image': declared uint8 \[80, 96, 3\] .*came uint8 \[3, 80, 96\]")):
    api.train(env, config)
  assert not pathlib.Path(config.logdir).exists()


def test_step_that_returns_nothing_is_told_before_training(config):
  env = test_api.image_env()
  env.step = lambda action: None
  with pytest.raises(ValueError, match='step.. returned NoneType'):
    api.train(env, config)
  assert not pathlib.Path(config.logdir).exists()


def test_check_reports_on_an_environment_as_it_would_be_trained(config):
  report = api.check(lambda: gymnasium.make('CartPole-v1'), steps=40)
  assert report.ok and 'action: 2 choices' in str(report)
  taken = []

  def sized(size, action_repeat):
    taken.append((size, action_repeat))
    return gymnasium.make('CartPole-v1')

  assert api.check(sized, config.update({'action_repeat': 2}), 40).ok
  assert taken == [(tuple(config.render_size), 2)]  # As api.train offers.
  make = lambda: test_api.Env(Box(-1, 1, (3,)), Box(-np.inf, np.inf, (2,)))
  assert 'action_bound' in api.check(make(), config).faults[0]
  assert api.check(make(), config.update({'action_bound': 3})).ok


def test_check_calls_a_constructor_as_the_training_does(config):
  def make(side):
    return test_api.Env(Box(0, 255, (side, side, 3), np.uint8), Discrete(2))

  assert api.check(make, config.update({'env_args': '{side: 48}'})).ok
  with pytest.raises(ValueError, match="'side'; set --env_args"):
    api.check(make, config)


def test_vector_of_bytes_is_a_vector(config):
  env = test_api.Env(Box(0, 255, (12,), np.uint8), Discrete(2))
  assert api.wrap(env, config).obs_space['vector'].shape == (12,)


def test_every_environment_is_tried_before_the_training(config, tmp_path):
  before = test_api.children()

  def make(seed):
    if seed != config.seed:
      raise ValueError(f'port 5555 is in use, says seed {seed}')
    return envs.Dummy(length=15)

  with pytest.raises(ValueError, match='port 5555 is in use, says seed 1007'):
    api.train(make, config.update({**test_api.VECTOR, 'envs': 2}))
  with pytest.raises(ValueError, match='says seed 1006'):
    api.train(
        lambda: envs.Dummy(length=15), config.update(test_api.VECTOR),
        eval_env=make)
  assert not (tmp_path / 'run').exists() and test_api.children() <= before


def test_environments_of_one_run_must_be_alike(config, tmp_path):
  with pytest.raises(ValueError, match="must be alike.*'action' has the sp"):
    api.train(
        test_api.vector_env(), config.update(test_api.VECTOR),
        eval_env=test_api.OldEnv())


@pytest.mark.parametrize('update, words', [
    ({'imag_horizon': 1}, 'imag_horizon is 1'),
    ({'discount': 1.5}, 'discount is 1.5'),
    ({'offline': 'demos'}, 'dreamingv2 train --offline demos')])
def test_config_is_checked_before_an_environment_is_touched(
    update, words, config, tmp_path):
  env = test_api.vector_env()
  with pytest.raises(ValueError, match=words):
    api.train(env, config.update({**test_api.VECTOR, **update}))
  assert not env.seeds and not (tmp_path / 'run').exists()
