import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import latents as latentlib
from dreamingv2.common import tfutils
from dreamingv2.objectives import contrastive

B, T, Z = 3, 6, 4


def score(sample, critic):
  return tf.matmul(sample, critic, transpose_b=True)


def make_inputs(K, seed=0):
  rng = np.random.default_rng(seed)
  latents = rng.normal(size=(K + 1, B, T, Z)).astype(np.float32)
  keys = rng.normal(size=(B, T, Z)).astype(np.float32)
  valid = rng.random((B, T)) < 0.7
  valid[:, T - K:] = False
  valid[0, 0] = True
  return latents, keys, valid


def contrast(latents, keys, valid, negatives, symmetric=False):
  values, hits = contrastive.contrast(
      score, [tf.constant(x) for x in latents], tf.constant(keys),
      tf.constant(valid), negatives, symmetric)
  return np.array(values), np.array(hits)


def candidates(valid, K, negatives, k, t):
  """Yields latents (b, t, k) and frames (b, t) that compete at (k, t)."""
  starts = [(b, s) for b in range(B) for s in range(T - K) if valid[b, s]]
  if negatives == 'window':
    rows = [(b, t, j) for b, s in starts if s == t for j in range(K + 1)]
  elif negatives == 'batch':
    rows = [(b, t, k) for b, s in starts if s == t]
  else:
    rows = [(b, s, k) for b, s in starts]
  cols = [(b, s + j) for b, s, j in rows]
  if negatives == 'all':
    cols = list(itertools.product(range(B), range(T)))
  return rows, cols


def loop(latents, keys, valid, negatives, symmetric):
  """Computes what contrast() must return, one pair at a time."""
  K = len(latents) - 1
  values, hits = np.zeros(K + 1), np.zeros(K + 1)
  for k in range(K + 1):
    terms = []
    for b, t in itertools.product(range(B), range(T - K)):
      if not valid[b, t]:
        continue
      rows, cols = candidates(valid, K, negatives, k, t)
      z, e = latents[k, b, t], keys[b, t + k]
      scores = [float(z @ keys[c]) for c in cols]
      nce = math.log(sum(map(math.exp, scores))) - float(z @ e)
      hit = float(z @ e) >= max(scores) - 1e-6
      if symmetric:
        scores = [float(latents[j, i, s] @ e) for i, s, j in rows]
        other = math.log(sum(map(math.exp, scores))) - float(z @ e)
        nce = (nce + other) / 2
        hit = (hit + (float(z @ e) >= max(scores) - 1e-6)) / 2
      terms.append((nce, hit))
    values[k], hits[k] = np.mean(terms, 0)
  return values, hits


@pytest.mark.parametrize('K, negatives, symmetric', list(itertools.product(
    [0, 2], sorted(contrastive.NEGATIVES), [False, True])))
def test_contrast_equals_a_loop(K, negatives, symmetric):
  inputs = make_inputs(K)
  result = contrast(*inputs, negatives, symmetric)
  right = loop(*inputs, negatives, symmetric)
  np.testing.assert_allclose(result[0], right[0], rtol=1e-5)
  np.testing.assert_allclose(result[1], right[1], rtol=1e-5)


@pytest.mark.parametrize('negatives, count', [
    ('window', B * 3), ('batch', B), ('all', B * T)])
def test_contrast_gives_the_log_of_the_candidates_to_no_critic(
    negatives, count):
  latents, keys, valid = make_inputs(2)
  valid[:, :T - 2] = True
  values, _ = contrast(0 * latents, keys, valid, negatives)
  np.testing.assert_allclose(values, np.log(count), rtol=1e-6)


@pytest.mark.parametrize('negatives', sorted(contrastive.NEGATIVES))
@pytest.mark.parametrize('symmetric', [False, True])
def test_contrast_vanishes_for_a_perfect_predictor(negatives, symmetric):
  K = 2
  keys = np.eye(B * T, dtype=np.float32).reshape(B, T, -1)
  latents = np.stack([50 * np.roll(keys, -k, 1) for k in range(K + 1)])
  valid = np.arange(T)[None] < np.full([B, 1], T - K)
  values, hits = contrast(latents, keys, valid, negatives, symmetric)
  assert (values < 1e-6).all() and (hits == 1).all()
  wrong, hits = contrast(
      np.roll(latents, 1, 1), keys, valid, negatives, symmetric)
  assert (wrong > 10).all() and (hits == 0).all()


@pytest.mark.parametrize('negatives', sorted(contrastive.NEGATIVES))
def test_contrast_ignores_the_order_of_the_batch(negatives):
  latents, keys, valid = make_inputs(2)
  order = [2, 0, 1]
  result = contrast(latents, keys, valid, negatives, True)
  right = contrast(
      latents[:, order], keys[order], valid[order], negatives, True)
  np.testing.assert_allclose(result[0], right[0], rtol=1e-5)
  np.testing.assert_allclose(result[1], right[1], rtol=1e-5)


@pytest.mark.parametrize('negatives', sorted(contrastive.NEGATIVES))
@pytest.mark.parametrize('symmetric', [False, True])
def test_contrast_ignores_masked_latents(negatives, symmetric):
  latents, keys, valid = make_inputs(2)
  others = np.where(valid[None, ..., None], latents, 1e3)
  result = contrast(latents, keys, valid, negatives, symmetric)
  right = contrast(others, keys, valid, negatives, symmetric)
  np.testing.assert_allclose(result[0], right[0], rtol=1e-6)
  np.testing.assert_array_equal(result[1], right[1])


@pytest.mark.parametrize('negatives', ['batch', 'window'])
def test_contrast_ignores_frames_of_masked_windows(negatives):
  latents, keys, valid = make_inputs(2)
  valid[1] = False
  others = keys.copy()
  others[1] = 1e3
  for symmetric in (False, True):
    result = contrast(latents, keys, valid, negatives, symmetric)
    right = contrast(latents, others, valid, negatives, symmetric)
    np.testing.assert_allclose(result[0], right[0], rtol=1e-6)


@pytest.mark.parametrize('negatives', sorted(contrastive.NEGATIVES))
@pytest.mark.parametrize('symmetric', [False, True])
def test_contrast_sends_masked_latents_no_gradient(negatives, symmetric):
  latents, keys, valid = make_inputs(2)
  latents = [tf.constant(x) for x in latents]
  with tf.GradientTape() as tape:
    tape.watch(latents)
    values, _ = contrastive.contrast(
        score, latents, tf.constant(keys), tf.constant(valid), negatives,
        symmetric)
    value = tf.add_n(values)
  for grad in tape.gradient(value, latents):
    norm = np.linalg.norm(grad, axis=-1)
    assert (norm[~valid] == 0).all() and (norm[valid] > 0).any()


@pytest.mark.parametrize('negatives', sorted(contrastive.NEGATIVES))
def test_contrast_without_any_window_is_zero(negatives):
  latents, keys, valid = make_inputs(1)
  values, hits = contrast(latents, keys, valid & False, negatives, True)
  assert (values == 0).all() and (hits == 0).all()


@pytest.mark.parametrize('negatives', sorted(contrastive.NEGATIVES))
def test_contrast_is_finite_for_float16_samples(negatives):
  tfutils.setup('16')
  latent = latentlib.make('categorical', 2, 2)
  rng = np.random.default_rng(0)
  samples = tf.constant(rng.normal(size=(2, B, T, Z)) * 1e4, tf.float16)
  keys = latent.critic(tf.constant(
      rng.normal(size=(B, T, Z)) * 1e4, tf.float16))
  valid = tf.constant(np.arange(T)[None] < np.full([B, 1], T - 1))
  with tf.GradientTape() as tape:
    tape.watch(samples)
    values, _ = contrastive.contrast(
        latent.score, tf.unstack(samples), keys, valid, negatives, True)
    value = tf.add_n(values)
  assert value.dtype == tf.float32 and np.isfinite(float(value))
  assert np.isfinite(tape.gradient(value, samples)).all()
