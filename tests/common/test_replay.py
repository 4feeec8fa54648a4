import collections
import itertools
import pathlib
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import replay as replays
from dreamingv2.common.driver import Driver
from dreamingv2.common.episodes import convert
from dreamingv2.common.episodes import estimate_bytes
from dreamingv2.common.replay import Replay
from dreamingv2.common.replay import count_episodes


def make_episode(steps, number=0, **values):
  rows = steps + 1
  episode = {
      'image': np.full((rows, 4, 4, 3), number % 256, np.uint8),
      'number': np.full(rows, number, np.int32),
      'index': np.arange(rows, dtype=np.int32),
      'action': np.full((rows, 2), number, np.float32),
      'reward': np.ones(rows, np.float32),
      'is_first': np.arange(rows) == 0,
      'is_last': np.arange(rows) == steps,
      'is_terminal': np.zeros(rows, bool)}
  return {**episode, **values}


def add_steps(replay, episode, worker=0, rows=slice(None)):
  for index in range(len(episode['action']))[rows]:
    replay.add_step({k: v[index] for k, v in episode.items()}, worker)


def numbers(replay, draws=200):
  return {int(x) for x in replay.sample(draws, 1)['number'][:, 0]}


def same(left, right):
  assert left.keys() == right.keys()
  for key in left:
    np.testing.assert_array_equal(left[key], right[key])


def test_replay_chunks_never_cross_episodes_when_all_lengths_agree(tmp_path):
  replay = Replay(tmp_path, minlen=10, maxlen=10)
  for number in range(5):
    replay.add_episode(make_episode(15 + number, number))
  batch = replay.sample(64, 10)
  assert (batch['number'] == batch['number'][:, :1]).all()
  assert (np.diff(batch['index'], axis=1) == 1).all()
  assert batch['is_first'][:, 0].all() and not batch['is_first'][:, 1:].any()
  assert all(v.flags.c_contiguous for v in batch.values())
  assert batch['image'].shape == (64, 10, 4, 4, 3)


def test_batch_larger_than_the_replay_is_said_once(tmp_path):
  replay = Replay(tmp_path, minlen=10, maxlen=10)
  for number in range(2):
    replay.add_episode(make_episode(15, number))
  with pytest.warns(UserWarning, match='4 x 10 .* holds 30 so far') as warned:
    dataset = replay.dataset(4, 10)
    for _ in range(3):
      next(dataset)
  assert len(warned) == 1
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    next(replay.dataset(3, 10))


@pytest.mark.parametrize('maxlen', [0, 12, 20])
def test_replay_marks_every_seam_with_is_first(tmp_path, maxlen):
  replay = Replay(tmp_path, minlen=4, maxlen=maxlen)
  for number in range(5):
    replay.add_episode(make_episode(9 + number, number))
  batch = replay.sample(64, 50)
  smooth = (np.diff(batch['index'], axis=1) == 1) & (
      np.diff(batch['number'], axis=1) == 0)
  assert (smooth | batch['is_first'][:, 1:]).all()
  sizes = []
  for row in batch['is_first']:
    ends = np.append(np.flatnonzero(row), len(row))
    sizes += list(np.diff(ends)[:-1])  # The last may be cut off.
  assert min(sizes) == 7  # 10 rows may lose up to minlen - 1.
  assert max(sizes) == min(maxlen or 50, 14)


def test_replay_draws_episodes_uniformly_whatever_their_length(tmp_path):
  replay = Replay(tmp_path, minlen=5, maxlen=5)
  for number, steps in enumerate([5, 50, 200, 10]):
    replay.add_episode(make_episode(steps, number))
  draws = replay.sample(4000, 5)['number'][:, 0]
  counts = np.bincount(draws)
  # Five standard deviations of a binomial with n = 4000, p = 1 / 4.
  assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_replay_draws_starts_uniformly(tmp_path):
  replay = Replay(tmp_path, minlen=5, maxlen=5)
  replay.add_episode(make_episode(13))  # 14 rows, 10 starts.
  counts = np.bincount(replay.sample(5000, 5)['index'][:, 0], minlength=10)
  assert len(counts) == 10
  assert np.abs(counts - 500).max() < 5 * np.sqrt(5000 * 0.1 * 0.9)


def test_replay_prioritizes_ends_by_minlen_more_starts(tmp_path):
  replay = Replay(tmp_path, minlen=5, maxlen=5, prioritize_ends=True)
  replay.add_episode(make_episode(13))  # 10 starts, the last six times.
  counts = np.bincount(replay.sample(6000, 5)['index'][:, 0])
  assert abs(counts[-1] / 6000 - 6 / 15) < 0.035
  assert np.abs(counts[:-1] / 6000 - 1 / 15).max() < 0.02


def test_replay_samples_agree_for_one_seed_and_differ_for_two(tmp_path):
  batches = []
  for folder, seed in [('a', 1), ('b', 1), ('c', 2)]:
    replay = Replay(tmp_path / folder, minlen=3, maxlen=3, seed=seed)
    for number in range(10):
      replay.add_episode(make_episode(10, number))
    batches.append(replay.sample(16, 3))
  same(batches[0], batches[1])
  assert (batches[0]['number'] != batches[2]['number']).any()


def test_replay_dataset_yields_the_samples(tmp_path):
  def filled(folder):
    replay = Replay(tmp_path / folder)
    replay.add_episode(make_episode(10))
    return replay
  left, right = filled('a'), filled('b')
  for batch in itertools.islice(left.dataset(4, 5), 3):
    same(batch, right.sample(4, 5))


def test_replay_steps_and_episodes_store_the_same(tmp_path):
  left, right = Replay(tmp_path / 'a'), Replay(tmp_path / 'b')
  episode = make_episode(150, 3)  # More than the first allocation.
  add_steps(left, episode)
  right.add_episode(episode)
  same(left.sample(8, 20), right.sample(8, 20))
  assert left.stats == right.stats


def test_replay_keeps_workers_apart(tmp_path):
  replay = Replay(tmp_path)
  episodes = [make_episode(20, 1), make_episode(20, 2)]
  for index in range(21):
    for worker, episode in enumerate(episodes):
      add_steps(replay, episode, worker, slice(index, index + 1))
  batch = replay.sample(32, 10)
  assert (batch['number'] == batch['number'][:, :1]).all()
  assert replay.stats['total_episodes'] == 2


def test_replay_reloads_in_the_order_of_adding(tmp_path):
  replay = Replay(tmp_path)
  for number in range(30):  # Many within one second.
    replay.add_episode(make_episode(5, number))
  again = Replay(tmp_path)
  assert again.stats == replay.stats
  again._random.bit_generator.state = replay._random.bit_generator.state
  same(replay.sample(64, 4), again.sample(64, 4))


def test_replay_orders_by_adding_even_if_the_clock_goes_back(tmp_path):
  replay = Replay(tmp_path)
  replay.add_episode(make_episode(5, 1))
  path, = tmp_path.glob('*.npz')
  path.rename(tmp_path / f'29990101T000000-{"a" * 32}-5.npz')
  replay = Replay(tmp_path)
  for number in [2, 3, 4]:
    replay.add_episode(make_episode(5, number))
  assert numbers(Replay(tmp_path, capacity=15)) == {2, 3, 4}


def test_replay_drops_the_oldest_beyond_capacity_here_and_on_disk(tmp_path):
  replay = Replay(tmp_path, capacity=35)
  for number in range(6):
    replay.add_episode(make_episode(10, number))
  assert numbers(replay) == {3, 4, 5}
  assert len(list(tmp_path.glob('*.npz'))) == 6  # For the checkpoint.
  replay.forget()
  assert len(list(tmp_path.glob('*.npz'))) == 3
  stats = replay.stats
  assert stats['loaded_steps'] == 30 and stats['loaded_episodes'] == 3
  assert stats['total_steps'] == 60 and stats['total_episodes'] == 6
  one = make_episode(10)
  assert stats['bytes'] == 3 * sum(v.nbytes for v in one.values())


def test_replay_loads_the_newest_up_to_capacity_and_deletes_none(tmp_path):
  replay = Replay(tmp_path)
  for number in range(6):
    replay.add_episode(make_episode(10, number))
  again = Replay(tmp_path, capacity=25)
  assert numbers(again) == {4, 5}
  assert len(list(tmp_path.glob('*.npz'))) == 6
  assert again.stats['total_steps'] == 60
  assert again.stats['loaded_steps'] == 20


def test_replay_keeps_one_episode_longer_than_capacity(tmp_path):
  replay = Replay(tmp_path, capacity=5)
  replay.add_episode(make_episode(10, 1))
  replay.add_episode(make_episode(10, 2))
  assert numbers(replay) == numbers(Replay(tmp_path, capacity=5)) == {2}


def test_replay_does_not_sample_episodes_below_minlen(tmp_path):
  replay = Replay(tmp_path, minlen=10, capacity=30)
  for number, steps in enumerate([9, 12, 4, 10]):
    replay.add_episode(make_episode(steps, number))
  assert numbers(replay) == {1, 3}


def test_replay_says_why_it_cannot_sample(tmp_path):
  replay = Replay(tmp_path, minlen=50)
  replay.add_episode(make_episode(20))
  replay.add_episode(make_episode(30))
  with pytest.raises(RuntimeError) as error:
    replay.sample(1, 1)
  for part in ['50 steps in 2 episodes', 'longest of 30', 'minlen is 50',
               'prefill']:
    assert part in str(error.value)
  with pytest.raises(RuntimeError, match='0 steps in 0 episodes'):
    Replay(tmp_path / 'empty').sample(1, 1)


def test_replay_samples_ongoing_episodes_only_if_told(tmp_path):
  for ongoing, expected in [(False, {1}), (True, {1, 2})]:
    replay = Replay(tmp_path / str(ongoing), ongoing=ongoing, minlen=5)
    replay.add_episode(make_episode(10, 1))
    add_steps(replay, make_episode(10, 2), rows=slice(5))
    assert numbers(replay) == {1}
    add_steps(replay, make_episode(10, 2), rows=slice(5, 6))
    assert numbers(replay) == expected
    assert replay.sample(64, 6)['index'].max() <= 10


def test_replay_state_round_trip_gives_the_same_next_samples(tmp_path):
  replay = Replay(tmp_path / 'eps', ongoing=True, minlen=3, seed=4)
  for number in range(5):
    replay.add_episode(make_episode(10, number))
  add_steps(replay, make_episode(10, 7), worker=2, rows=slice(6))
  replay.sample(8, 5)
  store = checkpoints.Checkpoint(tmp_path / 'ckpt')
  store.save(1, {}, {'replay': replay.state()})
  again = Replay(tmp_path / 'eps', ongoing=True, minlen=3, seed=0)
  again.restore(store.load().meta['replay'])
  same(replay.sample(32, 8), again.sample(32, 8))
  for one in [replay, again]:
    add_steps(one, make_episode(10, 7), worker=2, rows=slice(6, None))
  same(replay.sample(32, 8), again.sample(32, 8))


def test_replay_state_is_not_changed_by_later_steps(tmp_path):
  replay = Replay(tmp_path)
  add_steps(replay, make_episode(10, 1), rows=slice(4))
  state = replay.state()
  add_steps(replay, make_episode(10, 1, index=np.zeros(11, int)),
            rows=slice(4, None))
  assert list(state['ongoing'][0]['data']['index']) == [0, 1, 2, 3]


def test_replay_state_does_not_repeat_an_episode_completed_since(tmp_path):
  replay = Replay(tmp_path)
  add_steps(replay, make_episode(10, 1), rows=slice(6))
  state = replay.state()
  add_steps(replay, make_episode(10, 1), rows=slice(6, None))
  again = Replay(tmp_path)
  again.restore(state)
  assert again.state()['ongoing'] == []
  assert again.stats['total_steps'] == 10


def test_replay_totals_survive_dropped_files(tmp_path):
  replay = Replay(tmp_path, capacity=20)
  for number in range(6):
    replay.add_episode(make_episode(10, number))
  replay.forget()
  again = Replay(tmp_path, capacity=20)
  assert again.stats['total_steps'] == 20
  again.restore(replay.state())
  assert again.stats == replay.stats


def test_replay_closes_an_episode_that_was_cut_short(tmp_path):
  replay = Replay(tmp_path)
  add_steps(replay, make_episode(10, 1), rows=slice(5))
  add_steps(replay, make_episode(10, 2), rows=slice(1))
  assert replay.stats['total_steps'] == 4
  batch = replay.sample(64, 5)
  assert set(batch['number'].ravel()) == {1}
  np.testing.assert_array_equal(batch['is_last'], batch['index'] == 4)
  assert not batch['is_terminal'].any()


@pytest.mark.filterwarnings('error')
def test_replay_reads_episodes_of_dreamerv2(tmp_path):
  episode = make_episode(
      10, 1, reward=np.ones(11, np.float16), is_first=np.zeros(11, np.float32),
      action=np.ones((11, 2), np.float64), is_last=np.zeros(11, np.uint8),
      index=np.arange(11), log_entropy=np.ones(11))
  name = '20210101T000000-00112233445566778899aabbccddeeff-10.npz'
  np.savez_compressed(tmp_path / name, **episode)
  replay = Replay(tmp_path)
  replay.add_episode(make_episode(10, 2))
  batch = replay.sample(200, 3)
  assert set(batch['number'][:, 0]) == {1, 2}
  assert batch['reward'].dtype == np.float32
  assert batch['is_last'].dtype == bool
  assert 'log_entropy' not in batch
  assert Replay(tmp_path).stats == replay.stats


def test_replay_files_are_read_by_numpy(tmp_path):
  episode = make_episode(10, 1)
  Replay(tmp_path).add_episode({**episode, 'log_x': np.zeros(11)})
  path, = tmp_path.iterdir()
  assert path.name.endswith('-10.npz')
  with np.load(path) as stored:
    same(dict(stored), episode)


def test_replay_sets_damaged_files_aside_and_goes_on(tmp_path):
  replay = Replay(tmp_path)
  for number in range(4):
    replay.add_episode(make_episode(10, number))
  first, second, third, _ = sorted(tmp_path.glob('*.npz'))
  first.write_bytes(first.read_bytes()[:-100])
  content = bytearray(second.read_bytes())
  content[len(content) // 2] ^= 255
  second.write_bytes(content)
  third.write_bytes(b'')
  (tmp_path / 'notes.npz').write_bytes(b'foreign')
  with pytest.warns(UserWarning, match='damaged') as record:
    again = Replay(tmp_path)
  assert len(record) == 4
  assert numbers(again) == {3}
  assert again.stats['damaged_episodes'] == 4
  assert again.stats['total_episodes'] == 1
  assert {x.name for x in (tmp_path / 'damaged').iterdir()} == {
      first.name, second.name, third.name, 'notes.npz'}


def test_replay_sets_files_of_other_shapes_aside(tmp_path):
  replay = Replay(tmp_path / 'a')
  replay.add_episode(make_episode(5, 1, action=np.zeros((6, 7))))
  path, = (tmp_path / 'a').glob('*.npz')
  replay = Replay(tmp_path / 'b')
  replay.add_episode(make_episode(5, 2))
  path.rename(tmp_path / 'b' / path.name)
  with pytest.warns(UserWarning, match="'action' is float32.7."):
    assert numbers(Replay(tmp_path / 'b')) == {2}


@pytest.mark.parametrize('change, text', [
    ({'action': np.zeros((11, 3))}, "'action' is float32.3."),
    ({'index': np.zeros(11)}, "'index' is float32.., but .* it is int32"),
    ({'more': np.zeros(11)}, "'more' is float32.., but .* absent"),
    ({'index': None}, "'index' is absent, but"),
])
def test_replay_names_the_key_that_differs(tmp_path, change, text):
  replay = Replay(tmp_path)
  replay.add_episode(make_episode(10))
  bad = {**make_episode(10), **change}
  bad = {k: v for k, v in bad.items() if v is not None}
  with pytest.raises(ValueError, match=text):
    replay.add_episode(bad)
  with pytest.raises(ValueError, match=text):
    add_steps(replay, bad)
  assert replay.stats['total_episodes'] == 1


def test_replay_refuses_arrays_of_unequal_lengths_and_objects(tmp_path):
  replay = Replay(tmp_path)
  with pytest.raises(ValueError, match="'reward' has 3 rows where .* 11"):
    replay.add_episode(make_episode(10, reward=np.zeros(3)))
  with pytest.raises(ValueError, match="'note' holds"):
    replay.add_episode(make_episode(10, note=np.array(['x'] * 11)))
  with pytest.raises(ValueError, match="'is_first'"):
    replay.add_step({'action': np.zeros(2), 'is_last': False})


def test_replay_keeps_an_episode_that_the_disk_refuses(tmp_path, monkeypatch):
  replay = Replay(tmp_path, capacity=20)

  def full(file, members, level):
    file.write(b'half')
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(replays, 'write_npz', full)
  with pytest.warns(UserWarning, match='No space left'):
    replay.add_episode(make_episode(10, 1))
  assert numbers(replay) == {1}
  assert list(tmp_path.iterdir()) == []
  monkeypatch.undo()
  for number in [2, 3]:
    replay.add_episode(make_episode(10, number))
  assert numbers(replay) == {2, 3}


def test_estimate_bytes_is_what_replay_takes(tmp_path):
  episode = make_episode(99)
  space = collections.namedtuple('space', 'shape dtype')
  spaces = {k: space(v.shape[1:], v.dtype) for k, v in episode.items()}
  spaces['reward'] = types.SimpleNamespace(shape=(), dtype=np.float64)
  act = {'action': spaces.pop('action')}
  replay = Replay(tmp_path)
  replay.add_episode(episode)
  assert estimate_bytes(spaces, act, 100) == replay.stats['bytes']


def test_convert_keeps_bool_and_uint8_and_shrinks_the_rest():
  values = convert({
      'a': np.float64(1), 'b': np.int64(2), 'c': np.uint8(3), 'd': True,
      'e': np.float16(5), 'reward': 1, 'is_last': 1.0, 'f': np.uint16(9)})
  assert {k: v.dtype for k, v in values.items()} == {
      'a': np.float32, 'b': np.int32, 'c': np.uint8, 'd': bool,
      'e': np.float32, 'reward': np.float32, 'is_last': bool, 'f': np.int32}


def test_replay_driver_and_checkpoint_import_no_tensorflow():
  code = (
      'import sys; from dreamingv2.common import replay, driver, checkpoint; '
      'sys.exit("tensorflow" in sys.modules)')
  root = pathlib.Path(__file__).parents[2]
  assert not subprocess.run([sys.executable, '-c', code], cwd=root).returncode


def test_replay_aligns_what_a_driver_hands_on(tmp_path):
  class Env:
    act_space = {'action': None}

    def reset(self):
      self.index = 0
      return self.step({'action': np.zeros(2)}, 0)

    def step(self, action, advance=1):
      self.index += advance
      return {
          'index': self.index, 'seen': action['action'], 'reward': 0.0,
          'is_first': self.index == 0, 'is_last': self.index == 7,
          'is_terminal': False}
  random = np.random.default_rng(0)
  driver = Driver([Env(), Env()])
  replay = Replay(tmp_path, minlen=5, maxlen=5)
  driver.on_reset(replay.add_step)
  driver.on_step(replay.add_step)
  driver(lambda obs, state: ({'action': random.random((2, 2))}, state), 33)
  assert replay.stats['total_steps'] == 28
  batch = replay.sample(64, 5)
  np.testing.assert_array_equal(batch['action'], batch['seen'])
  np.testing.assert_array_equal(
      batch['index'] == 0, (batch['action'] == 0).all(-1))


def test_count_episodes_ignores_files_that_are_none(tmp_path):
  replay = Replay(tmp_path)
  for length in (3, 5):
    replay.add_episode(make_episode(length))
  (tmp_path / 'notes.npz').write_bytes(b'')
  assert count_episodes(tmp_path) == (2, 8)
