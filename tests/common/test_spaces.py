"""Spaces of users, and codecs of what they observe."""

import gymnasium
import numpy as np
import pytest

from dreamingv2.common import spaces

Box = gymnasium.spaces.Box


class Mine(Box):
  """A subclass, as packages define them."""


def test_subclasses_and_old_gym_are_known_by_their_kind():
  assert spaces.kind(Mine(0, 1, (2,))) == 'Box'
  gym = pytest.importorskip('gym')
  assert spaces.kind(gym.spaces.Discrete(3)) == 'Discrete'


def shown(shape, first=0):
  """Returns an image [H, W, C] of distinct bytes."""
  return (np.arange(np.prod(shape)) % 251 + first).reshape(shape).astype(
      np.uint8)


@pytest.mark.parametrize('shape, order, channels', [
    ((24, 32, 3), (0, 1, 2), 3), ((3, 24, 32), (2, 0, 1), 3),
    ((24, 32, 1), (0, 1, 2), 1), ((5, 24, 24), (2, 0, 1), 5),
    ((24, 24, 40), (0, 1, 2), 40), ((24, 32), (0, 1), 1),
    ((4, 24, 32, 3), (2, 0, 1, 3), 12), ((4, 3, 24, 32), (2, 3, 0, 1), 12),
    ((24, 32, 3, 4), (0, 1, 2, 3), 12)])
def test_images_of_any_layout_become_height_width_channels(
    shape, order, channels):
  """The frames or channels [.., C] stay in their order."""
  image = shown(shape)
  codec = spaces.observation('image', Box(0, 255, shape, np.uint8))
  got = codec(image, True)
  height, width = (x for x in shape if x >= 24) if channels != 40 else (24, 24)
  assert got.shape == codec.space.shape == (height, width, channels)
  for row, column in ((0, 0), (5, 7), (23, 20)):
    axes = [row if x == height and i == [
        j for j, y in enumerate(shape) if y >= 24][0] else
        column if i == [j for j, y in enumerate(shape) if y >= 24][1] else
        slice(None) for i, x in enumerate(shape)]
    np.testing.assert_array_equal(got[row, column], image[tuple(axes)].ravel())


@pytest.mark.parametrize('low, high, dtype, values, expected', [
    (0, 1, np.float32, [0, 0.5, 1], [0, 128, 255]),
    (-1, 1, np.float64, [-1, 0, 1], [0, 128, 255]),
    (0, 1, np.uint8, [0, 1, 1], [0, 255, 255]),
    (0, 255, np.int64, [0, 7, 255], [0, 7, 255]),
    (0, 1, bool, [0, 1, 0], [0, 255, 0])])
def test_images_are_scaled_by_their_bounds(low, high, dtype, values, expected):
  space = Box(low, high, (8, 8, 3), dtype)
  image = np.broadcast_to(np.array(values, dtype), (8, 8, 3))
  got = spaces.observation('image', space)(image, True)
  assert got.dtype == np.uint8 and got[3, 4].tolist() == expected


@pytest.mark.parametrize('space, expected', [
    (Box(0, 255, (12,), np.uint8), False), (Box(0, 1, (3, 4)), False),
    (Box(0, 1, (20, 20)), True), (Box(-np.inf, np.inf, (20, 20)), False),
    (Box(0, 255, (7, 9), np.uint8), True), (Mine(0, 1, (8, 8, 3)), True)])
def test_images_are_told_from_vectors(space, expected):
  assert spaces.is_image(space) == expected


IMAGE = Box(0, 255, (8, 8, 3), np.uint8)
VECTOR = Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize('space, value, words', [
    (IMAGE, np.zeros((8, 8, 3), np.float32),
     r'declared uint8 \[8, 8, 3\] in 0..255, came float32 \[8, 8, 3\]'),
    (IMAGE, np.zeros((3, 8, 8), np.uint8), r'came uint8 \[3, 8, 8\]; correct'),
    (IMAGE, np.full((8, 8, 3), 300), 'came int64.*from 300 to 300'),
    (Box(0, 1, (8, 8, 3)), np.full((8, 8, 3), 7.), 'in 0..1.*from 7 to 7'),
    (VECTOR, None, r'declared float32 \[3\].*came NoneType'),
    (VECTOR, 'abc', 'came str'), (VECTOR, [[1], [1, 2]], 'came list'),
    (VECTOR, np.zeros(4), r'came float64 \[4\]'),
    (VECTOR, [0, np.nan, 0], 'which is not finite'),
    (Box(-np.inf, np.inf, (3,)), [0, 1e39, 0], 'not finite in float32'),
    (VECTOR, [0, -1.1, 0], 'in -1..1, came .* from -1.1 to 0'),
    (gymnasium.spaces.Discrete(3), 3, 'in 0..2, came .* from 3 to 3'),
    (gymnasium.spaces.Discrete(3), 1.5, 'came float64'),
    (gymnasium.spaces.MultiDiscrete([2, 3]), [0, 3], 'in 0..2.*to 3')])
def test_value_that_does_not_fit_is_told_in_one_line(space, value, words):
  with pytest.raises(spaces.BadReturn, match=words) as info:
    spaces.observation('key', space)(value, True)
  text = str(info.value)
  assert text.startswith("Observation 'key'") and '\n' not in text
  assert 'api.check(env)' in text


def test_rounding_and_wider_types_are_no_fault():
  codec = spaces.observation('x', VECTOR)
  assert codec(np.full(3, 1 + 1e-4), True).dtype == np.float32
  assert codec([0, 1, 0], True).tolist() == [0, 1, 0]
  assert codec(np.full(3, 7.)).tolist() == [7] * 3  # Only in later steps.
  nothing = spaces.observation('log_x', Box(0, 1, ()))(np.nan, True)
  assert np.isnan(nothing)
  number = spaces.observation('log_x', gymnasium.spaces.Discrete(5))
  assert number(3, True) == 3 and number.space.shape == ()


@pytest.mark.parametrize('space, count', [
    (gymnasium.spaces.MultiDiscrete([2, 3]), 6),
    (gymnasium.spaces.MultiBinary(3), 8), (Box(-1, 1, (2,), np.int64), 9)])
def test_several_choices_become_one(space, count):
  ours, decode = spaces.action('action', space)
  values = [decode(i) for i in range(count)]
  assert ours == gymnasium.spaces.Discrete(count)
  assert all(x in space for x in values)
  assert len({tuple(x) for x in values}) == count


def test_actions_of_several_axes_keep_their_shape_and_bounds():
  space = Box(-1, 0.1, (2, 2), np.float64)
  ours, decode = spaces.action('action', space)
  assert ours.shape == (4,)
  assert decode(np.float32([-1, 0, 0.1, 0.1])) in space


@pytest.mark.parametrize('result, words', [
    (None, 'step.. returned NoneType, not observation'), ('abcd', 'str'),
    ((0, 1.0), 'tuple, not observation'),
    ((0, None, False, False, {}), 'as reward NoneType, not one number'),
    ((0, np.zeros(2), False, False, {}), 'as reward ndarray'),
    ((0, 1.0, 'no', False, {}), 'as terminated str')])
def test_step_that_returns_something_else_is_told(result, words):
  with pytest.raises(spaces.BadReturn, match=words):
    spaces.step_values(result)
  assert spaces.step_values((0, np.ones(1), np.False_, True, {})) == (
      0, 1.0, False, True, {})


def test_reader_is_thorough_at_the_first_reset_and_in_first_steps():
  read = spaces.Reader({'x': spaces.observation('x', VECTOR)})
  good, bad = {'x': np.zeros(3)}, {'x': np.full(3, 5.)}
  for method, obs, fails in [
      ('reset', bad, True), ('reset', good, False), ('step', bad, True),
      ('reset', bad, False), ('step', good, False), ('step', bad, False),
      ('reset', good, False), ('step', bad, True)]:
    if fails:
      with pytest.raises(spaces.BadReturn):
        read(obs, method)
    else:
      read(obs, method)
  for obs in (None, np.zeros(3), {}, {'y': np.zeros(3)}):
    with pytest.raises(spaces.BadReturn, match='not a dict with x'):
      read(obs, 'step')


def test_choices_that_do_not_begin_at_zero_stay_where_they_are():
  space = gymnasium.spaces.MultiDiscrete([3, 2], start=[1, 5])
  joint, convert = spaces.action('action', space)
  made = [convert(i) for i in range(joint.n)]
  assert joint.n == 6 and all(space.contains(x) for x in made)
  assert len({tuple(x) for x in made}) == 6
  assert [spaces.index(space, x) for x in made] == list(range(6))
  codec = spaces.observation('state', space)
  codec(np.array([3, 6]), True)
  with pytest.raises(spaces.BadReturn):
    codec(np.array([0, 5]), True)


def test_logged_picture_stays_one_and_other_logs_become_numbers():
  image = np.full((8, 8, 3), 40, np.uint8)
  codec = spaces.observation('log_view', Box(0, 255, (8, 8, 3), np.uint8))
  assert codec(image).dtype == np.uint8 and (codec(image) == 40).all()
  values = spaces.observation('log_map', Box(0, 1, (20, 20)))
  assert values(np.full((20, 20), 0.5, np.float32)).max() == 0.5


@pytest.mark.parametrize('most', [
    np.finfo(np.float32).max, np.finfo(np.float64).max, 1e10, np.inf])
def test_largest_numbers_are_no_bounds(most):
  """Half of the range was inf: each action was the largest, or NaN."""
  one_side = Box(np.float64([-1, -most]), np.float64([most, 5]), dtype='f8')
  with pytest.raises(ValueError, match='needs bounds.*--action_bound'):
    spaces.bounds('action', one_side)
  low, high = spaces.bounds('action', one_side, 2.0)
  assert low.tolist() == [-1, 1] and high.tolist() == [3, 5]
  assert not spaces.is_image(Box(0, most, (8, 8, 1), np.float64))
  assert spaces.is_image(Box(0, 1e9, (8, 8, 1), np.float64))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_pixel_that_is_not_finite_is_told_in_every_step(value):
  """Later ones became 0 in silence."""
  codec = spaces.observation('depth', Box(0, 9, (8, 8, 1), np.float32))
  image = np.ones((8, 8, 1), np.float32)
  codec(image)
  image[3, 4] = value
  with pytest.raises(spaces.BadReturn, match="'depth'.*pixel.*not finite"):
    codec(image)


def test_name_that_is_no_text_is_told():
  with pytest.raises(ValueError, match='observation 0 is int, not text'):
    spaces.check_reserved({'image': 1, 0: 2})


def test_two_parts_of_one_name_are_told():
  inner = gymnasium.spaces.Dict({'top': Box(0, 1, (2,))})
  space = gymnasium.spaces.Dict({'pixels': inner, 'pixels/top': Box(0, 1)})
  with pytest.raises(ValueError, match="Two observations.*'pixels/top'"):
    spaces.leaves(space)


@pytest.mark.parametrize('value', [1, 5])
def test_discrete_observation_that_is_no_choice_is_told(value):
  codec = spaces.observation('phase', gymnasium.spaces.Discrete(3, start=2))
  assert codec(np.int64(4)).tolist() == [0, 0, 1]
  with pytest.raises(spaces.BadReturn, match=f"'phase': declared .*{value}; "):
    codec(np.int64(value))
