"""Writes the files of a run so that no crash leaves half of one.

Whatever a run writes goes through here, except what only grows at its end.
"""

import os
import shutil
import socket
import time
import warnings

DAY = 24 * 60 * 60  # seconds


def write_atomic(path, write):
  """Creates or replaces a file so that a crash leaves the old or the new one.

  Args:
    path: Where the file shall be.
    write: Function that fills the binary file which it gets.
  """
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


def write_text(path, text):
  """Creates or replaces a text file in UTF-8, see `write_atomic`."""
  write_atomic(path, lambda file: file.write(text.encode()))


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
