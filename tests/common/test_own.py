"""Adapts users' environments, also in processes of their own."""

import gymnasium
import numpy as np

from dreamingv2 import settings
from dreamingv2.common import identity
from dreamingv2.common import own
from dreamingv2.common import suites


def test_environment_is_made_again_in_a_process_of_its_own():
  config = settings.defaults().update({'time_limit': 4, 'action_repeat': 2})
  local = own.adapt(
      gymnasium.make('CartPole-v1'), **own.options(config, seed=3))
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
