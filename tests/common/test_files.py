import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from dreamingv2.common import files

ROOT = pathlib.Path(__file__).resolve().parents[2]


def names(folder):
  return sorted(x.name for x in folder.iterdir())


def test_files_are_made_and_replaced_with_the_folders_above(tmp_path):
  path = tmp_path / 'a' / 'b' / 'file'
  files.write_text(path, 'Straße\n')
  assert path.read_bytes() == 'Straße\n'.encode()
  files.write_bytes(path, b'\x00\xff')
  assert path.read_bytes() == b'\x00\xff'
  files.write_text(str(path), 'of a string')
  assert path.read_text() == 'of a string'
  assert names(path.parent) == ['file']


def test_place_of_a_result_is_tried_before_there_is_one(tmp_path):
  files.check_writable(tmp_path / 'new' / 'folder' / 'x')
  assert not list(tmp_path.iterdir())
  with pytest.raises(OSError, match='^/proc/new/x cannot be written to /proc'):
    files.check_writable('/proc/new/x')
  with pytest.raises(FileExistsError, match='is a folder'):
    files.check_writable(tmp_path)


def test_writer_that_fails_leaves_the_old_file_alone(tmp_path):
  path = tmp_path / 'file'
  files.write_text(path, 'old')

  def fail(file):
    file.write(b'half')
    file.flush()
    assert path.read_text() == 'old'
    raise OSError(28, 'No space left on device')
  with pytest.raises(OSError, match='No space left'):
    files.write_atomic(path, fail)
  assert path.read_text() == 'old' and names(tmp_path) == ['file']


def test_readers_see_the_old_file_or_the_new_one(tmp_path):
  """Holds also after SIGKILL at a random moment."""
  path = tmp_path / 'file'
  size = 200_000
  program = f'''
import pathlib
from dreamingv2.common import files
number = 0
while True:
  files.write_text(pathlib.Path({str(path)!r}), str(number % 10) * {size})
  number += 1
'''
  for delay in (0.05, 0.11, 0.02):
    process = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT)
    while not path.exists():
      time.sleep(0.01)
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
      text = path.read_text()
      assert len(text) == size and len(set(text)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = path.read_text()
    assert len(text) == size and len(set(text)) == 1
  files.remove_stale(tmp_path)
  assert names(tmp_path) == ['file']


def make_folder(path):
  path.mkdir()
  (path / 'mine').touch()


def make_link(path):
  (path.parent / 'mine').write_text('mine')
  path.symlink_to('mine')


@pytest.mark.parametrize('make, kind', [
    (make_folder, 'a folder'), (make_link, 'a link'),
    (lambda path: path.symlink_to('nowhere'), 'a link'),
    (lambda path: path.symlink_to('/dev/null'), 'a link'),
    (os.mkfifo, 'a pipe')])
@pytest.mark.parametrize('write', [
    lambda path: files.write_text(path, 'new'),
    lambda path: files.link(path.parent / 'other', path), files.check])
def test_nothing_but_ordinary_files_is_replaced(tmp_path, make, kind, write):
  path = tmp_path / 'path'
  (tmp_path / 'other').write_text('other')
  make(path)
  before = path.lstat(), names(tmp_path)
  with pytest.raises(FileExistsError, match=f'^{path} is {kind} and will '):
    write(path)
  assert (path.lstat(), names(tmp_path)) == before
  if (tmp_path / 'mine').exists():
    assert (tmp_path / 'mine').read_text() == 'mine'


def test_devices_are_not_replaced():
  with pytest.raises(FileExistsError, match='^/dev/null is a device and '):
    files.write_text(pathlib.Path('/dev/null'), 'new')
  assert pathlib.Path('/dev/null').is_char_device()


def test_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
  mine = tmp_path / 'mine'
  mine.write_text('mine')
  name = f'file.{socket.gethostname()}.{os.getpid()}.tmp'
  (tmp_path / name).symlink_to(mine)
  files.write_text(tmp_path / 'file', 'new')
  assert mine.read_text() == 'mine'
  assert not (tmp_path / 'file').is_symlink()
  assert names(tmp_path) == ['file', 'mine']


@pytest.mark.parametrize('hard', [True, False])
def test_link_replaces_its_target_by_the_same_file(
    tmp_path, monkeypatch, hard):
  def refuse(*args):
    raise OSError(1, 'no hard links here')
  if not hard:
    monkeypatch.setattr(files.os, 'link', refuse)
  path, target = tmp_path / 'path', tmp_path / 'target'
  path.write_text('new')
  target.write_text('old')
  for _ in range(2):  # The second time both may be one file already.
    files.link(path, target)
    assert target.read_text() == 'new'
    assert path.samefile(target) == hard
  assert names(tmp_path) == ['path', 'target']


def test_folder_appears_with_all_that_is_in_it(tmp_path):
  path = tmp_path / 'above' / 'folder'
  with files.write_folder(path) as folder:
    (folder / 'sub').mkdir()
    (folder / 'sub' / 'file').write_text('new')
    assert not path.exists()
  assert (path / 'sub' / 'file').read_text() == 'new'
  assert names(path.parent) == ['folder']


def test_folder_whose_writer_fails_never_appears(tmp_path):
  with pytest.raises(RuntimeError, match='ours'):
    with files.write_folder(tmp_path / 'folder') as folder:
      (folder / 'file').touch()
      raise RuntimeError('ours')
  assert not names(tmp_path)


@pytest.mark.parametrize('make', [
    make_folder, pathlib.Path.touch,
    lambda path: path.symlink_to('nowhere')])
def test_folder_replaces_nothing(tmp_path, make):
  make(tmp_path / 'folder')
  with pytest.raises(FileExistsError, match='folder exists; name a new'):
    with files.write_folder(tmp_path / 'folder'):
      raise AssertionError


def test_what_a_dead_writer_left_is_removed(tmp_path):
  """Unfinished folders are removed as well; files of live writers stay."""
  host = socket.gethostname()
  dead = subprocess.Popen(['true'])
  dead.wait()
  (tmp_path / f'policy.{host}.{dead.pid}.tmp').mkdir()
  (tmp_path / f'policy.{host}.{dead.pid}.tmp' / 'file').touch()
  (tmp_path / f'link.{host}.{dead.pid}.tmp').symlink_to(tmp_path / 'mine')
  (tmp_path / f'file.{host}.{os.getppid()}.tmp').touch()
  (tmp_path / 'mine').touch()
  files.remove_stale(tmp_path)
  assert names(tmp_path) == [f'file.{host}.{os.getppid()}.tmp', 'mine']


def test_damaged_file_is_set_aside_and_told(tmp_path):
  path = tmp_path / 'file'
  path.write_text('bad')
  with pytest.warns(UserWarning, match=r'file \(moved to damaged/\): reason'):
    files.set_aside(path, 'reason')
  assert (tmp_path / 'damaged' / 'file').read_text() == 'bad'
  with pytest.warns(UserWarning, match=r'file \(left there: '):
    files.set_aside(path, 'gone')


@pytest.mark.parametrize('make', [
    pathlib.Path.touch, lambda path: path.symlink_to('nowhere'),
    lambda path: path.symlink_to(path.parent.parent), os.mkfifo])
def test_damaged_file_stays_where_its_folder_is_something_else(tmp_path, make):
  path = tmp_path / 'run' / 'file'
  path.parent.mkdir()
  path.write_text('bad')
  make(path.parent / 'damaged')
  with pytest.warns(UserWarning, match=r'file \(left there: .*damaged'):
    files.set_aside(path, 'reason')
  assert path.read_text() == 'bad' and names(tmp_path) == ['run']
