"""Image augmentation on [B, T, H, W, C]."""

import tensorflow as tf

from . import tfutils


def random_shift(images, pad, per_frame=False):
  """Shifts images by up to `pad` whole pixels, repeating the border.

  This equals padding each side with its border pixels and cropping the
  original size at a random place.

  Args:
    images: [B, T, H, W, C], any dtype.
    pad: Largest shift in pixels; each axis shifts uniformly in -pad..pad.
    per_frame: Draw a shift for each frame; otherwise one for each sequence,
      so that motion within a sequence is kept.

  Returns:
    Images of the same shape.

  Source: Okada & Taniguchi 2022, section III-F; Kostrikov et al. 2020.
  """
  shape = images.shape
  B, T, H, W, C = shape
  if per_frame:
    images = tf.reshape(images, [B * T, 1, H, W, C])
  flat = tf.reshape(images, [*images.shape[:2], H * W, C])
  shift = tf.random.stateless_uniform(
      [flat.shape[0], 2], tfutils.next_seed(), -pad, pad + 1, tf.int32)
  row = tf.clip_by_value(tf.range(H) + shift[:, :1], 0, H - 1)
  col = tf.clip_by_value(tf.range(W) + shift[:, 1:], 0, W - 1)
  index = row[:, :, None] * W + col[:, None, :]
  index = tf.reshape(index, [-1, H * W])
  return tf.reshape(tf.gather(flat, index, axis=2, batch_dims=1), shape)


def bilinear_shift(images, pad):
  """Shifts images by up to `pad` pixels, by fractions of a pixel too.

  There is one shift for each sequence, uniform in -pad..pad on each axis. The
  border is repeated.

  Args:
    images: [B, T, H, W, C], floats.
    pad: Largest shift in pixels.

  Returns:
    Images of the same shape.

  Source: Deng et al. 2022 (DreamerPro).
  """
  B, _, H, W, _ = images.shape
  shift = tf.random.stateless_uniform(
      [B, 2], tfutils.next_seed(), -float(pad), float(pad))
  rows = tf.range(H, dtype=tf.float32) + shift[:, :1]  # [B, H]
  cols = tf.range(W, dtype=tf.float32) + shift[:, 1:]  # [B, W]
  return _interpolate(_interpolate(images, rows, 2), cols, 3)


def _interpolate(images, place, axis):
  """Interpolates images along an axis at fractional positions [B, size]."""
  size = images.shape[axis]
  place = tf.clip_by_value(place, 0, size - 1)
  low = tf.floor(place)
  rest = tf.reshape(
      place - low, [-1, *[1] * (axis - 1), size, *[1] * (4 - axis)])
  rest, low = tf.cast(rest, images.dtype), tf.cast(low, tf.int32)
  high = tf.minimum(low + 1, size - 1)
  low, high = [
      tf.gather(images, x, axis=axis, batch_dims=1) for x in (low, high)]
  return (1 - rest) * low + rest * high
