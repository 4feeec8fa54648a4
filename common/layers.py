"""Layers: dense, convolutions, normalisation, and tables of them."""

import numpy as np
import tensorflow as tf

from . import distribute
from . import tfutils
from .config import check_known
from .tfutils import Module


class Dense(Module):
  """Applies a linear map, normalisation and activation in the input's dtype.

  `build`, `part` and `finish` compute it in pieces, so that inputs known
  before a loop are projected outside of the loop. layer(concat([a, b], -1))
  equals

      layer.build(a.shape[-1], b.shape[-1])
      layer.finish(layer.part(a, 0) + layer.part(b, 1))
  """

  def __init__(self, units, act='none', norm='none', bias=True, zero=False):
    self._units = units
    self._act = get_act(act)
    self._norm = NormLayer(norm)
    self._bias = bias
    self._zero = zero

  def __call__(self, x):
    """Maps [..., X] to [..., units]."""
    self.build(x.shape[-1])
    # The input stays one matrix until the end, so that TensorFlow computes
    # product, bias and activation in one operation.
    return _flat(lambda x: self.finish(self.part(x, 0)), x)

  def build(self, *sizes):
    """Creates a kernel per part of the input, initialised like one kernel.

    With `zero`, all kernels are zero.
    """
    init = tf.zeros_initializer() if self._zero else _glorot(
        sum(sizes), self._units)
    for i, size in enumerate(sizes):
      self.var(f'kernel{i}', init, [size, self._units])

  def part(self, x, index):
    """Multiplies [..., X] with the kernel of part `index`."""
    return _matmul(x, self.get(f'kernel{index}', _unbuilt))

  def finish(self, x):
    """Adds the bias, normalises and activates [..., units]."""
    if self._bias:
      bias = self.var('bias', tf.zeros_initializer(), [self._units])
      x = _add_bias(x, bias)
    return self._act(self._norm(x))


class Stack(Module):
  """Applies dense layers with ELU between them.

  Args:
    units: Width of each layer; the last is linear.
  """

  def __init__(self, units):
    *hidden, last = units
    self._layers = [Dense(x, act='elu') for x in hidden] + [Dense(last)]

  def __call__(self, x):
    """Maps [..., X] to [..., units[-1]]."""
    for layer in self._layers:
      x = layer(x)
    return x


class Conv2D(Module):
  """Applies convolution without padding, normalisation, then activation."""

  # Up to this many output pixels, multiplying patches by a matrix is faster
  # than the convolution on a CPU: 0.84 of the whole encoder's time at the
  # paper's sizes.
  SMALL = 4

  def __init__(self, depth, kernel, stride, act='none', norm='none'):
    self._depth, self._kernel, self._stride = depth, kernel, stride
    self._act = get_act(act)
    self._norm = NormLayer(norm)

  def __call__(self, x):
    """Maps [N, H, W, X] to [N, H', W', depth]."""
    k, stride = self._kernel, self._stride
    area = k * k
    init = _glorot(area * x.shape[-1], area * self._depth)
    kernel = self.var('kernel', init, [k, k, x.shape[-1], self._depth])
    kernel = tfutils.cast(kernel)
    rows, cols = [(size - k) // stride + 1 for size in x.shape[1:3]]
    if min(rows, cols) <= 0:
      raise ValueError(
          f'images of {x.shape[1]}x{x.shape[2]} pixels are too small for '
          f'encoder.cnn_kernels; change render_size or encoder.cnn_kernels')
    if rows * cols <= self.SMALL:
      x = _patches(x, k, stride, rows, cols)
      x = _matmul(x, tf.reshape(kernel, [-1, self._depth]))
    else:
      x = tf.nn.conv2d(x, kernel, stride, 'VALID')
    bias = self.var('bias', tf.zeros_initializer(), [self._depth])
    return self._act(self._norm(_add_bias(x, bias)))


class Conv2DTranspose(Module):
  """Applies transposed convolution (unpadded), normalisation, activation."""

  def __init__(self, depth, kernel, stride, act='none', norm='none'):
    self._depth, self._kernel, self._stride = depth, kernel, stride
    self._act = get_act(act)
    self._norm = NormLayer(norm)

  def __call__(self, x):
    """Maps [N, H, W, X] to [N, H', W', depth]."""
    N, H, W, X = x.shape
    k, stride, depth = self._kernel, self._stride, self._depth
    init = _glorot(k * k * X, k * k * depth)
    kernel = self.var('kernel', init, [k, k, depth, X])
    kernel = tfutils.cast(kernel)
    if (H, W) == (1, 1):
      # Every output pixel depends on one input pixel: a matrix product, which
      # takes 0.05 of the convolution's time on a CPU.
      x = tf.linalg.matmul(
          tf.reshape(x, [-1, X]), tf.reshape(kernel, [-1, X]),
          transpose_b=True)
      x = tf.reshape(x, [-1, k, k, depth])
    else:
      shape = [N, (H - 1) * stride + k, (W - 1) * stride + k, depth]
      x = tf.nn.conv2d_transpose(x, kernel, shape, stride, 'VALID')
    bias = self.var('bias', tf.zeros_initializer(), [depth])
    return self._act(self._norm(_add_bias(x, bias)))


class BatchNorm(Module):
  """Normalises each feature over the batch in float32, then scales and shifts.

  Statistics are computed over the batch on all replicas. There are no running
  statistics, so this layer suits only modules that are not used outside of
  training.

  Source: Ioffe & Szegedy 2015; Grill et al. 2020 for the constants.
  """

  EPS = 1e-5

  def __call__(self, x, mask=None):
    """Maps [..., X] to float32 [..., X].

    Args:
      x: Features.
      mask: Bool [...]; entries where it is False are normalised too, but do
        not enter the statistics.
    """
    size, x = x.shape[-1], tf.cast(x, tf.float32)
    mask = tf.ones(x.shape[:-1], tf.bool) if mask is None else mask
    counts = tf.reduce_sum(tf.cast(mask, tf.float32))
    add = lambda x: tf.reduce_sum(
        tf.reshape(tf.where(mask[..., None], x, 0.0), [-1, size]), 0)
    total, count = distribute.total([add(x), counts])
    x -= total / tf.maximum(count, 1.0)
    var = distribute.total(add(x ** 2)) / tf.maximum(count, 1.0)
    scale = self.var('scale', tf.ones_initializer(), [size])
    offset = self.var('offset', tf.zeros_initializer(), [size])
    return x * tf.math.rsqrt(var + self.EPS) * scale + offset


class NormLayer(Module):
  """Normalises the last axis in float32, then scales and shifts it.

  Args:
    name: 'layer', or 'none' to return features unchanged.
  """

  EPS = 1e-3
  NORMS = ('layer', 'none')

  def __init__(self, name):
    check_known('norm', name, self.NORMS)
    self._name = name

  def __call__(self, features):
    """Maps [..., X] to [..., X] in the dtype of the features."""
    if self._name == 'none':
      return features
    size, dtype = [features.shape[-1]], features.dtype
    x = tf.cast(features, tf.float32)
    x -= tf.reduce_mean(x, -1, keepdims=True)
    var = tf.reduce_mean(tf.square(x), -1, keepdims=True)
    scale = self.var('scale', tf.ones_initializer(), size)
    offset = self.var('offset', tf.zeros_initializer(), size)
    x = x * tf.math.rsqrt(var + self.EPS) * scale + offset
    return tf.cast(x, dtype)


def elu(x):
  """Exponential linear unit; its bfloat16 gradient is computed in float32."""
  # On a CPU TensorFlow's own gradient takes 3 times as long in bfloat16.
  return _elu_bfloat16(x) if x.dtype == tf.bfloat16 else tf.nn.elu(x)


@tf.custom_gradient
def _elu_bfloat16(x):
  y = tf.nn.elu(x)

  def gradient(upstream):
    grad = tf.raw_ops.EluGrad(
        gradients=tf.cast(upstream, tf.float32),
        outputs=tf.cast(y, tf.float32))
    return tf.cast(grad, x.dtype)

  return y, gradient


ACTS = {
    'elu': elu,
    'gelu': tf.nn.gelu,
    'none': tf.identity,
    'relu': tf.nn.relu,
    'sigmoid': tf.nn.sigmoid,
    'silu': tf.nn.silu,
    'softplus': tf.nn.softplus,
    'tanh': tf.nn.tanh,
}


def get_act(name):
  """Returns the activation function called `name`."""
  check_known('act', name, ACTS)
  return ACTS[name]


def _add_bias(x, bias):
  # The gradient of a plain addition takes 2.4 times as long on large images.
  return tf.nn.bias_add(x, tf.cast(bias, x.dtype))


def _patches(x, size, stride, rows, cols):
  """Cuts [N, H, W, X] into [N, rows, cols, size * size * X]."""
  N, H, W, X = x.shape
  places = lambda count: stride * np.arange(count)[:, None] + np.arange(size)
  index = (
      places(rows)[:, None, :, None] * W + places(cols)[None, :, None, :])
  # tf.image.extract_patches with its gradient takes 1.15 times as long.
  x = tf.gather(tf.reshape(x, [N, H * W, X]), index.reshape(-1), axis=1)
  return tf.reshape(x, [N, rows, cols, size * size * X])


def _matmul(x, kernel):
  """Multiplies [..., X] with [X, U] as one matrix.

  tf.matmul would treat the leading axes as a batch of products, and its
  gradient would hold one matrix for each of them.
  """
  kernel = tf.cast(kernel, x.dtype)
  return _flat(lambda x: tf.linalg.matmul(x, kernel), x)


def _flat(fn, x):
  """Applies a function of matrices to a tensor [..., X]."""
  if len(x.shape) == 2:
    return fn(x)
  y = fn(tf.reshape(x, [-1, x.shape[-1]]))
  return tf.reshape(y, [*x.shape[:-1], y.shape[-1]])


def _glorot(fan_in, fan_out):
  limit = (6 / (fan_in + fan_out)) ** 0.5
  return lambda shape, dtype: tf.random.stateless_uniform(
      shape, tfutils.next_seed(), -limit, limit, dtype)


def _unbuilt():
  raise AssertionError('Dense.part() before Dense.build()')
