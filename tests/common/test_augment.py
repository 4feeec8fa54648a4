import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import augment

pytestmark = pytest.mark.usefixtures('seed')


def make_images(shape, dtype='uint8'):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, shape).astype(dtype)


def find_shift(image, shifted, pad):
  """Returns the only (dy, dx) by which [H, W, C] can have been shifted."""
  H, W, _ = image.shape
  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), 'edge')
  shifts = [
      (dy, dx) for dy in range(-pad, pad + 1) for dx in range(-pad, pad + 1)
      if np.array_equal(
          padded[pad + dy: pad + dy + H, pad + dx: pad + dx + W], shifted)]
  assert len(shifts) == 1, shifts
  return shifts[0]


@pytest.mark.parametrize('dtype', ['uint8', 'float32', 'float16'])
def test_random_shift_pads_with_the_edge_and_crops(dtype):
  images = make_images((6, 3, 10, 12, 3), dtype)
  out = augment.random_shift(tf.constant(images), 4)
  assert out.dtype == dtype and out.shape == images.shape
  for b in range(6):
    for t in range(3):
      find_shift(images[b, t], out[b, t].numpy(), 4)


def test_random_shift_is_shared_by_the_frames_of_a_sequence():
  images = make_images((8, 4, 9, 9, 3))
  out = augment.random_shift(tf.constant(images), 4).numpy()
  shifts = [
      {find_shift(images[b, t], out[b, t], 4) for t in range(4)}
      for b in range(8)]
  assert all(len(x) == 1 for x in shifts)
  assert len(set.union(*shifts)) > 4  # Sequences move independently.


def test_random_shift_per_frame_moves_frames_independently():
  images = make_images((2, 16, 9, 9, 3))
  out = augment.random_shift(tf.constant(images), 4, per_frame=True).numpy()
  for b in range(2):
    shifts = {find_shift(images[b, t], out[b, t], 4) for t in range(16)}
    assert len(shifts) > 8


def test_random_shift_draws_anew_at_each_call():
  images = tf.constant(make_images((8, 1, 9, 9, 3)))
  first, second = [
      augment.random_shift(images, 4).numpy() for _ in range(2)]
  same = [np.array_equal(a, b) for a, b in zip(first, second, strict=True)]
  assert sum(same) <= 2  # Each with probability 1/81.


def test_random_shift_is_uniform_over_all_offsets():
  image = make_images((1, 1, 3, 3, 3))
  images = tf.constant(np.repeat(image, 1800, 0))
  out = augment.random_shift(images, 1).numpy()
  shifts = [find_shift(image[0, 0], x[0], 1) for x in out]
  counts = [
      shifts.count((dy, dx)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
  # 200 each on average, with standard deviation 13.
  assert sum(counts) == 1800 and 140 < min(counts) and max(counts) < 260


def test_random_shift_by_zero_changes_nothing():
  images = make_images((2, 2, 5, 5, 1))
  out = augment.random_shift(tf.constant(images), 0)
  np.testing.assert_array_equal(out, images)


def test_bilinear_shift_equals_a_loop(monkeypatch):
  images = make_images((2, 2, 6, 7, 3), 'float32')
  shift = np.array([[1.25, -0.5], [-2.75, 0.0]], np.float32)
  monkeypatch.setattr(
      tf.random, 'stateless_uniform', lambda *args: tf.constant(shift))
  out = augment.bilinear_shift(tf.constant(images), 3.0).numpy()
  H, W = 6, 7

  def read(image, y, x):
    y, x = np.clip(y, 0, H - 1), np.clip(x, 0, W - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, H - 1), min(x0 + 1, W - 1)
    top = image[y0, x0] * (1 - x + x0) + image[y0, x1] * (x - x0)
    low = image[y1, x0] * (1 - x + x0) + image[y1, x1] * (x - x0)
    return top * (1 - y + y0) + low * (y - y0)

  for b, t, y, x in np.ndindex(2, 2, H, W):
    right = read(images[b, t], y + shift[b, 0], x + shift[b, 1])
    np.testing.assert_allclose(out[b, t, y, x], right, rtol=1e-4, atol=1e-3)


def test_bilinear_shift_draws_one_shift_within_pad_for_each_sequence():
  ramp = np.arange(16, dtype=np.float32)
  images = np.broadcast_to(ramp[:, None, None], (64, 3, 16, 16, 1))
  out = augment.bilinear_shift(tf.constant(images.copy()), 3.0).numpy()
  shift = out[:, :, 8, 8, 0] - 8  # The ramp shows the shift.
  np.testing.assert_allclose(shift, np.repeat(shift[:, :1], 3, 1))
  assert np.abs(shift).max() <= 3 and np.abs(shift).max() > 2.5
  assert len(np.unique(shift[:, 0])) == 64


def test_bilinear_shift_by_zero_changes_nothing():
  images = make_images((2, 2, 5, 5, 1), 'float16')
  out = augment.bilinear_shift(tf.constant(images), 0.0)
  assert out.dtype == tf.float16
  np.testing.assert_array_equal(out, images)
