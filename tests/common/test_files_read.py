"""Tests that the kind of a file is checked before it is used."""

import os
import pathlib
import signal
import socket

import pytest

from dreamingv2.common import files


def make(kind, path):
  """Creates a file of a kind at a path; returns a function that cleans up."""
  if kind == 'socket':
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    return server.close
  makers = {
      'device': lambda: path.symlink_to('/dev/zero'),
      'folder': path.mkdir, 'pipe': lambda: os.mkfifo(path),
      'link out': lambda: path.symlink_to('/etc/passwd')}
  makers[kind]()
  return lambda: None


@pytest.fixture(autouse=True)
def alarm():
  """Interrupts a test that waits for a FIFO."""
  signal.alarm(20)
  yield
  signal.alarm(0)


@pytest.mark.parametrize('kind', ['device', 'folder', 'pipe', 'socket'])
def test_only_regular_files_are_read(kind, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # A socket's path must be short.
  close = make(kind, pathlib.Path('x'))
  with pytest.raises(ValueError, match=f'x is a {kind}, not a file to read'):
    files.read_bytes(pathlib.Path('x'), 10)
  close()


def test_sizes_are_checked_before_a_file_is_read(tmp_path):
  path = tmp_path / 'x'
  path.write_bytes(b'12345')
  assert files.read_bytes(path, 5) == b'12345'
  with pytest.raises(ValueError, match='x has 5 bytes; at most 4 are read'):
    files.read_bytes(path, 4)
  os.truncate(path, 2 ** 42)  # Takes no disk space.
  with pytest.raises(ValueError, match='at most 1,000 are read'):
    files.read_bytes(path, 1000)


def test_links_lead_not_out_of_a_folder(tmp_path):
  (tmp_path / 'in').mkdir()
  (tmp_path / 'inside').write_bytes(b'no')  # Starts like the folder.
  (tmp_path / 'in' / 'file').write_bytes(b'yes')
  for name, target in {
      'near': 'file', 'out': '../inside', 'far': '/etc/passwd'}.items():
    (tmp_path / 'in' / name).symlink_to(target)
  assert files.read_bytes(
      tmp_path / 'in' / 'near', 10, tmp_path / 'in') == b'yes'
  for name in ('out', 'far'):
    with pytest.raises(ValueError, match='is a link that leads out of'):
      files.read_bytes(tmp_path / 'in' / name, 10 ** 6, tmp_path / 'in')
  # The folder itself may be a link.
  (tmp_path / 'link').symlink_to(tmp_path / 'in')
  assert files.read_bytes(
      tmp_path / 'link' / 'file', 10, tmp_path / 'link') == b'yes'


def test_swap_for_a_fifo_after_the_look_is_noticed(tmp_path, monkeypatch):
  path = tmp_path / 'x'
  path.write_bytes(b'1')
  before = os.stat(path)
  path.unlink()
  os.mkfifo(path)
  monkeypatch.setattr(files.os, 'stat', lambda x: before)
  with pytest.raises(ValueError, match='is a pipe'):
    files.read_bytes(path, 10)


@pytest.mark.parametrize('kind', ['device', 'pipe', 'socket', 'link out'])
def test_folder_for_another_program_holds_files_only(
    kind, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  folder = pathlib.Path('policy')
  (folder / 'variables').mkdir(parents=True)
  (folder / 'variables' / 'index').write_bytes(b'12345')
  files.check_folder(folder, 5, 2)
  close = make(kind, folder / 'variables' / 'x')
  with pytest.raises(ValueError, match='policy/variables/x is a '):
    files.check_folder(folder, 10 ** 6, 9)
  close()


def test_folder_for_another_program_is_not_too_large(tmp_path):
  (tmp_path / 'a').mkdir()
  for name in ('b', 'c'):
    (tmp_path / 'a' / name).write_bytes(b'123')
  files.check_folder(tmp_path, 6, 3)
  with pytest.raises(ValueError, match='more than 2 files'):
    files.check_folder(tmp_path, 6, 2)
  with pytest.raises(ValueError, match='c has 3 bytes|more than 5 bytes'):
    files.check_folder(tmp_path, 5, 3)
  with pytest.raises(OSError):
    files.check_folder(tmp_path / 'nowhere', 5, 3)


def test_file_in_use_is_known_by_name(tmp_path):
  path, before = tmp_path / 'x', files.uses()
  files.write_atomic(path, lambda file: file.write(files.waiting().encode()))
  assert path.read_text() == f'file {path} for 0 s' and not files.waiting()
  with files.open_regular(path, 10 ** 6):
    assert files.waiting() == f'file {path} for 0 s'
  assert not files.waiting() and files.uses() == before + 2
