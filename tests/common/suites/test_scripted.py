"""Tests that the scripted policies solve their tasks."""

import functools

import numpy as np
import pytest

from dreamingv2.common import envs
from dreamingv2.common import suites
from dreamingv2.common.suites import scripted
from dreamingv2.common.suites import toy

OPTIONS = {
    'robosuite': {
        'controller': 'OSC_POSITION', 'horizon': 200, 'render': 'light'},
    'dmc': {'render': 'light'}, 'toy': {}}


def play(name, steps, noise=0.2, seed=0):
  """Returns the rewards of an episode under the scripted policy."""
  suite, task = suites.parse('', name)
  env = envs.Async(
      functools.partial(
          suites.make, suite, task, size=(8, 8), action_repeat=2,
          **OPTIONS[suite]),
      environ=suites.prepare(suite))
  try:
    env.seed(seed)()
    env.reset()()
    policy = scripted.make(suite, task, env.act_space['action'].shape[0])
    rng, rewards = np.random.default_rng(seed), []
    for _ in range(steps):
      action = policy(env.truth()())
      action = np.clip(action + noise * rng.normal(size=action.shape), -1, 1)
      rewards.append(env.step({'action': action.astype('f')})()['reward'])
    return np.array(rewards)
  finally:
    env.close()


@pytest.mark.parametrize('name, steps, least', [
    ('toy_reach', 20, 0.9), ('toy_torus', 20, 0.9),
    ('dmc_reacher_easy', 60, 1), ('robosuite_Lift', 40, 1)])
def test_script_ends_at_the_goal(name, steps, least):
  """A reward of 2, for two control steps each, is that of a solved task."""
  rewards = play(name, steps)
  assert rewards[-5:].mean() >= 2 * least
  assert rewards[0] < 1.9


def test_torus_is_crossed_at_the_nearer_edge():
  encode = toy.Torus.encode
  policy = scripted.ToyTorus(2)
  action = policy({
      'dot': encode(np.array([0.05, 0.5])),
      'target': encode(np.array([0.97, 0.53]))})
  np.testing.assert_allclose(action, [-0.8, 0.3], atol=1e-5)


def test_lift_goes_over_the_cube_then_down_then_grasps_then_lifts():
  policy = scripted.Lift(4)
  cube = np.array([0.1, 0.0, 0.82])
  act = lambda *gap: policy({'gripper_m': cube + gap, 'cube_m': cube})
  aside = act(-0.1, 0, 0.2)
  assert aside[0] == 1 and aside[2] < 0 and aside[3] == -1
  assert act(-0.04, 0, 0.08)[2] == 0  # As high as the goal over the cube.
  down = act(0, 0, 0.08)
  assert down[2] == -1 and down[3] == -1
  for _ in range(policy.WAIT):
    np.testing.assert_array_equal(act(0, 0, 0), [0, 0, 0, 1])
  np.testing.assert_array_equal(act(0, 0, 0), [0, 0, 1, 1])
  assert act(0, 0, 0.15)[2] == pytest.approx(0)


def test_unknown_task_is_named():
  with pytest.raises(ValueError, match='toy_dummy'):
    scripted.make('toy', 'dummy', 2)
