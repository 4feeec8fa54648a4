"""Reads and writes small files: never half of one, never something else.

Whatever this package writes goes through here, except what only grows at its
end: metrics.jsonl, TensorBoard's events and the log of a sweep's job.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import stat
import time
import warnings

DAY = 24 * 60 * 60  # seconds
KINDS = {
    stat.S_IFBLK: 'a device', stat.S_IFCHR: 'a device',
    stat.S_IFDIR: 'a folder', stat.S_IFIFO: 'a pipe',
    stat.S_IFLNK: 'a link', stat.S_IFSOCK: 'a socket'}


def check(path):
  """Checks that a path is free, or an ordinary file that may be replaced.

  Raises:
    FileExistsError: It is a device, a folder, a link or the like.
  """
  try:
    kind = stat.S_IFMT(os.lstat(path).st_mode)
  except FileNotFoundError:
    return
  if kind != stat.S_IFREG:
    raise FileExistsError(
        f'{path} is {KINDS[kind]} and will not be replaced; name a file')


def write_atomic(path, write):
  """Creates or replaces a file so that a crash leaves the old or the new one.

  Folders above it are made. Only ordinary files are replaced.

  Args:
    path: Where the file shall be.
    write: Function that fills the binary file which it gets.

  Raises:
    OSError: The disk refuses, or the path is no ordinary file.
  """
  path = pathlib.Path(path)
  check(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path)
  try:
    with temporary.open('xb') as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  _sync(path.parent)


def write_bytes(path, data):
  """Creates or replaces a file, see `write_atomic`."""
  write_atomic(path, lambda file: file.write(data))


def write_text(path, text):
  """Creates or replaces a text file in UTF-8, see `write_atomic`."""
  write_bytes(path, text.encode())


@contextlib.contextmanager
def open_regular(path, most, within=None):
  """Opens a file for reading bytes, after a look at what it is.

  Args:
    path: File.
    most: Bytes that it may have.
    within: Folder that links must not lead out of.

  Raises:
    OSError: It cannot be opened.
    ValueError: It is no regular file, too large, or lies elsewhere.
  """
  if within is not None:
    place, folder = os.path.realpath(path), os.path.realpath(within)
    if os.path.commonpath([place, folder]) != folder:
      raise ValueError(f'{path} is a link that leads out of {within}')
  _check_regular(path, os.stat(path), most)
  # Whoever swaps the file now for a FIFO shall not make us wait.
  with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
    _check_regular(path, os.fstat(file.fileno()), most)
    yield file


def read_bytes(path, most, within=None):
  """Returns the bytes of a file, see `open_regular`."""
  with open_regular(path, most, within) as file:
    return file.read(most)


def _check_regular(path, status, most):
  kind = stat.S_IFMT(status.st_mode)
  if kind != stat.S_IFREG:
    raise ValueError(
        f"{path} is {KINDS.get(kind, 'something else')}, not a file to read")
  if status.st_size > most:
    raise ValueError(
        f'{path} has {status.st_size:,} bytes; at most {most:,} are read')


@contextlib.contextmanager
def write_folder(path):
  """Creates a folder with all that is in it, or nothing.

  Used in a with statement, whose body fills the temporary folder that it
  gets.

  Raises:
    OSError: The disk refuses, or the path exists.
  """
  if os.path.lexists(path):
    raise FileExistsError(f'{path} exists; name a new folder')
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path)
  temporary.mkdir()
  try:
    yield temporary
    for folder, _, names in os.walk(temporary):
      for name in (*names, '.'):
        _sync(os.path.join(folder, name))
    os.rename(temporary, path)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  _sync(path.parent)


def link(path, target):
  """Lets target be the same file as path, in one step."""
  check(target)
  temporary = _temporary(target)
  try:
    os.link(path, temporary)
  except OSError:  # A file system without hard links.
    shutil.copyfile(path, temporary)
  os.replace(temporary, target)
  temporary.unlink(missing_ok=True)  # It stays where both were one file.


def remove_stale(directory):
  """Removes temporary files and folders whose writer is gone."""
  for path in directory.glob('*.tmp'):
    if _stale(path):
      _remove(path)


def set_aside(path, reason):
  """Moves a file that cannot be read to `damaged/` beside it, and warns."""
  target = path.parent / 'damaged' / path.name
  try:
    target.parent.mkdir(exist_ok=True)
    os.replace(path, target)
    outcome = 'moved to damaged/'
  except OSError as error:
    outcome = f'left there: {error}'
  warnings.warn(f'Damaged file {path} ({outcome}): {reason}', stacklevel=2)


def _temporary(path):
  """Returns a free path beside one, which tells of its process."""
  path = path.with_name(
      f'{path.name}.{socket.gethostname()}.{os.getpid()}.tmp')
  _remove(path)
  return path


def _remove(path):
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def _stale(path):
  *_, pid, _ = path.name.rsplit('.', 2)
  if not pid.isdigit():
    return False
  if path.name.endswith(f'.{socket.gethostname()}.{pid}.tmp'):
    return int(pid) == os.getpid() or not _alive(int(pid))
  return time.time() - path.lstat().st_mtime > DAY


def _alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True


def _sync(path):
  """Waits until a file, or the names in a folder, are on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
