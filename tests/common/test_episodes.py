"""Tests episode files: damaged ones, limits, late writes, refused writes."""

import io
import os
import pathlib
import tracemalloc
import types
import zipfile

import numpy as np
import pytest

from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import episodes
from dreamingv2.common import replay as replays
from dreamingv2.common.replay import Replay


def make_episode(steps=10, number=1, **values):
  rows = steps + 1
  return {
      'image': np.full((rows, 4, 4, 3), number, np.uint8),
      'number': np.full(rows, number, np.int32),
      'action': np.full((rows, 2), number / 100, np.float32),
      'reward': np.ones(rows, np.float32),
      'is_first': np.arange(rows) == 0,
      'is_last': np.arange(rows) == steps,
      'is_terminal': np.zeros(rows, bool), **values}


def fill(folder, numbers, steps=10, **kwargs):
  replay = Replay(folder, **kwargs)
  for number in numbers:
    replay.add_episode(make_episode(steps, number))
  return replay


def held(replay):
  return {int(x) for x in replay.sample(200, 1)['number'][:, 0]}


def rewrite(change):
  """Returns a function that changes the arrays of a file."""
  def damage(path):
    with np.load(path) as stored:
      episode = dict(stored)
    change(episode)
    np.savez(path.with_suffix(''), **episode)
  return damage


def edit(change):
  """Returns a function that changes the bytes of a file."""
  return lambda path: path.write_bytes(change(path.read_bytes()))


def flip(content):
  place = content.index(b'image.npy') + 60  # In compressed data.
  return content[:place] + bytes([content[place] ^ 255]) + content[place + 1:]


def foreign_zip(path):
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('notes.txt', 'no episode')


def folder(path):
  path.unlink()
  path.mkdir()


def dangling(path):
  path.unlink()
  path.symlink_to('nowhere')


def rename(name):
  return lambda path: path.rename(path.with_name(name))


def pipe(path):
  path.unlink()
  os.mkfifo(path)


def huge_claim():
  values, file = make_episode(), io.BytesIO()
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(header, {
      'descr': '|u1', 'fortran_order': False, 'shape': (11, 10 ** 10)})
  values['image.npy'] = header.getvalue()
  del values['image']
  checkpoints.write_npz(file, values)
  return file.getvalue()


DAMAGES = {
    'cut at the end': edit(lambda x: x[:-30]),
    'cut in half': edit(lambda x: x[:len(x) // 2]),
    'cut at the start': edit(lambda x: x[50:]),
    'no bytes': edit(lambda x: b''),
    'one byte': edit(lambda x: b'P'),
    'zeros of the same size': edit(lambda x: bytes(len(x))),
    'noise': edit(lambda x: os.urandom(len(x))),
    'text': edit(lambda x: b'<html>404</html>'),
    'flipped byte': edit(flip),
    'no zip directory': edit(lambda x: x.replace(b'PK\x05\x06', b'xxxx')),
    'zip of something else': foreign_zip,
    'folder': folder,
    'dangling link': dangling,
    'pickled objects': rewrite(
        lambda x: x.update(action=np.array([{}] * 11, object))),
    'dtype of text': rewrite(lambda x: x.update(action=np.array(['a'] * 11))),
    'complex numbers': rewrite(
        lambda x: x.update(action=x['action'].astype(complex))),
    'key missing': rewrite(lambda x: x.pop('is_last')),
    'another shape': rewrite(lambda x: x.update(action=np.zeros((11, 3)))),
    'another dtype': rewrite(lambda x: x.update(number=np.zeros(11))),
    'unequal lengths': rewrite(lambda x: x.update(reward=np.zeros(5))),
    'no rows': rewrite(lambda x: x.update({k: v[:0] for k, v in x.items()})),
    'only a reset': rewrite(
        lambda x: x.update({k: v[:1] for k, v in x.items()})),
    'NaN in rewards': rewrite(lambda x: x['reward'].__setitem__(3, np.nan)),
    'pipe': pipe,
    'link to a device': lambda x: (x.unlink(), x.symlink_to('/dev/zero')),
    'link to elsewhere': lambda x: (
        x.rename(x.parents[1] / x.name),
        x.symlink_to(x.parents[1] / x.name)),
    'header that claims 100 GB': edit(lambda x: huge_claim()),
    'name of the year 9999': rename('99991231T235959999999-ab-10.npz'),
    'name of the year 10000': rename('100000101T000000-ab-10.npz'),
    'name with 10^200 steps': rename(f'20200101T000000-ab-1{"0" * 200}.npz'),
    'name with other steps': rename('20200101T000000-ab-9.npz'),
    'name without steps': rename('20200101T000000-ab.npz'),
    'name with no such date': rename('20209999T000000-ab-10.npz'),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damaged_file_is_set_aside_counted_and_never_fatal(name, tmp_path):
  tmp_path = tmp_path / 'episodes'
  fill(tmp_path, [1, 2, 3])
  DAMAGES[name](sorted(tmp_path.glob('*.npz'))[0])
  with pytest.warns(UserWarning, match='Damaged file') as record:
    replay = Replay(tmp_path)
  assert len(record) == 1
  assert replay.stats['damaged_episodes'] == 1
  assert replay.stats['total_episodes'] == 2
  assert held(replay) == {2, 3}
  assert len(list((tmp_path / 'damaged').iterdir())) == 1
  # One warning is enough.
  again = Replay(tmp_path)
  assert again.stats['damaged_episodes'] == 0 and held(again) == {2, 3}


def spaces(**shapes):
  box = lambda value: types.SimpleNamespace(
      shape=value.shape[1:], dtype=value.dtype)
  return {k: box(v) for k, v in make_episode(**shapes).items()}


def test_environment_and_not_the_newest_file_says_what_is_right(tmp_path):
  fill(tmp_path / 'a', [1, 2, 3])
  fill(tmp_path / 'b', [])
  odd = Replay(tmp_path / 'b')
  odd.add_episode(make_episode(number=9, action=np.zeros((11, 5))))
  path, = (tmp_path / 'b').glob('*.npz')
  path.rename(tmp_path / 'a' / path.name)
  with pytest.warns(UserWarning, match=r'action.*float32\[5\]') as record:
    replay = Replay(tmp_path / 'a', spaces=spaces())
  assert len(record) == 1 and held(replay) == {1, 2, 3}
  assert [x.name for x in (tmp_path / 'a/damaged').iterdir()] == [path.name]


def test_files_that_all_differ_from_the_environment_stay(tmp_path):
  fill(tmp_path, [1, 2])
  wrong = spaces(action=np.zeros((11, 5), np.float32))
  with pytest.raises(ValueError, match='action.*choose another --logdir'):
    Replay(tmp_path, spaces=wrong)
  assert len(list(tmp_path.iterdir())) == 2


def test_file_that_inflates_beyond_its_name_takes_no_memory(tmp_path):
  fill(tmp_path, [1, 2])
  path = sorted(tmp_path.glob('*.npz'))[1]
  big = make_episode(image=np.zeros((11, 999, 999, 3), np.uint8))
  with path.open('wb') as file:
    checkpoints.write_npz(file, big, level=1)
  tracemalloc.start()
  with pytest.warns(UserWarning, match='at most'):
    replay = Replay(tmp_path, spaces=spaces())
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert held(replay) == {1} and peak < 2 ** 22


@pytest.mark.filterwarnings('error')
def test_file_whose_name_counts_rows_is_read_too(tmp_path):
  fill(tmp_path, [1])
  path, = tmp_path.glob('*.npz')
  path.rename(str(path).replace('-10.npz', '-11.npz'))
  assert held(Replay(tmp_path)) == {1}


def test_damaged_files_stay_counted_over_a_resume(tmp_path):
  fill(tmp_path, [1, 2])
  DAMAGES['noise'](sorted(tmp_path.glob('*.npz'))[0])
  with pytest.warns(UserWarning):
    state = Replay(tmp_path).state()
  again = Replay(tmp_path)
  again.restore(state)
  assert again.stats['damaged_episodes'] == 1


def test_memory_in_bytes_bounds_ram_and_disk(tmp_path):
  one = sum(v.nbytes for v in make_episode().values())
  replay = fill(tmp_path, range(6), max_gib=3.5 * one / 2 ** 30)
  assert held(replay) == {3, 4, 5}
  assert replay.stats['bytes'] == 3 * one
  replay.forget()
  files = list(tmp_path.glob('*.npz'))
  assert len(files) == 3
  assert held(Replay(tmp_path, max_gib=1.5 * one / 2 ** 30)) == {5}


def test_loading_never_holds_two_copies(tmp_path):
  """Not even if types must be converted, as in files of DreamerV2."""
  rows, episodes = 201, 40
  values = make_episode(rows - 1)
  values['image'] = np.random.default_rng(0).integers(
      0, 256, (rows, 32, 32, 3), np.uint8)
  for number in range(episodes):
    name = f'20210101T{number:06d}-{number:032x}-{rows - 1}'
    np.savez_compressed(
        tmp_path / name, **{**values, 'vector': np.zeros((rows, 200))})
  tracemalloc.start()
  replay = Replay(tmp_path)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  size = replay.stats['bytes']
  assert replay.stats['loaded_episodes'] == episodes
  assert size > 20 * 2 ** 20
  # 16 of 40 files are read ahead; a file has some copies while it is read.
  assert peak < 1.8 * size


def test_files_are_smaller_than_the_memory_they_fill(tmp_path):
  replay = fill(tmp_path, range(5), steps=100)
  size = sum(x.stat().st_size for x in tmp_path.glob('*.npz'))
  assert size < replay.stats['bytes']


def test_dropped_episodes_stay_on_disk_for_the_last_checkpoint(tmp_path):
  replay = fill(tmp_path, [1, 2], capacity=20)
  state = replay.state()
  for number in (3, 4):
    replay.add_episode(make_episode(10, number))
  assert held(replay) == {3, 4}
  again = Replay(tmp_path, capacity=20, until=state['newest'])
  again.restore(state)
  assert held(again) == {1, 2}
  assert again.stats['total_steps'] == 20
  assert len(list((tmp_path / 'later').iterdir())) == 2


@pytest.mark.filterwarnings('error')
def test_files_that_a_crash_left_undeleted_are_deleted_later(tmp_path):
  replay = fill(tmp_path, [1, 2, 3, 4], capacity=20)
  state = replay.state()  # Without calling forget.
  again = Replay(tmp_path, capacity=20)
  again.restore(state)
  assert held(again) == {3, 4}
  assert again.forget() == 2
  assert len(list(tmp_path.glob('*.npz'))) == 2


def test_episodes_after_the_checkpoint_stay_in_the_replay(tmp_path):
  replay = fill(tmp_path, [1, 2])
  state = replay.state()
  replay.add_episode(make_episode(10, 3))
  again = Replay(tmp_path)
  again.restore(state)
  assert held(again) == {1, 2, 3}
  assert again.stats['total_steps'] == 30
  assert again.stats['total_episodes'] == 3


def test_replay_says_which_episodes_a_resume_misses(tmp_path):
  replay = fill(tmp_path, [1, 2, 3])
  state = replay.state()
  sorted(tmp_path.glob('*.npz'))[1].unlink()
  with pytest.warns(UserWarning, match='1 episodes that the checkpoint knows'):
    Replay(tmp_path).restore(state)


def test_resumed_replay_takes_as_much_memory_as_before(tmp_path):
  for rows in (1, 63, 64, 65, 130):
    replay = fill(tmp_path / str(rows), [1])
    episode = make_episode(200, 2)
    for index in range(rows):
      replay.add_step({k: v[index] for k, v in episode.items()})
    again = Replay(tmp_path / str(rows))
    again.restore(replay.state())
    assert again.finished == []
    assert again.stats == replay.stats


def test_replay_tells_whose_episode_was_completed_since(tmp_path):
  replay = Replay(tmp_path)
  episode = make_episode()
  rows = [{k: v[i] for k, v in episode.items()} for i in range(11)]
  for worker in (0, 1):
    for row in rows[:5]:
      replay.add_step(row, worker)
  state = replay.state()
  for row in rows[5:]:
    replay.add_step(row, 1)
  again = Replay(tmp_path)
  again.restore(state)
  assert again.finished == [1]
  again.cut(0)
  again.cut(0)  # Nothing is left to cut.
  assert again.stats['total_steps'] == 10 + 4


def test_full_disk_keeps_episodes_in_memory_and_writes_them_later(
    tmp_path, monkeypatch):
  replay = fill(tmp_path, [1])

  def full(path, write):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(replays, 'write_atomic', full)
  for number in (2, 3):
    with pytest.warns(UserWarning, match='No space left'):
      replay.add_episode(make_episode(10, number))
  assert held(replay) == {1, 2, 3}
  assert len(list(tmp_path.glob('*.npz'))) == 1
  monkeypatch.undo()
  replay.state()
  assert held(Replay(tmp_path)) == {1, 2, 3}
  replay.sample(1, 1)
  replay.add_episode(make_episode(10, 4))
  assert len(list(tmp_path.glob('*.npz'))) == 4


def test_full_disk_of_few_bytes_is_survived_by_replay_and_checkpoint(tmp_path):
  """Uses a real full disk if this process may mount one."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  if os.system(f'mount -t tmpfs -o size=256k none {disk} 2>/dev/null'):
    pytest.skip('may not mount')
  try:
    store = checkpoints.Checkpoint(disk / 'checkpoints')
    store.save(1, {'w': np.zeros(1000)})
    noise = np.random.default_rng(0).integers(0, 256, (11, 99, 99, 3), 'u1')
    replay = Replay(disk / 'episodes')
    with pytest.warns(UserWarning, match='No space left'):
      replay.add_episode(make_episode(image=noise))
    with pytest.raises(OSError, match='No space left'):
      store.save(2, {'w': np.zeros(10 ** 6)})
    assert replay.sample(1, 5)['image'].any()
    assert store.load().step == 1
    assert not list(pathlib.Path(disk).rglob('*.tmp'))
  finally:
    os.system(f'umount {disk}')


def test_key_too_many_is_left_out_and_said(tmp_path):
  fill(tmp_path, [1, 2])
  rewrite(lambda x: x.update(extra=np.zeros((11, 3)), log_x=np.ones(11)))(
      sorted(tmp_path.glob('*.npz'))[0])
  with pytest.warns(UserWarning, match=r'lacks them: extra float64\[3\]$'):
    replay = Replay(tmp_path, spaces=spaces())
  assert held(replay) == {1, 2} and 'extra' not in replay.sample(1, 5)


def signature(**values):
  return replays.signature_of(spaces(**values))


@pytest.mark.parametrize('shape', [(11,), (11, 1)])
@pytest.mark.parametrize('dtype', [np.float64, np.int32, np.uint8, bool])
def test_observation_that_is_one_number_becomes_a_vector(shape, dtype):
  values = np.arange(11).reshape(shape).astype(dtype)
  wanted = signature(health=np.zeros((11, 1), np.float32))
  found = episodes.fit(make_episode(health=values), wanted)['health']
  assert found.shape == (11, 1) and found.dtype == np.float32
  assert (found[:, 0] == values.ravel()).all()


def test_file_that_does_not_fit_names_every_key(tmp_path):
  wanted = signature(
      image=np.zeros((11, 8, 8, 3), np.uint8), speed=np.zeros((11, 2), 'f4'))
  with pytest.raises(episodes.Foreign) as info:
    episodes.fit(make_episode(), wanted)
  assert str(info.value) == (
      "'image' is uint8[4, 4, 3] there, but uint8[8, 8, 3] here, "
      "'speed' is absent there, but float32[2] here")


def listing(folder):
  return {
      x.relative_to(folder): x.read_bytes() for x in folder.rglob('*')
      if x.is_file()}


@pytest.mark.parametrize('inner', ['', 'train_episodes'])
def test_seeds_are_sampled_but_neither_counted_nor_changed(inner, tmp_path):
  fill(tmp_path / 'demos' / inner, [1, 2, 3])
  before = listing(tmp_path / 'demos')
  replay = fill(
      tmp_path / 'own', [7, 8, 9], capacity=20, spaces=spaces(),
      seed_from=tmp_path / 'demos')
  assert held(replay) == {1, 2, 3, 8, 9}
  stats = replay.stats
  assert stats.pop('seed_steps') == 30 and stats.pop('seed_episodes') == 3
  assert stats == fill(tmp_path / 'other', [7, 8, 9], capacity=20).stats
  assert replay.forget() == 1 and listing(tmp_path / 'demos') == before
  again = Replay(
      tmp_path / 'own', spaces=spaces(), seed_from=tmp_path / 'demos')
  again.restore(replay.state())
  assert held(again) == {1, 2, 3, 8, 9}


def test_seeds_alone_can_be_sampled(tmp_path):
  fill(tmp_path / 'demos', [1])
  replay = Replay(
      tmp_path / 'own', minlen=5, spaces=spaces(),
      seed_from=tmp_path / 'demos')
  assert held(replay) == {1}
  short = Replay(
      tmp_path / 'own', minlen=50, spaces=spaces(),
      seed_from=tmp_path / 'demos')
  with pytest.raises(replays.TooShort, match='10 steps in 1 episodes'):
    short.sample(1, 5)


@pytest.mark.parametrize('damage, words', [
    (lambda x: x.unlink(), 'holds no episodes'),
    (lambda x: x.write_bytes(b'text'), 'does not fit: .*zip'),
    (rewrite(lambda x: x.pop('is_last')), "'is_last' is absent there"),
    (rewrite(lambda x: x.update(image=np.zeros((11, 8, 8, 3), np.uint8))),
     r"'image' is uint8\[8, 8, 3\] there, but uint8\[4, 4, 3\] here"),
    (rewrite(lambda x: x['reward'].__setitem__(3, np.nan)),
     "'reward' is not finite"),
    (rewrite(lambda x: x['action'].__setitem__(3, -2)),
     r"'action' is in -2\.\.0\.01 there, but must be")])
def test_seeds_that_do_not_fit_are_named_and_stay(damage, words, tmp_path):
  fill(tmp_path / 'demos', [1])
  path, = (tmp_path / 'demos').glob('*.npz')
  damage(path)
  before = listing(tmp_path / 'demos')
  with pytest.raises(ValueError, match=words):
    Replay(
        tmp_path / 'own', spaces=spaces(), seed_from=tmp_path / 'demos')
  assert listing(tmp_path / 'demos') == before


def test_spaces_of_episodes_are_those_of_their_arrays():
  onehot = np.eye(3, dtype=np.float32)[np.arange(11) % 3]
  stream = [
      make_episode(action=onehot, log_x=np.zeros(11)),
      make_episode(action=np.eye(3, dtype='f4')[[0] * 11])]
  obs, act = episodes.spaces(episodes.storable(x) for x in stream)
  assert obs.keys() == make_episode().keys() - {'action'}
  assert obs['image'].shape == (4, 4, 3) and obs['image'].high.max() == 255
  assert act['action'].shape == (3,) and act['action'].discrete
  assert not obs['is_terminal'].high
  stream[1] = make_episode(
      action=np.full((11, 3), 0.5, np.float32),
      is_terminal=np.arange(11) == 10)
  obs, act = episodes.spaces(episodes.storable(x) for x in stream)
  assert not hasattr(act['action'], 'discrete') and obs['is_terminal'].high
  with pytest.raises(episodes.Foreign, match="'action' is float32"):
    episodes.spaces([make_episode(), make_episode(action=onehot)])


def test_odd_file_among_stored_episodes_is_named(tmp_path):
  np.savez(tmp_path / '0.npz', **make_episode())
  np.savez(tmp_path / '1.npz', **make_episode(image=np.zeros((11, 2, 2, 3))))
  with pytest.raises(ValueError, match="1.npz does not fit: 'image' is"):
    list(episodes.read_folder(tmp_path))


@pytest.mark.parametrize('action', [
    np.arange(11), np.ones((11, 2, 2), 'f4'), np.full((11, 2), 3, 'f4'),
    np.ones((11, 2), int)])
def test_stored_actions_must_be_those_of_an_agent(action, tmp_path):
  np.savez(tmp_path / '0.npz', **make_episode(action=action))
  with pytest.raises(ValueError, match=r"0\.npz does not fit: 'action' is"):
    list(episodes.read_folder(tmp_path))


def test_stored_episodes_without_a_needed_key_are_named(tmp_path):
  np.savez(tmp_path / '0.npz', **make_episode())
  rewrite(lambda x: x.pop('is_terminal'))(tmp_path / '0.npz')
  obs, act = episodes.spaces(episodes.read_folder(tmp_path))
  with pytest.raises(ValueError, match="0.npz .*'is_terminal' is absent"):
    Replay(tmp_path / 'own', spaces={**obs, **act}, seed_from=tmp_path)
