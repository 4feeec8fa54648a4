"""Steps environments with a policy and hands on what happened."""

import collections
import contextlib
import functools
import warnings

import numpy as np

from .episodes import convert
from .worker import GaveUp, Lost

LOSSES = 10  # Of one environment without a good step between them.


class Driver:
  """Runs a policy in several environments at once.

  A transition is one row of an episode. Its action is the one that led into
  its observation, and zeros where there was none:

      observation   o0      o1      o2      o3
      action        0       a0      a1      a2      a_t = policy(o_t)
      is_first      True    False   False   False
      callback      reset   step    step    step, then episode

  Environments have `act_space` (dict), `reset()` and `step(action)`; the two
  return a dict, or a function without arguments that waits for it. Where they
  raise Lost, or observe what is not finite, the episode ends without another
  row and a new one begins: nothing is made up.

  A call with `ahead` ends with the next steps under way: their actions are
  chosen before the caller goes on, with an update for instance, and the
  environments move meanwhile. Actions lag behind by the updates of one step;
  which rows come does not depend on how long anything takes.

      call     hands on o1, sends a1 = policy(o1) |         | hands on o2, ...
      caller                                      | updates |
      envs                                        | step to o2 |

  With `seed`, environments that have `seed(number)` get a number before every
  reset that depends on `seed`, their index and the count of their episodes
  alone. Then an unfinished episode can be made again from its actions, which
  is how `restore` goes on where a simulator cannot be stored.
  """

  def __init__(self, envs, timer=None, seed=None, **kwargs):
    """Takes environments.

    Args:
      envs: List of environments.
      timer: Object whose `section(name)` is a context manager, to measure
        'env' and 'policy'.
      seed: Tuple of integers, or None to leave seeds to the environments.
      **kwargs: Handed to the policy and to every callback.
    """
    self._envs = envs
    self._section = timer.section if timer else _unmeasured
    self._seed = seed
    self._kwargs = kwargs
    self.begun = [0] * len(envs)  # Episodes of every environment.
    self._losses = [0] * len(envs)
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
    self._sent = {}  # Steps under way, {worker: (row, promise)}.

  def __call__(self, policy, steps=0, episodes=0, ahead=False):
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
      ahead: Begin what comes next before returning, for a next call.
    """
    step, episode = 0, 0
    while step < steps or episode < episodes:
      while not self._arrived:
        self._advance(policy)
      worker, transition = self._arrived.popleft()
      self._hand_on_step(worker, transition)
      step += 1
      if transition['is_last']:
        self._hand_on_episode(worker)
        episode += 1
    # A new episode must not begin before the rows of the last are handed on.
    if ahead and not self._sent and not (
        self._arrived and self._workers_due()):
      self._send(policy)

  def state(self):
    """Returns all that a later `restore` needs.

    Checkpoint.save takes it once `policy`, the policy's state, is made of
    arrays.
    """
    return {
        'begun': list(self.begun),
        'obs': list(self._obs),
        'rows': [_stack(x) if x else None for x in self._eps],
        'arrived': [{'worker': i, 'row': row} for i, row in self._arrived],
        'sent': [
            {'worker': i, 'row': row} for i, (row, _) in self._sent.items()],
        'policy': self._state}

  def restore(self, state, skip=()):
    """Goes on where `state` was taken, also in the middle of an episode.

    Unfinished episodes are made again: seed, reset and their actions. Where
    what is observed then differs in a bit, the episode ends there.

    Args:
      state: What `state` gave. Of another number of environments, only
        the counts of episodes are taken.
      skip: Workers that shall begin a new episode instead.

    Returns:
      Workers whose episode was made again, and those where that failed.
    """
    count = len(self._envs)
    self.begun = (list(state['begun']) + [0] * count)[:count]
    if len(state['begun']) != count:
      return [], []
    self._state = state['policy']
    self._eps = [x and _unstack(x) for x in state['rows']]
    self._arrived = collections.deque(
        (x['worker'], x['row']) for x in state['arrived']
        if x['worker'] not in skip)
    self._obs = list(state['obs'])
    for worker in skip:
      self._obs[worker] = self._eps[worker] = None
    # A finished episode leaves nothing behind that the next one could need.
    going = [
        i for i, obs in enumerate(self._obs) if obs and not obs['is_last']]
    failed = self._remake({
        i: [*self._eps[i], *(row for j, row in self._arrived if i == j)]
        for i in going})
    for worker in failed:
      self._obs[worker] = None
    self._sent = {
        x['worker']: (x['row'], self._send_step(x['worker'], x['row']))
        for x in state.get('sent', ()) if x['worker'] in {*going} - {*failed}}
    return [i for i in going if i not in failed], failed

  def _remake(self, episodes):
    """Plays {worker: rows} again; returns the workers that did not agree."""
    failed = []
    for index in range(max(map(len, episodes.values()), default=0)):
      rows = {i: x[index] for i, x in episodes.items() if index < len(x)}
      waiting = {
          i: self._send_step(i, row) if index else self._send_reset(i, 0)
          for i, row in rows.items() if i not in failed}
      for worker, promise in waiting.items():
        row = rows[worker]
        try:
          obs = _receive(promise)
          agrees = all(
              np.array_equal(obs[k], row[k]) for k in obs
              if not k.startswith('log_'))
        except (KeyError, Lost):
          agrees = False
        if not agrees:
          failed.append(worker)
    return failed

  def _advance(self, policy):
    """Waits for the step of every environment, which it sends if need be."""
    if not self._sent:
      self._send(policy)
    sent, self._sent = self._sent, {}
    with self._section('env'):
      good = [i for i, (_, promise) in sent.items() if self._take(i, promise)]
    for worker in good:
      self._losses[worker] = 0
      row = {**self._obs[worker], **convert(sent[worker][0])}
      self._arrived.append((worker, row))

  def _send(self, policy):
    """Begins a step of every environment, after a reset where one is due."""
    with self._section('env'):
      fresh = self._reset_due()
    with self._section('policy'):
      outputs = self._act(policy)
    # Now that the policy's outputs are known the first row can have them all.
    zeros = {k: np.zeros_like(v[0]) for k, v in outputs.items()}
    for worker in fresh:
      self._hand_on_reset(worker, {**self._obs[worker], **convert(zeros)})
    with self._section('env'):
      for worker in range(len(self._envs)):
        row = {k: v[worker] for k, v in outputs.items()}
        self._sent[worker] = row, self._send_step(worker, row)

  def _reset_due(self):
    """Resets where that is due, until it succeeds; returns the workers."""
    fresh = due = self._workers_due()
    while due:
      waiting = {i: self._send_reset(i, 1) for i in due}
      due = [i for i, obs in waiting.items() if not self._take(i, obs)]
    return fresh

  def _workers_due(self):
    """Returns the workers whose reset is due."""
    return [
        i for i, obs in enumerate(self._obs) if obs is None or obs['is_last']]

  def _send_reset(self, worker, episodes):
    """Starts the next episode, or with 0 the same again."""
    env = self._envs[worker]
    self.begun[worker] += episodes
    seeded = None
    if self._seed is not None and hasattr(env, 'seed'):
      sequence = np.random.SeedSequence(
          [*self._seed, worker, self.begun[worker]])
      seeded = env.seed(int(sequence.generate_state(1)[0]))
    obs = _attempt(env.reset)

    def promise():
      _wait(seeded)  # Tells errors of seeding, too.
      return _wait(obs)
    return promise

  def _send_step(self, worker, row):
    env = self._envs[worker]
    return _attempt(env.step, {k: row[k] for k in env.act_space})

  def _take(self, worker, promise):
    """Waits for an observation; returns whether there was one."""
    try:
      self._obs[worker] = _receive(promise)
      return True
    except Lost as error:
      self._obs[worker] = self._eps[worker] = None
      self._losses[worker] += 1
      if self._losses[worker] >= LOSSES:
        raise GaveUp(
            f'Environment {worker} failed {LOSSES} times in a row: {error}'
            ) from error
      warnings.warn(
          f'Episode {self.begun[worker]} of environment {worker} was cut: '
          f'{error}', stacklevel=2)
      return False

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
    episode = _stack(rows)
    for callback in self._on_episodes:
      callback(episode, **self._kwargs)


def _attempt(fn, *args):
  """Calls a function; what it raises is raised by the promise instead."""
  try:
    return fn(*args)
  except Lost as error:
    return functools.partial(_raise, error)


def _raise(error):
  raise error


def _wait(obs):
  return obs() if callable(obs) else obs


def _receive(obs):
  # Copied, as an environment may fill the same image again and again.
  obs = convert({k: np.array(v) for k, v in _wait(obs).items()})
  for key, value in obs.items():
    # What is only logged may say NaN for 'none'.
    if value.dtype.kind == 'f' and not key.startswith('log_'):
      if not np.isfinite(value).all():
        raise Lost(f'its {key!r} is not finite')
  return obs


def _stack(rows):
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def _unstack(episode):
  return [
      {k: np.asarray(v[i]) for k, v in episode.items()}
      for i in range(len(episode['is_first']))]


def _unmeasured(name):
  return contextlib.nullcontext()
