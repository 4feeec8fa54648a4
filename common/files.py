"""Reads and writes small files safely: whole files, and regular files only.

Every file that this package writes goes through this module, except files that
only grow: metrics.jsonl, TensorBoard's events and the log of a sweep's job.
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
_uses = {'count': 0, 'now': {}}  # now: {key: (path, since)}


def check(path):
  """Checks that a path does not exist or is a regular file.

  Raises:
    FileExistsError: The path is a device, a folder, a link or the like.
  """
  try:
    kind = stat.S_IFMT(os.lstat(path).st_mode)
  except FileNotFoundError:
    return
  if kind != stat.S_IFREG:
    raise FileExistsError(
        f'{path} is {KINDS[kind]} and will not be replaced; name a file')


def check_writable(path):
  """Checks, before work begins, that its result can be written to a path.

  Folders above it may be missing.

  Raises:
    OSError: The path is not that of a file (see `check`), or its folder
      cannot be written.
  """
  check(path)
  path = pathlib.Path(path)
  folder = next(x for x in path.absolute().parents if x.exists())
  try:
    temporary = _temporary(folder / path.name)
    temporary.open('xb').close()
    temporary.unlink()
  except OSError as error:
    raise OSError(
        f'{path} cannot be written to {folder} ({error.strerror}); name a '
        f'file elsewhere') from None


def write_atomic(path, write):
  """Writes a file so that a crash leaves either the old or the new one.

  Missing parent folders are created. Only regular files are replaced.

  Args:
    path: Path of the file.
    write: Function that gets the open binary file and writes into it.

  Raises:
    OSError: The disk refuses, or the path is not a regular file.
  """
  path = pathlib.Path(path)
  check(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path)
  try:
    with _use(path), temporary.open('xb') as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  _sync(path.parent)


def write_bytes(path, data):
  """Creates or replaces a file; see `write_atomic`."""
  write_atomic(path, lambda file: file.write(data))


def write_text(path, text):
  """Creates or replaces a text file in UTF-8; see `write_atomic`."""
  write_bytes(path, text.encode())


@contextlib.contextmanager
def open_regular(path, most, within=None):
  """Opens a file for reading bytes, after checking its type and size.

  Args:
    path: Path of the file.
    most: Largest size in bytes.
    within: Folder that links must not lead out of; None allows any place.

  Raises:
    OSError: The file cannot be opened.
    ValueError: The file is not regular, is too large, or lies outside
      `within`.
  """
  with _use(path):
    if within is not None:
      _check_within(path, within)
    _check_regular(path, os.stat(path), most)
    # If someone replaces the file by a FIFO now, opening must not block.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
      _check_regular(path, os.fstat(file.fileno()), most)
      yield file


def read_bytes(path, most, within=None):
  """Returns the bytes of a file; see `open_regular`."""
  with open_regular(path, most, within) as file:
    return file.read(most)


def check_folder(folder, most, count):
  """Checks everything in a folder that another program will read.

  Args:
    folder: Path of the folder.
    most: Most bytes that all files may have together.
    count: Most files and folders in it.

  Raises:
    OSError: The folder cannot be read.
    ValueError: It holds more, something that is neither a regular file nor a
      folder, or a link that leads out of it.
  """
  size = number = 0
  for place, folders, names in os.walk(folder, onerror=_raise):
    number += len(folders) + len(names)
    if number > count:
      raise ValueError(f'{folder} has more than {count:,} files')
    for name in (*folders, *names):
      path = os.path.join(place, name)
      with _use(path):
        _check_within(path, folder)
        status = os.stat(path)
      if not stat.S_ISDIR(status.st_mode):
        _check_regular(path, status, most)
        size += status.st_size
    if size > most:
      raise ValueError(
          f'{folder} has more than {most:,} bytes, the most that are read')


def _raise(error):
  raise error


def _check_within(path, folder):
  place, folder_ = os.path.realpath(path), os.path.realpath(folder)
  if os.path.commonpath([place, folder_]) != folder_:
    raise ValueError(f'{path} is a link that leads out of {folder}')


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
  """Creates a folder with all its contents, or nothing.

  Use it in a with statement. The body gets a temporary folder and fills it.

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
  """Makes `target` the same file as `path`, in one step."""
  check(target)
  temporary = _temporary(target)
  try:
    os.link(path, temporary)
  except OSError:  # A file system without hard links.
    shutil.copyfile(path, temporary)
  os.replace(temporary, target)
  temporary.unlink(missing_ok=True)  # Left over if both were one file.


def remove_stale(directory):
  """Removes temporary files and folders whose process has ended."""
  for path in directory.glob('*.tmp'):
    if _stale(path):
      _remove(path)


def set_aside(path, reason):
  """Moves an unreadable file to `damaged/` beside it, and warns."""
  target = path.parent / 'damaged' / path.name
  try:
    target.parent.mkdir(exist_ok=True)
    if target.parent.is_symlink():
      raise FileExistsError(f'{target.parent} is a link')
    os.replace(path, target)
    outcome = 'moved to damaged/'
  except OSError as error:
    outcome = f'left there: {error}'
  warnings.warn(f'Damaged file {path} ({outcome}): {reason}', stacklevel=2)


def uses():
  """Returns how many files this process has begun to read or write."""
  return _uses['count']


def waiting():
  """Returns which file has been in use for longest, and since when, or ''."""
  now = [*_uses['now'].values()]
  if not now:
    return ''
  path, since = min(now, key=lambda x: x[1])
  return f'file {path} for {time.monotonic() - since:.0f} s'


@contextlib.contextmanager
def _use(path):
  key = object()
  _uses['count'] += 1
  _uses['now'][key] = path, time.monotonic()
  try:
    yield
  finally:
    del _uses['now'][key]


def _temporary(path):
  """Returns a free path beside `path`; its name contains host and process."""
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
  """Waits until a file, or a folder's list of names, is on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
