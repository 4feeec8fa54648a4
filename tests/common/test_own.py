"""Adapts users' environments, also in processes of their own."""

import types

import gymnasium
import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2.common import driver as drivers
from dreamingv2.common import envs
from dreamingv2.common import identity
from dreamingv2.common import own
from dreamingv2.common import suites
from dreamingv2.common import worker

Box, Dict = gymnasium.spaces.Box, gymnasium.spaces.Dict


def test_environment_is_made_again_in_a_process_of_its_own():
  config = settings.defaults().update({'time_limit': 4, 'action_repeat': 2})
  local = own.adapt(gymnasium.make('CartPole-v1'), config, 3)
  remote, = suites.start(
      config.update(identity.settings(identity.of(local))), [3])
  try:
    assert remote.obs_space == local.obs_space
    assert remote.identity == local.identity
    ours, theirs = local.reset(), remote.reset()()
    action = {'action': np.float32([0, 1])}
    for _ in range(4):
      assert all(np.array_equal(ours[k], theirs[k]) for k in ours)
      ours, theirs = local.step(action), remote.step(action)()
    assert ours['is_last'] and ours['reward'] == 2 and not ours['is_terminal']
  finally:
    remote.close()


class Env(gymnasium.Env):
  """Observes samples of a space; returns what it is told to, once."""

  action_space = gymnasium.spaces.Discrete(2)

  def __init__(self, space, at=(), value=None, length=6):
    self.observation_space = space
    self.at, self.value, self.length = at, value, length
    self.resets = self.steps = 0

  def reset(self, *, seed=None, options=None):
    self.resets += 1
    self.count = 0
    return self.observation_space.sample(), {}

  def step(self, action):
    self.count += 1
    self.steps += 1
    if self.steps in self.at:
      return self.value
    last = self.count == self.length
    return self.observation_space.sample(), 1.0, False, last, {}


MIXED = Dict({
    'pixels': Box(0, 255, (3, 8, 8), np.uint8), 'state': Box(-1, 1, (2,)),
    'mission': gymnasium.spaces.Text(9)})
IMAGE = Box(0, 255, (8, 8, 3), np.uint8)


@pytest.mark.parametrize('space, flags, used, left_out', [
    (Box(-1, 1, (2,)), {}, {'vector'}, {}),
    (Dict(a=Box(-1, 1, (2,)), b=Box(-1, 1, ())), {}, {'a', 'b'}, {}),
    (MIXED, {}, {'pixels'}, {
        'state': "not matched by encoder.mlp_keys '$^'",
        'mission': 'Text, which is not supported'}),
    (MIXED, {'encoder.mlp_keys': 'state', 'encoder.cnn_keys': '.*'},
     {'pixels', 'state'}, {'mission': 'Text, which is not supported'}),
    (Dict(image=IMAGE, depth=Box(0, 9, (8, 8, 1))), {}, {'image'}, {
        'depth': "not matched by encoder.cnn_keys 'image.*'"}),
    (Dict(image=IMAGE, log_x=Box(0, 9, ())), {}, {'image', 'log_x'}, {})])
def test_what_nothing_reads_is_left_out(space, flags, used, left_out):
  config = settings.defaults().update(flags)
  env = own.adapt(Env(space), config)
  assert env.obs_space.keys() - envs.FLAGS.keys() == used
  assert env.reset().keys() == {*used, *envs.FLAGS}
  assert env.identity['left_out'] == left_out
  # The encoder reads exactly these.
  fitted = own.fit(config, env.obs_space)
  assert not own.unread(fitted, env.obs_space)


def test_usual_patterns_stay_where_they_match_and_where_they_were_changed():
  config = settings.defaults()
  obs = suites.make('toy', 'dummy').obs_space
  assert own.fit(config, obs) is config
  changed = config.update({'encoder.mlp_keys': 'x'})
  fitted = own.fit(changed, {'y': Box(0, 1, (2,)), **envs.FLAGS})
  assert fitted.encoder == changed.encoder
  assert fitted.decoder.mlp_keys == '.*'


def test_cameras_of_any_name_are_read_beside_chosen_vectors():
  """Where mlp_keys was set, cameras not called image... were not read."""
  obs = {
      'pixels/top': IMAGE, 'pixels/wrist': IMAGE, 'arm': Box(-1, 1, (7,)),
      **envs.FLAGS}
  config = settings.defaults().update({'encoder.mlp_keys': 'arm'})
  fitted = own.fit(config, obs)
  assert fitted.encoder.cnn_keys == '.*'
  assert fitted.encoder.mlp_keys == 'arm'
  blind = config.update({'encoder.cnn_keys': '$^'})
  assert own.fit(blind, obs).encoder == blind.encoder


@pytest.mark.parametrize('space, flags, shown', [
    ({'image': IMAGE, 'image_side': IMAGE}, {}, ['image']),
    ({'top': IMAGE, 'wrist': IMAGE, 'x': Box(0, 1, (2,))}, {},
     ['top', 'wrist']),
    ({'image': Box(0, 1, (2,)), 'top': IMAGE}, {}, ['top']),
    ({'top': IMAGE, 'wrist': IMAGE}, {'log_keys_video': ['wrist']}, ['wrist']),
    ({'top': IMAGE}, {'log_keys_video': []}, []),
    ({'x': Box(0, 1, (2,)), 'log_image': IMAGE}, {}, [])])
def test_videos_show_the_usual_camera_or_else_all(space, flags, shown):
  config = settings.defaults().update(flags)
  assert own.videos(config, space) == shown


def play(env, steps, **kwargs):
  """Steps an environment with a driver; returns the lengths of episodes."""
  driver, lengths = drivers.Driver([env], **kwargs), []
  driver.on_episode(lambda episode: lengths.append(
      len(episode['reward']) - 1))
  driver(lambda obs, state: (
      {'action': np.float32([[1, 0]])}, None), steps=steps)
  return lengths


@pytest.mark.parametrize('value', [
    None, 'abc', (np.zeros(3, 'f'), 1.0, False, False, {}),
    (None, 1.0, False, False, {}),
    (np.zeros(2, 'f'), None, False, False, {})])
def test_wrong_return_cuts_the_episode_within_the_budget(value):
  config = settings.defaults().update({'env_restarts': 2})
  inner = Env(Box(-1, 1, (2,)), at=(9, 10), value=value)
  with pytest.warns(UserWarning, match='was cut'):
    assert play(own.keep(own.adapt(inner, config), config), 18) == [6, 6]
  # Steps 9 and 10 gave nothing: episodes 2 and 3 had two steps and none.
  assert inner.resets == 5 and inner.steps == 20
  inner = Env(Box(-1, 1, (2,)), at=(9, 10, 11), value=value)
  with pytest.warns(UserWarning), pytest.raises(
      worker.GaveUp, match='after 2 restarts.*--env_restarts'):
    play(own.keep(own.adapt(inner, config), config), 18)


def test_wrong_return_in_the_first_step_is_an_error_at_once():
  config = settings.defaults()
  inner = Env(Box(-1, 1, (2,)), at=(1,))
  with pytest.raises(ValueError, match='step.. returned NoneType'):
    play(own.keep(own.adapt(inner, config), config), 3)


def test_episode_that_never_ends_is_cut_and_the_next_one_begins():
  inner = Env(Box(-1, 1, (2,)), length=0)
  env = own.adapt(inner, settings.defaults())
  with pytest.warns(UserWarning, match='not ended after 7 .*--time_limit'):
    assert play(env, 16, longest=7) == [7, 7]
  assert inner.resets == 3


def test_success_that_raises_is_told_before_anything_expensive():
  def fail():
    raise RuntimeError('no goal yet')
  done = lambda *args: envs.flags
  env = types.SimpleNamespace(
      act_space={'action': gymnasium.spaces.Box(-1, 1, (2,), np.float32)},
      reset=done, step=done, seed=done, success=lambda: fail)
  with pytest.raises(ValueError, match='does not work: no goal yet'):
    own.try_out(env, 0)


@pytest.mark.parametrize('reward', [np.nan, -np.inf, 1e39])
def test_reward_that_is_not_finite_is_told_before_anything_expensive(reward):
  config = settings.defaults()
  value = np.zeros(2, np.float32), reward, False, False, {}
  env = own.keep(
      own.adapt(Env(Box(-1, 1, (2,)), (1,), value), config), config)
  with pytest.raises(ValueError, match='first step.. returned the reward'):
    own.try_out(env, 0)
