"""Saves and loads the whole training state, atomically, without pickle."""

import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
import re
import zipfile

import numpy as np

from .files import link
from .files import open_regular
from .files import remove_stale
from .files import set_aside
from .files import write_atomic

ARRAY, TUPLE = '__array__', '__tuple__'
BEST = 'best.npz'
META_BYTES = 2 ** 28  # Of meta.json, which holds no arrays.
RATIO = 16  # Most that a compressed checkpoint grows; ours are not compressed.


@dataclasses.dataclass(frozen=True)
class Snapshot:
  """Holds what one checkpoint file says."""

  step: int
  arrays: dict
  meta: dict


class Checkpoint:
  """Keeps the newest training states of one run in one directory.

  A state is one file `{step:012d}.npz`: the arrays and, as `meta.json`, the
  rest. `np.load` and `unzip -p` read it too. Zip guards every member with a
  CRC-32, so that a damaged file is known when it is read. Only one process
  may save to a directory; any number may load. `best.npz` is one of the
  states, which stays when others come.
  """

  def __init__(self, directory, keep=2, check=lambda snapshot: None):
    """Opens a directory and removes what a killed writer left half-written.

    Args:
      directory: Where the states are; made by the first `save`.
      keep: Number of newest states that stay, at least 1.
      check: Function that raises for a Snapshot that cannot be used. Its file
        counts as damaged.
    """
    self._directory = pathlib.Path(directory).expanduser()
    self._keep = keep
    self._check = check
    remove_stale(self._directory)

  def save(self, step, arrays, meta=None, best=False):
    """Writes one state, then removes the oldest ones beyond keep.

    Args:
      step: Environment steps so far; a state of the same step is replaced.
      arrays: Dict from any name, such as 'agent/rssm/kernel', to an array.
      meta: Nested dicts with str keys, lists, tuples, numbers of any size,
        strings, None, and arrays, such as a NumPy generator's state.
      best: Whether this state becomes the best one, too.

    Raises:
      ValueError: If a value would need pickle to be stored.
      OSError: If the disk refuses; the states saved before stay as they are.
    """
    members = {f'arrays/{k}': _storable(k, v) for k, v in arrays.items()}
    state = {'step': int(step), 'meta': _encode(meta or {}, 'meta', members)}
    members['meta.json'] = json.dumps(state).encode()
    path = self._directory / f'{int(step):012d}.npz'
    write_atomic(path, lambda file: write_npz(file, members))
    if best:
      link(path, self._directory / BEST)
    for old in self._paths()[:-self._keep]:
      old.unlink(missing_ok=True)

  def load(self, best=False, until=None):
    """Returns the newest good state as a Snapshot, or None if there is none.

    A damaged file is warned about and moved to `damaged/`; the one before it
    is taken, at last the best one.

    Args:
      best: Take the best one first.
      until: Take none of a later step.
    """
    paths = [self._directory / BEST, *self._paths()]
    paths = paths[::-1] if not best else [paths[0], *paths[:0:-1]]
    if until is not None:
      paths = [x for x in paths if x.name != BEST and int(x.stem) <= until]
    for path in paths:
      if not os.path.lexists(path):
        continue
      try:
        with open_regular(path, memory(), self._directory) as file:
          most = RATIO * os.fstat(file.fileno()).st_size
          snapshot = _snapshot(read_npz(file, min(most, memory())))
        self._check(snapshot)
        return snapshot
      except MemoryError:  # Not the fault of the file.
        raise
      except Exception as error:  # Flipped bits raise almost anything.
        reason = f'{type(error).__name__}: {error}'
      set_aside(path, reason)
    return None

  def clear(self):
    """Removes all states but those that were set aside."""
    for path in (*self._paths(), self._directory / BEST):
      path.unlink(missing_ok=True)

  def _paths(self):
    return _numbered(self._directory)


def memory():
  """Returns the bytes of memory that this machine has."""
  return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _numbered(directory):
  paths = directory.glob('*.npz')
  return sorted(
      (x for x in paths if re.fullmatch('[0-9]{1,18}', x.stem)),
      key=lambda x: int(x.stem))


def peek(directory):
  """Returns step and meta of the newest file that can be read, or None.

  Arrays in the meta are left out; nothing is moved or removed.
  """
  for path in reversed(_numbered(directory)):
    # A live run may remove it meanwhile, and flipped bits raise anything.
    with contextlib.suppress(Exception):
      with open_regular(path, memory(), directory) as file:
        state = _read_meta(file)
      step, meta = state['step'], state['meta']
      if isinstance(step, int) and isinstance(meta, dict):
        return step, meta
  return None


def assign_report(shapes, arrays):
  """Returns one line on how arrays differ from a model, '' if they fit.

  Args:
    shapes: Dict from the name of each variable of the model to its shape.
    arrays: Dict from name to array, of a checkpoint.
  """
  reshaped = [
      f'{k} {tuple(arrays[k].shape)} instead of {tuple(v)}'
      for k, v in shapes.items()
      if k in arrays and tuple(arrays[k].shape) != tuple(v)]
  problems = {
      'missing': [k for k in shapes if k not in arrays],
      'unexpected': [k for k in arrays if k not in shapes],
      'of another shape': reshaped,
  }
  return '; '.join(
      f'{len(names)} {problem}: {_shorten(names)}'
      for problem, names in problems.items() if names)


def write_npz(file, members, level=0):
  """Writes arrays, and bytes under their own names, as np.load reads them.

  Unlike np.savez this takes any name, compresses as asked (level 1 is three
  times as fast as NumPy's fixed 6), and never falls back on pickle.
  """
  kind = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
  with zipfile.ZipFile(file, 'w', kind, compresslevel=level) as archive:
    for name, value in members.items():
      if isinstance(value, bytes):
        archive.writestr(name, value)
        continue
      with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
        np.lib.format.write_array(member, value, allow_pickle=False)


def read_npz(file, most):
  """Returns the dict of arrays and bytes in an npz file, all verified.

  Args:
    file: Binary file.
    most: Bytes that all may take together.

  Raises:
    ValueError, zipfile.BadZipFile: It is too large, or damaged.
  """
  with zipfile.ZipFile(file) as archive:
    size = sum(x.file_size for x in archive.infolist())
    if size > most:
      raise ValueError(f'{size:,} bytes inside; at most {most:,} are read')
    # Reading a whole member checks its sum before NumPy trusts its header.
    members = ((name, archive.read(name)) for name in archive.namelist())
    return dict(_parse(name, value) for name, value in members)


HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0}


def _parse(name, value):
  if not name.endswith('.npy'):
    return name, value
  stream = io.BytesIO(value)
  version = np.lib.format.read_magic(stream)
  if version not in HEADERS:
    raise ValueError(f'{name} has the unknown version {version}')
  shape, _, dtype = HEADERS[version](stream)
  held = len(value) - stream.tell()
  # NumPy would make an array of any size that a header claims.
  if not dtype.hasobject and math.prod(shape) * dtype.itemsize != held:
    raise ValueError(f'{name} claims {dtype}{list(shape)} in {held} bytes')
  stream.seek(0)
  array = np.lib.format.read_array(stream, allow_pickle=False)
  return name[:-len('.npy')], array


def _read_meta(file):
  with zipfile.ZipFile(file) as archive:
    size = archive.getinfo('meta.json').file_size
    if size > META_BYTES:
      raise ValueError(f'meta.json of {size:,} bytes')
    return json.loads(archive.read('meta.json'))


def _snapshot(members):
  def restore(node):
    if ARRAY in node:
      return members[node[ARRAY]]
    return tuple(node[TUPLE]) if TUPLE in node else node

  state = json.loads(members['meta.json'], object_hook=restore)
  prefix = 'arrays/'
  arrays = {
      k[len(prefix):]: v for k, v in members.items() if k.startswith(prefix)}
  return Snapshot(state['step'], arrays, state['meta'])


def _encode(value, path, members):
  """Returns a JSON value, with its arrays moved to members."""
  if isinstance(value, np.ndarray):
    name = f'meta/{len(members)}'
    members[name] = _storable(path, value)
    return {ARRAY: name}
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, dict):
    if not all(isinstance(k, str) for k in value) or {ARRAY, TUPLE} & {*value}:
      raise ValueError(f'{path} cannot be saved: keys {list(value)}.')
    return {k: _encode(v, f'{path}/{k}', members) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    items = [_encode(v, f'{path}/{i}', members) for i, v in enumerate(value)]
    return {TUPLE: items} if isinstance(value, tuple) else items
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise ValueError(f'{path} cannot be saved: {type(value).__name__}.')


def _storable(name, value):
  value = np.asarray(value)
  if value.dtype.kind in 'OV':  # V is what NumPy says for bfloat16, too.
    raise ValueError(f'{name} cannot be saved: an array of {value.dtype}.')
  return value


def _shorten(names, limit=5):
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(names[:limit]) + more
