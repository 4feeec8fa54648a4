import contextlib
import types

import numpy as np

from dreamingv2.common.driver import Driver


class CountEnv:
  """Observe the step within the episode and the action that led there."""

  def __init__(self, length, log=None):
    self.act_space = {'action': types.SimpleNamespace(shape=(2,))}
    self._length = length
    self._log = log if log is not None else []
    self._step = 0

  def reset(self):
    self._step = 0
    return self._obs(np.zeros(2))

  def step(self, action):
    assert set(action) == {'action'}
    self._log.append('start')
    self._step += 1
    obs = self._obs(action['action'])

    def promise():
      self._log.append('wait')
      return obs
    return promise

  def _obs(self, action):
    return {
        'image': np.full((2, 2, 3), self._step, np.uint8),
        'count': self._step, 'seen': np.asarray(action, np.float64),
        'reward': 0, 'log_success': 0.0,
        'is_first': self._step == 0, 'is_last': self._step == self._length,
        'is_terminal': False}


def policy(obs, state):
  """Act 10 * worker + 1 + the number of calls so far, in both dimensions."""
  state = 0 if state is None else state + 1
  worker = np.arange(len(obs['count']))[:, None] * 10.0
  action = np.ones((1, 2)) + worker + state
  return {'action': action, 'extra': np.arange(len(worker)) + 5}, state


def collect(lengths, **kwargs):
  driver = Driver([CountEnv(x) for x in lengths], **kwargs)
  rows, episodes = [], []
  driver.on_reset(lambda row, worker: rows.append((worker, row)))
  driver.on_step(lambda row, worker: rows.append((worker, row)))
  driver.on_episode(episodes.append)
  return driver, rows, episodes


def test_driver_stores_with_each_obs_the_action_that_led_there():
  driver, rows, episodes = collect([3])
  driver(policy, episodes=2)
  for _, row in rows:
    np.testing.assert_array_equal(row['action'], row['seen'])
  assert [list(x['action'][:, 0]) for x in episodes] == [
      [0, 1, 2, 3], [0, 4, 5, 6]]
  assert [list(x['count']) for x in episodes] == [[0, 1, 2, 3]] * 2


def test_driver_gives_the_first_row_zeros_for_all_that_the_policy_says():
  driver, rows, episodes = collect([2, 2])
  driver(policy, episodes=1)
  assert list(episodes[0]['extra']) == [0, 5, 5]
  assert [list(row) for _, row in rows] == [list(rows[0][1])] * len(rows)


def test_driver_ends_after_exactly_the_wanted_steps_and_continues():
  driver, rows, _ = collect([4, 4, 4])
  seen = []
  driver.on_step(lambda row, worker: seen.append((worker, int(row['count']))))
  for _ in range(7):
    driver(policy, steps=5)
  whole = [(w, c) for c in [1, 2, 3, 4] * 3 for w in range(3)]
  assert seen == whole[:35]


def test_driver_ends_after_exactly_the_wanted_episodes():
  driver, _, episodes = collect([3, 3, 3, 3])
  driver(policy, episodes=6)
  assert len(episodes) == 6
  assert all(len(x['count']) == 4 for x in episodes)
  driver(policy, episodes=2)
  assert len(episodes) == 8


def test_driver_continues_a_partial_episode_in_the_next_call():
  driver, _, episodes = collect([5])
  driver(policy, steps=3)
  driver(policy, episodes=1)
  assert list(episodes[0]['count']) == list(range(6))
  assert list(episodes[0]['action'][:, 0]) == list(range(6))


def test_driver_reset_begins_new_episodes_and_a_new_policy_state():
  driver, rows, episodes = collect([5, 5])
  driver(policy, steps=3)
  driver.reset()
  driver(policy, episodes=1)
  assert list(episodes[0]['action'][:, 0]) == list(range(6))
  assert len(episodes) == 1


def test_driver_starts_all_steps_before_it_waits_for_any():
  log = []
  driver = Driver([CountEnv(9, log) for _ in range(3)])
  driver(policy, steps=6)
  assert log == (['start'] * 3 + ['wait'] * 3) * 2


def test_driver_hides_log_keys_from_the_policy_and_keeps_them_in_the_row():
  driver, rows, _ = collect([3])

  def check(obs, state):
    assert 'log_success' not in obs and obs['image'].shape == (1, 2, 2, 3)
    return policy(obs, state)
  driver(check, steps=2)
  assert 'log_success' in rows[-1][1]


def test_driver_normalises_types():
  driver, rows, episodes = collect([2])
  driver(policy, episodes=1)
  types_ = {k: v.dtype for k, v in episodes[0].items()}
  assert types_ == {
      'image': np.uint8, 'count': np.int32, 'seen': np.float32,
      'reward': np.float32, 'log_success': np.float32, 'is_first': bool,
      'is_last': bool, 'is_terminal': bool, 'action': np.float32,
      'extra': np.int32}
  assert {k: v.dtype for k, v in rows[0][1].items()} == types_


def test_driver_copies_observations_that_an_environment_fills_anew():
  env = CountEnv(3)
  image = np.zeros((2, 2, 3), np.uint8)
  inner = env._obs
  def reused(action):
    image[:] = env._step
    return {**inner(action), 'image': image}
  env._obs = reused
  driver = Driver([env])
  episodes = []
  driver.on_episode(episodes.append)
  driver(policy, episodes=1)
  assert list(episodes[0]['image'][:, 0, 0, 0]) == [0, 1, 2, 3]


def test_driver_hands_its_keywords_to_policy_and_callbacks():
  driver = Driver([CountEnv(1)], mode='eval')
  seen = []

  def moded(obs, state, mode):
    seen.append(mode)
    return policy(obs, state)
  driver.on_reset(lambda row, worker, mode: seen.append(mode))
  driver.on_step(lambda row, worker, mode: seen.append(mode))
  driver.on_episode(lambda episode, mode: seen.append(mode))
  driver(moded, episodes=1)
  assert seen == ['eval'] * 4


def test_driver_measures_env_and_policy():
  class Timer:
    names = []

    @contextlib.contextmanager
    def section(self, name):
      self.names.append(name)
      yield
  timer = Timer()
  Driver([CountEnv(3)], timer=timer)(policy, steps=1)
  assert timer.names == ['env', 'policy', 'env']
