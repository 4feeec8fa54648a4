import contextlib
import types

import numpy as np
import pytest

from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import replay as replays
from dreamingv2.common import worker
from dreamingv2.common.driver import Driver


class CountEnv:
  """Observes the step within the episode and the action that led to it."""

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
  """Returns 10 * worker + 1 + the number of calls so far, as both actions."""
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


def test_driver_ahead_returns_with_the_next_steps_under_way():
  log = []
  driver = Driver([CountEnv(2, log) for _ in range(2)])
  driver(policy, steps=1, ahead=True)
  assert log == ['start', 'start', 'wait', 'wait', 'start', 'start']
  driver(policy, steps=2, ahead=True)  # One of two last rows is left.
  assert log[6:] == ['wait', 'wait']
  driver(policy, steps=1, ahead=True)
  assert log[8:] == ['start', 'start']


@pytest.mark.parametrize('steps', [1, 2, 5])
def test_driver_ahead_hands_on_the_same_rows(steps):
  runs = []
  for ahead in (False, True):
    driver, rows, _ = gather([Walk(4), Walk(3)], seed=(1,))
    for _ in range(20):
      driver(steer, steps=steps, ahead=ahead)
    runs.append([x for x in rows if x[0] == 1])
  # A reset may have come early.
  assert len(runs[1]) - len(runs[0]) in (0, 1)
  assert_same_rows(runs[0], runs[1][:len(runs[0])])


def test_driver_ahead_asks_the_policy_before_the_caller_goes_on():
  driver, rows, _ = gather([Walk(9)], seed=(1,))
  weight = [1.0]
  scaled = lambda obs, state: (
      {'action': np.full((1, 2), weight[0], np.float32)}, None)
  for _ in range(4):
    driver(scaled, steps=1, ahead=True)
    weight[0] += 1  # As an update does.
  assert [row['action'][0] for _, row in rows] == [0, 1, 1, 2, 3]


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


def test_driver_measures_env_and_policy():
  class Timer:
    names = []

    @contextlib.contextmanager
    def section(self, name):
      self.names.append(name)
      yield
  timer = Timer()
  Driver([CountEnv(3)], timer=timer)(policy, steps=1)
  assert timer.names == ['env', 'policy', 'env', 'env']


class Walk:
  """Adds up actions and its own seeded noise, as simulators do."""

  def __init__(self, length, drift=0.0):
    self.act_space = {'action': types.SimpleNamespace(shape=(2,))}
    self._length, self._drift = length, drift
    self._random = np.random.default_rng()
    self.seeds = []

  def seed(self, number):
    self.seeds.append(number)
    self._random = np.random.default_rng(number)

  def reset(self):
    self._step, self._sum = 0, self._random.random(2) + self._drift
    return self._obs()

  def step(self, action):
    self._step += 1
    self._sum = self._sum + action['action'] * self._random.random(2)
    return self._obs()

  def _obs(self):
    return {
        'sum': self._sum, 'log_none': np.nan, 'reward': 0.0,
        'is_first': self._step == 0, 'is_last': self._step == self._length,
        'is_terminal': False}


def gather(envs, state=None, **kwargs):
  """Returns a driver, the rows it passes on, and the result of loading."""
  driver, rows = Driver(envs, **kwargs), []
  loaded = driver.restore(state) if state else None
  for event in (driver.on_reset, driver.on_step):
    event(lambda row, worker: rows.append((worker, row)))
  return driver, rows, loaded


def steer(obs, state):
  """Returns actions that depend on all observations and the call count."""
  state = 0 if state is None else state + 1
  return {'action': np.float32(obs['sum'][:, ::-1] + state)}, state


def stored(state, folder):
  """Returns a state after it was saved to a file and loaded."""
  checkpoints.Checkpoint(folder).save(1, {}, {'driver': state})
  return checkpoints.Checkpoint(folder).load().meta['driver']


def assert_same_rows(left, right):
  assert len(left) == len(right)
  for (index, row), (other, copy) in zip(left, right, strict=True):
    assert index == other and row.keys() == copy.keys()
    for key in row:
      assert row[key].dtype == copy[key].dtype
      np.testing.assert_array_equal(row[key], copy[key], err_msg=key)


def test_driver_gives_every_episode_a_seed_of_its_own_that_repeats():
  seeds = []
  for seed in ((3, 0), (3, 0), (3, 1)):
    driver, _, _ = gather([Walk(2), Walk(2)], seed=seed)
    driver(steer, episodes=6)
    seeds.append([x for env in driver._envs for x in env.seeds])
  assert seeds[0] == seeds[1]
  assert len({*seeds[0], *seeds[2]}) == len(seeds[0]) + len(seeds[2]) == 12


@pytest.mark.parametrize('ahead', [False, True])
@pytest.mark.parametrize('steps', range(1, 14))
def test_driver_goes_on_to_the_bit_from_wherever_it_stood(
    steps, ahead, tmp_path):
  lengths = [4, 3, 7]
  make = lambda: [Walk(x) for x in lengths]
  driver, rows, _ = gather(make(), seed=(1,))
  driver(steer, steps=steps, ahead=ahead)
  state = stored(driver.state(), tmp_path)
  before = len(rows)
  driver(steer, steps=20)
  again, others, (remade, failed) = gather(make(), state, seed=(1,))
  assert not failed and set(remade) <= {0, 1, 2}
  again(steer, steps=20)
  assert_same_rows(rows[before:], others)


def test_driver_hands_on_whole_episodes_after_it_went_on(tmp_path):
  episodes = []
  driver, _, _ = gather([Walk(5)], seed=(1,))
  driver(steer, steps=3)
  state = stored(driver.state(), tmp_path)
  again, _, _ = gather([Walk(5)], state, seed=(1,))
  for one in (driver, again):
    one.on_episode(episodes.append)
    one(steer, episodes=1)
  left, right = episodes
  assert len(left['is_first']) == 6
  for key in left:
    np.testing.assert_array_equal(left[key], right[key])


def test_driver_cuts_an_episode_that_a_simulator_does_not_repeat(tmp_path):
  driver, _, _ = gather([Walk(5), Walk(5)], seed=(1,))
  driver(steer, steps=7)  # The second step of worker 1 comes next.
  state = stored(driver.state(), tmp_path)
  again, rows, loaded = gather([Walk(5), Walk(5, 1e-9)], state, seed=(1,))
  assert loaded == ([0], [1])
  again(steer, steps=3)
  assert [(i, bool(row['is_first'])) for i, row in rows] == [
      (1, False), (1, True), (0, False), (1, False)]


def test_driver_begins_anew_with_workers_to_skip_or_of_another_number(
    tmp_path):
  driver, _, _ = gather([Walk(5), Walk(5)], seed=(1,))
  driver(steer, steps=7)
  state = stored(driver.state(), tmp_path)
  again, rows, _ = gather([Walk(5), Walk(5)], seed=(1,))
  assert again.restore(state, skip=[1]) == ([0], [])
  again(steer, steps=2)
  assert [(i, bool(row['is_first'])) for i, row in rows] == [
      (1, True), (0, False), (1, False)]
  more, rows, loaded = gather([Walk(5)] * 3, state, seed=(1,))
  assert loaded == ([], []) and more.begun == [1, 1, 0]
  more(steer, steps=3)
  assert sum(bool(row['is_first']) for _, row in rows) == 3


class Failing(Walk):
  """Fails at given calls of `step`, in one of several ways."""

  def __init__(self, how, calls):
    super().__init__(5)
    self._how, self._calls, self._count = how, calls, 0

  def step(self, action):
    obs = super().step(action)
    self._count += 1
    if self._count not in self._calls:
      return obs
    if self._how in obs:
      return {**obs, self._how: obs[self._how] * np.nan}
    if self._how == 'promise':
      return self._raise
    self._raise()

  def _raise(self):
    raise worker.Lost('somehow')


@pytest.mark.parametrize('how', ['promise', 'raise', 'reward', 'sum'])
def test_driver_cuts_an_episode_that_cannot_go_on(how, tmp_path):
  """The reward or an observation is NaN, or the environment is lost."""
  driver, rows, _ = gather([Failing(how, [3]), Walk(9)], seed=(1,))
  replay = replays.Replay(tmp_path)
  driver.on_reset(replay.add_step)
  driver.on_step(replay.add_step)
  episodes = []
  driver.on_episode(episodes.append)
  with pytest.warns(UserWarning, match='Episode 1 of environment 0 was cut'):
    driver(steer, steps=14)
  firsts = [bool(row['is_first']) for i, row in rows if i == 0]
  # Two good steps and no invented one; then a whole episode of five.
  assert firsts[:9] == [True, False, False, True] + [False] * 5
  assert all(np.isfinite(row['sum']).all() for _, row in rows)
  assert len(episodes[0]['is_first']) == 6
  with np.load(sorted(tmp_path.glob('*.npz'))[0]) as cut:
    assert list(cut['is_last']) == [False, False, True]
    assert not cut['is_terminal'].any()


def test_driver_gives_up_where_nothing_but_failures_comes():
  driver, _, _ = gather([Failing('sum', range(100))])
  with pytest.warns(UserWarning), pytest.raises(
      worker.GaveUp, match='failed 10 times in a row'):
    driver(steer, steps=1)
