"""Losses without variables, each in float32."""

import math

import tensorflow as tf

from . import distribute

# Entries that the defaults or a size block set for all systems, even those
# without the loss.
SHARED = ('byol', 'overshooting')


def merge(likelihoods, others):
  """Joins {observation: loss} of what is predicted and {name: loss}.

  Raises:
    ValueError: An observation has the name of another loss.
  """
  for key in sorted(likelihoods.keys() & others.keys()):
    raise ValueError(
        f'Observation {key!r} has the name of a loss; rename it in the '
        f'environment, or leave it out of decoder.mlp_keys')
  return {**likelihoods, **others}


def weighted_sum(terms, scales, names, objective):
  """Adds up losses, each weighted by its entry of `loss_scales`.

  Args:
    terms: Maps the name of each loss to its scalar.
    scales: Maps entries of `loss_scales` to weights.
    names: Maps losses to their entries, where these are called differently.
    objective: Name of the objective, for the error message.

  Returns:
    Scalar.

  Raises:
    ValueError: A weight is set for a loss that does not exist.
  """
  shapes = {key: value.shape for key, value in terms.items()}
  assert not any(x.rank for x in shapes.values()), (
      f'losses must be scalars: {shapes}')
  used = {key: names.get(key, key) for key in terms}
  idle = [k for k, v in scales.items() if v != 1.0 and k not in (
      *used.values(), *SHARED)]
  if idle:
    raise ValueError(
        f'loss_scales.{idle[0]} is {scales[idle[0]]}, but objective '
        f"'{objective}' with this config produces only "
        f"{', '.join(sorted(set(used.values())))}")
  return tf.add_n([scales[used[k]] * v for k, v in terms.items()])


def kl_weights(balance, dyn, rep):
  """Returns the weights of the two sides of a divergence.

  dyn KL(sg(post) || prior) + rep KL(post || sg(prior))

  Args:
    balance: Weight of the side that trains the prior; the other one has the
      rest of 1. Counts if `dyn` is 0.
    dyn: Weight of the side that trains the prior.
    rep: Weight of the side that trains the posterior.

  Returns:
    The prior's weight and the posterior's.

  Source: Hafner et al. 2021, Algorithm 2 (balance); Hafner et al. 2023
  (DreamerV3), section "World model learning": beta_dyn and beta_rep.
  """
  return (dyn, rep) if dyn else (balance, 1 - balance)


def masked_mean(x, mask):
  """Averages over the entries where `mask` is true; 0 if there are none.

  Args:
    x: Values of any shape.
    mask: Bool or 0/1, of the same shape.

  Returns:
    Scalar. Masked entries get no gradient, even if they are not finite.
  """
  mask = tf.cast(mask, tf.bool)
  assert _fits(x, mask.shape), f'values {x.shape}, mask {mask.shape}'
  total, count = distribute.total([
      tf.reduce_sum(tf.where(mask, x, 0.0)),
      tf.reduce_sum(tf.cast(mask, x.dtype))])
  return total / tf.maximum(count, 1.0)


def info_nce(logits, labels, row_mask=None, col_mask=None):
  """Classifies each row's positive among all columns (cross entropy, nats).

  loss[i] = log sum_j exp(logits[i, j]) - logits[i, labels[i]]

  Its minimum is 0, reached when the positive's logit exceeds all others by
  far. Equal logits give ln(number of columns).

  Args:
    logits: Float32 [..., N, M]; rows are queries, columns are candidates.
    labels: Int [..., N], column of each row's positive.
    row_mask: Bool [..., N]; rows where it is False get loss 0. Default: all
      True.
    col_mask: Bool [..., M]; columns where it is False are no candidates.

  Returns:
    Loss [..., N], and whether the positive has the largest logit, float [...,
    N].

  Source: van den Oord et al. 2018, Eq. 4; Okada & Taniguchi 2022, J^NCE_k.
  """
  assert logits.dtype == tf.float32, logits.dtype
  *batch, _, M = logits.shape
  for name, x, shape in (
      ('labels', labels, logits.shape[:-1]),
      ('row_mask', row_mask, logits.shape[:-1]),
      ('col_mask', col_mask, [*batch, M])):
    assert x is None or _fits(x, shape), (
        f'{name} {x.shape}, logits {logits.shape}')
  if row_mask is not None:
    # Masked before the loss: a NaN gradient stays NaN when multiplied by 0.
    logits = tf.where(row_mask[..., None], logits, 0.0)
  if col_mask is not None:
    logits = tf.where(col_mask[..., None, :], logits, -1e9)
  loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
  hit = tf.cast(tf.argmax(logits, -1, labels.dtype) == labels, tf.float32)
  if row_mask is not None:
    loss, hit = tf.where(row_mask, loss, 0.0), tf.where(row_mask, hit, 0.0)
  return loss, hit


def square_distances(lhs, rhs):
  """Computes ||lhs[i] - rhs[j]||^2 for all pairs of [N, P] and [M, P]."""
  assert len(lhs.shape) == 2 and _fits(rhs, [None, lhs.shape[1]]), (
      f'lhs {lhs.shape}, rhs {rhs.shape}')
  square = lambda x: tf.reduce_sum(x ** 2, -1)
  inner = tf.matmul(lhs, rhs, transpose_b=True)
  return square(lhs)[:, None] - 2 * inner + square(rhs)[None]


def cosine_distance(lhs, rhs):
  """Computes 2 - 2 cos(lhs, rhs) [...] of vectors [..., P].

  Its minimum is 0, reached by parallel vectors. Orthogonal vectors give 2.

  Source: Grill et al. 2020, Eq. 2.
  """
  assert _fits(lhs, rhs.shape), f'lhs {lhs.shape}, rhs {rhs.shape}'
  lhs, rhs = [tf.math.l2_normalize(x, -1) for x in (lhs, rhs)]
  return 2 - 2 * tf.reduce_sum(lhs * rhs, -1)


def barlow_twins(lhs, rhs, mask, redundancy):
  """Compares the cross-correlation of two projections with the identity.

  C = correlation of columns over the rows where `mask` is true
  loss = sum_i (1 - C[i, i])^2 + redundancy sum_{i != j} C[i, j]^2

  Its minimum is 0, reached by equal projections whose dimensions are
  uncorrelated.

  Args:
    lhs: [..., P].
    rhs: [..., P].
    mask: Bool [...]; rows where it is False are left out.
    redundancy: Weight of the entries off the diagonal.

  Returns:
    Scalar.

  Source: Zbontar et al. 2021, Eqs. 1 and 2.
  """
  assert _fits(lhs, rhs.shape) and _fits(mask, lhs.shape[:-1]), (
      f'lhs {lhs.shape}, rhs {rhs.shape}, mask {mask.shape}')
  mask = tf.cast(tf.reshape(mask, [-1, 1]), tf.float32)
  count = tf.maximum(tf.reduce_sum(mask), 1.0)

  def standardise(x):
    x = tf.where(mask > 0, tf.reshape(x, [-1, x.shape[-1]]), 0.0)
    x = mask * (x - tf.reduce_sum(x, 0) / count)
    return x * tf.math.rsqrt(tf.reduce_sum(x ** 2, 0) / count + 1e-6)

  lhs, rhs = standardise(lhs), standardise(rhs)
  corr = tf.matmul(lhs, rhs, transpose_a=True) / count  # [P, P]
  diag = tf.linalg.diag_part(corr)
  off = tf.reduce_sum(corr ** 2) - tf.reduce_sum(diag ** 2)
  return tf.reduce_sum((1 - diag) ** 2) + redundancy * off


def sinkhorn(scores, eps, iters):
  """Assigns samples softly to prototypes so that all are used equally.

  Alternates between giving every prototype the mass 1/P and every sample the
  mass 1/N; computed with logarithms.

  Args:
    scores: Similarities [N, P].
    eps: Temperature; a smaller one gives harder assignments.
    iters: Number of alternations.

  Returns:
    [N, P]; the P entries of a sample sum to 1.

  Source: Caron et al. 2020 (SwAV); Deng et al. 2022 (DreamerPro).
  """
  assert len(scores.shape) == 2, f'scores {scores.shape}'
  N, P = [float(x) for x in scores.shape]
  logq = scores / eps
  logq -= tf.reduce_logsumexp(logq)
  for _ in range(iters):
    logq -= tf.reduce_logsumexp(logq, 0, keepdims=True) + math.log(P)
    logq -= tf.reduce_logsumexp(logq, 1, keepdims=True) + math.log(N)
  return tf.exp(logq + math.log(N))


def _fits(x, shape):
  """Returns whether a tensor may have a shape, as far as both are known."""
  return tf.TensorShape(x.shape).is_compatible_with(shape)
