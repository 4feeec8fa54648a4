"""The parts of a run, and how it continues from a checkpoint.

A run is a table of named parts. Each has `state()`, which returns plain data
and arrays that common.checkpoint can store, and `restore(state)`, which takes
it back. Checkpoints use the same names. Parts are restored in the order of the
table. Weights are arrays of the agent; checkpoints hold them beside the parts.
"""

import random
import time

import numpy as np

from .common import checkpoint as checkpoints


class Attribute:
  """A part that is an attribute of the run.

  Args:
    owner: Object.
    name: Name of the attribute, which holds plain data.
  """

  def __init__(self, owner, name):
    self._owner = owner
    self._name = name

  def state(self):
    return getattr(self._owner, self._name)

  def restore(self, state):
    setattr(self._owner, self._name, state)


class Clock:
  """Measures the seconds that all processes of a run took together.

  Args:
    now: Function that returns the seconds since any fixed moment.
  """

  def __init__(self, now=lambda: time.time()):
    self._now = now
    # Start of this process, shifted back by the time earlier ones took.
    self._started = now()
    self._most = 0.0

  def state(self):
    """Returns the seconds so far, which never fall; NaN if unknown."""
    seconds = self._now() - self._started
    self._most = seconds if seconds != seconds else max(seconds, self._most)
    return self._most

  def restore(self, state):
    """Adds the seconds of earlier processes."""
    self._started -= state


class Drivers:
  """The drivers for training and for evaluation.

  Args:
    train: Driver.
    evaluation: Driver, or None without evaluation.
    agent: Agent, which knows the structure of the policy's state.
    replay: Replay, restored before: it knows which episodes were completed
      after the checkpoint.

  Attributes:
    again: Workers whose unfinished episode was made again to the bit.
    cut: Workers whose episode was cut, as the simulator did not repeat it.
  """

  def __init__(self, train, evaluation, agent, replay):
    self._train = train
    self._eval = evaluation
    self._agent = agent
    self._replay = replay
    self.again, self.cut = [], []

  def state(self):
    """Returns unfinished episodes and the counts of episodes."""
    from .common import tfutils
    train = self._train.state()
    train['policy'] = tfutils.to_arrays(train['policy'])
    return {'train': train, 'eval': self._eval and self._eval.begun}

  def restore(self, state):
    """Continues unfinished episodes; the number of workers may differ."""
    from .common import tfutils
    if state.get('eval') and self._eval:
      self._eval.begun = state['eval']
    if 'train' not in state:  # Written by an older version.
      return
    train, count = dict(state['train']), len(self._train.begun)
    for worker in range(count, len(train['begun'])):
      self._replay.cut(worker)
    if count == len(train['begun']):
      train['policy'] = tfutils.from_arrays(
          train['policy'], self._agent.initial_state(count))
    self.again, self.cut = self._train.restore(train, self._replay.finished)

  def skip(self, number):
    """Passes over the seeds of so many episodes of every environment."""
    self._train.begun = [x + number for x in self._train.begun]


class Every:
  """The schedules of a run by name, each a when.Every."""

  def __init__(self, schedules):
    self._schedules = schedules

  def state(self):
    return {k: v.state() for k, v in self._schedules.items()}

  def restore(self, state):
    for name, value in state.items():
      self._schedules[name].restore(value)


class Metrics:
  """Values of updates that were not logged yet, {name: list of scalars}."""

  def __init__(self, metrics):
    self._metrics = metrics

  def state(self):
    return {k: [float(x) for x in v] for k, v in self._metrics.items()}

  def restore(self, state):
    self._metrics.update(state)


class Random:
  """Python's and NumPy's generators, and that of random actions.

  Args:
    random_agent: RandomAgent.
    noise: TensorFlow's generator for the agent, which is stored with it.
  """

  def __init__(self, random_agent, noise):
    self._agent = random_agent
    self._noise = noise

  def state(self):
    return {
        'python': random.getstate(), 'numpy': np.random.get_state(),
        'agent': self._agent.state()}

  def restore(self, state):
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])
    self._agent.restore(state['agent'])

  def skip(self, number):
    """Moves on to actions and noise that differ for every number."""
    self._agent.skip(number)
    low, high, key = self._noise.state.numpy()  # Of Philox: counter and key.
    self._noise.state.assign([low, high + number, key])


# Key of the meta data -> type, of what a run cannot go on without.
SCHEMA = {'step': int, 'updates': int, 'every': dict, 'replay': dict}
REPLAY = {
    'random': dict, 'total_steps': int, 'total_episodes': int,
    'ongoing': list}
# The same, of what older versions lack.
NEWER = {
    'best': (float, int), 'cpu_seconds': (float, int), 'drivers': dict,
    'due': list,
    'metrics': dict, 'prefilled': bool, 'random': dict, 'run': dict,
    'seconds': (float, int)}
MOST = 2 ** 53  # Of a count.


def check(snapshot):
  """Raises ValueError for a checkpoint that no run has written."""
  replay = snapshot.meta.get('replay')
  for values, schema in (
      (snapshot.meta, SCHEMA), (replay, REPLAY),
      ({'step': snapshot.step}, {'step': int})):
    for key, kind in schema.items():
      value = values.get(key) if isinstance(values, dict) else None
      if not isinstance(value, kind) or (
          kind is int and not 0 <= value < MOST):
        raise ValueError(f'meta.json has no good {key!r}')
  for key, kind in NEWER.items():
    if key in snapshot.meta and not isinstance(snapshot.meta[key], kind):
      raise ValueError(f'meta.json has no good {key!r}')


def origin(config):
  """Returns what checkpoints note of the run that writes them."""
  return {'task': config.task, 'method': config.method}


def check_origin(meta, own):
  """Checks that a checkpoint is of this run, as far as it says so.

  Args:
    meta: Metadata of the checkpoint.
    own: What `origin` returns for this run.

  Raises:
    ValueError: It is of a run of another task or method.
  """
  theirs = meta.get('run', {})
  differ = [k for k in own if theirs.get(k, own[k]) != own[k]]
  if differ:
    words = ', '.join(
        f'{k} {theirs[k]} there and {own[k]} here' for k in differ)
    raise ValueError(
        f'the checkpoint belongs to another run ({words}); remove it, or '
        f'choose another --logdir')


class State:
  """Loads and saves the whole state of a run.

  Args:
    folder: Folder of the checkpoints.
    keep: Number of newest checkpoints to keep.
    processes: distribute.Processes of the run, which agree on a checkpoint.
    own: What `origin` returns for this run.

  Attributes:
    lost: Whether there are checkpoints, but all are damaged.

  Raises:
    ValueError: The processes have no checkpoint in common.
  """

  def __init__(self, folder, keep, processes, own):
    self._checkpoint = checkpoints.Checkpoint(folder, keep, check)
    self._snapshot = processes.load(self._checkpoint)
    self._own = own
    self.lost = not self._snapshot and any(folder.glob('damaged/*.npz'))

  @property
  def newest(self):
    """Time of the newest episode when the checkpoint was written, or None."""
    return self._snapshot and self._snapshot.meta['replay'].get('newest')

  def restore(self, agent, parts):
    """Restores an agent and the parts from the checkpoint.

    Parts that an older version did not have stay as they are.

    Returns:
      The metadata of the checkpoint, None if there is no checkpoint.

    Raises:
      ValueError: It is of another run, or a part cannot be restored.
    """
    snapshot, self._snapshot = self._snapshot, None  # It is large.
    if not snapshot:
      return None
    check_origin(snapshot.meta, self._own)
    agent.load(snapshot.arrays)
    # Older versions wrote no checkpoint before the end of the prefill.
    meta = {'prefilled': True, **snapshot.meta}
    for name, part in parts.items():
      if name in meta:
        try:
          part.restore(meta[name])
        except (ArithmeticError, AttributeError, LookupError,
                TypeError) as error:
          raise ValueError(
              f'{name!r} of the checkpoint of step {snapshot.step} cannot be '
              f'restored ({type(error).__name__}: {error}); remove that '
              f'checkpoint') from error
    return meta

  def save(self, step, agent, parts, best=False):
    """Writes a checkpoint.

    Args:
      step: Environment steps so far.
      agent: Agent.
      parts: Parts by name.
      best: Whether the last evaluation is the best so far.

    Raises:
      OSError: The disk refuses the write.
    """
    meta = {name: part.state() for name, part in parts.items()}
    meta['run'] = self._own
    self._checkpoint.save(step, agent.save(), meta, best)
