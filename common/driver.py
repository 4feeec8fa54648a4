"""Steps environments with a policy and passes the transitions on."""

import collections
import contextlib
import functools
import warnings

import numpy as np

from .episodes import convert
from .worker import GaveUp
from .worker import Lost

LOSSES = 10  # Most failures of one environment without a good step between.


class Driver:
  """Runs a policy in several environments at once.

  A transition is one row of an episode. Its action is the one that led to its
  observation; it is zero in the first row:

      observation   o0      o1      o2      o3
      action        0       a0      a1      a2      a_t = policy(o_t)
      is_first      True    False   False   False
      callback      reset   step    step    step, then episode

  Environments have `act_space` (dict), `reset()` and `step(action)`. Both
  methods return a dict, or a function without arguments that waits for it. If
  an environment raises Lost or observes a value that is not finite, its
  episode ends without another row and a new one begins: no row is invented.

  A call with `ahead` returns while the next steps are running: their actions
  are chosen before the call returns, and the environments step while the
  caller does something else, such as an update. The actions lag behind by the
  updates of one step. The rows do not depend on how long anything takes.

      call     hands on o1, sends a1 = policy(o1) |         | hands on o2, ...
      caller                                      | updates |
      envs                                        | step to o2 |

  With `seed`, an environment that has `seed(number)` gets a number before
  every reset. The number depends only on `seed`, the environment's index and
  the count of its episodes. An unfinished episode can then be replayed from
  its actions; `restore` does so, because the state of a simulator cannot be
  stored.
  """

  def __init__(self, envs, timer=None, seed=None, longest=0):
    """Sets up the driver; no environment is stepped yet.

    Args:
      envs: List of environments.
      timer: Object whose `section(name)` is a context manager; times the
        sections 'env' and 'policy'.
      seed: Tuple of integers, or None to leave seeds to the environments.
      longest: Steps after which an episode that does not end is cut; 0: never.
    """
    self._envs = envs
    self._section = timer.section if timer else _unmeasured
    self._seed = seed
    self._longest = longest
    self.begun = [0] * len(envs)  # Episodes that each environment began.
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
    """Drops unfinished episodes and the policy's state."""
    self._obs = [None] * len(self._envs)
    self._eps = [None] * len(self._envs)
    self._state = None
    # Steps taken but not yet passed on, [(worker, transition)].
    self._arrived = collections.deque()
    self._sent = {}  # Running steps, {worker: (row, promise)}.

  def __call__(self, policy, steps=0, episodes=0, ahead=False):
    """Runs until at least `steps` steps and `episodes` episodes.

    Stops exactly when both are reached. If several environments stepped
    together, the next call passes on the remaining rows first. Unfinished
    episodes and the policy's state also continue in the next call.

    Args:
      policy: Function from a dict of observations [N, ...] without `log_` keys
        and its state (None at first) to a dict with the actions [N, ...] and
        the new state. The other entries of the dict are stored in the
        transition, too.
      steps: Environment steps, summed over the environments.
      episodes: Complete episodes.
      ahead: Start the next steps before returning, for the next call.
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
    # Pass on the last rows of an episode before a new one begins.
    if ahead and not self._sent and not (
        self._arrived and self._workers_due()):
      self._send(policy)

  def state(self):
    """Returns everything that `restore` needs.

    Checkpoint.save stores it, provided that the policy's state, entry
    `policy`, consists of arrays.
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
    """Continues where `state` was taken, also in the middle of an episode.

    Unfinished episodes are replayed: seed, reset and their actions. If an
    observation differs in any bit, the episode ends there.

    Args:
      state: What `state` returned. If it is of another number of environments,
        only the counts of episodes are restored.
      skip: Workers that begin a new episode instead.

    Returns:
      Workers whose episode was replayed, and workers where that failed.
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
    # The next episode needs nothing of a finished one.
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
    """Replays {worker: rows}; returns the workers that observed otherwise."""
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
    """Waits for a step of every environment, and starts it if necessary."""
    if not self._sent:
      self._send(policy)
    sent, self._sent = self._sent, {}
    with self._section('env'):
      good = [i for i, (_, promise) in sent.items() if self._take(i, promise)]
    for worker in good:
      self._losses[worker] = 0
      self._cut_endless(worker)
      row = {**self._obs[worker], **convert(sent[worker][0])}
      self._arrived.append((worker, row))

  def _cut_endless(self, worker):
    obs = self._obs[worker]
    if not 0 < self._longest <= len(self._eps[worker]) or obs['is_last']:
      return
    self._obs[worker] = {**obs, 'is_last': np.array(True)}
    warnings.warn(
        f'Episode {self.begun[worker]} of environment {worker} had not ended '
        f'after {self._longest} steps and was cut; set --time_limit to the '
        f'length of its episodes, or --endless_after', stacklevel=2)

  def _send(self, policy):
    """Starts a step of every environment, after a reset where one is due."""
    with self._section('env'):
      fresh = self._reset_due()
    with self._section('policy'):
      outputs = self._act(policy)
    # The first row has the policy's outputs too; now their shapes are known.
    zeros = {k: np.zeros_like(v[0]) for k, v in outputs.items()}
    for worker in fresh:
      self._hand_on_reset(worker, {**self._obs[worker], **convert(zeros)})
    with self._section('env'):
      for worker in range(len(self._envs)):
        row = {k: v[worker] for k, v in outputs.items()}
        self._sent[worker] = row, self._send_step(worker, row)

  def _reset_due(self):
    """Resets the workers that need it, until all succeed; returns them."""
    fresh = due = self._workers_due()
    while due:
      waiting = {i: self._send_reset(i, 1) for i in due}
      due = [i for i, obs in waiting.items() if not self._take(i, obs)]
    return fresh

  def _workers_due(self):
    """Returns the workers that need a reset."""
    return [
        i for i, obs in enumerate(self._obs) if obs is None or obs['is_last']]

  def _send_reset(self, worker, episodes):
    """Starts the next episode; 0 episodes start the current one again."""
    env = self._envs[worker]
    self.begun[worker] += episodes
    seeded = None
    if self._seed is not None and hasattr(env, 'seed'):
      sequence = np.random.SeedSequence(
          [*self._seed, worker, self.begun[worker]])
      seeded = env.seed(int(sequence.generate_state(1)[0]))
    obs = _attempt(env.reset)

    def promise():
      _wait(seeded)  # Raises errors of seeding, too.
      return _wait(obs)
    return promise

  def _send_step(self, worker, row):
    env = self._envs[worker]
    return _attempt(env.step, {k: row[k] for k in env.act_space})

  def _take(self, worker, promise):
    """Waits for an observation; returns whether it arrived."""
    try:
      self._obs[worker] = _receive(promise)
      return True
    except Lost as error:
      self.lose(worker, error)
      return False

  def lose(self, worker, error):
    """Cuts an episode whose environment has failed; the next step resets it.

    A callback calls this when the environment fails to answer it.

    Raises:
      GaveUp: It failed too often without a good step in between.
    """
    self._obs[worker] = self._eps[worker] = None
    self._losses[worker] += 1
    if self._losses[worker] >= LOSSES:
      raise GaveUp(
          f'Environment {worker} failed {LOSSES} times in a row: {error}'
          ) from error
    warnings.warn(
        f'Episode {self.begun[worker]} of environment {worker} was cut: '
        f'{error}', stacklevel=3)

  def _act(self, policy):
    keys = [k for k in self._obs[0] if not k.startswith('log_')]
    batch = {k: np.stack([obs[k] for obs in self._obs]) for k in keys}
    outputs, self._state = policy(batch, self._state)
    return {k: np.asarray(v) for k, v in outputs.items()}

  def _hand_on_reset(self, worker, transition):
    self._eps[worker] = [transition]
    for callback in self._on_resets:
      callback(transition, worker=worker)

  def _hand_on_step(self, worker, transition):
    self._eps[worker].append(transition)
    for callback in self._on_steps:
      callback(transition, worker=worker)

  def _hand_on_episode(self, worker):
    rows, self._eps[worker] = self._eps[worker], None
    episode = _stack(rows)
    for callback in self._on_episodes:
      callback(episode)


def _attempt(fn, *args):
  """Calls a function; if it raises Lost, the returned promise raises that."""
  try:
    return fn(*args)
  except Lost as error:
    return functools.partial(_raise, error)


def _raise(error):
  raise error


def _wait(obs):
  return obs() if callable(obs) else obs


def _receive(obs):
  # Copied, because an environment may reuse the memory of its images.
  obs = convert({k: np.array(v) for k, v in _wait(obs).items()})
  for key, value in obs.items():
    # Entries that are only logged may be NaN, which means 'none'.
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
