"""Steps environments with a policy and hands on what happened."""

import collections
import contextlib

import numpy as np

from .replay import convert


class Driver:
  """Runs a policy in several environments at once.

  A transition is one row of an episode. Its action is the one that led into
  its observation, and zeros where there was none:

      observation   o0      o1      o2      o3
      action        0       a0      a1      a2      a_t = policy(o_t)
      is_first      True    False   False   False
      callback      reset   step    step    step, then episode

  Environments have `act_space` (dict), `reset()` and `step(action)`; the two
  return a dict, or a function without arguments that waits for it.
  """

  def __init__(self, envs, timer=None, **kwargs):
    """Takes environments.

    Args:
      envs: List of environments.
      timer: Object whose `section(name)` is a context manager, to measure
        'env' and 'policy'.
      **kwargs: Handed to the policy and to every callback.
    """
    self._envs = envs
    self._section = timer.section if timer else _unmeasured
    self._kwargs = kwargs
    self._on_steps = []
    self._on_resets = []
    self._on_episodes = []
    self.reset()

  def on_step(self, callback):
    """Calls callback(transition, worker=i) after every environment step."""
    self._on_steps.append(callback)

  def on_reset(self, callback):
    """Calls callback(transition, worker=i) for the first row of an episode."""
    self._on_resets.append(callback)

  def on_episode(self, callback):
    """Calls callback(episode) for every complete episode, [T, ...] per key."""
    self._on_episodes.append(callback)

  def reset(self):
    """Forgets unfinished episodes and the policy's state."""
    self._obs = [None] * len(self._envs)
    self._eps = [None] * len(self._envs)
    self._state = None
    # Steps that were taken but not yet handed on, [(worker, transition)].
    self._arrived = collections.deque()

  def __call__(self, policy, steps=0, episodes=0):
    """Hands on at least so many steps and episodes.

    Stops at exactly the wanted number: where several environments stepped
    together, what is left over comes first in the next call, as unfinished
    episodes and the policy's state do.

    Args:
      policy: Function from a dict of observations [N, ...] without `log_`
        keys, and its state (None at first), to a dict with the actions
        [N, ...] and the new state. What else the dict holds is stored in the
        transition, too.
      steps: Environment steps, summed over the environments.
      episodes: Complete episodes.
    """
    step, episode = 0, 0
    while step < steps or episode < episodes:
      if not self._arrived:
        self._advance(policy)
      worker, transition = self._arrived.popleft()
      self._hand_on_step(worker, transition)
      step += 1
      if transition['is_last']:
        self._hand_on_episode(worker)
        episode += 1

  def _advance(self, policy):
    """Steps every environment once, after a reset where one is due."""
    due = [
        i for i, obs in enumerate(self._obs)
        if obs is None or obs['is_last']]
    with self._section('env'):
      waiting = {i: self._envs[i].reset() for i in due}
      for worker, obs in waiting.items():
        self._obs[worker] = _receive(obs)
    with self._section('policy'):
      outputs = self._act(policy)
    # Now that the policy's outputs are known the first row can have them all.
    zeros = {k: np.zeros_like(v[0]) for k, v in outputs.items()}
    for worker in due:
      self._hand_on_reset(worker, {**self._obs[worker], **convert(zeros)})
    with self._section('env'):
      waiting = [
          env.step({k: outputs[k][i] for k in env.act_space})
          for i, env in enumerate(self._envs)]
      self._obs = [_receive(obs) for obs in waiting]
    for worker, obs in enumerate(self._obs):
      act = convert({k: v[worker] for k, v in outputs.items()})
      self._arrived.append((worker, {**obs, **act}))

  def _act(self, policy):
    keys = [k for k in self._obs[0] if not k.startswith('log_')]
    batch = {k: np.stack([obs[k] for obs in self._obs]) for k in keys}
    outputs, self._state = policy(batch, self._state, **self._kwargs)
    return {k: np.asarray(v) for k, v in outputs.items()}

  def _hand_on_reset(self, worker, transition):
    self._eps[worker] = [transition]
    for callback in self._on_resets:
      callback(transition, worker=worker, **self._kwargs)

  def _hand_on_step(self, worker, transition):
    self._eps[worker].append(transition)
    for callback in self._on_steps:
      callback(transition, worker=worker, **self._kwargs)

  def _hand_on_episode(self, worker):
    rows, self._eps[worker] = self._eps[worker], None
    episode = {k: np.stack([row[k] for row in rows]) for k in rows[0]}
    for callback in self._on_episodes:
      callback(episode, **self._kwargs)


def _receive(obs):
  obs = obs() if callable(obs) else obs
  # Copied, as an environment may fill the same image again and again.
  return convert({k: np.array(v) for k, v in obs.items()})


def _unmeasured(name):
  return contextlib.nullcontext()
