"""Keeps episodes in memory and on disk, and samples sequences from them."""

import datetime
import os
import pathlib
import shutil
import warnings

import numpy as np

from .checkpoint import write_npz
from .episodes import GIB
from .episodes import REQUIRED
from .episodes import Episode
from .episodes import Foreign
from .episodes import check_rows
from .episodes import check_values
from .episodes import describe
from .episodes import fit
from .episodes import load_episodes
from .episodes import parse_name
from .episodes import read_folder
from .episodes import storable
from .files import remove_stale
from .files import set_aside
from .files import write_atomic


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
  order in which the episodes came. DreamerV2's files can be read. An episode
  that the disk refuses stays in memory, and is written when there is room.

  Attributes:
    finished: Workers whose episode was unfinished in the restored state and
      is complete on disk.
    later: Number of episodes that came after the restored state; all, if none
      was restored.
    later_steps: Environment steps that came with them.
  """

  def __init__(
      self, directory, capacity=0, max_gib=0.0, ongoing=False, minlen=1,
      maxlen=0, prioritize_ends=False, seed_from='', seed=0, until=None,
      spaces=None):
    """Loads the newest episodes of a directory, up to the capacity.

    Older files stay on disk. Damaged ones, and ones that differ in keys or
    shapes from the environment, are moved to `damaged/`.

    Args:
      directory: Where the episodes are; made if it does not exist.
      capacity: Most environment steps to hold, 0 for no limit. Beyond it the
        oldest episode is dropped, from memory and, by `forget`, from disk.
      max_gib: Most memory in GiB, 0 for no limit, with the same consequence.
        Files are compressed, so that they take no more than that either.
      ongoing: Whether to sample from unfinished episodes as well.
      minlen: Least environment steps of an episode to be sampled from, and
        least rows of a chunk that is not cut by the end of its batch row.
      maxlen: Most rows of a chunk, 0 for whole batch rows.
      prioritize_ends: Whether chunks that end with their episode come up more
        often: minlen more starting points mean the last one.
      seed_from: Folder with episodes of others, or logdir, to sample from as
        well; '' for none. They are only read, never dropped, and not counted
        in anything but `seed_steps` and `seed_episodes`.
      seed: Of the sampling.
      until: `newest` of a state: what came later is moved to `later/`,
        in the place of what was there, to be made again.
      spaces: Spaces of the environment by key, with that of the action. By
        default the newest file says which keys and shapes are right.

    Raises:
      ValueError: If files are there and all differ from the environment; none
        is moved then.
    """
    self._directory = pathlib.Path(directory).expanduser()
    self._directory.mkdir(parents=True, exist_ok=True)
    remove_stale(self._directory)
    self._capacity = int(capacity) or float('inf')
    self._max_bytes = max_gib * GIB or float('inf')
    self._ongoing = ongoing
    self._minlen = int(minlen)
    self._maxlen = int(maxlen)
    self._prioritize_ends = prioritize_ends
    self._random = np.random.default_rng(seed)
    # key -> (shape of a row, dtype)
    self._signature = signature_of(spaces) if spaces else {}
    self._complete_eps = []  # Oldest first.
    self._sampled_eps = []  # Those of them that are long enough, also.
    self._seed_eps = [
        Episode(data) for data in read_folder(seed_from, self._signature)
    ] if seed_from else []
    self._ongoing_eps = {}  # worker -> Episode
    self._unwritten = []  # Complete ones that the disk has refused.
    self._dropped = []  # Files that a checkpoint may still need.
    self._loaded_steps = 0
    self._loaded_bytes = 0
    self._damaged = 0
    self.finished = []
    if until:
      self._set_back(datetime.datetime.fromisoformat(until))
    self._load()
    files = self._files()
    self._newest = (
        parse_name(files[-1])[0] if files else datetime.datetime.min)
    self._total_episodes, self._total_steps = count_episodes(self._directory)
    self.later, self.later_steps = self._total_episodes, self._total_steps

  @property
  def stats(self):
    """Returns counts: total ever stored, and loaded, that is in memory."""
    ongoing = sum(episode.bytes for episode in self._ongoing_eps.values())
    seeds = {
        'seed_steps': sum(x.steps for x in self._seed_eps),
        'seed_episodes': len(self._seed_eps)} if self._seed_eps else {}
    return {
        **seeds,
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
    row = storable(transition)
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
    episodes = self._sampled_eps + [
        x for x in self._seed_eps if x.steps >= self._minlen]
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
    """Yields samples for ever; warns if there is less than a batch of them."""
    steps = self._loaded_steps + sum(
        x.steps for x in self._ongoing_eps.values()) * self._ongoing
    steps += sum(x.steps for x in self._seed_eps)
    if 0 < steps < batch * length:
      warnings.warn(
          f'a batch of {batch} x {length} steps is larger than the replay, '
          f'which holds {steps} so far: its sequences repeat each other; set '
          f'--prefill or --dataset.batch', stacklevel=2)
    while True:
      yield self.sample(batch, length)

  def cut(self, worker):
    """Completes the unfinished episode of a worker as cut, not terminal."""
    if worker in self._ongoing_eps:
      self._complete(worker)

  def state(self):
    """Returns what files do not hold: the random state, unfinished episodes.

    All of it is what Checkpoint.save takes as meta. Once it is saved, call
    `forget`.
    """
    self._write_again()
    return {
        'random': self._random.bit_generator.state,
        'total_steps': self._total_steps,
        'total_episodes': self._total_episodes,
        'loaded_episodes': len(self._complete_eps),
        'damaged_episodes': self._damaged,
        'newest': self._newest.isoformat(),
        'oldest': next((x.path.name for x in self._complete_eps), '9'),
        'dropped': [x.name for x in self._dropped],
        'ongoing': [
            {'worker': worker, 'name': x.name, 'data': x.trimmed()}
            for worker, x in self._ongoing_eps.items()]}

  def restore(self, state):
    """Takes back what `state` gave, after the same files were loaded.

    An episode that was unfinished then and is complete on disk now is not
    taken twice; its worker is in `finished`.

    Raises:
      ValueError: If keys or shapes differ from those in the files.
    """
    self._random.bit_generator.state = state['random']
    files = {x.name: parse_name(x) for x in self._files()}
    since = datetime.datetime.fromisoformat(
        state.get('newest', datetime.datetime.max.isoformat()))
    later = [steps for time, _, steps in files.values() if time > since]
    self._total_steps = state['total_steps'] + sum(later)
    self._total_episodes = state['total_episodes'] + len(later)
    self._damaged += state.get('damaged_episodes', 0)
    self._newest = max(self._newest, min(since, datetime.datetime.now()))
    stored = {name for _, name, _ in files.values()}
    self._ongoing_eps = {
        x['worker']: Episode.restored(self._checked(x['data']), x['name'])
        for x in state['ongoing'] if x['name'] not in stored}
    self._drop_again(state, len(later))
    finished = [x for x in state['ongoing'] if x['name'] in stored]
    self.finished = [x['worker'] for x in finished]
    self.later = len(later)
    self.later_steps = sum(later) - sum(
        len(x['data']['action']) - 1 for x in finished)

  def forget(self):
    """Deletes the files of the episodes that were dropped.

    Not before a checkpoint without them was saved: after a crash the one
    before it would miss them.

    Returns:
      How many there were.
    """
    dropped, self._dropped = self._dropped, []
    for path in dropped:
      try:
        path.unlink(missing_ok=True)
      except OSError as error:
        warnings.warn(f'Old episode stays on disk: {error}', stacklevel=2)
    return len(dropped)

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
    name = f'{stamp}-{episode.name}-{episode.steps}.npz'
    self._write_again()
    self._write(episode, self._directory / name)
    self._total_steps += episode.steps
    self._total_episodes += 1
    self._hold(episode)

  def _write(self, episode, path):
    episode.path = path
    try:
      save_episode(path, episode.data)
      return True
    except OSError as error:
      self._unwritten.append(episode)
      warnings.warn(
          f'Episode kept in memory only, as writing it failed: {error}',
          stacklevel=2)
      return False

  def _write_again(self):
    """Writes what the disk has refused, until it refuses again."""
    while self._unwritten:
      episode = self._unwritten.pop(0)
      if not self._write(episode, episode.path):
        self._unwritten.insert(0, self._unwritten.pop())
        return

  def _hold(self, episode):
    self._complete_eps.append(episode)
    self._loaded_steps += episode.steps
    self._loaded_bytes += episode.bytes
    if episode.steps >= self._minlen:
      self._sampled_eps.append(episode)
    while len(self._complete_eps) > 1 and self._exceeds(
        self._loaded_steps, self._loaded_bytes):
      self._drop_oldest()

  def _exceeds(self, steps, size):
    return steps > self._capacity or size > self._max_bytes

  def _drop_oldest(self):
    oldest = self._complete_eps.pop(0)
    self._loaded_steps -= oldest.steps
    self._loaded_bytes -= oldest.bytes
    if oldest.steps >= self._minlen:
      self._sampled_eps.pop(0)
    if oldest in self._unwritten:
      self._unwritten.remove(oldest)
    else:
      self._dropped.append(oldest.path)

  def _drop_again(self, state, later):
    """Drops the files of before that only the loading has left out."""
    held = {x.path.name for x in self._complete_eps}
    oldest, dropped = state.get('oldest', '9'), state.get('dropped', ())
    rest = [x for x in self._files() if x.name not in held]
    known = [x for x in rest if x.name >= oldest]
    self._dropped = known + [x for x in rest if x.name in dropped]
    missing = (
        state.get('loaded_episodes', 0) + later - len(held) - len(known))
    if missing > 0:
      warnings.warn(
          f'{missing} episodes that the checkpoint knows are not in '
          f'{self._directory}.', stacklevel=2)

  def _files(self):
    """Returns the paths of the episodes, oldest first."""
    return sorted(x for x in self._directory.glob('*.npz') if parse_name(x))

  def _set_back(self, newest):
    """Moves the episodes that came after the newest one out of the way."""
    later = [x for x in self._files() if parse_name(x)[0] > newest]
    if later:
      target = self._directory / 'later'
      if target.is_symlink() or target.is_file():
        target.unlink()
      shutil.rmtree(target, ignore_errors=True)
      target.mkdir()
      for path in later:
        os.replace(path, target / path.name)

  def _load(self):
    for path in self._directory.glob('*.npz'):
      if not parse_name(path):
        self._set_aside(path, 'the name is not {time}-{id}-{steps}.npz')
    found, odd, steps, size = [], [], 0, 0
    for path, content in load_episodes(
        reversed(self._files()), signature=self._signature):
      episode, error = self._accept(path, content)
      if not episode:
        odd.append((path, error))
        continue
      steps, size = steps + episode.steps, size + episode.bytes
      if found and self._exceeds(steps, size):
        break
      found.append(episode)
    foreign = [x for _, x in odd if isinstance(x, Foreign)]
    if foreign and not found:  # Whoever is wrong, it is not the files.
      raise ValueError(
          f'The episodes of {self._directory} do not fit the environment: '
          f'{foreign[-1]}; choose another --logdir')
    for path, error in odd:
      self._set_aside(path, f'{type(error).__name__}: {error}')
    for episode in reversed(found):
      self._hold(episode)

  def _accept(self, path, content):
    """Returns a loaded episode and None, or None and what is wrong."""
    try:
      if isinstance(content, Exception):
        raise content
      _, name, steps = parse_name(path)
      if self._signature:
        content = fit(content, self._signature)
      episode = Episode(self._checked(content), name, path)
      check_values(episode, steps)
      return episode, None
    except MemoryError:  # Not the fault of the file.
      raise
    except Exception as error:  # Flipped bits raise almost anything.
      return None, error

  def _set_aside(self, path, reason):
    set_aside(path, reason)
    self._damaged += 1

  def _checked(self, episode):
    """Returns a storable episode with the right keys and shapes."""
    episode = storable(episode)
    check_rows(episode)
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
        raise Foreign(
            f'Transition key {key!r} is {describe(found)}, but in the '
            f'episodes of {self._directory} it is {describe(wanted)}.')

  def _too_short(self):
    held = [
        *self._complete_eps, *self._ongoing_eps.values(), *self._seed_eps]
    return (
        f'No episode to sample from: {self._directory} holds '
        f'{sum(x.steps for x in held)} steps in {len(held)} episodes, the '
        f'longest of {max((x.steps for x in held), default=0)}, but '
        f'replay.minlen is {self._minlen}. Raise prefill, or lower minlen '
        'where whole episodes are shorter.')


def signature_of(spaces):
  """Returns the keys of a stored row, with their shapes and types."""
  row = storable({k: np.zeros(v.shape, v.dtype) for k, v in spaces.items()})
  return {k: (v.shape, v.dtype) for k, v in row.items()}


def count_episodes(directory):
  """Returns the numbers of complete episodes and of their steps on disk."""
  names = [parse_name(path) for path in directory.glob('*.npz')]
  steps = [name[2] for name in names if name]
  return len(steps), sum(steps)


def save_episode(path, episode):
  """Writes arrays [T, ...] to a file, as a whole or not at all."""
  write_atomic(path, lambda file: write_npz(file, episode, level=1))
