"""Writes down what a simulator knows, beside what the agent observes."""

import functools

from . import envs

PREFIX = 'log_truth_'  # Such keys reach neither the agent nor the replay.


class Telling(envs.Wrapper):
  """Adds what `truth()` tells to observations; see envs.

  An environment without that method stays as it is.
  """

  @functools.cached_property
  def _tells(self):
    return hasattr(self.env, 'truth')

  def reset(self):
    return self._add(self.env.reset())

  def step(self, action):
    return self._add(self.env.step(action))

  def _add(self, obs):
    told = self.env.truth() if self._tells else {}
    return {**obs, **{f'{PREFIX}{k}': v for k, v in told.items()}}


def of(episode):
  """Returns what was told in an episode, {name: [T, n]}, without prefixes."""
  return {
      k.removeprefix(PREFIX): v for k, v in episode.items()
      if k.startswith(PREFIX)}
