import io
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common.checkpoint import Checkpoint
from dreamingv2.common.checkpoint import assign_report

ROOT = pathlib.Path(__file__).parents[2]


def arrays_for(step):
  return {
      'agent/wm/kernel:0': np.full((3, 4), step, np.float32),
      'optimizer/iterations': np.array(step), 'file': np.zeros(0)}


def equal(left, right):
  assert type(left) is type(right)
  if isinstance(left, dict):
    assert left.keys() == right.keys()
    for key in left:
      equal(left[key], right[key])
  elif isinstance(left, (list, tuple)):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
      equal(one, other)
  elif isinstance(left, np.ndarray):
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(left, right)
  else:
    assert left == right


def test_checkpoint_round_trip_gives_the_same(tmp_path):
  meta = {
      'count': 3, 'big': 2 ** 200, 'ratio': 0.1, 'none': None, 'flag': True,
      'list': [1, 'two', {'three': np.arange(3)}], 'a/b': np.eye(2),
      'a': {'b': np.zeros(2)}, 'inf': float('inf'),
      'python': random.Random(0).getstate(),
      'numpy': np.random.default_rng(0).bit_generator.state,
      'legacy': np.random.RandomState(0).get_state()}
  Checkpoint(tmp_path).save(12, arrays_for(12), meta)
  snapshot = Checkpoint(tmp_path).load()
  assert snapshot.step == 12
  equal(snapshot.arrays, arrays_for(12))
  equal(snapshot.meta, meta)


def test_checkpoint_restores_generators(tmp_path):
  generators = [np.random.default_rng(3), random.Random(3)]
  for generator in generators:
    generator.random()
  Checkpoint(tmp_path).save(1, {}, {
      'numpy': generators[0].bit_generator.state,
      'python': generators[1].getstate()})
  meta = Checkpoint(tmp_path).load().meta
  others = [np.random.default_rng(), random.Random()]
  others[0].bit_generator.state = meta['numpy']
  others[1].setstate(meta['python'])
  for left, right in zip(generators, others, strict=True):
    assert left.random() == right.random()


def test_checkpoint_turns_numpy_scalars_into_numbers(tmp_path):
  Checkpoint(tmp_path).save(np.int64(1), {}, {'x': np.float32(0.5)})
  equal(Checkpoint(tmp_path).load().meta, {'x': 0.5})


def test_checkpoint_is_none_without_files(tmp_path):
  assert Checkpoint(tmp_path / 'missing').load() is None


def test_checkpoint_keeps_the_newest(tmp_path):
  checkpoint = Checkpoint(tmp_path, keep=2)
  for step in [5, 50, 500, 5000]:
    checkpoint.save(step, arrays_for(step))
  assert sorted(x.name for x in tmp_path.iterdir()) == [
      '000000000500.npz', '000000005000.npz']
  assert checkpoint.load().step == 5000


def test_checkpoint_replaces_one_of_the_same_step(tmp_path):
  checkpoint = Checkpoint(tmp_path)
  checkpoint.save(5, arrays_for(5), {'try': 1})
  checkpoint.save(5, arrays_for(5), {'try': 2})
  assert checkpoint.load().meta == {'try': 2}


def test_checkpoint_is_read_by_numpy(tmp_path):
  Checkpoint(tmp_path).save(7, arrays_for(7))
  with np.load(tmp_path / '000000000007.npz') as stored:
    np.testing.assert_array_equal(
        stored['arrays/agent/wm/kernel:0'], np.full((3, 4), 7))


@pytest.mark.parametrize('damage', ['cut', 'empty', 'noise', 'flip'])
def test_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
  checkpoint = Checkpoint(tmp_path)
  checkpoint.save(1, arrays_for(1))
  checkpoint.save(2, arrays_for(2))
  path = tmp_path / '000000000002.npz'
  content = path.read_bytes()
  kernel = content.index(np.full(12, 2, np.float32).tobytes())
  path.write_bytes({
      'cut': content[:-40], 'empty': b'', 'noise': os.urandom(5000),
      'flip': content[:kernel] + b'\1' + content[kernel + 1:]}[damage])
  with pytest.warns(UserWarning, match='000000000002.npz') as record:
    snapshot = checkpoint.load()
  assert len(record) == 1 and '\n' not in str(record[0].message)
  assert snapshot.step == 1
  equal(snapshot.arrays, arrays_for(1))
  assert (tmp_path / 'damaged' / path.name).exists()


@pytest.mark.filterwarnings('ignore:Damaged')
def test_checkpoint_never_gives_wrong_values_for_a_flipped_bit(tmp_path):
  generator = np.random.default_rng(0)
  checkpoint = Checkpoint(tmp_path)
  checkpoint.save(2, arrays_for(2), {'text': 'hello', 'x': np.arange(5)})
  path = tmp_path / '000000000002.npz'
  content = path.read_bytes()
  detected = 0
  for _ in range(300):
    flipped = bytearray(content)
    flipped[generator.integers(len(content))] ^= 1 << generator.integers(8)
    path.write_bytes(flipped)
    snapshot = checkpoint.load()
    if snapshot is None:
      detected += 1
      continue
    equal(snapshot.arrays, arrays_for(2))  # Only a date or a version changed.
    equal(snapshot.meta, {'text': 'hello', 'x': np.arange(5)})
  assert detected > 150


def test_checkpoint_is_none_if_all_are_damaged(tmp_path):
  checkpoint = Checkpoint(tmp_path)
  for step in [1, 2]:
    checkpoint.save(step, arrays_for(step))
  for path in tmp_path.iterdir():
    path.write_bytes(b'PK')
  with pytest.warns(UserWarning) as record:
    assert checkpoint.load() is None
  assert len(record) == 2


SAVER = '''
import sys
import numpy as np
from dreamingv2.common.checkpoint import Checkpoint
checkpoint = Checkpoint(sys.argv[1], keep=2)
for step in range(1, 100000):
  arrays = {str(i): np.full(50000, step) for i in range(20)}
  checkpoint.save(step, arrays, {'step': step})
  print(step, flush=True)
'''


def kill_saver(directory, delay):
  """Kill a saver some seconds after it began a file, not the first one."""
  command = [sys.executable, '-c', SAVER, str(directory)]
  with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
    process.stdout.readline()
    deadline = time.time() + 10
    while not list(directory.glob('*.tmp')) and time.time() < deadline:
      time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return max([1, *map(int, process.stdout.read().split())])


@pytest.mark.filterwarnings('error')
def test_checkpoint_loads_after_a_kill_in_the_middle_of_saving(tmp_path):
  leftovers = 0
  for trial in range(6):
    directory = tmp_path / str(trial)
    said = kill_saver(directory, 0.005 * trial)
    leftovers += len(list(directory.glob('*.tmp')))
    checkpoint = Checkpoint(directory)
    assert not list(directory.glob('*.tmp'))
    snapshot = checkpoint.load()
    assert snapshot.step in (said, said + 1)
    assert snapshot.meta == {'step': snapshot.step}
    for values in snapshot.arrays.values():
      assert (values == snapshot.step).all()
  assert leftovers  # Else no kill hit a save.


def test_checkpoint_leaves_the_temporary_files_of_others(tmp_path):
  host = socket.gethostname()
  parent = os.getppid()
  names = {
      f'1.npz.{host}.{parent}.tmp': True, '1.npz.elsewhere.org.123.tmp': True,
      f'1.npz.{host}.{os.getpid()}.tmp': False, 'my.notes.tmp': True,
      'plain.tmp': True}
  for name in names:
    (tmp_path / name).touch()
  old = tmp_path / '1.npz.elsewhere.org.124.tmp'
  old.touch()
  os.utime(old, (0, 0))
  Checkpoint(tmp_path)
  assert {x.name for x in tmp_path.iterdir()} == {
      name for name, stays in names.items() if stays}


def test_checkpoint_keeps_the_old_one_if_the_disk_is_full(
    tmp_path, monkeypatch):
  checkpoint = Checkpoint(tmp_path, keep=1)
  checkpoint.save(1, arrays_for(1))

  def full(file, members):
    file.write(b'half')
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(checkpoints, 'write_npz', full)
  with pytest.raises(OSError, match='No space left'):
    checkpoint.save(2, arrays_for(2))
  assert [x.name for x in tmp_path.iterdir()] == ['000000000001.npz']


@pytest.mark.parametrize('arrays, meta, text', [
    ({'w': np.array([None])}, {}, 'w cannot be saved: an array of object'),
    ({'w': np.zeros(2, 'V2')}, {}, 'w cannot be saved'),
    ({}, {'a': {'b': [{1}]}}, 'meta/a/b/0 cannot be saved: set'),
    ({}, {'a': {1: 2}}, r'meta/a cannot be saved: keys \[1\]'),
    ({}, {'a': {'__array__': 2}}, 'meta/a cannot be saved'),
])
def test_checkpoint_names_what_it_cannot_save(tmp_path, arrays, meta, text):
  with pytest.raises(ValueError, match=text):
    Checkpoint(tmp_path).save(1, arrays, meta)
  assert not list(tmp_path.iterdir())


def test_checkpoint_never_unpickles(tmp_path):
  path = tmp_path / '000000000001.npz'
  np.savez(path, **{'arrays/x': np.array([{}], dtype=object)})
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('meta.json', '{"step": 1, "meta": {}}')
  with pytest.warns(UserWarning, match='allow_pickle'):
    assert Checkpoint(tmp_path).load() is None


def test_assign_report_is_empty_if_all_fits():
  assert assign_report({'a': (3, 4)}, {'a': np.zeros((3, 4))}) == ''


def test_assign_report_names_what_does_not_fit():
  shapes = {'a': (3,), 'b': (2, 2), **{f'm{i}': () for i in range(7)}}
  report = assign_report(shapes, {'b': np.zeros((2, 5)), 'c': np.zeros(1)})
  assert report == (
      '8 missing: a, m0, m1, m2, m3 and 3 more; 1 unexpected: c; '
      '1 of another shape: b (2, 5) instead of (2, 2)')


def test_checkpoint_keeps_the_best_beside_the_newest(tmp_path):
  checkpoint = Checkpoint(tmp_path, keep=1)
  for step, best in [(1, True), (2, False), (3, True), (3, True), (4, False)]:
    checkpoint.save(step, arrays_for(step), best=best)
  assert sorted(x.name for x in tmp_path.iterdir()) == [
      '000000000004.npz', 'best.npz']
  assert checkpoint.load().step == 4
  assert checkpoint.load(best=True).step == 3


def test_checkpoint_copies_the_best_where_links_are_not_to_be_had(
    tmp_path, monkeypatch):
  def refuse(source, target):
    raise PermissionError(1, 'Operation not permitted')
  monkeypatch.setattr(checkpoints.os, 'link', refuse)
  checkpoint = Checkpoint(tmp_path, keep=1)
  for step, best in [(1, True), (2, False)]:
    checkpoint.save(step, arrays_for(step), best=best)
  assert checkpoint.load(best=True).step == 1


def test_checkpoint_falls_back_on_the_best_at_last(tmp_path):
  checkpoint = Checkpoint(tmp_path, keep=1)
  checkpoint.save(1, arrays_for(1), best=True)
  checkpoint.save(2, arrays_for(2))
  (tmp_path / '000000000002.npz').write_bytes(b'')
  with pytest.warns(UserWarning, match='000000000002.npz'):
    assert checkpoint.load().step == 1


def without(name):
  def damage(path):
    members = checkpoints.read_npz(path.open('rb'), 2 ** 20)
    members.pop(name)
    checkpoints.write_atomic(
        path, lambda file: checkpoints.write_npz(file, members))
  return damage


def folder(path):
  path.unlink()
  path.mkdir()


def dangling(path):
  path.unlink()
  path.symlink_to('nowhere')


def fifo(path):
  path.unlink()
  os.mkfifo(path)


def device(path):
  path.unlink()
  path.symlink_to('/dev/zero')


def claim(path):
  """Lets the header of an array claim 100 GB."""
  buffer = io.BytesIO()
  np.lib.format.write_array_header_1_0(buffer, {
      'descr': '|u1', 'fortran_order': False, 'shape': (10 ** 11,)})
  members = {'meta.json': b'{"step": 2, "meta": {}}'}
  members['arrays/x.npy'] = buffer.getvalue()
  with path.open('wb') as file:
    checkpoints.write_npz(file, members)


def bomb(path):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('meta.json', '{"step": 2, "meta": {}}')
    archive.writestr('arrays/x.npy', bytes(2 ** 26))


@pytest.mark.parametrize('damage', [fifo, device, claim, bomb, folder])
def test_checkpoint_that_is_not_what_it_seems_takes_no_time_or_memory(
    tmp_path, damage):
  checkpoint = Checkpoint(tmp_path)
  checkpoint.save(1, arrays_for(1))
  checkpoint.save(2, arrays_for(2))
  (tmp_path / '\N{SUPERSCRIPT TWO}.npz').touch()  # A digit, and no number.
  damage(tmp_path / '000000000002.npz')
  assert checkpoints.peek(tmp_path)[0] in (1, 2)
  tracemalloc.start()
  with pytest.warns(UserWarning, match='Damaged file .*000000000002.npz'):
    assert checkpoint.load().step == 1
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2 ** 22


@pytest.mark.parametrize('damage', [
    lambda path: path.write_bytes(bytes(path.stat().st_size)),
    lambda path: path.write_bytes(path.read_bytes()[100:]),
    lambda path: np.savez(path, x=np.zeros(3)),
    lambda path: path.write_text('<html>404</html>'),
    without('meta.json'), folder, dangling])
def test_checkpoint_of_any_other_damage_is_set_aside(tmp_path, damage):
  checkpoint = Checkpoint(tmp_path)
  checkpoint.save(1, arrays_for(1))
  checkpoint.save(2, arrays_for(2))
  damage(tmp_path / '000000000002.npz')
  with pytest.warns(UserWarning, match='Damaged file .*000000000002.npz'):
    assert checkpoint.load().step == 1
  assert len(list((tmp_path / 'damaged').iterdir())) == 1
