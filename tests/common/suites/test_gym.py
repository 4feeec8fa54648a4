"""Tests environments that Gymnasium knows by their ids."""

import gymnasium
import numpy as np
import pytest

from dreamingv2.common import suites


class Lamp(gymnasium.Env):
  """Observes a brightness; actions change it; ends for good when dark."""

  metadata = {'render_modes': ['rgb_array']}

  def __init__(self, start=4, pixels=False, render_mode=None):
    self.start, self.render_mode, self.pixels = start, render_mode, pixels
    box = gymnasium.spaces.Box
    self.observation_space = (
        box(0, 255, (10, 12, 3), np.uint8) if pixels
        else box(0, 9, (1,), np.float32))
    self.action_space = gymnasium.spaces.Discrete(2, start=5)

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.level = self.start
    return self._look(), {}

  def step(self, action):
    assert action in (5, 6)
    self.level += 1 if action == 6 else -1
    return self._look(), float(self.level), self.level == 0, False, {}

  def render(self):
    return np.full((10, 12, 3), 25 * self.level, np.uint8)

  def _look(self):
    return self.render() if self.pixels else np.float32([self.level])


@pytest.fixture(autouse=True)
def lamp():
  gymnasium.register('own/Lamp-v0', Lamp)
  yield
  del gymnasium.registry['own/Lamp-v0']


def play(env, actions):
  rows = [env.reset()]
  for action in actions:
    rows.append(env.step({'action': np.eye(2, dtype=np.float32)[action]}))
  return rows


def test_id_gives_an_environment_with_our_interface():
  env = suites.make('gym', 'own/Lamp-v0', seed=1)
  assert env.act_space['action'].discrete
  rows = play(env, [1, 0, 0, 0, 0, 0])
  assert [x['vector'].tolist() for x in rows] == [[x] for x in (
      4, 5, 4, 3, 2, 1, 0)]
  assert [x['reward'] for x in rows] == [0, 5, 4, 3, 2, 1, 0]
  assert rows[-1]['is_last'] and rows[-1]['is_terminal']
  assert not rows[-2]['is_last'] and rows[0]['is_first']


@pytest.mark.parametrize('options, image, size', [
    ({'env_args': {'pixels': True, 'start': 3}}, 75, 1),
    ({'draw': True}, 100, 2)])
def test_images_are_observed_or_drawn(options, image, size):
  env = suites.make('gym', 'own/Lamp-v0', size=(8, 8), **options)
  row = env.reset()
  assert row['image'].shape == (8, 8, 3) and (row['image'] == image).all()
  assert len(env.obs_space) == 4 + size


def test_action_repeat_and_time_limit_count_as_for_other_suites():
  env = suites.make('gym', 'own/Lamp-v0', action_repeat=2, time_limit=2)
  rows = play(env, [1, 1])
  assert [x['reward'] for x in rows] == [0, 11, 15]
  assert rows[-1]['is_last'] and not rows[-1]['is_terminal']


@pytest.mark.parametrize('task, words', [
    ('CartPol-v1', "doesn't exist. Did you mean.*MODULE:CartPol-v1"),
    ('CartPole-v99', 'version `v99`'),
    ('own_absent:Lamp-v0', "no module 'own_absent'")])
def test_unknown_id_is_named_before_a_start(task, words):
  with pytest.raises((ImportError, ValueError), match=words) as info:
    suites.validate('gym', task, {})
  assert '\n' not in str(info.value)


def test_error_of_an_environment_is_one_line():
  with pytest.raises(ValueError, match="TypeError: .*'strat'") as info:
    suites.make('gym', 'own/Lamp-v0', env_args={'strat': 1})
  assert '\n' not in str(info.value)
