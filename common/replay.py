"""Keeps episodes in memory and on disk, and samples sequences from them."""

import datetime
import pathlib
import re
import uuid
import warnings
from concurrent import futures

import numpy as np

from .checkpoint import read_npz, remove_stale, set_aside
from .checkpoint import write_atomic, write_npz

# Keys whose values come in several types from environments and from files.
DTYPES = {
    'is_first': bool, 'is_last': bool, 'is_terminal': bool,
    'reward': np.float32}
REQUIRED = ('action', 'is_first', 'is_last')
NAME = re.compile(r'(\d{8}T\d{6})(\d{0,6})-([^-]+)-(\d+)\.npz')


class TooShort(RuntimeError):
  """No episode is long enough to be sampled from."""


class Replay:
  """Stores episodes and samples chunks of them.

  A transition is one row of an episode: what was observed and, as `action`,
  the action that led there. An episode has one row more than environment
  steps, as its first row is the reset. Lengths, minlen and capacity count
  environment steps. Keys that start with `log_` are not stored.

  Every complete episode is a file `{time}-{id}-{steps}.npz`. The times grow
  strictly, whatever the clock does, so that the order of the names is the
  order in which the episodes came. DreamerV2's files can be read.
  """

  def __init__(
      self, directory, capacity=0, ongoing=False, minlen=1, maxlen=0,
      prioritize_ends=False, seed=0):
    """Loads the newest episodes of a directory, up to the capacity.

    Older files stay on disk. Damaged ones, and ones that differ in keys or
    shapes from the newest, are moved to `damaged/`.

    Args:
      directory: Where the episodes are; made if it does not exist.
      capacity: Most environment steps to hold, 0 for no limit. Beyond it the
        oldest episode is dropped, from memory and from disk.
      ongoing: Whether to sample from unfinished episodes as well.
      minlen: Least environment steps of an episode to be sampled from, and
        least rows of a chunk that is not cut by the end of its batch row.
      maxlen: Most rows of a chunk, 0 for whole batch rows.
      prioritize_ends: Whether chunks that end with their episode come up more
        often: minlen more starting points mean the last one.
      seed: Of the sampling.

    Raises:
      ValueError: If the numbers contradict each other.
    """
    _check_numbers(capacity, minlen, maxlen)
    self._directory = pathlib.Path(directory).expanduser()
    self._directory.mkdir(parents=True, exist_ok=True)
    remove_stale(self._directory)
    self._capacity = int(capacity)
    self._ongoing = ongoing
    self._minlen = int(minlen)
    self._maxlen = int(maxlen)
    self._prioritize_ends = prioritize_ends
    self._random = np.random.default_rng(seed)
    self._signature = {}  # key -> (shape of a row, dtype)
    self._complete_eps = []  # Oldest first.
    self._sampled_eps = []  # Those of them that are long enough, also.
    self._ongoing_eps = {}  # worker -> Episode
    self._loaded_steps = 0
    self._loaded_bytes = 0
    self._damaged = 0
    self._newest = datetime.datetime.min
    self._load()
    files = [_parse(path) for path in self._files()]
    self._total_episodes = len(files)
    self._total_steps = sum(steps for _, _, steps in files)

  @property
  def stats(self):
    """Returns counts: total ever stored, and loaded, that is in memory."""
    ongoing = sum(episode.bytes for episode in self._ongoing_eps.values())
    return {
        'total_steps': self._total_steps,
        'total_episodes': self._total_episodes,
        'loaded_steps': self._loaded_steps,
        'loaded_episodes': len(self._complete_eps),
        'damaged_episodes': self._damaged,
        'bytes': self._loaded_bytes + ongoing,
    }

  def add_step(self, transition, worker=0):
    """Adds a row to the unfinished episode of a worker.

    A row with is_last completes the episode. A row with is_first where the
    episode before was never completed (the run was resumed, or the
    environment restarted) completes that one as cut short, not terminal.

    Raises:
      ValueError: If keys or shapes differ from those stored before.
    """
    row = _storable(transition)
    self._check({k: (v.shape, v.dtype) for k, v in row.items()})
    if row['is_first'] and worker in self._ongoing_eps:
      self._complete(worker)
    if worker not in self._ongoing_eps:
      self._ongoing_eps[worker] = Episode.empty(self._signature)
    self._ongoing_eps[worker].append(row)
    if row['is_last']:
      self._complete(worker)

  def add_episode(self, episode):
    """Adds a complete episode, arrays [T, ...]; nothing if it has no step.

    The arrays are kept as they are, not copied.

    Raises:
      ValueError: If keys or shapes differ from those stored before.
    """
    self._store(Episode(self._checked(episode)))

  def sample(self, batch, length):
    """Returns a batch of sequences, [batch, length, ...] per key.

    Every sequence is filled with chunks, each of an episode drawn uniformly,
    and is_first is set where a chunk begins:

        minlen = maxlen = length   [ episode 7, rows 31..80      ]
        shorter chunks             [ ep. 2, 5..24 | ep. 9, 0..29 ]
        is_first                     1 0 0 0 0 0 0  1 0 0 0 0 0 0

    Raises:
      TooShort: No episode is long enough.
    """
    episodes = self._sampled_eps
    if self._ongoing:
      episodes = episodes + [
          x for x in self._ongoing_eps.values() if x.steps >= self._minlen]
    if not episodes:
      raise TooShort(self._too_short())
    sequences = {
        k: np.empty((batch, length, *shape), dtype)
        for k, (shape, dtype) in self._signature.items()}
    for row in range(batch):
      begin = 0
      while begin < length:
        episode = episodes[self._random.integers(len(episodes))]
        start, size = self._chunk(episode.rows, length, length - begin)
        for key, values in sequences.items():
          chunk = episode.data[key][start: start + size]
          values[row, begin: begin + size] = chunk
        sequences['is_first'][row, begin] = True
        begin += size
    return sequences

  def dataset(self, batch, length):
    """Yields samples for ever."""
    while True:
      yield self.sample(batch, length)

  def state_dict(self):
    """Returns what files do not hold: the random state, unfinished episodes.

    All of it is what Checkpoint.save takes as meta.
    """
    return {
        'random': self._random.bit_generator.state,
        'total_steps': self._total_steps,
        'total_episodes': self._total_episodes,
        'ongoing': [
            {'worker': worker, 'name': x.name, 'data': x.trimmed()}
            for worker, x in self._ongoing_eps.items()]}

  def load_state_dict(self, state):
    """Restores a state_dict, after the same files were loaded.

    An episode that was unfinished then and is complete on disk now is not
    taken twice.

    Raises:
      ValueError: If keys or shapes differ from those in the files.
    """
    self._random.bit_generator.state = state['random']
    self._total_steps = max(self._total_steps, state['total_steps'])
    self._total_episodes = max(self._total_episodes, state['total_episodes'])
    stored = {_parse(path)[1] for path in self._files()}
    self._ongoing_eps = {
        x['worker']: Episode(self._checked(x['data']), x['name'])
        for x in state['ongoing'] if x['name'] not in stored}

  def _chunk(self, rows, length, space):
    """Draws the start and the size of a chunk from so many rows."""
    size = min(rows, self._maxlen or length)
    # Not always the longest, or all chunks of equally long episodes would end
    # at the same few places of the batch rows.
    size = max(self._minlen, size - self._random.integers(self._minlen))
    size = min(size, space)
    starts = rows - size + 1
    extra = self._minlen if self._prioritize_ends else 0
    start = min(self._random.integers(starts + extra), starts - 1)
    return start, size

  def _complete(self, worker):
    episode = self._ongoing_eps.pop(worker)
    data = episode.trimmed()
    data['is_last'][-1] = True
    self._store(Episode(data, episode.name))

  def _store(self, episode):
    if episode.steps < 1:
      return
    self._newest = max(
        datetime.datetime.now(),
        self._newest + datetime.timedelta(microseconds=1))
    stamp = self._newest.strftime('%Y%m%dT%H%M%S%f')
    path = self._directory / f'{stamp}-{episode.name}-{episode.steps}.npz'
    try:
      write_atomic(path, lambda file: write_npz(file, episode.data, level=1))
      episode.path = path
    except OSError as error:
      warnings.warn(
          f'Episode kept in memory only, as writing it failed: {error}',
          stacklevel=2)
    self._total_steps += episode.steps
    self._total_episodes += 1
    self._hold(episode)

  def _hold(self, episode):
    self._complete_eps.append(episode)
    self._loaded_steps += episode.steps
    self._loaded_bytes += episode.bytes
    if episode.steps >= self._minlen:
      self._sampled_eps.append(episode)
    while self._beyond_capacity() and len(self._complete_eps) > 1:
      self._drop_oldest()

  def _beyond_capacity(self):
    return self._capacity and self._loaded_steps > self._capacity

  def _drop_oldest(self):
    oldest = self._complete_eps.pop(0)
    self._loaded_steps -= oldest.steps
    self._loaded_bytes -= oldest.bytes
    if oldest.steps >= self._minlen:
      self._sampled_eps.pop(0)
    try:
      if oldest.path:
        oldest.path.unlink(missing_ok=True)
    except OSError as error:
      warnings.warn(f'Old episode stays on disk: {error}', stacklevel=2)

  def _files(self):
    """Returns the paths of the episodes, oldest first."""
    return sorted(x for x in self._directory.glob('*.npz') if _parse(x))

  def _load(self):
    for path in self._directory.glob('*.npz'):
      if not _parse(path):
        self._set_aside(path, 'the name is not {time}-{id}-{steps}.npz')
    chosen, steps = [], 0
    for path in reversed(self._files()):
      steps += _parse(path)[2]
      if self._capacity and chosen and steps > self._capacity:
        break
      chosen.append(path)
    if chosen:
      self._newest = _parse(chosen[0])[0]
    # Inflating leaves Python's lock, so threads load on all cores.
    with futures.ThreadPoolExecutor() as pool:
      files = list(pool.map(_read, chosen))
    # Newest first, as the newest says which keys and shapes are right.
    good = [self._accept(path, content) for path, content in files]
    for episode in reversed(good):
      if episode:
        self._hold(episode)

  def _accept(self, path, content):
    """Returns a loaded episode, or None if its file had to be set aside."""
    try:
      if isinstance(content, Exception):
        raise content
      return Episode(self._checked(content), _parse(path)[1], path)
    except MemoryError:  # Not the fault of the file.
      raise
    except Exception as error:  # Flipped bits raise almost anything.
      self._set_aside(path, f'{type(error).__name__}: {error}')
      return None

  def _set_aside(self, path, reason):
    set_aside(path, reason)
    self._damaged += 1

  def _checked(self, episode):
    """Returns a storable episode with the right keys and shapes."""
    episode = _storable(episode)
    lengths = {k: len(v) if v.ndim else 0 for k, v in episode.items()}
    for key, length in lengths.items():
      if not length or length != lengths.get('action'):
        raise ValueError(
            f'Episode key {key!r} has {length} rows where action has '
            f'{lengths.get("action")}.')
    self._check({k: (v.shape[1:], v.dtype) for k, v in episode.items()})
    return episode

  def _check(self, signature):
    for key in REQUIRED:
      if key not in signature:
        raise ValueError(f'Transition without the key {key!r}.')
    if not self._signature:
      self._signature = signature
    for key in sorted(signature.keys() | self._signature.keys()):
      found, wanted = signature.get(key), self._signature.get(key)
      if found != wanted:
        raise ValueError(
            f'Transition key {key!r} is {_describe(found)}, but in the '
            f'episodes of {self._directory} it is {_describe(wanted)}.')

  def _too_short(self):
    held = [*self._complete_eps, *self._ongoing_eps.values()]
    return (
        f'No episode to sample from: {self._directory} holds '
        f'{sum(x.steps for x in held)} steps in {len(held)} episodes, the '
        f'longest of {max((x.steps for x in held), default=0)}, but '
        f'replay.minlen is {self._minlen}. Raise prefill, or lower minlen '
        'where whole episodes are shorter.')


class Episode:
  """Holds the arrays of one episode, of which the first `rows` are filled."""

  def __init__(self, data, name=None, path=None):
    self.data = data
    self.rows = len(data['action'])
    self.name = name or uuid.uuid4().hex
    self.path = path

  @classmethod
  def empty(cls, signature, allocated=64):
    """Returns an episode without rows."""
    episode = cls({
        k: np.empty((allocated, *shape), dtype)
        for k, (shape, dtype) in signature.items()})
    episode.rows = 0
    return episode

  @property
  def steps(self):
    """Returns the environment steps: the first row is the reset."""
    return self.rows - 1

  @property
  def bytes(self):
    """Returns the memory taken."""
    return sum(values.nbytes for values in self.data.values())

  def append(self, row):
    """Fills one more row, in twice the memory when it is full."""
    if self.rows == len(self.data['action']):
      self.data = {
          k: np.concatenate([v, np.empty_like(v)])
          for k, v in self.data.items()}
    for key, value in row.items():
      self.data[key][self.rows] = value
    self.rows += 1

  def trimmed(self):
    """Returns copies of the filled rows."""
    return {k: v[:self.rows].copy() for k, v in self.data.items()}


def estimate_bytes(obs_space, act_space, capacity):
  """Returns the memory that so many environment steps take in Replay."""
  spaces = {**obs_space, **act_space}
  row = _storable({k: np.zeros(v.shape, v.dtype) for k, v in spaces.items()})
  return int(capacity) * sum(value.nbytes for value in row.values())


def convert(values):
  """Returns a dict of values as arrays of the types that are stored.

  uint8 and bool stay, other integers become int32, floats float32; rewards
  are float32 and flags bool always. Arrays of the right type are not copied.

  Raises:
    ValueError: If a value is neither a number nor a bool.
  """
  return {key: _convert(key, value) for key, value in values.items()}


def _convert(key, value):
  value = np.asarray(value)
  if value.dtype.kind not in 'biuf':
    raise ValueError(
        f'Key {key!r} holds {value.dtype}: must be numbers or bool.')
  kinds = {
      'b': bool, 'f': np.float32, 'i': np.int32,
      'u': np.uint8 if value.dtype == np.uint8 else np.int32}
  dtype = DTYPES.get(key, kinds[value.dtype.kind])
  return value.astype(dtype, copy=False)


def _storable(values):
  return convert({k: v for k, v in values.items() if not k.startswith('log_')})


def _parse(path):
  """Returns the time, identifier and steps in a file name, None if foreign."""
  match = NAME.fullmatch(path.name)
  if not match:
    return None
  seconds, fraction, name, steps = match.groups()
  try:
    time = datetime.datetime.strptime(seconds, '%Y%m%dT%H%M%S')
  except ValueError:
    return None
  time = time.replace(microsecond=int(fraction.ljust(6, '0')))
  return time, name, int(steps)


def _read(path):
  """Returns a path with its arrays, or with what went wrong."""
  try:
    with path.open('rb') as file:
      return path, read_npz(file)
  except Exception as error:
    return path, error


def _check_numbers(capacity, minlen, maxlen):
  if capacity < 0:
    raise ValueError(
        f'replay.capacity = {capacity}: must be 0 (no limit) or more.')
  if minlen < 1:
    raise ValueError(f'replay.minlen = {minlen}: must be at least 1.')
  if maxlen and maxlen < minlen:
    raise ValueError(
        f'replay.maxlen = {maxlen}: must be 0 (no limit) or at least '
        f'replay.minlen = {minlen}.')


def _describe(signature):
  if signature is None:
    return 'absent'
  shape, dtype = signature
  return f'{np.dtype(dtype).name}{list(shape)}'
