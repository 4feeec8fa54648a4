import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from dreamingv2.common import dists
from dreamingv2.common import tfutils

pytestmark = pytest.mark.usefixtures('seed')


def softmax(x):
  x = np.exp(np.asarray(x, np.float64))
  return x / x.sum(-1, keepdims=True)


LOGITS = np.array([[0.0, 1.0, -1.0], [3.0, 0.0, 0.5]], np.float32)


def test_onehot_log_prob_and_entropy_equal_a_loop():
  dist, p = dists.OneHotDist(tf.constant(LOGITS)), softmax(LOGITS)
  event = np.eye(3)[[2, 0]]
  np.testing.assert_allclose(
      dist.log_prob(event), [math.log(p[0, 2]), math.log(p[1, 0])], rtol=1e-5)
  entropy = [-sum(x * math.log(x) for x in row) for row in p]
  np.testing.assert_allclose(dist.entropy(), entropy, rtol=1e-5)


def test_onehot_samples_as_often_as_the_probabilities_say():
  dist = dists.OneHotDist(tf.constant(np.tile(LOGITS, (10000, 1, 1))))
  sample = dist.sample().numpy()
  assert set(np.unique(sample)) == {0, 1}
  assert (sample.sum(-1) == 1).all()
  # The standard deviation of a frequency is at most 0.005.
  np.testing.assert_allclose(sample.mean(0), softmax(LOGITS), atol=0.02)


@pytest.mark.parametrize('method', ['mode', 'sample'])
def test_onehot_events_have_the_gradient_of_the_probabilities(method):
  logits, weight = tf.constant(LOGITS), np.array([1.0, 2.0, 4.0], 'f')
  with tf.GradientTape() as tape:
    tape.watch(logits)
    event = getattr(dists.OneHotDist(logits), method)()
    total = tf.reduce_sum(event * weight)
  p = softmax(LOGITS)
  expected = [[
      p[n, c] * (weight[c] - sum(p[n, j] * weight[j] for j in range(3)))
      for c in range(3)] for n in range(2)]
  np.testing.assert_allclose(
      tape.gradient(total, logits), expected, rtol=1e-4, atol=1e-6)


def test_onehot_mode_is_the_likeliest_class():
  mode = dists.OneHotDist(tf.constant(LOGITS)).mode()
  np.testing.assert_array_equal(mode, np.eye(3)[[1, 0]])


def test_mix_uniform_equals_a_loop_and_bounds_the_gradient():
  logits = tf.constant(np.concatenate([LOGITS, [[90.0, 0, -90]]]), tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(logits)
    mixed = dists.mix_uniform(logits, 0.3)
    total = tf.reduce_sum(mixed)
  right = [[
      math.log(0.7 * p + 0.1) for p in softmax(row)]
      for row in logits.numpy().astype(np.float64)]
  np.testing.assert_allclose(mixed, right, rtol=1e-5)
  assert np.isfinite(tape.gradient(total, logits)).all()
  assert dists.mix_uniform(logits, 0.0) is logits


CASES = [(0.0, 0.5), (0.9, 0.3), (-0.5, 2.0)]


def truncnorm(mean, std):
  return scipy.stats.truncnorm(
      (-1 - mean) / std, (1 - mean) / std, mean, std)


def slopes(name, mean, std, step=1e-4):
  """Returns the derivatives of a scipy statistic by mean and std."""
  value = lambda dm, ds: getattr(truncnorm(mean + dm, std + ds), name)()
  return [
      (value(dm, ds) - value(-dm, -ds)) / (2 * step)
      for dm, ds in ((step, 0), (0, step))]


@pytest.mark.parametrize('mean, std', CASES)
def test_trunc_normal_samples_have_support_and_moments_of_scipy(mean, std):
  N = 20000
  dist = dists.TruncNormalDist(tf.fill([N, 1], mean), tf.fill([N, 1], std))
  sample = dist.sample().numpy().astype(np.float64)
  exact = truncnorm(mean, std)
  assert -1 < sample.min() < sample.max() < 1
  # Five standard deviations of the mean of N samples.
  assert sample.mean() == pytest.approx(exact.mean(), abs=5 / N ** 0.5 * std)
  assert sample.std() == pytest.approx(exact.std(), rel=0.03)


@pytest.mark.parametrize('mean, std', CASES)
def test_trunc_normal_densities_equal_scipy(mean, std):
  dist = dists.TruncNormalDist(tf.fill([3, 2], mean), tf.fill([3, 2], std))
  event = np.array([[-0.99, 0.2], [0.0, 0.5], [0.7, 0.99]])
  exact = truncnorm(mean, std)
  expected = [sum(exact.logpdf(x) for x in row) for row in event]
  np.testing.assert_allclose(
      dist.log_prob(event.astype(np.float32)), expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(
      dist.entropy(), np.full(3, 2 * exact.entropy()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    'mean, std', [*CASES, (1.0, 0.1), (-1.0, 2.1), (0.0, 0.1)])
def test_trunc_normal_entropy_has_the_gradient_of_scipy(mean, std):
  params = tf.constant([mean, std])
  with tf.GradientTape() as tape:
    tape.watch(params)
    entropy = dists.TruncNormalDist(params[:1], params[1:]).entropy()
  np.testing.assert_allclose(
      entropy, truncnorm(mean, std).entropy(), atol=1e-4)
  np.testing.assert_allclose(
      tape.gradient(entropy, params), slopes('entropy', mean, std), rtol=1e-3,
      atol=1e-3)


def test_trunc_normal_gradient_of_samples_at_the_edge_is_finite():
  mean, std = tf.constant([[1.0], [-1.0]]), tf.fill([2, 1], 1e-7)
  mean, std = tf.repeat(mean, 50, 0), tf.repeat(std, 50, 0)
  with tf.GradientTape() as tape:
    tape.watch([mean, std])
    dist = dists.TruncNormalDist(mean, std)
    sample = dist.sample()
  edge = np.float32(1 - dist.EDGE)
  np.testing.assert_array_equal(sample, np.sign(mean) * edge)
  for grad in tape.gradient(sample, [mean, std]):
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0


@pytest.mark.parametrize('mean, std', [*CASES, (0.4, 0.5), (-0.99, 0.1)])
def test_trunc_normal_gradient_of_samples_is_exact(mean, std):
  """The gradient of the average of many samples is that of scipy's mean."""
  N = 20000
  params = tf.constant([mean, std])
  with tf.GradientTape() as tape:
    tape.watch(params)
    dist = dists.TruncNormalDist(
        tf.fill([N, 1], params[0]), tf.fill([N, 1], params[1]))
    average = tf.reduce_mean(dist.sample())
  # One sample's gradient has a standard deviation below 1.
  np.testing.assert_allclose(
      tape.gradient(average, params), slopes('mean', mean, std), atol=0.02)


def test_trunc_normal_mode_is_the_densest_point():
  dist = dists.TruncNormalDist(tf.constant([[0.3, -1.0]]), tf.ones([1, 2]))
  np.testing.assert_allclose(dist.mode(), [[0.3, -1.0]])


@pytest.mark.parametrize('mean, std', CASES)
def test_tanh_normal_log_prob_equals_the_change_of_variables(mean, std):
  event = np.array([[-0.95, 0.2], [0.0, 0.5], [0.7, 0.9]])
  expected = []
  for row in event:
    total = 0
    for y in row:
      x = math.atanh(y)
      total += -0.5 * ((x - mean) / std) ** 2 - math.log(
          std * math.sqrt(2 * math.pi))
      total -= math.log(1 - y * y)  # |dy/dx|
    expected.append(total)
  dist = dists.TanhNormal(tf.fill([3, 2], mean), tf.fill([3, 2], std))
  np.testing.assert_allclose(
      dist.log_prob(event.astype(np.float32)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('mean, std', CASES)
def test_tanh_normal_entropy_is_near_the_integral(mean, std):
  x = np.linspace(mean - 8 * std, mean + 8 * std, 20001)
  pdf = scipy.stats.norm(mean, std).pdf(x)
  slope = np.log(1 - np.tanh(x) ** 2)
  width = x[1] - x[0]
  exact = scipy.stats.norm(mean, std).entropy() + (pdf * slope).sum() * width
  N = 2000  # Times 100 samples each.
  dist = dists.TanhNormal(tf.fill([N, 1], mean), tf.fill([N, 1], std))
  entropy = dist.entropy().numpy()
  assert entropy.mean() == pytest.approx(exact, abs=0.03)
  assert entropy.std() < 0.5  # One estimate is good enough for a bonus.


def test_tanh_normal_samples_are_squashed_and_reparameterised():
  mean = tf.fill([5000, 1], 0.5)
  with tf.GradientTape() as tape:
    tape.watch(mean)
    dist = dists.TanhNormal(mean, tf.fill([5000, 1], 0.3))
    sample = dist.sample()
  np.testing.assert_allclose(  # dy/dmean = 1 - y^2
      tape.gradient(sample, mean), 1 - sample.numpy() ** 2, rtol=1e-4)
  x = np.arctanh(sample.numpy().astype(np.float64))
  # The standard deviation of the mean is 0.004.
  assert x.mean() == pytest.approx(0.5, abs=0.02)
  assert x.std() == pytest.approx(0.3, rel=0.05)


def test_tanh_normal_is_finite_where_tanh_saturates():
  mean = tf.constant([[5.0], [-5.0], [0.0]])
  with tf.GradientTape() as tape:
    tape.watch(mean)
    dist = dists.TanhNormal(mean, tf.fill([3, 1], 3.0))
    values = tf.stack([
        dist.log_prob(tf.constant([[1.0], [-1.0], [1.0]])), dist.entropy()])
  assert np.isfinite(values).all()
  assert np.isfinite(tape.gradient(values, mean)).all()


@pytest.mark.parametrize('make', [
    lambda: dists.OneHotDist(tf.zeros([50, 4])),
    lambda: dists.TruncNormalDist(tf.zeros([50, 1]), tf.ones([50, 1])),
    lambda: dists.TanhNormal(tf.zeros([50, 1]), tf.ones([50, 1]))])
def test_samples_follow_the_seed_and_else_the_generator(make):
  dist, seed = make(), tf.constant([1, 2])
  np.testing.assert_array_equal(dist.sample(seed), dist.sample(seed=seed))
  assert not np.array_equal(dist.sample(), dist.sample())
  tfutils.generator().reset_from_seed(7)
  first = dist.sample()
  tfutils.generator().reset_from_seed(7)
  np.testing.assert_array_equal(first, dist.sample())


@pytest.mark.parametrize('mean, std', [(0.3, 0.8), (-0.3, 0.8), (0.3, 0.2)])
def test_tanh_normal_mode_is_the_densest_of_its_samples(mean, std):
  N = 200
  dist = dists.TanhNormal(tf.fill([N, 2], mean), tf.fill([N, 2], std))
  tfutils.generator().reset_from_seed(3)
  mode = dist.mode()
  tfutils.generator().reset_from_seed(3)
  sample = dist._normal.sample(dist.SAMPLES, seed=tfutils.next_seed())
  best = dist._log_prob(sample).numpy().argmax(0)
  right = [np.tanh(sample[best[n], n]) for n in range(N)]
  np.testing.assert_allclose(mode, right, rtol=1e-6)
  # Where the normal is wide, far from tanh(mean) = 0.29, near the bound.
  y = np.linspace(-0.9999, 0.9999, 20001)
  x = np.arctanh(y)
  density = scipy.stats.norm(mean, std).pdf(x) / (1 - y * y)
  densest = y[density.argmax()]
  assert abs(densest) > 0.85 or std < 0.5
  assert np.median(mode) == pytest.approx(densest, abs=0.08)


def test_tanh_normal_mode_passes_its_gradient():
  mean = tf.fill([50, 1], 0.3)
  with tf.GradientTape() as tape:
    tape.watch(mean)
    mode = dists.TanhNormal(mean, tf.fill([50, 1], 0.8)).mode()
  np.testing.assert_allclose(
      tape.gradient(mode, mean), 1 - mode.numpy() ** 2, rtol=1e-3, atol=1e-6)


def test_onehot_log_prob_sends_its_event_no_gradient():
  event = tf.constant(np.eye(3)[[2, 0]], tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(event)
    value = dists.OneHotDist(tf.constant(LOGITS)).log_prob(event)
  assert tape.gradient(value, event) is None


# Numbers of all sizes, on bins, between them and beyond the last one.
NUMBERS = [
    0.0, 0.02, -0.02, 0.17, 1.0, -1.0, 3.3, -48.6, 999.0, -1e5, 4e8, 1e12]


def symlog(x):
  return math.copysign(math.log(abs(x) + 1), x)


def symexp(x):
  return math.copysign(math.exp(abs(x)) - 1, x)


def make_bins():
  return [symexp(20 * (i - 127) / 127) for i in range(255)]


def two_hot(x):
  """Returns the weights of the two bins next to x."""
  bins, weights = make_bins(), np.zeros(255)
  x = min(max(x, bins[0]), bins[-1])
  i = max(i for i in range(254) if bins[i] <= x)
  weights[i + 1] = (x - bins[i]) / (bins[i + 1] - bins[i])
  weights[i] = 1 - weights[i + 1]
  return weights


def test_symlog_and_its_inverse_equal_numpy():
  x = tf.constant(NUMBERS, tf.float32)
  np.testing.assert_allclose(
      dists.symlog(x), [symlog(v) for v in NUMBERS], rtol=1e-6)
  np.testing.assert_allclose(
      dists.symexp(dists.symlog(x)), NUMBERS, rtol=1e-4, atol=1e-7)


def test_symlog_dist_equals_a_loop():
  x = 2 * np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  event = np.array(NUMBERS, np.float32).reshape(4, 3)
  right = [[
      -(a - symlog(b)) ** 2 / 2 for a, b in zip(*rows, strict=True)]
      for rows in zip(x, event, strict=True)]
  dist = dists.SymlogDist(tf.constant(x), 1)
  np.testing.assert_allclose(
      dist.log_prob(event), np.sum(right, -1), rtol=1e-4)
  for result in (dist.mode(), dist.mean()):
    np.testing.assert_allclose(
        result, np.vectorize(symexp)(x), rtol=1e-5, atol=1e-6)
  scalar = dists.SymlogDist(tf.constant(x), 0)
  np.testing.assert_allclose(scalar.log_prob(event), right, rtol=1e-4)
  perfect = dists.SymlogDist(dists.symlog(tf.constant(event)), 1)
  np.testing.assert_allclose(perfect.log_prob(event), np.zeros(4), atol=1e-6)


def test_two_hot_equals_a_loop():
  logits = np.random.default_rng(0).normal(0, 3, (4, 3, 255)).astype('f')
  event = np.array(NUMBERS, np.float32).reshape(4, 3)
  p, bins = softmax(logits), np.array(make_bins())
  logp = [[np.sum(two_hot(float(y)) * np.log(p[n, i]))
           for i, y in enumerate(row)] for n, row in enumerate(event)]
  dist = dists.TwoHotDist(tf.constant(logits), 1)
  np.testing.assert_allclose(
      dist.log_prob(event), np.sum(logp, -1), rtol=1e-4)
  # The largest bins are 5e8: float32 keeps 1e-7 of that.
  for result in (dist.mode(), dist.mean()):
    np.testing.assert_allclose(result, p @ bins, rtol=1e-4, atol=50)
  scalar = dists.TwoHotDist(tf.constant(logits), 0)
  assert scalar.mode().shape == (4, 3)
  np.testing.assert_allclose(scalar.log_prob(event), logp, rtol=1e-4)


@pytest.mark.parametrize('number', NUMBERS)
def test_two_hot_of_a_number_is_fitted_by_that_number(number):
  """The best p is w: its gradient is 0 and its mean is the number."""
  weights = two_hot(np.float32(number))
  logits = tf.constant(np.log(weights + 1e-30), tf.float32)
  event = tf.constant(number, tf.float32)
  with tf.GradientTape() as tape:
    tape.watch([logits, event])
    loss = -dists.TwoHotDist(logits, 0).log_prob(event)
  slope, to_event = tape.gradient(loss, [logits, event])
  np.testing.assert_allclose(slope, np.zeros(255), atol=1e-4)
  assert to_event is None
  even = -dists.TwoHotDist(tf.zeros(255), 0).log_prob(event)
  np.testing.assert_allclose(even, math.log(255), rtol=1e-5)
  assert loss < even
  best = min(max(number, make_bins()[0]), make_bins()[-1])
  np.testing.assert_allclose(
      dists.TwoHotDist(logits, 0).mode(), best, rtol=1e-4, atol=1e-6)


def test_two_hot_of_equal_logits_predicts_0_and_has_a_gradient():
  logits = tf.fill([2, 255], 3.7)
  with tf.GradientTape() as tape:
    tape.watch(logits)
    mode = dists.TwoHotDist(logits, 0).mode()
    loss = -tf.reduce_sum(dists.TwoHotDist(logits, 0).log_prob([2.5, -7.0]))
  np.testing.assert_array_equal(mode, np.zeros(2))
  right = 1 / 255 - np.stack([two_hot(2.5), two_hot(-7.0)])
  np.testing.assert_allclose(tape.gradient(loss, logits), right, atol=1e-5)
