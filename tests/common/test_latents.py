import math

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import latents
from dreamingv2.common import tfutils
from tests.helpers import normal


@pytest.fixture(autouse=True)
def seed():
  tfutils.generator().reset_from_seed(0)


@pytest.fixture
def half():
  tfutils.setup('16')
  yield
  tfutils.setup('32')


def softmax(x):
  x = np.exp(np.asarray(x, np.float64))
  return x / x.sum(-1, keepdims=True)


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_make_chooses_the_kind_by_the_number_of_classes():
  kind = latents.make(3, 5)
  assert (kind.size, kind.outputs) == (15, 15)
  kind = latents.make(3, 0)
  assert (kind.size, kind.outputs) == (3, 6)


def test_make_names_the_known_std_acts():
  with pytest.raises(ValueError, match='rssm.std_act.*softpuls.*softplus'):
    latents.make(3, False, std_act='softpuls')


def test_categorical_stats_are_the_outputs_by_variable_and_class():
  x = normal(2, 6)
  logit = latents.Categorical(2, 3).stats(tf.constant(x))['logit']
  assert logit.shape == (2, 2, 3)
  for s in range(2):
    for c in range(3):
      np.testing.assert_array_equal(logit[:, s, c], x[:, 3 * s + c])


def test_categorical_kl_and_entropy_equal_a_loop():
  lhs, rhs = normal(4, 2, 3, seed=0), normal(4, 2, 3, seed=1)
  p, q = softmax(lhs), softmax(rhs)
  kl, entropy = np.zeros(4), np.zeros(4)
  for n in range(4):
    for s in range(2):
      for c in range(3):
        kl[n] += p[n, s, c] * math.log(p[n, s, c] / q[n, s, c])
        entropy[n] -= p[n, s, c] * math.log(p[n, s, c])
  kind = latents.Categorical(2, 3)
  np.testing.assert_allclose(
      kind.kl({'logit': lhs}, {'logit': rhs}), kl, rtol=1e-5)
  np.testing.assert_allclose(kind.entropy({'logit': lhs}), entropy, rtol=1e-5)


def test_categorical_kl_is_finite_for_sure_classes():
  kind = latents.Categorical(1, 2)
  lhs = tf.constant([[[200.0, -200.0]]])
  with tf.GradientTape() as tape:
    tape.watch(lhs)
    kl = kind.kl({'logit': lhs}, {'logit': -lhs})
  np.testing.assert_allclose(kl, [400])
  assert np.isfinite(tape.gradient(kl, lhs)).all()
  assert np.isfinite(kind.entropy({'logit': lhs})).all()


@pytest.mark.parametrize('mode', [False, True])
def test_categorical_samples_are_one_hots_with_the_gradient_of_probs(mode):
  kind = latents.Categorical(2, 3)
  logit, weight = tf.constant(normal(5, 2, 3)), normal(5, 6, seed=1)
  with tf.GradientTape() as tape:
    tape.watch(logit)
    stats = {'logit': logit}
    sample = kind.mode(stats) if mode else kind.sample(stats, kind.noise([5]))
    total = tf.reduce_sum(sample * weight)
  onehot = sample.numpy().reshape(5, 2, 3)
  assert set(np.unique(onehot)) == {0, 1}
  np.testing.assert_array_equal(onehot.sum(-1), np.ones((5, 2)))
  if mode:
    np.testing.assert_array_equal(onehot.argmax(-1), logit.numpy().argmax(-1))
  p, w = softmax(logit), weight.reshape(5, 2, 3)
  expected = np.zeros((5, 2, 3))
  for n in range(5):
    for s in range(2):
      for c in range(3):  # d/dlogit_c sum_j w_j p_j
        mean = sum(p[n, s, j] * w[n, s, j] for j in range(3))
        expected[n, s, c] = p[n, s, c] * (w[n, s, c] - mean)
  np.testing.assert_allclose(
      tape.gradient(total, logit), expected, rtol=1e-4, atol=1e-6)


def test_categorical_samples_as_often_as_the_probabilities_say():
  kind, N = latents.Categorical(2, 3), 20000
  logit = np.array([[0.0, 1.0, -1.0], [2.0, 0.0, 0.0]], np.float32)
  stats = {'logit': tf.constant(np.tile(logit, (N, 1, 1)))}
  sample = kind.sample(stats, kind.noise([N])).numpy().reshape(N, 2, 3)
  # The standard deviation of a frequency is at most 0.5 / sqrt(N) = 0.0035.
  np.testing.assert_allclose(sample.mean(0), softmax(logit), atol=0.015)
  both = (sample[:, 0, 1] * sample[:, 1, 0]).mean()
  p = softmax(logit)
  assert both == pytest.approx(p[0, 1] * p[1, 0], abs=0.015)


def test_categorical_zeros_are_uniform():
  kind = latents.Categorical(2, 3)
  entropy = kind.entropy(kind.zeros([4]))
  np.testing.assert_allclose(entropy, np.full(4, 2 * math.log(3)), rtol=1e-6)


def test_categorical_critic_is_zero_where_it_knows_nothing():
  kind = latents.Categorical(4, 8)
  x = np.repeat(normal(3, 4, 1), 8, -1).reshape(3, 32)  # One per variable.
  np.testing.assert_allclose(
      kind.critic(tf.constant(x)), np.zeros((3, 32)), atol=1e-6)


def test_categorical_score_equals_a_loop():
  S, C = 3, 4
  kind = latents.Categorical(S, C)
  x, classes = normal(5, S * C), np.random.default_rng(1).integers(
      0, C, (2, S))
  sample = np.eye(C, dtype=np.float32)[classes].reshape(2, S * C)
  expected = np.zeros((2, 5))
  for n in range(2):
    for m in range(5):
      p = softmax(x[m].reshape(S, C))
      for s in range(S):
        expected[n, m] += math.log(p[s, classes[n, s]]) + math.log(C)
  actual = kind.score(tf.constant(sample), kind.critic(tf.constant(x)))
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_categorical_from_vector_samples_its_softmax():
  kind = latents.Categorical(1, 3)
  x = np.tile(np.array([1.0, 0.0, -1.0], np.float32), (20000, 1))
  sample = kind.from_vector(tf.constant(x)).numpy()
  np.testing.assert_allclose(sample.mean(0), softmax(x[0]), atol=0.015)


def test_categorical_critic_is_centred_so_that_float16_can_tell_frames(half):
  """At -S ln C = -111, float16 has a spacing of 0.06, at 0 almost none."""
  S = C = 32
  kind = latents.Categorical(S, C)
  x = 0.05 * normal(64, S * C)
  sample = kind.from_vector(tf.zeros([64, S * C]))
  assert sample.dtype == tf.float16
  score = kind.score(sample, kind.critic(tf.constant(x)))
  assert score.dtype == tf.float32
  logp = np.log(softmax(x.reshape(64, S, C))).reshape(64, S * C)
  exact = sample.numpy().astype(np.float64) @ logp.T
  assert -112 < exact.mean() < -110
  assert np.abs(exact - exact.astype(np.float16)).max() > 0.03
  centred = exact + S * math.log(C)
  np.testing.assert_allclose(score, centred, atol=1e-4)
  np.testing.assert_allclose(tf.cast(score, tf.float16), centred, atol=2e-3)


@pytest.mark.parametrize('std_act, function', [
    ('sigmoid', sigmoid),
    ('sigmoid2', lambda x: 2 * sigmoid(x / 2)),
    ('softplus', lambda x: np.log(1 + np.exp(x))),
])
def test_gaussian_stats_are_mean_and_positive_std(std_act, function):
  x = normal(2, 6)
  stats = latents.Gaussian(3, std_act, 0.1).stats(tf.constant(x))
  np.testing.assert_array_equal(stats['mean'], x[:, :3])
  np.testing.assert_allclose(
      stats['std'], function(x[:, 3:]) + 0.1, rtol=1e-5)


def make_gaussian():
  return latents.Gaussian(2, 'softplus', 0.1)


def density(grid, mean, std):
  return np.exp(-0.5 * ((grid - mean) / std) ** 2) / (
      std * math.sqrt(2 * math.pi))


def test_gaussian_kl_and_entropy_equal_numerical_integrals():
  rng = np.random.default_rng(0)
  lhs, rhs = [{
      'mean': rng.normal(0, 1, (3, 2)).astype(np.float32),
      'std': rng.uniform(0.5, 1.5, (3, 2)).astype(np.float32)}
      for _ in range(2)]
  grid = np.linspace(-15, 15, 20001)
  width = grid[1] - grid[0]
  kl, entropy = np.zeros(3), np.zeros(3)
  for n in range(3):
    for s in range(2):
      p = density(grid, lhs['mean'][n, s], lhs['std'][n, s]) + 1e-300
      q = density(grid, rhs['mean'][n, s], rhs['std'][n, s]) + 1e-300
      kl[n] += (p * np.log(p / q)).sum() * width
      entropy[n] -= (p * np.log(p)).sum() * width
  kind = make_gaussian()
  np.testing.assert_allclose(kind.kl(lhs, rhs), kl, rtol=1e-4)
  np.testing.assert_allclose(kind.entropy(lhs), entropy, rtol=1e-4)
  assert kind.kl(lhs, lhs).numpy().tolist() == [0, 0, 0]


def test_gaussian_samples_are_reparameterised():
  kind, noise = make_gaussian(), normal(4, 2)
  mean, std = tf.constant(normal(4, 2, seed=1)), tf.fill([4, 2], 0.5)
  with tf.GradientTape() as tape:
    tape.watch([mean, std])
    stats = {'mean': mean, 'std': std}
    sample = kind.sample(stats, noise)
  np.testing.assert_allclose(sample, mean + 0.5 * noise, rtol=1e-6)
  grads = tape.gradient(sample, [mean, std])
  np.testing.assert_array_equal(grads[0], np.ones((4, 2)))
  np.testing.assert_array_equal(grads[1], noise)
  np.testing.assert_array_equal(kind.mode(stats), mean)


def test_gaussian_noise_is_standard_normal_and_drawn_anew():
  kind = make_gaussian()
  noise = kind.noise([20000]).numpy()
  # The mean's standard deviation is 0.007, the standard deviation's 0.005.
  np.testing.assert_allclose(noise.mean(0), [0, 0], atol=0.03)
  np.testing.assert_allclose(noise.std(0), [1, 1], atol=0.02)
  assert not np.array_equal(noise, kind.noise([20000]))


def test_gaussian_zeros_are_standard_normal():
  kind = make_gaussian()
  stats = kind.zeros([3])
  np.testing.assert_array_equal(stats['mean'], np.zeros((3, 2)))
  np.testing.assert_array_equal(stats['std'], np.ones((3, 2)))


def test_gaussian_score_is_the_inner_product(half):
  kind = make_gaussian()
  sample, x = normal(3, 2), normal(4, 2, seed=1)
  expected = np.zeros((3, 4))
  for n in range(3):
    for m in range(4):
      expected[n, m] = sum(sample[n, s] * x[m, s] for s in range(2))
  critic = kind.critic(tf.constant(x))
  score = kind.score(tf.constant(sample), critic)
  assert critic.dtype == score.dtype == tf.float32
  np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('discrete', [0, 3])
def test_samples_are_half_and_statistics_float32_in_half_precision(
    half, discrete):
  kind = latents.make(2, discrete)
  stats = kind.stats(tf.zeros([4, kind.outputs], tf.float16))
  assert {v.dtype for v in stats.values()} == {tf.float32}
  for sample in (
      kind.sample(stats, kind.noise([4])), kind.mode(stats),
      kind.from_vector(tf.zeros([4, kind.size], tf.float16))):
    assert sample.dtype == tf.float16 and sample.shape == (4, kind.size)
