import itertools
import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from dreamingv2.common import dists
from dreamingv2.common import nets
from dreamingv2.common import tfutils
from tests.helpers import normal

pytestmark = pytest.mark.usefixtures('seed')


def randomize(module):
  """Randomizes all variables: their zeros and ones would hide mistakes."""
  for i, var in enumerate(tfutils.trainable(module)):
    var.assign(0.5 * normal(*var.shape, seed=100 + i))
  return {
      k: v.numpy().astype(np.float64)
      for k, v in tfutils.named_variables(module).items()}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize('norm', ['layer', 'none'])
def test_gru_cell_equals_a_loop(norm):
  x, state = normal(4, 3), normal(4, 5, seed=1)
  cell = nets.GRUCell(5, norm)
  cell(tf.constant(x), tf.constant(state))
  names = randomize(cell)
  kernel = np.concatenate([names['layer/kernel0'], names['layer/kernel1']])
  expected = np.zeros((4, 5))
  for n in range(4):
    gates = np.concatenate([x[n], state[n]]) @ kernel + names['layer/bias']
    if norm == 'layer':
      gates = (gates - gates.mean()) / math.sqrt(gates.var() + 1e-3)
      gates = gates * names['layer/norm/scale'] + names['layer/norm/offset']
    for d in range(5):
      reset, update = sigmoid(gates[d]), sigmoid(gates[10 + d] - 1)
      new = math.tanh(reset * gates[5 + d])
      expected[n, d] = update * new + (1 - update) * state[n, d]
  actual = cell(tf.constant(x), tf.constant(state))
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


IMAGES = {'image': (64, 64, 3)}


def count(module):
  return sum(v.shape.num_elements() for v in tfutils.trainable(module))


def test_encoder_has_the_size_of_the_paper():
  encoder = nets.Encoder(IMAGES, cnn_depth=48)
  embed = encoder({'image': tf.zeros([1, 2, 64, 64, 3])})
  assert embed.shape == (1, 2, 1536)
  assert count(encoder) == 1551312


def test_decoder_has_the_size_of_the_paper():
  decoder = nets.Decoder(IMAGES, cnn_depth=48)
  dist = decoder(tf.zeros([1, 2, 20]))['image']
  assert dist.event_shape == (64, 64, 3) and dist.batch_shape == (1, 2)
  sizes = [(20, 1536), (1536, 192, 5), (192, 96, 5), (96, 48, 6), (48, 3, 6)]
  assert count(decoder) == sum(
      a * b * (k[0] ** 2 if k else 1) + b for a, b, *k in sizes)


MIXED = {
    'image': (64, 64, 3), 'depth': (64, 64, 1), 'joints': (4,), 'height': (),
    'log_secret': (9,), 'map': (8, 8)}


def make_observations(B=2, T=3):
  return {
      k: tf.constant(normal(B, T, *s, seed=i))
      for i, (k, s) in enumerate(MIXED.items())}


SMALL = {'cnn_depth': 2, 'mlp_layers': (6, 5), 'act': 'elu'}


@pytest.mark.parametrize('cnn, mlp, size', [
    ('.*', '.*', 2 * 2 * 16 + 5), ('image', '$^', 2 * 2 * 16),
    ('$^', '.*', 5), ('$^', 'height', 5)])
def test_encoder_takes_images_vectors_or_both(cnn, mlp, size):
  encoder = nets.Encoder(MIXED, cnn, mlp, **SMALL)
  embed = encoder(make_observations())
  assert embed.shape == (2, 3, size)
  read = {'.*': ['depth', 'image'], 'image': ['image'], '$^': []}[cnn]
  assert encoder.cnn_keys == read
  read = {'.*': ['height', 'joints'], 'height': ['height'], '$^': []}[mlp]
  assert encoder.mlp_keys == read


@pytest.mark.parametrize('key', list(MIXED))
def test_encoder_reads_exactly_the_matching_keys_entry_by_entry(key):
  encoder, data = nets.Encoder(MIXED, **SMALL), make_observations()
  before = encoder(data).numpy()
  change = np.zeros(data[key].shape, np.float32)
  change[1, 2] = 1.0
  after = encoder({**data, key: data[key] + change}).numpy()
  moved = np.abs(after - before).max(-1) > 1e-6
  expected = np.zeros((2, 3), bool)
  expected[1, 2] = key not in ('log_secret', 'map')
  np.testing.assert_array_equal(moved, expected)


def test_encoder_of_vectors_equals_numpy():
  encoder = nets.Encoder(MIXED, '$^', '.*', **SMALL)
  data = make_observations()
  encoder(data)
  names = randomize(encoder)
  x = np.concatenate([data['height'][..., None], data['joints']], -1)
  for i in range(2):
    x = x @ names[f'dense{i}/kernel0'] + names[f'dense{i}/bias']
    x = np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)
  np.testing.assert_allclose(encoder(data), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('cnn, mlp, keys', [
    ('.*', '.*', {'image', 'depth', 'joints', 'height'}),
    ('image', '$^', {'image'}),
    ('$^', 'joints', {'joints'})])
def test_decoder_gives_distributions_of_images_vectors_or_both(
    cnn, mlp, keys):
  decoder = nets.Decoder(MIXED, cnn, mlp, **SMALL)
  outputs, data = decoder(tf.constant(normal(2, 3, 7))), make_observations()
  assert outputs.keys() == keys
  for key, dist in outputs.items():
    mean = dist.mode().numpy().astype(np.float64)
    assert mean.shape == (2, 3, *MIXED[key])
    error = (data[key].numpy() - mean) ** 2
    terms = -0.5 * (error + math.log(2 * math.pi))
    expected = terms.reshape(2, 3, -1).sum(-1)
    np.testing.assert_allclose(
        dist.log_prob(data[key]), expected, rtol=1e-4)


def test_decoder_gives_each_image_its_own_channels():
  decoder = nets.Decoder(MIXED, **SMALL)
  outputs = decoder(tf.constant(normal(1, 7)))
  names = tfutils.named_variables(decoder)
  names['conv3/bias'].assign([10.0, 20.0, 20.0, 20.0])  # depth, image
  names['conv3/kernel'].assign(tf.zeros_like(names['conv3/kernel']))
  outputs = decoder(tf.constant(normal(1, 7)))
  assert np.unique(outputs['depth'].mode()).tolist() == [10]
  assert np.unique(outputs['image'].mode()).tolist() == [20]


@pytest.mark.parametrize('ctor, part', [
    (nets.Encoder, 'encoder'), (nets.Decoder, 'decoder')])
def test_encoder_and_decoder_name_the_keys_there_are(ctor, part):
  with pytest.raises(ValueError, match=f'{part}.cnn_keys.*joints') as e:
    ctor(MIXED, 'imgae', 'joint')
  assert 'log_secret' not in str(e.value)


def test_encoder_says_which_images_are_too_small():
  encoder = nets.Encoder({'image': (24, 24, 3)}, **SMALL)
  with pytest.raises(ValueError, match='encoder.cnn_kernels'):
    encoder({'image': tf.zeros([1, 24, 24, 3])})


def test_decoder_says_which_images_its_kernels_make():
  decoder = nets.Decoder({'image': (32, 32, 3)}, **SMALL)
  with pytest.raises(ValueError, match=r'\(64, 64\).*\(32, 32\)'):
    decoder(tf.zeros([1, 5]))


def test_mlp_equals_numpy():
  mlp = nets.MLP([], 2, 6, 'elu', dist='mse')
  x = normal(2, 3, 4)
  mlp(x)
  names = randomize(mlp)
  y = x.astype(np.float64)
  for i in range(2):
    y = y @ names[f'dense{i}/kernel0'] + names[f'dense{i}/bias']
    y = np.where(y > 0, y, np.exp(np.minimum(y, 0)) - 1)
  y = (y @ names['out/out/kernel0'] + names['out/out/bias'])[..., 0]
  dist = mlp(x)
  np.testing.assert_allclose(dist.mode(), y, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(  # The density that trains the reward head.
      dist.log_prob(tf.ones([2, 3])),
      -0.5 * (1 - y) ** 2 - 0.5 * math.log(2 * math.pi), rtol=1e-4)
  assert dist.batch_shape == (2, 3) and dist.event_shape == ()


def test_mlp_params_then_dist_equals_the_call():
  mlp = nets.MLP(3, 1, 6, dist='trunc_normal')
  x, event = normal(2, 4), np.tanh(normal(2, 3))
  np.testing.assert_array_equal(
      mlp.dist(mlp.params(x)).log_prob(event), mlp(x).log_prob(event))


def softplus(x):
  return np.log(1 + np.exp(x))


def tanh_normal_logpdf(y, x, s):
  mean, std = 5 * np.tanh(x / 5), softplus(s + 0.7) + 0.2
  return scipy.stats.norm(mean, std).logpdf(
      np.arctanh(y)) - np.log(1 - y ** 2)


def trunc_normal_logpdf(y, x, s):
  mean, std = np.tanh(x), 2 * sigmoid((s + 0.7) / 2) + 0.2
  return scipy.stats.truncnorm(
      (-1 - mean) / std, (1 - mean) / std, mean, std).logpdf(y)


# Maps names to an event, its log density and mode, given parameters.
DISTS = {
    'binary': (
        lambda x: (x > 0).astype('f'),
        lambda y, x: np.log(np.where(y > 0, sigmoid(x), 1 - sigmoid(x))),
        lambda x: x > 0),
    'mse': (
        lambda x: x,
        lambda y, x: scipy.stats.norm(x, 1).logpdf(y),
        lambda x: x),
    'normal': (
        lambda x: x,
        lambda y, x, s: scipy.stats.norm(
            x, softplus(s + 0.7) + 0.2).logpdf(y),
        lambda x, s: x),
    'onehot': (
        lambda x: np.eye(x.shape[-1])[np.arange(len(x)) % x.shape[-1]],
        lambda y, x: y * (x - np.log(np.exp(x).sum(-1, keepdims=True))),
        lambda x: np.eye(x.shape[-1])[x.argmax(-1)]),
    'symlog': (
        lambda x: 30 * x,
        lambda y, x: -(x - np.sign(y) * np.log1p(np.abs(y))) ** 2 / 2,
        lambda x: np.sign(x) * np.expm1(np.abs(x))),
    'tanh_normal': (
        lambda x: np.tanh(x), tanh_normal_logpdf,
        None),  # The densest of samples, see test_dists.py.
    'trunc_normal': (
        lambda x: np.tanh(x), trunc_normal_logpdf,
        lambda x, s: np.tanh(x)),
}


def test_every_dist_is_tested():
  assert DISTS.keys() | {'twohot'} == nets.DistLayer.DISTS.keys()


@pytest.mark.parametrize('name', list(DISTS))
def test_dist_layer_equals_its_formula(name):
  make_event, logpdf, mode = DISTS[name]
  layer = nets.DistLayer((3,), name, min_std=0.2, init_std=0.7)
  x = normal(6, 5)
  layer(x)
  names = randomize(layer)
  out = x @ names['out/kernel0'] + names['out/bias']
  parts = np.split(out, out.shape[-1] // 3, -1)
  event = make_event(normal(6, 3, seed=1)).astype(np.float32)
  dist = layer(x)
  np.testing.assert_allclose(
      dist.log_prob(event),
      logpdf(event.astype(np.float64), *parts).sum(-1), rtol=1e-3, atol=1e-4)
  if mode:
    np.testing.assert_allclose(
        dist.mode(), mode(*parts), rtol=1e-4, atol=1e-5)
  else:  # Denser than a typical sample, in every row.
    assert (dist.log_prob(dist.mode()) > -dist.entropy()).numpy().all()
  assert dist.mode().shape == (6, 3)
  if name != 'symlog':  # It only predicts.
    assert dist.sample().shape == (6, 3) and dist.entropy().shape == (6,)


@pytest.mark.parametrize(
    'name', ['binary', 'mse', 'normal', 'symlog', 'twohot'])
def test_dist_layer_of_a_scalar_has_a_batch_alone(name):
  dist = nets.DistLayer((), name)(normal(2, 3, 5))
  assert dist.mode().shape == (2, 3)
  assert dist.log_prob(tf.zeros([2, 3])).shape == (2, 3)


def test_unimix_of_a_one_hot_layer_equals_a_loop():
  plain, mixed = [
      nets.DistLayer((3,), 'onehot', unimix=x) for x in (0.0, 0.2)]
  logits = tf.constant(normal(4, 3))
  for n, one in itertools.product(range(4), np.eye(3, dtype=np.float32)):
    p = math.exp(plain.dist(logits).log_prob(one)[n])
    np.testing.assert_allclose(
        mixed.dist(logits).log_prob(one)[n], math.log(0.8 * p + 0.2 / 3),
        rtol=1e-4)


@pytest.mark.parametrize('shape', [(), (3,)])
def test_two_hot_head_starts_at_0_and_has_bins_last(shape):
  head = nets.MLP(shape, 1, 8, dist='twohot')
  x = tf.constant(normal(4, 5))
  np.testing.assert_array_equal(head(x).mode(), np.zeros([4, *shape]))
  names = tfutils.named_variables(head)
  assert np.abs(names['dense0/kernel0']).max() > 0.1
  names['out/out/kernel0'].assign(normal(8, 255 * math.prod(shape)))
  right = dists.TwoHotDist(
      tf.reshape(head.params(x), [4, *shape, 255]), len(shape))
  np.testing.assert_array_equal(head(x).mode(), right.mode())
  event = 10 * normal(4, *shape, seed=1)
  np.testing.assert_array_equal(
      head(x).log_prob(event), right.log_prob(event))


@pytest.mark.parametrize('name', ['symlog', 'twohot'])
def test_head_learns_numbers_of_all_sizes(name):
  head = nets.MLP([], 1, 16, dist=name)
  x, y = tf.eye(4), tf.constant([0.02, -0.5, 7.0, -300.0])
  opt = tfutils.Optimizer('head', 3e-2, 1e-5)
  head(x)
  opt.build([head])

  def update():
    with tf.GradientTape() as tape:
      loss = -tf.reduce_mean(head(x).log_prob(y))
    return opt(tape, loss, [head])

  update = tfutils.compile(update)
  for _ in range(500):
    update()
  np.testing.assert_allclose(head(x).mode(), y, rtol=0.1, atol=0.1)


def test_dist_layer_names_the_known_dists():
  with pytest.raises(ValueError, match="dist 'gauss'; known: .*trunc_norm"):
    nets.MLP(3, 1, 4, dist='gauss')


def test_heads_compute_in_half_but_give_float32(half):
  half()
  data = {
      k: tf.cast(v, tf.float16) if len(v.shape) == 5 else v
      for k, v in make_observations().items()}
  embed = nets.Encoder(MIXED, **SMALL)(data)
  assert embed.dtype == tf.float16
  for dist in nets.Decoder(MIXED, **SMALL)(embed).values():
    assert dist.mode().dtype == tf.float32
  assert nets.MLP([], 1, 4)(embed).mode().dtype == tf.float32
