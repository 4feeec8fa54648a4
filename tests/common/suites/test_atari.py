"""Tests Atari games: preprocessing, seeds, ends."""

import numpy as np
import pytest

from dreamingv2.common import identity
from dreamingv2.common import suites


def make(task='pong', **kwargs):
  return suites.make('atari', task, **{'action_repeat': 4, **kwargs})


def play(env, steps):
  """Plays actions in turn; returns the rows of one episode's start."""
  count = env.act_space['action'].shape[0]
  rows = [env.reset()]
  for index in range(steps):
    rows.append(env.step({
        'action': np.eye(count, dtype=np.float32)[index // 5 % count]}))
    if rows[-1]['is_last']:
      break
  return rows


def test_games_are_those_of_ale():
  import ale_py.roms
  module = suites.known()['atari']()
  assert len(module.tasks()) > 100
  assert set(module.tasks()) == set(ale_py.roms.get_all_rom_ids())
  for name in ('pong', 'james_bond', 'montezuma_revenge'):
    suites.validate('atari', name, {})
  with pytest.raises(ValueError, match="'pogn'; known: pong"):
    suites.validate('atari', 'pogn', {})


@pytest.mark.parametrize('options, channels, actions', [
    ({}, 1, 6), ({'grayscale': False, 'all_actions': True}, 3, 18)])
def test_spaces_follow_the_options(options, channels, actions):
  env = make(size=(48, 64), **options)
  assert env.act_space['action'].shape == (actions,)
  rows = play(env, 20)
  image = rows[-1]['image']
  assert image.shape == (48, 64, channels) == env.obs_space['image'].shape
  assert image.dtype == np.uint8 and image.std() > 10


def test_episode_repeats_with_its_seed_to_the_bit():
  runs = []
  for number in (5, 5, 6):
    env = make(seed=0)
    play(env, 3)
    env.env.seed(number)
    runs.append(play(env, 60))
  images = [np.stack([x['image'] for x in rows]) for rows in runs]
  assert (images[0] == images[1]).all() and (images[0] != images[2]).any()


def test_lost_game_is_terminal_and_a_cut_one_is_not():
  rows = play(make(), 3000)
  assert rows[-1]['is_terminal'] and rows[-1]['is_last']
  assert -21 <= sum(x['reward'] for x in rows) <= -10
  rows = play(make(time_limit=7), 3000)
  assert len(rows) == 8
  assert rows[-1]['is_last'] and not rows[-1]['is_terminal']


def test_action_repeat_adds_rewards_and_takes_the_brighter_frame():
  once, often = (
      make(action_repeat=x, sticky=False, noops=0, seed=1) for x in (1, 4))
  frames, rows = play(once, 0), play(often, 0)
  for _ in range(100):
    action = {'action': np.eye(6, dtype=np.float32)[3]}
    frames += [once.step(action) for _ in range(4)]
    rows.append(often.step(action))
  assert sum(x['reward'] for x in rows) == sum(x['reward'] for x in frames) < 0
  # Resizing comes after the maximum, hence not equal but at least as bright.
  last = np.maximum(*(x['image'].astype(int) for x in frames[-2:]))
  assert (rows[-1]['image'] + 1 >= last).all()


def test_losing_a_life_ends_an_episode_only_if_told():
  lives, whole = (
      make('breakout', noops=0, life_done=x, seed=3) for x in (True, False))
  ends = []
  for env in (lives, whole):
    rows = [env.reset()]
    while not rows[-1]['is_last'] and len(rows) < 5000:
      rows.append(env.step({
          'action': np.eye(4, dtype=np.float32)[len(rows) % 2]}))
    ends.append(len(rows))
    assert rows[-1]['is_terminal']
  assert ends[0] < ends[1]
  # The next episode is a new game.
  assert lives.reset()['is_first']
  assert identity.innermost(lives)._ale.lives() == 5


def test_missing_package_is_named(monkeypatch):
  module = suites.known()['atari']()
  module.tasks.cache_clear()
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r"pip install 'dreamingv2\[atari\]'"):
    suites.validate('atari', 'pong', {})
  module.tasks.cache_clear()
