"""Tests what a recording holds, and that it is made once."""

import dataclasses

import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2.common import truth as truths
from dreamingv2.tools import recordings
from tests.helpers import assert_equal

SIZE = recordings.Size(train=6, test=2, rest=3, rest_test=2)


def make_config(*flags):
  return settings.load_config([
      '--configs', 'debug', '--task', 'toy_torus', '--time_limit', '30',
      *flags])


@pytest.fixture(scope='module')
def parts():
  return recordings.record(make_config(), SIZE)


def test_recording_has_its_parts_and_the_state_beside_every_row(parts):
  assert {k: len(v) for k, v in parts.items()} == {
      'train': 6, 'test': 2, 'rest': 3, 'rest_test': 2}
  for part, episodes in parts.items():
    rows = 1 if part.startswith('rest') else 31
    for episode in episodes:
      assert {len(x) for x in episode.values()} == {rows}
      assert truths.of(episode).keys() == {'dot', 'target'}
      assert episode['is_first'][0] and episode['is_last'][-1] == (rows > 1)


def test_state_is_that_of_its_frame(parts):
  """The brightest pixels are where the simulator says that the dot is."""
  for episode in parts['train'][::3]:
    told = truths.of(episode)['dot']
    place = np.arctan2(told[:, 2:], told[:, :2]) / (2 * np.pi) % 1
    for image, (x, y) in zip(episode['image'], place, strict=True):
      assert image[int(64 * y), int(64 * x)].tolist() == [255, 220, 40]


def test_half_of_the_episodes_are_scripted_and_end_solved(parts):
  assert [x[recordings.KIND][0] for x in parts['train']] == (
      [False] * 3 + [True] * 3)
  assert recordings.solved(parts['train']) == (3, 3)
  ends = [x[recordings.SUCCESS][-1] for x in parts['train'][:3]]
  assert not all(ends)


def test_first_moments_differ_from_each_other_and_are_held_out(parts):
  dots = [truths.of(x)['dot'][0] for x in parts['rest'] + parts['rest_test']]
  assert len(np.unique(dots, axis=0)) == 5


def test_recording_repeats_to_the_bit_and_its_seed_changes_it(parts):
  again = recordings.record(make_config(), SIZE)
  other = recordings.record(
      make_config(), dataclasses.replace(SIZE, seed=1, train=1))
  for part, episodes in parts.items():
    for one, two in zip(episodes, again[part], strict=True):
      assert_equal(one, two)
  assert (other['train'][0]['image'] != parts['train'][0]['image']).any()


def test_file_is_made_once_and_read_back_to_the_bit(parts, tmp_path, capsys):
  path = recordings.load(make_config(), SIZE, tmp_path)
  before = path.stat()
  assert recordings.load(make_config(), SIZE, tmp_path) == path
  assert path.stat() == before and [*tmp_path.iterdir()] == [path]
  found = recordings.read(path)
  for part, episodes in parts.items():
    for one, two in zip(episodes, found[part], strict=True):
      assert_equal(one, two)


@pytest.mark.parametrize('flags, size', [
    (('--time_limit', '20'), {}), (('--action_repeat', '2'), {}),
    (('--task', 'toy_reach'), {}), ((), {'train': 7}), ((), {'seed': 1})])
def test_another_setting_is_another_file(flags, size, tmp_path):
  one = recordings.locate(make_config(), SIZE, tmp_path)
  two = recordings.locate(
      make_config(*flags), dataclasses.replace(SIZE, **size), tmp_path)
  assert one != two


def test_settings_of_the_system_share_a_file(tmp_path):
  one, two = [
      recordings.locate(make_config(*x), SIZE, tmp_path)
      for x in ((), ('--configs', 'debug', 'dreamerv2', '--seed', '3'))]
  assert one == two


def test_damaged_file_is_named(tmp_path):
  path = tmp_path / 'x.npz'
  path.write_bytes(b'no zip')
  with pytest.raises(ValueError, match='x.npz is damaged .*delete it'):
    recordings.read(path)


def test_observations_hold_nothing_that_was_told(parts):
  found = recordings.observations(parts['train'][0])
  assert found.keys() == {
      'image', 'action', 'reward', 'is_first', 'is_last', 'is_terminal'}


def test_task_that_tells_nothing_is_named():
  with pytest.raises(ValueError, match='toy_dummy: its simulator tells no st'):
    recordings.check(make_config('--task', 'toy_dummy'))
