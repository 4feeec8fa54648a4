"""Tests the rewards of toy tasks, and returns that need no observation."""

import functools
import re

import numpy as np
import pytest

from dreamingv2.common import suites
from dreamingv2.common.renderers import distractors
from dreamingv2.common.suites import toy
from scripts import clouds

WORLDS = sorted(toy.WORLDS)


def play(name, policy, episodes, seed=0):
  """Returns the mean return of policy(image) -> action in the real task."""
  env = suites.make('toy', name, seed=seed)
  total = 0.0
  for _ in range(episodes):
    obs = env.reset()
    while not obs['is_last']:
      obs = env.step({'action': np.asarray(policy(obs['image']), 'f')})
      total += obs['reward']
  return total / episodes


def centre(mask, wrap):
  """Returns the column and row of a mask's middle, as shares of the image.

  With `wrap`, the mask may cross an edge, so angles are averaged, not places.
  """
  places = (np.argwhere(mask)[:, ::-1]) / mask.shape[0]
  if not wrap:
    return places.mean(0)
  angles = np.exp(2j * np.pi * places).mean(0)
  return np.angle(angles) / (2 * np.pi) % 1


def seek(wrap, sees_target=True):
  """Returns a policy that finds dot and target by their colours."""
  def policy(image):
    dot = centre(image[..., 0] == 255, wrap)
    square = image[..., 2] == 180
    target = centre(square, wrap) if sees_target and square.any() else .5
    way = target - dot
    way = (way + .5) % 1 - .5 if wrap else way
    return np.clip(way / toy.Reach.SPEED, -1, 1)
  return policy


def test_success_on_the_way_through_a_repeated_action_counts():
  env = toy.make('reach', action_repeat=8)
  env.reset()
  env._target = np.array([0.5, 0.5])
  env._dot = env._target - [0.35, 0]
  right = {'action': np.float32([1, 0])}
  assert not env.success()
  env.step(right)  # 8 times 0.1: it ends beyond the target.
  assert env.success() and np.linalg.norm(env._offset()) > 0.1
  env.step(right)
  assert not env.success()


@pytest.mark.parametrize('name', WORLDS)
def test_baselines_are_what_policies_earn_in_the_task(name):
  """Also tests that the image shows where dot and target are."""
  wrap = name == 'torus'
  returns = toy.baselines(name, 1000)
  # A dot on the square hides its middle; the standard error of 30 episodes
  # is below 1, or 5 for those who guess.
  assert play(name, seek(wrap), 30) == pytest.approx(returns['oracle'], abs=5)
  unseen = play(name, seek(wrap, sees_target=False), 30)
  assert unseen < returns['no_target'] + 13
  rng = np.random.default_rng(0)
  random = play(name, lambda _: rng.uniform(-1, 1, 2), 30)
  assert random == pytest.approx(returns['random'], abs=8)


def test_baselines_of_reach_show_how_little_it_asks():
  returns = toy.baselines('reach')
  assert 9 < returns['random'] < 12.5
  assert 15 < returns['blind'] < returns['no_target'] < 21
  assert 48 < returns['oracle'] < 50


def test_torus_pays_nothing_without_sight_of_dot_and_target():
  returns = toy.baselines('torus')
  # The best of 88 and of 81 policies, each of which earns 0 on average,
  # with a standard error of 0.8 at most.
  for name in ('random', 'blind', 'no_target'):
    assert abs(returns[name]) < 3, name
  assert 48 < returns['oracle'] < 50


def test_torus_has_no_edges():
  env = suites.make('toy', 'torus', seed=0)
  env.reset()
  right = {'action': np.float32([1, 0])}
  steps = [env.step(right) for _ in range(20)]
  images, rewards = [[x[k] for x in steps] for k in ('image', 'reward')]
  # Ten steps of a tenth of the image lead back.
  for t in range(10):
    np.testing.assert_allclose(rewards[t], rewards[t + 10], atol=1e-6)
    assert (images[t] != images[t + 10]).mean() < 0.01  # Rounding.
  assert (images[0] != images[5]).mean() > 0.02
  sizes = [(x[..., 0] == 255).sum() for x in images]
  assert min(sizes) > 0.9 * max(sizes)


@pytest.mark.parametrize('name', WORLDS)
def test_camera_that_moves_with_the_dot_shows_the_way_to_the_target(name):
  env = suites.make('toy', name, seed=1, camera='whole,dot', truth=True)
  rng = np.random.default_rng(0)
  obs, seen = env.reset(), 0
  while not obs['is_last']:
    whole, moving = obs['image'], obs['image_dot']
    np.testing.assert_allclose(
        centre(moving[..., 0] == 255, False), 0.5, atol=0.01)
    square = moving[..., 2] == 180
    # Where the dot and the image's edges do not hide a part of the target.
    if square.sum() == 19 ** 2 and not (square[[0, -1]].any() or (
        square[:, [0, -1]].any())):
      seen += 1
      wrap = name == 'torus'
      way = centre(whole[..., 2] == 180, wrap) - centre(
          whole[..., 0] == 255, wrap)
      way = (way + .5) % 1 - .5 if wrap else way
      np.testing.assert_allclose(
          centre(square, False) - 0.5, way, atol=2 / 64)  # Two pixels.
    obs = env.step({'action': rng.uniform(-1, 1, 2).astype('f')})
  assert seen > 3


@pytest.mark.parametrize('name', WORLDS)
def test_distractors_change_the_image_and_nothing_else(name, tmp_path):
  clouds.main(['--out', str(tmp_path), '--number', '2', '--frames', '5'])
  off = distractors.OPTIONS
  plain, cloudy, painted = (
      suites.make(
          'toy', name, seed=1, truth=True, camera='whole,dot',
          distractors={**off, **x})
      for x in ({}, {'background': str(tmp_path)}, {'colors': 0.5}))
  rng = np.random.default_rng(0)
  colors = set()
  for _ in range(3):
    seen = [x.reset() for x in (plain, cloudy, painted)]
    while not seen[0]['is_last']:
      for key in set(seen[0]) - {'image', 'image_dot'}:
        assert len({str(x[key]) for x in seen}) == 1, key
      for key in ('image', 'image_dot'):
        usual, behind, other = (x[key] for x in seen)
        things = usual.any(-1)
        np.testing.assert_array_equal(usual[things], behind[things])
        assert (behind[~things].std(0) > 20).all()
        assert (other.any(-1) == things).all()
        colors.update(map(tuple, other[things]))
      action = {'action': rng.uniform(-1, 1, 2).astype('f')}
      last, seen = seen, [x.step(action) for x in (plain, cloudy, painted)]
      assert (last[1]['image'] != seen[1]['image']).mean() > 0.5
  assert len(colors) == 6  # Two in each of three episodes.


def test_same_seed_gives_the_same_clouds(tmp_path):
  clouds.main(['--out', str(tmp_path), '--number', '3', '--frames', '5'])
  off = {**distractors.OPTIONS, 'background': str(tmp_path)}
  one, two = (
      suites.make('toy', 'torus', seed=x, distractors=off) for x in (1, 2))
  assert (one.reset()['image'] != two.reset()['image']).mean() > 0.5
  two.seed(3), one.seed(3)
  for _ in range(2):
    np.testing.assert_array_equal(one.reset()['image'], two.reset()['image'])


def test_clouds_move_slowly_and_return():
  film = clouds.clouds(np.random.default_rng(0), 50, 64).astype(int)
  assert film.shape == (50, 64, 64, 3)
  steps = abs(film - np.roll(film, 1, 0)).mean((1, 2, 3))
  assert 0 < steps.max() < 15  # Also from the last frame to the first.
  assert abs(film[0] - film[12]).mean() > 2 * steps.max()
  inside = abs(film - np.roll(film, 1, 1)).mean((0, 2, 3))
  assert inside.max() < 25  # Neighbours look alike.


def test_faint_clouds_are_the_same_but_darker():
  bright, faint = (
      clouds.clouds(np.random.default_rng(0), 5, 64, x).astype(float)
      for x in (1, 0.3))
  assert 10 < faint.std() < 20
  whole = (0 < bright) & (bright < 255)
  assert whole.mean() > 0.9
  np.testing.assert_allclose(faint[whole], 0.3 * bright[whole], atol=1)


@pytest.mark.parametrize('flag, value, told', [
    ('--size', '0', 'at least 8'),
    ('--strength', '0', 'above 0 and at most 1'),
    ('--strength', 'nan', 'above 0 and at most 1')])
def test_clouds_that_cannot_be_are_an_error(
    flag, value, told, tmp_path, capsys):
  with pytest.raises(SystemExit):
    clouds.main(['--out', str(tmp_path / 'a'), flag, value])
  error = capsys.readouterr().err
  assert f'{flag} is {value}' in error
  assert f'it must be {told}' in error
  assert not (tmp_path / 'a').exists()


def test_module_prints_the_baselines(capsys, monkeypatch):
  few = functools.partial(toy.baselines, episodes=10)
  monkeypatch.setattr(toy, 'baselines', few)
  toy.main()
  lines = capsys.readouterr().out.splitlines()
  assert [x.split(':')[0] for x in lines] == [f'toy_{x}' for x in WORLDS]
  for line in lines:
    assert re.fullmatch(
        r'toy_\w+: random \S+, blind \S+, no_target \S+, oracle \S+', line)


def test_baselines_name_the_tasks_that_have_some():
  with pytest.raises(ValueError, match="'dummy'; known: reach, torus"):
    toy.baselines('dummy')
