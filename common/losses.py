"""Losses without variables, each in float32."""

import tensorflow as tf


def masked_mean(x, mask):
  """Averages over the entries where `mask` holds; 0 where none does.

  Args:
    x: Values of any shape.
    mask: Bool or 0/1 of the same shape.

  Returns:
    Scalar. Masked entries get no gradient, even where they are not finite.
  """
  mask = tf.cast(mask, tf.bool)
  total = tf.reduce_sum(tf.where(mask, x, 0.0))
  count = tf.reduce_sum(tf.cast(mask, x.dtype))
  return total / tf.maximum(count, 1.0)


def info_nce(logits, labels, row_mask=None, col_mask=None):
  """Scores each row's positive among all columns (cross entropy, nats).

  loss[i] = log sum_j exp(logits[i, j]) - logits[i, labels[i]]

  Its minimum is 0, reached when the positive exceeds every negative by far;
  a critic that knows nothing gets ln(number of columns).

  Args:
    logits: Float32 [..., N, M], rows are queries, columns candidates.
    labels: Int [..., N], column of the positive.
    row_mask: Bool [..., N]; other rows get loss 0. Default: all.
    col_mask: Bool [..., M]; other columns are nobody's candidate.

  Returns:
    Loss [..., N], and whether the positive won, float [..., N].

  Source: van den Oord et al. 2018, Eq. 4; Okada & Taniguchi 2022, J^NCE_k.
  """
  assert logits.dtype == tf.float32, logits.dtype
  if row_mask is not None:
    # Before the loss, whose gradient at nan is nan even when multiplied by 0.
    logits = tf.where(row_mask[..., None], logits, 0.0)
  if col_mask is not None:
    logits = tf.where(col_mask[..., None, :], logits, -1e9)
  loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
  hit = tf.cast(tf.argmax(logits, -1, labels.dtype) == labels, tf.float32)
  if row_mask is not None:
    loss, hit = tf.where(row_mask, loss, 0.0), tf.where(row_mask, hit, 0.0)
  return loss, hit
