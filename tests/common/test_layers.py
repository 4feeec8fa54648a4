import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import layers
from dreamingv2.common import tfutils
from tests.helpers import normal

pytestmark = pytest.mark.usefixtures('seed')


def randomize(module):
  """Randomizes all variables: their zeros and ones would hide mistakes."""
  for i, var in enumerate(tfutils.trainable(module)):
    var.assign(normal(*var.shape, seed=100 + i))
  return tfutils.named_variables(module)


def elu(x):
  return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def layer_norm(x, scale, offset):
  mean = x.mean(-1, keepdims=True)
  var = ((x - mean) ** 2).mean(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-3) * scale + offset


@pytest.mark.parametrize('shape', [(4, 3), (2, 5, 3), (2, 3, 4, 3)])
def test_dense_multiplies_adds_and_activates(shape):
  x = normal(*shape)
  dense = layers.Dense(6, 'elu')
  dense(tf.constant(x))
  names = randomize(dense)
  assert sorted(names) == ['bias', 'kernel0']
  expected = elu(x @ names['kernel0'].numpy() + names['bias'].numpy())
  out = dense(tf.constant(x))
  assert out.shape == (*shape[:-1], 6)
  np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('masked', [False, True])
def test_batch_norm_equals_numpy(masked):
  x, norm = normal(4, 3, 5), layers.BatchNorm()
  norm(tf.constant(x))
  named = {k: v.numpy() for k, v in randomize(norm).items()}
  mask = np.ones((4, 3), bool)
  if masked:
    mask[0, 1:] = mask[3] = False
    x[3] = 1e3
  rows = x[mask]
  right = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
  right = right * named['scale'] + named['offset']
  result = norm(tf.constant(x), tf.constant(mask) if masked else None)
  np.testing.assert_allclose(result[mask], right, rtol=1e-4, atol=1e-4)


def test_batch_norm_sends_no_gradient_behind_the_mask():
  x, norm = tf.constant(normal(6, 3)), layers.BatchNorm()
  mask = tf.constant([True] * 4 + [False] * 2)
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = tf.reduce_sum(tf.where(mask[:, None], norm(x, mask) ** 3, 0.0))
  grad = tape.gradient(value, x).numpy()
  assert not grad[4:].any() and np.abs(grad[:4]).max() > 1e-3


def test_dense_normalises_before_it_activates():
  x, dense = normal(4, 3), layers.Dense(6, 'elu', 'layer')
  dense(tf.constant(x))
  names = {k: v.numpy() for k, v in randomize(dense).items()}
  linear = x @ names['kernel0'] + names['bias']
  expected = elu(layer_norm(linear, names['norm/scale'], names['norm/offset']))
  np.testing.assert_allclose(
      dense(tf.constant(x)), expected, rtol=1e-4, atol=1e-5)


def test_dense_without_bias_is_a_matrix():
  dense = layers.Dense(6, bias=False)
  np.testing.assert_array_equal(dense(tf.zeros([2, 3])), np.zeros((2, 6)))
  assert list(tfutils.named_variables(dense)) == ['kernel0']


def test_dense_parts_sum_to_the_product_with_the_concatenation():
  a, b = normal(2, 4, 3), normal(2, 4, 5, seed=1)
  dense = layers.Dense(6, 'elu', 'layer')
  dense.build(3, 5)
  dense.finish(dense.part(a, 0) + dense.part(b, 1))
  names = {k: v.numpy() for k, v in randomize(dense).items()}
  kernel = np.concatenate([names['kernel0'], names['kernel1']])
  linear = np.concatenate([a, b], -1) @ kernel + names['bias']
  expected = elu(layer_norm(linear, names['norm/scale'], names['norm/offset']))
  actual = dense.finish(dense.part(a, 0) + dense.part(b, 1))
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_dense_parts_are_initialised_with_the_whole_fan_in():
  dense = layers.Dense(100)
  dense.build(300, 20)
  limit = (6 / (320 + 100)) ** 0.5
  for i, size in enumerate((300, 20)):
    kernel = tfutils.named_variables(dense)[f'kernel{i}'].numpy()
    assert kernel.shape == (size, 100)
    assert 0.97 * limit < np.abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / 3 ** 0.5, rel=0.05)
    assert abs(kernel.mean()) < 0.05 * limit


def test_dense_starts_at_zero_if_asked():
  dense = layers.Dense(4, zero=True)
  np.testing.assert_array_equal(dense(tf.constant(normal(2, 3))), 0)
  assert sorted(tfutils.named_variables(dense)) == ['bias', 'kernel0']


def test_dense_part_needs_build():
  with pytest.raises(AssertionError, match='build'):
    layers.Dense(3).part(tf.zeros([2, 3]), 0)


@pytest.mark.parametrize('norm', ['layer', 'none'])
def test_layers_keep_half_precision_and_float32_variables(half, norm):
  half()
  dense = layers.Dense(4, 'elu', norm)
  conv = layers.Conv2D(3, 2, 1, 'elu', norm)
  transpose = layers.Conv2DTranspose(3, 2, 1, 'elu', norm)
  outs = [
      dense(tf.zeros([2, 3], tf.float16)),
      conv(tf.zeros([2, 3, 3, 3], tf.float16)),
      transpose(tf.zeros([2, 1, 1, 3], tf.float16))]
  assert {x.dtype for x in outs} == {tf.float16}
  variables = tfutils.trainable([dense, conv, transpose])
  assert {v.dtype for v in variables} == {tf.float32}


def test_layer_norm_equals_numpy_and_starts_as_the_identity():
  x, norm = 5 + 3 * normal(4, 7), layers.NormLayer('layer')
  out = norm(tf.constant(x))
  np.testing.assert_allclose(
      out, layer_norm(x, 1, 0), rtol=1e-4, atol=1e-5)
  names = randomize(norm)
  np.testing.assert_allclose(
      norm(tf.constant(x)),
      layer_norm(x, names['scale'].numpy(), names['offset'].numpy()),
      rtol=1e-4, atol=1e-5)


def test_layer_norm_computes_in_float32(half):
  half()
  x = tf.constant(300 + 200 * normal(4, 7), tf.float16)
  out = layers.NormLayer('layer')(x)  # The squares exceed float16.
  assert out.dtype == tf.float16
  np.testing.assert_allclose(
      out, layer_norm(x.numpy().astype('f'), 1, 0), atol=2e-3)


def conv_loop(x, kernel, bias, stride):
  N, H, W, _ = x.shape
  k = kernel.shape[0]
  rows, cols = (H - k) // stride + 1, (W - k) // stride + 1
  out = np.zeros((N, rows, cols, kernel.shape[-1]))
  for i in range(rows):
    for j in range(cols):
      patch = x[:, i * stride: i * stride + k, j * stride: j * stride + k]
      out[:, i, j] = np.einsum('nhwx,hwxd->nd', patch, kernel)
  return out + bias


def transpose_loop(x, kernel, bias, stride):
  N, H, W, _ = x.shape
  k = kernel.shape[0]
  out = np.zeros((
      N, (H - 1) * stride + k, (W - 1) * stride + k, kernel.shape[2]))
  for i in range(H):
    for j in range(W):
      out[:, i * stride: i * stride + k, j * stride: j * stride + k] += (
          np.einsum('nx,hwdx->nhwd', x[:, i, j], kernel))
  return out + bias


# The first two take the path for small maps, the last two the convolution.
@pytest.mark.parametrize('size, kernel, stride', [
    ((6, 6), 4, 2), ((2, 4), 2, 2), ((8, 8), 4, 2), ((6, 14), 4, 2)])
def test_conv_equals_a_loop(size, kernel, stride):
  x, conv = normal(3, *size, 5), layers.Conv2D(7, kernel, stride, 'elu')
  conv(tf.constant(x))
  names = randomize(conv)
  expected = elu(conv_loop(
      x, names['kernel'].numpy(), names['bias'].numpy(), stride))
  np.testing.assert_allclose(
      conv(tf.constant(x)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('size, kernel, stride', [
    ((1, 1), 5, 2), ((2, 3), 5, 2), ((5, 5), 6, 2), ((1, 2), 3, 1)])
def test_transposed_conv_equals_a_loop(size, kernel, stride):
  x = normal(3, *size, 5)
  conv = layers.Conv2DTranspose(4, kernel, stride, 'elu')
  conv(tf.constant(x))
  names = randomize(conv)
  expected = elu(transpose_loop(
      x, names['kernel'].numpy(), names['bias'].numpy(), stride))
  np.testing.assert_allclose(
      conv(tf.constant(x)), expected, rtol=1e-3, atol=1e-3)


def outputs_and_gradients(function, *args):
  with tf.GradientTape() as tape:
    tape.watch(args)
    out = function(*args)
    loss = tf.reduce_sum(tf.sin(out))
  return out, *tape.gradient(loss, args)


@pytest.mark.parametrize('size', [(6, 6), (4, 6), (11, 4)])
def test_conv_of_small_maps_equals_tensorflow_with_its_gradients(size):
  x, conv = tf.constant(normal(3, *size, 5)), layers.Conv2D(7, 4, 2)
  assert np.prod(conv(x).shape[1:3]) <= conv.SMALL
  kernel = randomize(conv)['kernel']
  bias = tfutils.named_variables(conv)['bias']
  ours = outputs_and_gradients(lambda x, _: conv(x), x, kernel)
  theirs = outputs_and_gradients(
      lambda x, k: tf.nn.conv2d(x, k, 2, 'VALID') + bias, x, kernel)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_transposed_conv_of_a_pixel_equals_tensorflow_with_its_gradients():
  x, conv = tf.constant(normal(3, 1, 1, 7)), layers.Conv2DTranspose(4, 5, 2)
  conv(x)
  kernel = randomize(conv)['kernel']
  bias = tfutils.named_variables(conv)['bias']
  ours = outputs_and_gradients(lambda x, _: conv(x), x, kernel)
  theirs = outputs_and_gradients(
      lambda x, k: bias + tf.nn.conv2d_transpose(
          x, k, [3, 5, 5, 4], 2, 'VALID'), x, kernel)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('ctor, fans', [
    (layers.Conv2D, (16 * 20, 16 * 30)),
    (layers.Conv2DTranspose, (16 * 20, 16 * 30))])
def test_convs_are_initialised_by_their_receptive_field(ctor, fans):
  conv = ctor(30, 4, 2)
  conv(tf.zeros([1, 8, 8, 20]))
  kernel = tfutils.named_variables(conv)['kernel'].numpy()
  limit = (6 / sum(fans)) ** 0.5
  assert 0.97 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize('size', [(1, 1), (3, 3), (3, 9), (9, 3)])
def test_conv_of_too_small_an_image_says_so(size):
  with pytest.raises(ValueError, match=f'{size[0]}x{size[1]}.*render_size'):
    layers.Conv2D(3, 4, 2)(tf.zeros([1, *size, 3]))


def test_unknown_activation_or_norm_names_those_there_are():
  with pytest.raises(ValueError, match="act 'elou'; known: elu"):
    layers.get_act('elou')
  with pytest.raises(ValueError, match="norm 'batch'; known: .*layer, none"):
    layers.NormLayer('batch')


@pytest.mark.parametrize('name, function', [
    ('elu', elu),
    ('none', lambda x: x),
    ('relu', lambda x: np.maximum(x, 0)),
    ('sigmoid', lambda x: 1 / (1 + np.exp(-x))),
    ('silu', lambda x: x / (1 + np.exp(-x))),
    ('softplus', lambda x: np.log(1 + np.exp(x))),
    ('tanh', np.tanh)])
def test_acts_are_what_they_are_called(name, function):
  x = normal(20)
  np.testing.assert_allclose(
      layers.get_act(name)(x), function(x), rtol=1e-4, atol=1e-6)


def test_elu_of_bfloat16_equals_tensorflow_with_its_gradient():
  x, upstream = [
      tf.cast(normal(50, seed=i), tf.bfloat16) for i in range(2)]

  def run(function):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = function(x)
    return y, tape.gradient(y, x, upstream)

  for a, b in zip(run(layers.get_act('elu')), run(tf.nn.elu), strict=True):
    assert a.dtype == tf.bfloat16
    # TensorFlow rounds once more on the way, to 8 bits.
    np.testing.assert_allclose(
        tf.cast(a, tf.float32), tf.cast(b, tf.float32), rtol=2 ** -7)
