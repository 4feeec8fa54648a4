"""Restores agents without their environments, and lets them act."""

import types

import gymnasium
import numpy as np
import pytest

from dreamingv2 import api
from dreamingv2.common import envs
from dreamingv2.common import episodes
from dreamingv2.common import identity
from dreamingv2.common import suites
from dreamingv2.tools import evaluate
from dreamingv2.tools import restored
from tests.dreamingv2 import test_api
from tests.dreamingv2.tools.test_evaluate import start

Box, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete


@pytest.fixture(scope='module')
def images(logdir):
  """Returns the images of an episode of the run."""
  return evaluate.read_episodes(logdir, 1)[0]['image'][:8]


@pytest.fixture(scope='module')
def agent(logdir):
  """Returns the restored agent; what it did before matters to no test."""
  return api.restore(logdir)


def act(agent, observations, **kwargs):
  """Returns the actions of an episode."""
  state, actions = None, []
  for observation in observations:
    action, state = agent.act(observation, state, **kwargs)
    actions.append(action)
  return actions


def test_restored_agent_acts_as_its_exported_policy(
    logdir, images, tmp_path, monkeypatch):
  import tensorflow as tf
  start('--logdir', logdir, '--episodes', 1, '--export', tmp_path / 'policy')
  monkeypatch.setattr(suites, 'start', None)  # No environment is needed.
  ours = act(api.restore(logdir), images)
  exported = act(api.restore(tmp_path / 'policy'), images)
  policy = tf.saved_model.load(str(tmp_path / 'policy'))
  state, alone = policy.initial_state(), []
  for index, image in enumerate(images):
    state = policy.act(image=image[None], is_first=[index == 0], **state)
    alone.append(state['action'][0].numpy())
  np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-6)
  np.testing.assert_allclose(exported, alone, rtol=0, atol=1e-6)
  assert np.abs(np.diff(ours, axis=0)).max() > 1e-3
  with pytest.raises(ValueError, match="mode is 'train'; this policy has eva"):
    api.restore(tmp_path / 'policy').act(images[0], mode='train')


def test_restored_agent_repeats_its_actions_by_checkpoint_seed_and_mode(
    logdir, images):
  first, again, seed, best = (
      api.restore(logdir, **{'seed': 3, **changes})
      for changes in ({}, {'step': 100}, {'seed': 4}, {'best': True}))
  assert first.task == first.config.task == 'toy_reach'
  actions = act(first, images)
  np.testing.assert_array_equal(actions, act(again, images))
  for agent in (seed, best):
    assert np.abs(np.subtract(actions, act(agent, images))).max() > 1e-4
  sampled = act(again, images, mode='train')
  assert np.abs(np.subtract(actions, sampled)).max() > 0.01
  assert first.act({'image': images[0], 'more': 1})[0].shape == (2,)
  with pytest.raises(ValueError, match="mode is 'evil'.*eval, train, explore"):
    first.act(images[0], mode='evil')


@pytest.mark.parametrize('observation, words', [
    ({'camera': 1}, 'must be a dict with image; came camera'),
    ({}, 'must be a dict with image; came nothing'),
    (np.zeros((1, 64, 64, 3), np.uint8),
     r"'image': declared uint8 \[64, 64, 3\], came uint8 \[1, 64, 64, 3\]"),
    (np.zeros((64, 64, 3), np.float32),
     r"'image': declared uint8 \[64, 64, 3\], came float32 \[64, 64, 3\]"),
    (None, r"'image': declared uint8 \[64, 64, 3\], came object \[\]")])
def test_observation_that_does_not_fit_is_named(observation, words, agent):
  with pytest.raises(ValueError, match=words):
    agent.act(observation)


def test_checkpoint_that_is_gone_is_named(logdir):
  with pytest.raises(ValueError, match=(
      'no checkpoint of step 70; there are those of 50, 100')):
    api.restore(logdir, step=70)
  with pytest.raises(ValueError, match='no checkpoint of step 7; there are'):
    api.restore(logdir, step=7)


def test_run_without_its_description_says_what_to_do(logdir, tmp_path):
  (tmp_path / 'config.yaml').write_text((logdir / 'config.yaml').read_text())
  with pytest.raises(ValueError, match='no environment.json.*resume it once'):
    api.restore(tmp_path)
  with pytest.raises(ValueError, match='is not a logdir or an exported'):
    api.restore(tmp_path / 'absent')


def test_agent_of_stored_episodes_acts_too(tmp_path):
  """Nothing but the episodes tells its spaces; actions are one-hot there."""
  rows = {
      'action': np.eye(3, dtype='f')[[0, 1, 2]], 'pose': np.ones((3, 2), 'f')}
  obs, act = episodes.spaces([{
      **rows, 'reward': np.zeros(3, 'f'), 'is_first': np.zeros(3, bool),
      'is_last': np.zeros(3, bool), 'is_terminal': np.zeros(3, bool)}])
  made = identity.of(types.SimpleNamespace(obs_space=obs, act_space=act))
  identity.write(tmp_path, {**made, 'source': 'suite'}, obs, act)
  policy = Policy(['pose'], [0, 1, 0])
  agent = restored.Restored(
      policy, api.load('debug'), identity.read(tmp_path), ['eval'])
  assert agent.act([0.5, 2])[0] == 1 and agent.action_space == Discrete(3)
  np.testing.assert_allclose(policy.seen[0]['pose'], [[0.5, 2]])


class Policy:
  """Keeps the observations it gets and repeats one action."""

  def __init__(self, keys, action):
    self.keys = keys
    self.action = np.float32([action])
    self.seen = []

  def policy(self, obs, state, mode):
    self.seen.append(obs)
    return {'action': self.action}, 'state'


def restore(env, keys, action, tmp_path, **updates):
  """Restores a Policy that was trained on an environment of a user."""
  config = api.load('debug').update(updates)
  wrapped = api.wrap(env, config)
  identity.write(
      tmp_path, {**identity.of(wrapped), 'source': 'api'}, wrapped.obs_space,
      wrapped.act_space)
  policy = Policy(keys, action)
  made = identity.read(tmp_path)
  return policy, restored.Restored(policy, config, made, ['eval'])


def test_observations_and_actions_are_those_of_the_environment(tmp_path):
  """Images of any size, and actions in the environment's own bounds."""
  env = test_api.image_env()
  policy, agent = restore(
      env, ['image'], [-1, 0.5], tmp_path, action_repeat=3, time_limit=2)
  assert agent.observation_space['image'] == env.observation_space
  assert agent.action_space == env.action_space
  image = env.observation_space.sample()
  for count in range(3):  # Longer than the time limit.
    action, _ = agent.act(image, 'state' if count else None)
    np.testing.assert_allclose(action, [-2, 3.25])
    assert action.dtype == np.float32
    seen = policy.seen[-1]
    assert seen['is_first'] == [count == 0]
    np.testing.assert_array_equal(
        seen['image'][0], envs.resize(image, (64, 64)))


def test_discrete_actions_and_drawn_images_are_those_of_the_environment(
    tmp_path):
  env = test_api.discrete_env()
  policy, agent = restore(env, ['image', 'vector'], [0, 0, 1], tmp_path, **{
      'encoder.mlp_keys': '.*'})
  image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  for _ in range(3):  # The vector is out of its range.
    action, _ = agent.act({'image': image, 'vector': [0.5, 0, 0, 1.5], 'x': 3})
    assert action == 2
  np.testing.assert_array_equal(policy.seen[0]['image'][0], image)
  np.testing.assert_allclose(policy.seen[2]['vector'], [[0.5, 0, 0, 1.5]])
  with pytest.raises(ValueError, match='dict with image, vector; came ndarr'):
    agent.act(image)
  with pytest.raises(ValueError, match="'vector' is not finite"):
    agent.act({'image': image, 'vector': [np.nan, 0, 0, 1]})


def test_several_choices_come_back_as_the_environment_takes_them(tmp_path):
  env = test_api.Env(Box(-1, 1, (2,)), gymnasium.spaces.MultiDiscrete([2, 3]))
  _, agent = restore(env, ['vector'], [0, 0, 0, 0, 1, 0], tmp_path)
  action, _ = agent.act([0, 1])
  assert agent.action_space.contains(action) and list(action) == [1, 1]


def test_observations_of_a_dict_need_only_what_is_read(tmp_path):
  env = test_api.Env(gymnasium.spaces.Dict({
      'side': Box(0, 255, (64, 64, 3), np.uint8), 'pose': Box(-1, 1, (2, 3)),
      'grip': Discrete(3, start=1)}), Box(0, 10, (1,), np.float32))
  policy, agent = restore(env, ['grip', 'pose'], [0], tmp_path, **{
      'encoder.mlp_keys': '.*', 'encoder.cnn_keys': '.*'})
  action, _ = agent.act({'grip': 3, 'pose': np.ones((2, 3))})
  np.testing.assert_allclose(action, [5])
  np.testing.assert_allclose(policy.seen[0]['grip'], [[0, 0, 1]])
  np.testing.assert_allclose(policy.seen[0]['pose'], np.ones((1, 6)))
  with pytest.raises(ValueError, match=r"'grip': declared int64 \[\], came f"):
    agent.act({'grip': 2.5, 'pose': np.ones((2, 3))})


def test_dict_within_a_dict_may_be_given_as_it_is(tmp_path):
  space = gymnasium.spaces.Dict({
      'pixels': gymnasium.spaces.Dict(top=Box(0, 255, (64, 64, 3), np.uint8)),
      'pose': Box(-1, 1, (2,))})
  policy, agent = restore(
      test_api.Env(space, Box(0, 10, (1,), np.float32)),
      ['pixels/top', 'pose'], [0], tmp_path, **{'encoder.mlp_keys': '.*'})
  assert agent.observation_space['pixels/top'] == space['pixels']['top']
  given = space.sample()
  flat = {'pixels/top': given['pixels']['top'], 'pose': given['pose']}
  for observation in (given, flat):
    np.testing.assert_allclose(agent.act(observation)[0], [5])
    seen = policy.seen.pop()
    np.testing.assert_array_equal(seen['pixels/top'][0], flat['pixels/top'])
    np.testing.assert_array_equal(seen['pose'][0], flat['pose'])
  with pytest.raises(ValueError, match='dict with pixels/top, pose; came p'):
    agent.act({'pixels': given['pixels']})
