"""Reads and writes small files: never half of one, never something else.

Whatever a run writes goes through here, except what only grows at its end.
"""

import contextlib
import os
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

  Args:
    path: Where the file shall be.
    write: Function that fills the binary file which it gets.

  Raises:
    OSError: The disk refuses, or the path is no ordinary file.
  """
  check(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  name = f'{path.name}.{socket.gethostname()}.{os.getpid()}.tmp'
  temporary = path.with_name(name)
  try:
    with temporary.open('wb') as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  _sync_directory(path.parent)


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


def link(path, target):
  """Lets target be the same file as path, in one step."""
  name = f'{target.name}.{socket.gethostname()}.{os.getpid()}.tmp'
  temporary = target.with_name(name)
  temporary.unlink(missing_ok=True)
  try:
    os.link(path, temporary)
  except OSError:  # A file system without hard links.
    shutil.copyfile(path, temporary)
  os.replace(temporary, target)
  temporary.unlink(missing_ok=True)  # It stays where both were one file.


def remove_stale(directory):
  """Removes temporary files of write_atomic whose writer is gone."""
  for path in directory.glob('*.tmp'):
    if _stale(path):
      path.unlink(missing_ok=True)


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


def _stale(path):
  *_, pid, _ = path.name.rsplit('.', 2)
  if not pid.isdigit():
    return False
  if path.name.endswith(f'.{socket.gethostname()}.{pid}.tmp'):
    return int(pid) == os.getpid() or not _alive(int(pid))
  return time.time() - path.stat().st_mtime > DAY


def _alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True


def _sync_directory(directory):
  handle = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
