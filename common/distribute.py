"""One run on several GPUs or machines: each replica takes part of the batch.

All replicas hold the same weights, average their gradients and whatever moves
a running statistic, and so stay in step. Each draws noise of its own. What is
computed over the whole batch inside of a loss, masks and free nats, is
computed over all replicas; candidates of contrastive terms, Sinkhorn's batches
and Barlow Twins' correlations are those of a replica alone, so that these
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
    'none': tf.distribute.get_strategy,  # The default one, of one replica.
}
LOST = (  # What TensorFlow raises when another process is gone.
    tf.errors.AbortedError, tf.errors.CancelledError,
    tf.errors.DeadlineExceededError, tf.errors.FailedPreconditionError,
    tf.errors.UnavailableError)
_local = threading.local()  # Replicas of one process are threads.


def make(name, config=None):
  """Returns the strategy of a name, over all GPUs that there are.

  The processes of 'multiworker' find each other by the environment variable
  TF_CONFIG.

  Raises:
    ValueError: Unknown name, or a config that cannot be split.
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
    loggers.say(f'Replicas that share every update: {count}.')
  return strategy


class Processes:
  """Keeps the processes of one run together; most runs have but one.

  Each must call the same methods in the same order, and waits for the others.

  Raises:
    GaveUp: By all methods: another process is gone.
  """

  def __init__(self, strategy):
    count = strategy.num_replicas_in_sync
    self._local = _replicas(strategy) if count > 1 else 1
    self._gather = tf.function(lambda x: strategy.experimental_local_results(
        strategy.run(_all, [x]))[0], autograph=False)
    self.alone = count == self._local

  def gather(self, number):
    """Returns an integer of every process."""
    if self.alone:
      return [number]
    with self.guard():
      # TensorFlow keeps a tensor of every Python number that it is given.
      found = self._gather(tf.convert_to_tensor(np.int64(number)))
      return found.numpy().tolist()[::self._local]

  @contextlib.contextmanager
  def guard(self):
    """Gives up in place of what TensorFlow raises without a process."""
    try:
      yield
    except LOST as error:
      if self.alone:
        raise
      raise worker.GaveUp(
          'another process of this run is gone; start all of them again, and '
          'they go on from the newest checkpoint that all have') from error

  def load(self, checkpoint):
    """Returns the newest snapshot that all processes have, None if none has.

    Raises:
      ValueError: They have none in common.
    """
    snapshot = checkpoint.load()
    steps = self.gather(snapshot.step if snapshot else -1)
    if len({*steps}) > 1:
      snapshot = checkpoint.load(until=min(steps))
    for number in (
        snapshot.step if snapshot else -1,
        snapshot.meta['updates'] if snapshot else -1):
      found = self.gather(number)
      if len({*found}) > 1 or -1 in found and max(steps) >= 0:
        raise ValueError(
            f'the processes of this run have checkpoints of steps {steps} '
            f'(-1: none), and none in common; restore what is missing, or '
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
  """Returns the GPUs, after asking for memory only as it is needed."""
  found = tf.config.list_physical_devices('GPU')
  for gpu in found:
    # RuntimeError: the device is in use already, growth was decided.
    with contextlib.suppress(RuntimeError):
      tf.config.experimental.set_memory_growth(gpu, True)
  return found


@contextlib.contextmanager
def scope(strategy):
  """Creates variables as the strategy needs them, one copy per replica."""
  def create(next_creator, **kwargs):
    # What is assigned is the same on all replicas. Each assigns its own copy,
    # also inside of tf.cond; TensorFlow lets only weights have no such copies.
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
      metrics, scalars.
    draw: Function that draws a seed, of which each replica gets one derived.

  Returns:
    The same function under one replica. Else one that returns the states of
    this process and the mean of the metrics.
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
  """Returns a new stateless seed of this replica, None outside of `split`."""
  if not hasattr(_local, 'seed'):
    return None
  _local.draws += 1
  return tf.random.experimental.stateless_fold_in(_local.seed, _local.draws)


def mean(x):
  """Averages a tensor, or a list of them, over the replicas; has gradients."""
  return _reduce('MEAN', x)


def total(x):
  """Adds up a tensor, or a list of them, over the replicas."""
  return _reduce('SUM', x)


def maximum(number):
  """Returns the largest of the replicas' scalars; has no gradient."""
  context = tf.distribute.get_replica_context()
  if not hasattr(_local, 'seed') or context.num_replicas_in_sync == 1:
    return number
  return tf.reduce_max(_all(number))


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
