"""Trains one run on several GPUs or machines, each with a part of the batch.

All replicas hold the same weights. They average their gradients and everything
that moves a running statistic, so that they stay equal. Each replica draws its
own noise. Masks and free nats, which a loss computes over the whole batch, are
computed over all replicas. Candidates of contrastive terms, Sinkhorn's batches
and Barlow Twins' correlations are computed within one replica, so that these
objectives differ from the same batch on one replica.
"""

import contextlib
import threading

import numpy as np
import tensorflow as tf

from . import logger as loggers
from . import worker
from .config import check_known

STRATEGIES = {
    'mirrored': tf.distribute.MirroredStrategy,
    'multiworker': tf.distribute.MultiWorkerMirroredStrategy,
    'none': tf.distribute.get_strategy,  # The default strategy: one replica.
}
LOST = (  # TensorFlow's errors when another process is gone.
    tf.errors.AbortedError, tf.errors.CancelledError,
    tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
    tf.errors.UnavailableError)
_local = threading.local()  # Replicas of one process are threads.


def make(name, config=None):
  """Returns the strategy called `name`, over all available GPUs.

  The processes of 'multiworker' find each other through the environment
  variable TF_CONFIG.

  Raises:
    ValueError: The name is unknown, or the config cannot be split.
  """
  check_known('distribute', name, STRATEGIES)
  gpus()  # A strategy begins to use them.
  strategy = STRATEGIES[name]()
  count = strategy.num_replicas_in_sync
  if config and count > 1:
    if config.dataset.batch % count:
      raise ValueError(
          f'dataset.batch {config.dataset.batch} cannot be split among '
          f'{count} replicas; set --dataset.batch to a multiple of {count}')
    if config.rssm.ensemble > 1:
      raise ValueError(
          f'rssm.ensemble {config.rssm.ensemble} needs --distribute none')
  if name != 'none':
    loggers.say(f'Training on {count} replicas.')
  return strategy


class Processes:
  """Synchronises the processes of one run; most runs have only one.

  All processes must call the same methods in the same order. Each call waits
  for the others.

  Raises:
    GaveUp: Raised by every method when another process is gone.
  """

  def __init__(self, strategy):
    count = strategy.num_replicas_in_sync
    self._local = _replicas(strategy) if count > 1 else 1
    self._gather = tf.function(lambda x: strategy.experimental_local_results(
        strategy.run(_all, [x]))[0], autograph=False)
    self.alone = count == self._local

  def gather(self, number):
    """Returns the integers that all processes passed, as a list."""
    if self.alone:
      return [number]
    with self.guard():
      # TensorFlow keeps a tensor of every Python number that it gets.
      numbers = self._gather(tf.convert_to_tensor(np.int64(number)))
      return numbers.numpy().tolist()[::self._local]

  @contextlib.contextmanager
  def guard(self):
    """Raises GaveUp for the errors of TensorFlow when a process is gone."""
    try:
      yield
    except LOST as error:
      if self.alone:
        raise
      raise worker.GaveUp(
          'another process of this run is gone; restart all of them, and they '
          'continue from the newest checkpoint that all have') from error

  def load(self, checkpoint):
    """Loads the newest snapshot that all processes have; None if none has any.

    If only some have one, but none with an update, all begin anew: a process
    was killed before it saved for the first time.

    Raises:
      ValueError: The processes have no snapshot in common.
    """
    snapshot = checkpoint.load()
    steps = self.gather(snapshot.step if snapshot else -1)
    if min(steps) < 0 <= max(steps):
      updates = self.gather(snapshot.meta['updates'] if snapshot else 0)
      if not max(updates):
        checkpoint.clear()
        return None
    if len({*steps}) > 1:
      snapshot = checkpoint.load(until=min(steps))
    for number in (
        snapshot.step if snapshot else -1,
        snapshot.meta['updates'] if snapshot else -1):
      chosen = self.gather(number)
      if len({*chosen}) > 1 or -1 in chosen and max(steps) >= 0:
        raise ValueError(
            f'the processes of this run have checkpoints of steps {steps} '
            f'(-1: none), and none in common; restore the missing files, or '
            f'choose new logdirs')
    return snapshot


def _all(number):
  """Returns the numbers [R] of all replicas."""
  context = tf.distribute.get_replica_context()
  row = tf.one_hot(
      context.replica_id_in_sync_group, context.num_replicas_in_sync,
      dtype=number.dtype)
  return context.all_reduce('SUM', number * row)


def _replicas(strategy):
  """Returns the number of replicas in this process."""
  return len(strategy.extended.worker_devices)


def gpus():
  """Returns the GPUs; TensorFlow will allocate their memory as needed."""
  devices = tf.config.list_physical_devices('GPU')
  for gpu in devices:
    # RuntimeError: the device is in use, so that it is too late to choose.
    with contextlib.suppress(RuntimeError):
      tf.config.experimental.set_memory_growth(gpu, True)
  return devices


@contextlib.contextmanager
def scope(strategy):
  """Creates variables as the strategy needs them: one copy per replica."""
  def create(next_creator, **kwargs):
    # All replicas assign equal values, each to its own copy, also inside of
    # tf.cond. TensorFlow allows that for all variables but weights.
    if kwargs.get('trainable') is False:
      kwargs['synchronization'] = tf.VariableSynchronization.ON_READ
    kwargs['aggregation'] = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return next_creator(**kwargs)

  if strategy.num_replicas_in_sync == 1:
    yield
    return
  with strategy.scope(), tf.variable_creator_scope(create):
    yield


def split(fn, draw):
  """Returns a function that runs `fn` on every replica's part of a batch.

  Args:
    fn: Maps a batch and a state, dicts of [B, ...], to the next state and
      scalar metrics.
    draw: Function that draws a seed; each replica derives its own from it.

  Returns:
    The same function if there is one replica. Otherwise a function that
    returns the states of this process and the mean of the metrics.
  """
  strategy = tf.distribute.get_strategy()
  count = strategy.num_replicas_in_sync
  if count == 1:
    return fn

  def run(data, state):
    seed = draw()
    local = _replicas(strategy)

    def replica(data, state):
      number = tf.distribute.get_replica_context().replica_id_in_sync_group
      part = lambda x: _part(x, number % local, local)
      _local.seed = tf.random.experimental.stateless_fold_in(seed, number)
      _local.draws = 0
      try:
        return fn(*tf.nest.map_structure(part, (data, state)))
      finally:
        del _local.seed

    states, metrics = strategy.run(replica, (data, state))
    join = lambda x: tf.concat(strategy.experimental_local_results(x), 0)
    return {k: join(v) for k, v in states.items()}, {
        k: strategy.reduce('MEAN', v, axis=None) for k, v in metrics.items()}

  return run


def seed():
  """Returns a new stateless seed of this replica; None outside of `split`."""
  if not hasattr(_local, 'seed'):
    return None
  _local.draws += 1
  return tf.random.experimental.stateless_fold_in(_local.seed, _local.draws)


def mean(x):
  """Averages a tensor, or a list of them, over the replicas; has gradients."""
  return _reduce('MEAN', x)


def total(x):
  """Sums a tensor or a list of tensors over the replicas."""
  return _reduce('SUM', x)


def maximum(number):
  """Returns the largest of the replicas' numbers; has no gradient."""
  context = tf.distribute.get_replica_context()
  if not hasattr(_local, 'seed') or context.num_replicas_in_sync == 1:
    return number
  return tf.reduce_max(_all(number))


def gather(x):
  """Concatenates the replicas' tensors [N, ...]; meant for statistics."""
  context = tf.distribute.get_replica_context()
  if not hasattr(_local, 'seed') or context.num_replicas_in_sync == 1:
    return x
  return context.all_gather(x, 0)


def part(number):
  """Returns this replica's part of a number, rounded up."""
  return -(-number // tf.distribute.get_strategy().num_replicas_in_sync)


def _reduce(kind, x):
  context = tf.distribute.get_replica_context()
  if not hasattr(_local, 'seed') or context.num_replicas_in_sync == 1:
    return x
  return context.all_reduce(kind, x)


def _part(x, index, count):
  size = x.shape[0] // count
  part = tf.slice(
      x, [index * size] + [0] * (x.shape.rank - 1), [size, *x.shape[1:]])
  return tf.ensure_shape(part, [size, *x.shape[1:]])
