import math

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import latents
from tests.helpers import normal

pytestmark = pytest.mark.usefixtures('seed')


def softmax(x):
  x = np.exp(np.asarray(x, np.float64))
  return x / x.sum(-1, keepdims=True)


def sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


@pytest.mark.parametrize('kind, size, outputs', [
    ('categorical', 15, 15), ('gaussian', 3, 6), ('hybrid', 17, 19)])
def test_make_chooses_the_kind_by_its_name(kind, size, outputs):
  latent = latents.make(kind, 3, 5, 2)
  assert (latent.size, latent.outputs) == (size, outputs)


def test_make_names_the_known_kinds_and_std_acts():
  with pytest.raises(
      ValueError, match="rssm.latent 'gausian'; known: gaussian"):
    latents.make('gausian', 3, 5, 2)
  with pytest.raises(ValueError, match='rssm.std_act.*softpuls.*softplus'):
    latents.make('gaussian', 3, 0, std_act='softpuls')


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


def test_categorical_sample_is_the_class_whose_share_holds_the_noise():
  kind, rng = latents.Categorical(2, 5), np.random.default_rng(0)
  logit = rng.normal(0, 2, (50, 2, 5)).astype(np.float32)
  noise = rng.random((50, 2)).astype(np.float32)
  sample = kind.sample({'logit': tf.constant(logit)}, tf.constant(noise))
  classes = sample.numpy().reshape(50, 2, 5).argmax(-1)
  for n in range(50):
    for s in range(2):
      total, right = 0.0, -1
      while total <= noise[n, s]:
        right += 1
        total += softmax(logit[n, s])[right]
      assert classes[n, s] == right


@pytest.mark.parametrize('noise', [0.0, 1 - 2.0 ** -23])
def test_categorical_samples_at_the_ends_of_the_noise_are_possible(noise):
  kind = latents.Categorical(1000, 4)
  logit = 5 * normal(3, 1000, 4)
  logit[..., 0] = logit[..., 3] = -200  # Probability 0 in float32.
  sample = kind.sample(
      {'logit': tf.constant(logit)}, tf.fill([3, 1000], noise))
  sample = sample.numpy().reshape(-1, 4)
  np.testing.assert_array_equal(sample.sum(-1), np.ones(3000))
  assert not sample[:, [0, 3]].any()


def test_unimix_is_in_all_distributions_of_z():
  """A loop mixes 1% of uniform into softmax(x)."""
  x, S, C = 9 * normal(3, 15), 3, 5
  kind = latents.make('categorical', S, C, unimix=0.01)
  stats, right = kind.stats(tf.constant(x)), np.zeros((3, S, C))
  for n in range(3):
    for s in range(S):
      p = softmax(x[n, C * s: C * (s + 1)])
      right[n, s] = [0.99 * value + 0.01 / C for value in p]
  assert right.min() < 0.0021
  flat = right.reshape(3, 15)
  np.testing.assert_allclose(kind.mean(stats), flat, rtol=1e-4)
  np.testing.assert_allclose(
      kind.critic(tf.constant(x)), np.log(flat * C), rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(
      kind.entropy(stats), -(right * np.log(right)).sum((1, 2)), rtol=1e-4)
  other = {'logit': stats['logit'][::-1]}
  np.testing.assert_allclose(
      kind.kl(stats, other),
      (right * np.log(right / right[::-1])).sum((1, 2)), rtol=1e-3, atol=1e-4)
  # A class that softmax has ruled out is drawn with probability 0.01 / C.
  sure = kind.stats(tf.constant([[200.0, 0, 0, 0, 0] * S]))
  wide = {'logit': tf.tile(sure['logit'], [4000, 1, 1])}
  drawn = kind.sample(wide, kind.noise([4000])).numpy().reshape(-1, S, C)
  np.testing.assert_allclose(
      drawn.mean((0, 1)), [0.992] + 4 * [0.002], atol=0.002)


@pytest.mark.parametrize('name', ['categorical', 'gaussian', 'hybrid'])
def test_unimix_changes_categoricals_alone(name):
  plain, mixed = [
      latents.make(name, 2, 3, 4, unimix=share) for share in (0.0, 0.5)]
  x = tf.constant(normal(5, plain.outputs))
  lhs, rhs = plain.stats(x), mixed.stats(x)
  for key in lhs:
    assert (key == 'logit') != np.array_equal(lhs[key], rhs[key]), key


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
  half()
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


@pytest.mark.parametrize('kind', [
    latents.make('categorical', 2, 3), latents.make('gaussian', 4, 0),
    latents.make('hybrid', 2, 3, 4)])
def test_mean_is_that_of_many_samples(kind):
  stats = kind.stats(tf.constant(normal(1, kind.outputs)))
  many = {k: tf.repeat(v, 20000, 0) for k, v in stats.items()}
  samples = kind.sample(many, kind.noise([20000]))
  mean = kind.mean(stats)
  assert mean.dtype == tf.float32 and mean.shape == (1, kind.size)
  np.testing.assert_allclose(
      tf.reduce_mean(samples, 0), mean[0], atol=0.05)  # 5 standard errors.


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
  half()
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


@pytest.mark.parametrize('name', sorted(latents.LATENTS))
def test_samples_are_half_and_statistics_float32_in_half_precision(
    half, name):
  half()
  kind = latents.make(name, 2, 3, 4)
  stats = kind.stats(tf.zeros([4, kind.outputs], tf.float16))
  assert {v.dtype for v in stats.values()} == {tf.float32}
  for sample in (
      kind.sample(stats, kind.noise([4])), kind.mode(stats),
      kind.from_vector(tf.zeros([4, kind.size], tf.float16))):
    assert sample.dtype == tf.float16 and sample.shape == (4, kind.size)


def test_gaussian_score_with_a_temperature_is_a_cosine():
  kind = latents.make('gaussian', 3, 0)
  z, x = normal(4, 3), normal(5, 3, seed=1)
  right = [[z[i] @ x[j] / np.linalg.norm(z[i]) / np.linalg.norm(x[j]) / 0.2
            for j in range(5)] for i in range(4)]
  score = kind.score(tf.constant(z), tf.constant(x), 0.2)
  np.testing.assert_allclose(score, right, rtol=1e-5)


def test_gaussian_log_prob_equals_a_loop():
  kind = latents.make('gaussian', 3, 0)
  x, mean, std = normal(4, 3), normal(4, 3, seed=1), normal(4, 3, seed=2)
  std = np.abs(std) + 0.1
  right = [sum(
      -((x[n, s] - mean[n, s]) / std[n, s]) ** 2 / 2 - np.log(std[n, s])
      - np.log(2 * np.pi) / 2 for s in range(3)) for n in range(4)]
  result = kind.log_prob(tf.constant(x), {'mean': mean, 'std': std})
  np.testing.assert_allclose(result, right, rtol=1e-5)


@pytest.fixture
def hybrid():
  """Returns two categoricals of three classes and four Gaussians, separate and
  combined, and two sets of statistics."""
  parts = latents.Categorical(2, 3), latents.Gaussian(4, 'sigmoid2', 0.1)
  kind = latents.make('hybrid', 2, 3, 4)
  stats = [kind.stats(tf.constant(normal(5, kind.outputs, seed=i)))
           for i in range(2)]
  return kind, parts, stats


def test_hybrid_statistics_are_those_of_its_parts(hybrid):
  kind, (categorical, gaussian), _ = hybrid
  x = tf.constant(normal(5, 14))
  right = {**categorical.stats(x[:, :6]), **gaussian.stats(x[:, 6:])}
  stats = kind.stats(x)
  assert stats.keys() == right.keys()
  for key in right:
    np.testing.assert_array_equal(stats[key], right[key])
  assert kind.zeros([5]).keys() == right.keys()


def test_hybrid_divergences_and_entropies_add_up(hybrid):
  kind, parts, (lhs, rhs) = hybrid
  right = [part.kl(lhs, rhs) for part in parts]
  np.testing.assert_allclose(kind.kls(lhs, rhs), right, rtol=1e-6)
  np.testing.assert_allclose(kind.kl(lhs, rhs), sum(right), rtol=1e-6)
  np.testing.assert_allclose(
      kind.entropy(lhs), sum(x.entropy(lhs) for x in parts), rtol=1e-6)


def test_hybrid_samples_lay_both_parts_end_to_end(hybrid):
  kind, (categorical, gaussian), (stats, _) = hybrid
  noise = kind.noise([5])
  sample = kind.sample(stats, noise).numpy()
  right = categorical.sample(stats, noise[:, :2])
  np.testing.assert_array_equal(sample[:, :6], right)
  right = stats['mean'] + stats['std'] * noise[:, 2:]
  np.testing.assert_allclose(sample[:, 6:], right, rtol=1e-6)
  mode = kind.mode(stats).numpy()
  np.testing.assert_array_equal(mode[:, 6:], stats['mean'])
  assert (mode[:, :6].reshape(5, 2, 3).sum(-1) == 1).all()


@pytest.mark.parametrize('temperature', [0, 0.1])
def test_hybrid_critic_is_the_product_of_both(hybrid, temperature):
  kind, (categorical, gaussian), (stats, _) = hybrid
  z, x = kind.mode(stats), tf.constant(normal(7, 10))
  right = categorical.score(z[:, :6], categorical.critic(x[:, :6]))
  right += gaussian.score(z[:, 6:], gaussian.critic(x[:, 6:]), temperature)
  scores = kind.score(z, kind.critic(x), temperature)
  assert scores.shape == (5, 7)
  np.testing.assert_allclose(scores, right, rtol=1e-5)


def test_hybrid_gradients_reach_both_parts(hybrid):
  kind, _, _ = hybrid
  x = tf.constant(normal(5, kind.outputs))
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = tf.reduce_sum(
        normal(5, 10) * kind.sample(kind.stats(x), kind.noise([5])))
  assert (np.abs(tape.gradient(value, x)).max(0) > 0).all()
