"""Episodes as arrays and as files."""

import collections
import datetime
import math
import pathlib
import re
import shutil
import uuid
import warnings
from concurrent import futures

import gymnasium
import numpy as np

from .checkpoint import memory
from .checkpoint import read_npz
from .envs import ENDLESS
from .envs import FLAGS
from .files import open_regular

# Keys whose values come in several types from environments and from files.
DTYPES = {
    'is_first': bool, 'is_last': bool, 'is_terminal': bool,
    'reward': np.float32}
GIB = 2 ** 30  # bytes
REQUIRED = ('action', 'is_first', 'is_last')
NAME = re.compile(
    r'(\d{8}T\d{6})(\d{0,6})-([^-]+)-(\d{1,9})\.npz', re.ASCII)
LAST_YEAR = 9000  # Names of new episodes count on from the newest one.
LARGEST = 1.001  # Of an action's entries, with what rounding adds.
WIDEST = 8  # Bytes of a value in other programs' files, where we have one.


class Foreign(ValueError):
  """Keys or shapes are not those of the environment."""


class Episode:
  """Holds the arrays of one episode, of which the first `rows` are filled."""

  ALLOCATED = 64  # Rows at first.

  def __init__(self, data, name=None, path=None):
    self.data = data
    self.rows = len(data['action'])
    self.name = name or uuid.uuid4().hex
    self.path = path

  @classmethod
  def empty(cls, signature):
    """Returns an episode without rows."""
    episode = cls({
        k: np.empty((cls.ALLOCATED, *shape), dtype)
        for k, (shape, dtype) in signature.items()})
    episode.rows = 0
    return episode

  @classmethod
  def restored(cls, data, name):
    """Returns an unfinished episode with as much room as it had."""
    rows, room = len(data['action']), cls.ALLOCATED
    while room < rows:
      room *= 2
    episode = cls({
        k: np.concatenate([v, np.empty((room - rows, *v.shape[1:]), v.dtype)])
        for k, v in data.items()}, name)
    episode.rows = rows
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
  row = storable({k: np.zeros(v.shape, v.dtype) for k, v in spaces.items()})
  return int(capacity) * sum(value.nbytes for value in row.values())


def describe_size(obs_space, act_space, capacity, max_gib, folder):
  """Returns how much memory and disk a replay needs, and what is free."""
  size = estimate_bytes(obs_space, act_space, capacity)
  size = min(size, max_gib * GIB or float('inf'))
  size = f'{size / GIB:.1f} GiB' if size >= GIB else f'{size / 2**20:.0f} MiB'
  free = shutil.disk_usage(folder).free / GIB
  return f'up to {size} of RAM and of disk ({free:.1f} GiB are free there)'


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


def storable(values):
  """Returns the part of a dict of values that is stored, converted."""
  return convert({k: v for k, v in values.items() if not k.startswith('log_')})


def fit(values, signature):
  """Returns those arrays of a file that a replay stores, as it stores them.

  Keys that the signature lacks are left out, which is said once. Where it has
  a vector of floats, a file may have any numbers of as many entries: DreamerV2
  stores an observation that is one number as [T].

  Args:
    values: Dict of arrays [T, ...].
    signature: {key: (shape of a row, dtype)}.

  Raises:
    Foreign: A key is absent, or of another shape or type; names all of them.
    ValueError: A value is neither a number nor a bool.
  """
  extra = sorted(
      f'{k} {v.dtype}{list(v.shape[1:])}' for k, v in values.items()
      if k not in signature and not k.startswith('log_'))
  if extra:  # Python shows the same warning once.
    warnings.warn(
        f'Left out of stored episodes, as the environment lacks them: '
        f'{", ".join(extra)}', stacklevel=2)
  values = storable({k: values[k] for k in signature if k in values})
  result, wrong = {}, []
  for key, (shape, dtype) in signature.items():
    value, was = values.get(key), None
    if value is not None:
      was = value.shape[1:], value.dtype
      if len(shape) == 1 and dtype == np.float32 and value.ndim and (
          math.prod(value.shape[1:]) == shape[0]):
        value = value.reshape(-1, *shape).astype(dtype, copy=False)
    if value is None or (value.shape[1:], value.dtype) != (shape, dtype):
      wrong.append(
          f'{key!r} is {describe(was)} there, but {describe((shape, dtype))} '
          f'here')
    result[key] = value
  if wrong:
    raise Foreign(', '.join(wrong))
  return result


def read_folder(folder, signature=None):
  """Yields the episodes of a folder, oldest first; changes nothing in it.

  Args:
    folder: Folder with files *.npz, or a logdir, whose `train_episodes` count.
    signature: {key: (shape of a row, dtype)} to which they must fit; by
      default that of the first file.

  Raises:
    ValueError: There is none, or one cannot be read, or does not fit.
  """
  folder = pathlib.Path(folder).expanduser()
  inner = folder / 'train_episodes'
  folder = inner if inner.is_dir() else folder
  paths = sorted(folder.glob('*.npz'))
  if not paths:
    raise ValueError(
        f'{folder} holds no episodes (*.npz); name a logdir or a folder that '
        f'dreamingv2 import wrote')
  for path, values in load_episodes(paths):
    try:
      if isinstance(values, Exception):
        raise values
      signature = signature or _signature(storable(values))
      values = fit(values, signature)
      check_rows(values)
      check_actions(values['action'])
      check_values(Episode(values), len(values['action']))
    except Exception as error:  # Flipped bits raise almost anything.
      raise ValueError(f'{path} does not fit: {error}') from None
    yield values


def _signature(values):
  return {k: (v.shape[1:], v.dtype) for k, v in values.items()}


def spaces(stream):
  """Returns the spaces of observations and actions of stored episodes.

  Actions are discrete if every row after a first one is one-hot. If no episode
  ends terminally, the space of is_terminal says that none can.

  Args:
    stream: Iterable of episodes, dicts of arrays [T, ...].

  Raises:
    Foreign: Episodes differ in keys, shapes or types; names the keys.
  """
  signature, onehot, terminal = {}, True, False
  for episode in stream:
    signature = signature or _signature(episode)
    fit(episode, signature)
    rows = episode['action'][1:]
    onehot &= np.isin(rows, (0, 1)).all() and (rows.sum(-1) == 1).all()
    # What is absent is told by the replay, which needs it.
    terminal |= np.any(episode.get('is_terminal', False))
  ends = {np.dtype(np.uint8): (0, 255), np.dtype(bool): (0, 1)}
  box = gymnasium.spaces.Box
  obs = {
      k: box(*ends.get(np.dtype(dtype), (-np.inf, np.inf)), shape, dtype)
      for k, (shape, dtype) in signature.items() if k != 'action'}
  obs.update(FLAGS if terminal else ENDLESS)
  action = box(-1, 1, *signature['action'])
  if onehot:
    action.discrete = True
  return obs, {'action': action}


def parse_name(path):
  """Returns the time, identifier and steps in a file name, None if foreign."""
  match = NAME.fullmatch(path.name)
  if not match:
    return None
  seconds, fraction, name, steps = match.groups()
  try:
    time = datetime.datetime.strptime(seconds, '%Y%m%dT%H%M%S')
  except ValueError:
    return None
  if time.year > LAST_YEAR:
    return None
  time = time.replace(microsecond=int(fraction.ljust(6, '0')))
  return time, name, int(steps)


def load_episodes(paths, ahead=16, signature=None):
  """Yields each path with its arrays, or with what went wrong, in order.

  Args:
    paths: Files.
    ahead: Most files that are held.
    signature: {key: (shape of a row, dtype)} that files have, if it is known.
      With the steps in a file's name it bounds the memory that is taken.
  """
  # Inflating leaves Python's lock, so threads load on all cores.
  with futures.ThreadPoolExecutor() as pool:
    waiting = collections.deque()
    for path in paths:
      waiting.append(pool.submit(_read, path, signature))
      if len(waiting) == ahead:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()


def _read(path, signature):
  try:
    with open_regular(path, memory(), path.parent) as file:
      return path, read_npz(file, _most(path, signature))
  except Exception as error:
    return path, error


def _most(path, signature):
  name = parse_name(path)
  if not signature or not name:
    return memory()
  row = sum(
      math.prod(shape) * np.dtype(x).itemsize for shape, x in
      signature.values())
  # Two rows more, and a tenth for headers and keys that are not stored.
  return int(1.1 * WIDEST * row * (name[2] + 2)) + 2 ** 20


def check_rows(episode):
  """Raises ValueError for unequal lengths, or if an array is missing."""
  for key in REQUIRED:
    if key not in episode:
      raise ValueError(f'There is no key {key!r}')
  lengths = {k: len(v) if v.ndim else 0 for k, v in episode.items()}
  for key, length in lengths.items():
    if not length or length != lengths['action']:
      raise ValueError(
          f'Episode key {key!r} has {length} rows where action has '
          f'{lengths["action"]}')


def check_actions(actions):
  """Raises ValueError for actions that are not those of an agent."""
  if actions.ndim != 2 or actions.dtype != np.float32:
    came = describe((actions.shape[1:], actions.dtype))
  elif actions.size and not np.abs(actions).max() <= LARGEST:
    came = f'in {actions.min():g}..{actions.max():g}'
  else:
    return
  raise ValueError(
      f"'action' is {came} there, but must be float32[n]: one-hot, or scaled "
      f'from the bounds of the environment to -1..1')


def check_values(episode, steps):
  """Raises ValueError for a file that its reader would regret."""
  # The first Dreamer's names count the rows.
  if steps not in (episode.steps, episode.rows) or episode.steps < 1:
    raise ValueError(f'{episode.steps} steps where the name says {steps}')
  for key, values in episode.data.items():
    if values.dtype.kind == 'f' and not np.isfinite(values).all():
      raise ValueError(f'{key!r} is not finite')


def describe(signature):
  """Returns dtype and shape in words."""
  if signature is None:
    return 'absent'
  shape, dtype = signature
  return f'{np.dtype(dtype).name}{list(shape)}'
