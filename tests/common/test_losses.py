import math

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import losses
from tests.helpers import normal


def info_nce_loop(logits, labels, row_mask, col_mask):
  """Computes losses and hits [N] in float64, entry by entry."""
  values, hits = [], []
  for i in range(len(labels)):
    if not row_mask[i]:
      values.append(0.0)
      hits.append(0.0)
      continue
    total, best = 0.0, None
    for j in range(len(col_mask)):
      if col_mask[j]:
        total += math.exp(logits[i][j])
        if best is None or logits[i][j] > logits[i][best]:
          best = j
    values.append(math.log(total) - logits[i][labels[i]])
    hits.append(float(best == labels[i]))
  return np.array(values), np.array(hits)


def make_logits(rows=5, cols=7, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 2, (rows, cols)).astype(np.float32)
  return logits, rng.permutation(cols)[:rows].astype(np.int32)


def test_info_nce_equals_a_loop_with_and_without_masks():
  logits, labels = make_logits()
  rows, cols = np.ones(5, bool), np.ones(7, bool)
  for _ in range(2):
    expected = info_nce_loop(logits, labels, rows, cols)
    actual = losses.info_nce(logits, labels, rows, cols)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    rows[1] = cols[labels[1]] = cols[labels[3]] = rows[3] = False
  plain = losses.info_nce(tf.constant(logits), labels)
  every = losses.info_nce(
      logits, labels, np.ones(5, bool), np.ones(7, bool))
  np.testing.assert_array_equal(plain, every)


def test_info_nce_keeps_groups_apart():
  first, second = make_logits(seed=0), make_logits(seed=1)
  logits, labels = [np.stack(x) for x in zip(first, second, strict=True)]
  rows = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], bool)
  cols = np.ones((2, 7), bool)
  cols[0, labels[0, 2]] = cols[1, labels[1, 0]] = False
  values, hits = losses.info_nce(logits, labels, rows, cols)
  for g in range(2):
    expected = info_nce_loop(logits[g], labels[g], rows[g], cols[g])
    np.testing.assert_allclose(values[g], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(hits[g], expected[1])


def test_info_nce_falls_to_zero_for_a_perfect_prediction():
  labels = np.arange(6, dtype=np.int32)
  values = [
      losses.info_nce(tf.eye(6) * gain, labels)[0].numpy().mean()
      for gain in (0.0, 1.0, 4.0, 40.0)]
  assert values[0] == pytest.approx(math.log(6), abs=1e-6)
  assert values[0] > values[1] > values[2] > values[3]
  assert values[3] < 1e-6
  assert losses.info_nce(tf.eye(6), labels)[1].numpy().min() == 1


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 3e38])
def test_info_nce_ignores_what_the_masks_hide(bad):
  logits, labels = make_logits()
  rows, cols = np.ones(5, bool), np.ones(7, bool)
  rows[2] = cols[labels[2]] = False
  results = []
  for fill in (0.0, bad):
    dirty = logits.copy()
    dirty[2, :] = dirty[:, labels[2]] = fill
    dirty = tf.constant(dirty)
    with tf.GradientTape() as tape:
      tape.watch(dirty)
      value, hit = losses.info_nce(dirty, labels, rows, cols)
      total = tf.reduce_sum(value)
    results.append((value, hit, tape.gradient(total, dirty)))
  for clean, dirty in zip(*results, strict=True):
    np.testing.assert_array_equal(clean, dirty)
  grad = results[1][2].numpy()
  assert not grad[2].any() and not grad[:, labels[2]].any()
  assert np.delete(grad, 2, 0)[:, cols].all()


def test_info_nce_does_not_depend_on_the_order_of_columns_or_rows():
  logits, labels = make_logits()
  value, hit = losses.info_nce(logits, labels)
  rng = np.random.default_rng(1)
  rows, cols = rng.permutation(5), rng.permutation(7)
  moved, moved_hit = losses.info_nce(
      logits[rows][:, cols], np.argsort(cols)[labels[rows]])
  np.testing.assert_allclose(moved, value.numpy()[rows], rtol=1e-5)
  np.testing.assert_array_equal(moved_hit, hit.numpy()[rows])


def test_info_nce_is_unchanged_by_a_constant_per_row():
  logits, labels = make_logits()
  offset = np.array([-100, -1, 0, 1, 100], np.float32)[:, None]
  np.testing.assert_allclose(  # 1e-5 is float32's spacing at 100.
      losses.info_nce(logits + offset, labels)[0],
      losses.info_nce(logits, labels)[0], atol=3e-5)


def test_info_nce_is_finite_in_the_extremes():
  logits = tf.constant([[1e6, -1e6], [1e6, -1e6]])
  with tf.GradientTape() as tape:
    tape.watch(logits)
    value, hit = losses.info_nce(logits, tf.constant([0, 1]))
  np.testing.assert_array_equal(value, [0, 2e6])
  np.testing.assert_array_equal(hit, [1, 0])
  np.testing.assert_array_equal(
      tape.gradient(value, logits), [[0, 0], [1, -1]])


def test_info_nce_refuses_half_precision():
  with pytest.raises(AssertionError):
    losses.info_nce(tf.zeros([2, 2], tf.float16), tf.constant([0, 1]))


def test_masked_mean_equals_a_loop():
  x = np.arange(6, dtype=np.float32).reshape(2, 3) ** 2
  mask = np.array([[1, 0, 1], [0, 0, 1]])
  picked = [x[i, j] for i in range(2) for j in range(3) if mask[i, j]]
  expected = sum(picked) / len(picked)
  for dtype in (bool, np.float32, np.int32):
    value = losses.masked_mean(tf.constant(x), mask.astype(dtype))
    assert value.numpy() == pytest.approx(expected)


def test_masked_mean_of_nothing_is_zero():
  assert losses.masked_mean(tf.fill([3], np.nan), np.zeros(3, bool)) == 0


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_masked_mean_sends_no_gradient_behind_the_mask(bad):
  x = tf.constant([1.0, bad, 5.0])
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = losses.masked_mean(x, np.array([True, False, True]))
  assert value == 3
  np.testing.assert_array_equal(tape.gradient(value, x), [0.5, 0, 0.5])


def test_weighted_sum_weighs_by_name_and_alias():
  terms = {'kl': tf.constant(2.0), 'far': tf.constant(3.0)}
  total = lambda scales: losses.weighted_sum(
      terms, scales, {'far': 'kl'}, 'mine')
  assert float(total({'kl': 0.5, 'aux': 1.0})) == 2.5
  with pytest.raises(
      ValueError, match="loss_scales.aux is 2.0.*'mine'.*only kl"):
    total({'kl': 0.5, 'aux': 2.0})


def test_weight_that_sizes_set_for_all_systems_may_weigh_nothing():
  value = losses.weighted_sum(
      {'kl': tf.constant(2.0)}, {'kl': 1.0, 'overshooting': 0.2}, {}, 'mine')
  assert float(value) == 2


def test_square_distances_equal_a_loop():
  lhs, rhs = normal(4, 3), normal(5, 3, seed=1)
  right = [[np.sum((x - y) ** 2) for y in rhs] for x in lhs]
  np.testing.assert_allclose(
      losses.square_distances(tf.constant(lhs), tf.constant(rhs)), right,
      rtol=1e-4, atol=1e-5)


def test_cosine_distance_equals_a_loop():
  lhs, rhs = normal(4, 3), normal(4, 3, seed=1)
  right = [
      2 - 2 * x @ y / np.linalg.norm(x) / np.linalg.norm(y)
      for x, y in zip(lhs, rhs, strict=True)]
  np.testing.assert_allclose(
      losses.cosine_distance(tf.constant(lhs), tf.constant(rhs)), right,
      rtol=1e-5)
  same = losses.cosine_distance(tf.constant(lhs), tf.constant(5 * lhs))
  np.testing.assert_allclose(same, 0, atol=1e-6)


def test_barlow_twins_equals_a_loop_over_unmasked_rows():
  lhs, rhs = normal(9, 4), normal(9, 4, seed=1)
  mask = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], bool)
  corr = np.zeros((4, 4))
  for i in range(4):
    for j in range(4):
      corr[i, j] = np.corrcoef(lhs[mask, i], rhs[mask, j])[0, 1]
  right = sum(
      (1 - corr[i, i]) ** 2 if i == j else 0.3 * corr[i, j] ** 2
      for i in range(4) for j in range(4))
  loss = losses.barlow_twins(
      tf.constant(lhs), tf.constant(rhs), tf.constant(mask), 0.3)
  np.testing.assert_allclose(loss, right, rtol=1e-4)


def test_barlow_twins_is_zero_for_equal_decorrelated_projections():
  x = np.linalg.qr(normal(8, 3) - normal(8, 3).mean(0))[0]
  mask = tf.ones([8], bool)
  x = tf.constant(x.astype(np.float32))
  # Orthonormal columns have a mean of zero here, so they do not correlate.
  assert float(losses.barlow_twins(x, x, mask, 1.0)) < 1e-3
  assert float(losses.barlow_twins(x, x[::-1], mask, 1.0)) > 0.1


def test_barlow_twins_gradient_ignores_masked_rows():
  lhs, rhs = [tf.constant(normal(6, 3, seed=i)) for i in range(2)]
  lhs = tf.concat([lhs, tf.fill([1, 3], np.nan)], 0)
  rhs = tf.concat([rhs, tf.ones([1, 3])], 0)
  mask = tf.constant([True] * 6 + [False])
  with tf.GradientTape() as tape:
    tape.watch(lhs)
    value = losses.barlow_twins(lhs, rhs, mask, 0.1)
  grad = tape.gradient(value, lhs).numpy()
  assert np.isfinite(grad).all()
  assert (grad[-1] == 0).all() and (np.abs(grad[:-1]) > 0).any()


def sinkhorn_loop(scores, eps, iters):
  q = np.exp(scores.astype(np.float64) / eps)
  q /= q.sum()
  N, P = q.shape
  for _ in range(iters):
    for p in range(P):
      q[:, p] /= q[:, p].sum() * P
    for n in range(N):
      q[n] /= q[n].sum() * N
  return q * N


def test_sinkhorn_equals_a_loop_and_has_the_marginals():
  scores = np.tanh(normal(12, 5))
  codes = losses.sinkhorn(tf.constant(scores), 0.1, 3).numpy()
  np.testing.assert_allclose(codes, sinkhorn_loop(scores, 0.1, 3), rtol=1e-3)
  np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-5)
  many = losses.sinkhorn(tf.constant(scores), 0.1, 200).numpy()
  np.testing.assert_allclose(many.sum(1), 1, rtol=1e-4)
  np.testing.assert_allclose(many.sum(0), 12 / 5, rtol=1e-2)


def test_sinkhorn_stays_finite_at_the_published_temperature():
  scores = tf.constant(np.tanh(normal(20, 7)))
  codes = losses.sinkhorn(scores, 0.0125, 3).numpy()
  assert np.isfinite(codes).all()
  np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-4)


@pytest.mark.parametrize('fn, shapes, message', [
    (losses.masked_mean, [(3, 4), (3,)], r'values \(3, 4\), mask \(3,\)'),
    (losses.masked_mean, [(3, 1), (1, 3)], r'mask \(1, 3\)'),
    (losses.info_nce, [(4, 5), (5,)], r'labels \(5,\), logits \(4, 5\)'),
    (losses.info_nce, [(4, 5), (4,), (5,)], r'row_mask \(5,\)'),
    (losses.info_nce, [(4, 5), (4,), (4,), (4,)], r'col_mask \(4,\)'),
    (losses.info_nce, [(2, 4, 5), (2, 4), (2, 4), (5,)], r'col_mask \(5,\)'),
    (losses.square_distances, [(3, 2), (3, 4)], r'rhs \(3, 4\)'),
    (losses.square_distances, [(2, 3, 4), (3, 4)], r'lhs \(2, 3, 4\)'),
    (losses.cosine_distance, [(3, 4), (1, 4)], r'lhs \(3, 4\), rhs \(1, 4\)'),
    (losses.barlow_twins, [(6, 2), (6, 3), (6,), ()], r'rhs \(6, 3\)'),
    (losses.barlow_twins, [(6, 2), (6, 2), (3,), ()], r'mask \(3,\)'),
    (losses.sinkhorn, [(2, 3, 4), (), ()], r'scores \(2, 3, 4\)')])
def test_shapes_that_do_not_fit_are_refused_and_named(fn, shapes, message):
  with pytest.raises(AssertionError, match=message):
    fn(*[np.ones(shape, np.float32) for shape in shapes])


def test_weighted_sum_refuses_what_is_no_scalar():
  with pytest.raises(AssertionError, match=r"'nce': TensorShape\(\[3\]\)"):
    losses.weighted_sum({'nce': tf.ones(3)}, {'nce': 1.0}, {}, 'contrastive')


def test_shape_assertions_add_nothing_to_a_graph():
  fn = tf.function(losses.masked_mean).get_concrete_function(
      tf.TensorSpec([None, 4]), tf.TensorSpec([None, 4], tf.bool))
  assert not [x for x in fn.graph.get_operations() if 'Assert' in x.type]


def test_observation_with_the_name_of_a_loss_is_told():
  """The divergence took its place, and the decoder got no gradient."""
  assert losses.merge({'pose': 1}, {'kl': 2}) == {'pose': 1, 'kl': 2}
  with pytest.raises(ValueError, match="'kl' has the name of a loss; rename"):
    losses.merge({'pose': 1, 'kl': 3}, {'kl': 2})
