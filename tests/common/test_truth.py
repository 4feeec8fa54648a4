"""Tests that what a simulator tells stays beside the observations."""

import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2.common import driver as drivers
from dreamingv2.common import envs
from dreamingv2.common import replay as replays
from dreamingv2.common import suites
from dreamingv2.common import truth as truths
from tests.helpers import assert_equal


def go(obs, state):
  assert not any(x.startswith('log_') for x in obs)
  return {'action': np.full((1, 2), 0.3, np.float32)}, state


def play(env, folder=None):
  """Returns an episode of the driver, and what a replay stores of it."""
  episodes = []
  driver = drivers.Driver([env], seed=(0,))
  driver.on_episode(episodes.append)
  replay = replays.Replay(folder) if folder else None
  if replay:
    driver.on_reset(replay.add_step)
    driver.on_step(replay.add_step)
  driver(go, episodes=1)
  return episodes[0], replay and replay.sample(1, 5)


def test_state_is_told_row_by_row_and_not_stored(tmp_path):
  plain, _ = play(suites.make('toy', 'reach'))
  episode, stored = play(
      suites.make('toy', 'reach', truth=True), tmp_path)
  told = truths.of(episode)
  assert {k: v.shape for k, v in told.items()} == {
      'dot': (51, 2), 'target': (51, 2)}
  np.testing.assert_allclose(  # Each action moves the dot by 0.03.
      told['dot'], np.clip(
          told['dot'][:1] + 0.03 * np.arange(51)[:, None], 0, 1), atol=1e-5)
  assert (told['target'] == told['target'][0]).all()
  assert stored.keys() == plain.keys()
  assert_equal(plain, {k: episode[k] for k in plain})


def test_environment_that_tells_nothing_stays_as_it_is():
  env = suites.make('toy', 'dummy', truth=True)
  assert env.reset().keys() == env.obs_space.keys()
  assert truths.of(env.reset()) == {}


def test_another_process_answers_none_for_what_is_absent():
  env = envs.Async(lambda: suites.make('toy', 'dummy'), 'none')
  assert env.truth()() is None


@pytest.mark.parametrize('probe', [False, True])
def test_environments_of_a_run_tell_only_with_a_probe(probe):
  config = settings.load_config([
      '--task', 'toy_torus', '--probe', str(probe)])
  make, _ = suites.constructor(config)
  assert set(truths.of(make(seed=0).reset())) == (
      {'dot', 'target'} if probe else set())
