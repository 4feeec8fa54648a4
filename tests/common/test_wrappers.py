"""Checks of actions, and of environments with the interface inside."""

import gymnasium
import numpy as np
import pytest

from dreamingv2.common import envs
from dreamingv2.common import spaces
from dreamingv2.common import wrappers


class Recorder:
  """Records actions; observes what it is told to."""

  def __init__(self, **changes):
    self.actions = []
    self.obs_space = {
        'x': gymnasium.spaces.Box(-1, 1, (3,), np.float32), **envs.FLAGS}
    self.act_space = {'action': gymnasium.spaces.Box(-1, 1, (3,), np.float32)}
    self.changes = changes

  def reset(self):
    return {'x': np.zeros(3), **envs.flags(is_first=True)}

  def step(self, action):
    self.actions.append(action)
    obs = {'x': np.zeros(3), **envs.flags(), **self.changes}
    return {k: v for k, v in obs.items() if v is not None}


@pytest.mark.parametrize('bad,words', [
    ([0, np.nan, 0], 'not finite'), ([0, np.inf, 0], 'not finite'),
    ([0, 0], 'shape'), (0.0, 'shape')])
def test_check_action_stops_a_bad_action(bad, words):
  inner = Recorder()
  env = wrappers.CheckAction(inner)
  with pytest.raises(ValueError, match=words):
    env.step({'action': np.float32(bad)})
  assert not inner.actions
  env.step({'action': np.zeros(3, np.float32), 'reset': False})
  assert len(inner.actions) == 1


@pytest.mark.parametrize('changes, words', [
    ({'x': np.zeros(4)}, r"'x': declared float32 \[3\].*came float64 \[4\]"),
    ({'x': np.full(3, 2.)}, "'x'.*in -1..1.*from 2 to 2"),
    ({'x': np.full(3, np.nan)}, "'x'.*not finite"),
    ({'is_last': None}, 'not a dict with x, reward'),
    ({'is_last': 'no'}, "'is_last'.*came str")])
def test_environment_with_our_interface_is_compared_with_its_spaces(
    changes, words):
  env = envs.ready(Recorder(**changes))
  env.reset()
  with pytest.raises(spaces.BadReturn, match=words):
    env.step({'action': np.zeros(3, np.float32)})


def test_reserved_name_is_refused():
  inner = Recorder()
  inner.obs_space['discount'] = inner.obs_space['x']
  with pytest.raises(ValueError, match="'discount' has a reserved name"):
    envs.ready(inner)
