"""Learns representations by contrasting predicted latents with frames.

DreamingV2 with categorical latents, Dreaming with Gaussian ones and linear
dynamics. Shapes: B batch, T time, K horizon, W = T - K complete windows, E
embedding, Z = S*C flat latent.
"""

import tensorflow as tf

from ..common import layers
from ..common import losses
from ..common import tfutils
from ..common.config import check_known
from . import multistep
from .base import Objective


class Contrastive(Objective):
  """Multi-step InfoNCE with overshooting KL, auxiliary term, slow encoder.

  Losses: 'nce' = sum_k NCE_k and 'overshooting' = sum_{k>=1} KL_k, for k up
  to the horizon K, and 'aux'. KL_0 is the world model's own 'kl'. Only the
  output of the slow encoder has a stop-gradient.

  Source: Okada & Taniguchi 2022, Eqs. 3, 4, 6 and Fig. 2.
  """

  def __init__(self, config, latent, shapes):
    c = self._config = config.contrastive
    for key in ('negatives', 'aux_negatives'):
      check_known(f'contrastive.{key}', c[key], NEGATIVES)
    if c.vmf and config.rssm.latent == 'categorical':
      raise ValueError(
          'contrastive.vmf True needs Gaussians; set rssm.latent gaussian or '
          'hybrid')
    self._latent = latent
    self._steps = multistep.MultiStep(config, latent)
    self._critic = layers.Dense(latent.size, bias=False)
    self._slow_encoder = multistep.SlowEncoder(config, shapes, c.momentum)
    self._slow_critic = layers.Dense(latent.size, bias=False)
    self._follow_critic = tfutils.SlowCopy(c.momentum)
    self.modules = [self._critic, *self._steps.modules]

  def augment(self, data):
    """Adds a second view under 'second'; see MultiStep.augment."""
    return self._steps.augment(data)

  def terms(self, wm, data, embed, post, prior):
    """Computes NCE_k, KL_k and the auxiliary term; see the base class."""
    c = self._config
    keys = self._keys(data['second'])  # [B, T, Z]
    latents, kls, valid = self._steps.predict(wm, data, post, prior)
    nce, nce_hit = contrast(
        self._score, latents, keys, valid[c.horizon], c.negatives,
        c.symmetric)
    guess = self._latent.from_vector(
        self._critic(tf.cast(embed, tf.float32)))
    aux, aux_hit = contrast(
        self._score, [guess], keys, valid[0], c.aux_negatives, c.symmetric)
    terms, metrics = self._steps.summarise(nce=nce, overshooting=kls)
    metrics.update({
        f'nce_accuracy_{k}': hit for k, hit in enumerate(nce_hit)})
    metrics['aux_accuracy'] = aux_hit[0]
    return {**terms, 'aux': aux[0]}, metrics, keys

  def update(self, wm):
    """Moves the slow encoder, and the slow critic if there is one."""
    self._slow_encoder.update(wm.encoder)
    if self._config.slow_critic:
      self._follow_critic(self._critic, self._slow_critic)

  def _keys(self, data):
    """Computes critic vectors [B, T, Z] of frames by the slow encoder."""
    embed = self._slow_encoder(data)  # float32: W e differs little.
    if self._config.slow_critic:
      out = tf.stop_gradient(self._slow_critic(embed))
    else:
      out = self._critic(embed)
    return self._latent.critic(out)

  def _score(self, sample, critic):
    """Scores all pairs [..., N, M] of samples and critic vectors."""
    c = self._config
    return self._latent.score(
        sample, critic, c.temperature if c.vmf else 0)


def contrast(score, latents, keys, valid, negatives, symmetric=False):
  """Contrasts every predicted latent with the frames of its negative set.

  Args:
    score: Maps samples [..., N, Z] and critic vectors [..., M, Z] to logits
      [..., N, M].
    latents: List of K+1 [B, T, Z]; entry k predicts frame t+k.
    keys: Critic vectors of the frames, [B, T, Z].
    valid: Windows t..t+K that stay within chunk and episode, [B, T] bool.
    negatives: Entry of NEGATIVES.
    symmetric: Average with the loss of frames that choose among latents.

  Returns:
    Lists over k of mean losses in nats and of mean accuracies. Chance is
    the logarithm of the number of candidates.

  Source: Okada & Taniguchi 2022, section II-C and Fig. 2.
  """
  K = len(latents) - 1
  W = keys.shape[1] - K
  rows = tf.stack([_window(x, 0, W) for x in latents])  # [K+1, B, W, Z]
  mask = tf.repeat(valid[None, :, :W], K + 1, 0)  # [K+1, B, W]
  values = NEGATIVES[negatives](score, rows, keys, mask, symmetric)
  return tuple([
      losses.masked_mean(x, m) for x, m in zip(
          tf.unstack(value), tf.unstack(mask), strict=True)]
      for value in values)


def _all(score, rows, keys, mask, symmetric):
  """Lets every latent choose among all B*T frames of the batch."""
  K1, B, W, Z = rows.shape
  T = keys.shape[1]
  logits = score(
      tf.reshape(rows, [K1, B * W, Z]), tf.reshape(keys, [1, B * T, Z]))
  frame = tf.range(B)[:, None] * T + tf.range(W)  # Index of the start, [B, W].
  labels = tf.reshape(frame, [1, -1]) + tf.range(K1)[:, None]  # [K+1, B*W]
  mask = tf.reshape(mask, [K1, B * W])
  values = losses.info_nce(logits, labels, mask)
  if symmetric:
    square = tf.gather(logits, labels, axis=2, batch_dims=1)
    values = _both(values, square, mask)
  return [tf.reshape(x, [K1, B, W]) for x in values]


def _grouped(perm, lead):
  """Returns a function that contrasts within groups.

  Args:
    perm: Order of the axes (k, b, w) of [K+1, B, W]: first the axes that
      index the groups, then those that index the candidates of a group.
    lead: Number of axes that index the groups.
  """
  inverse = [perm.index(i) for i in range(3)]

  def contrast_groups(score, rows, keys, mask, symmetric):
    K1, _, W = mask.shape
    cols = tf.stack([_window(keys, k, W) for k in range(K1)])
    shape = [mask.shape[i] for i in perm]
    flat = shape[:lead] + [-1]
    rows, cols = [
        tf.reshape(tf.transpose(x, [*perm, 3]), [*flat, x.shape[-1]])
        for x in (rows, cols)]
    mask = tf.reshape(tf.transpose(mask, perm), flat)
    logits = score(rows, cols)  # [..., N, N]
    values = losses.info_nce(logits, _diagonal(mask), mask, mask)
    if symmetric:
      values = _both(values, logits, mask)
    return [tf.transpose(tf.reshape(x, shape), inverse) for x in values]

  return contrast_groups


def _both(values, logits, mask):
  """Averages `values` with those of the transposed square logits."""
  logits = tf.linalg.matrix_transpose(logits)
  others = losses.info_nce(logits, _diagonal(mask), mask, mask)
  return [(x + y) / 2 for x, y in zip(values, others, strict=True)]


def _window(x, start, size):
  """Returns x[:, start: start + size] by a split, whose gradient is faster."""
  rest = x.shape[1] - start - size
  return tf.split(x, [start, size, rest], 1)[1]


def _diagonal(mask):
  return tf.broadcast_to(tf.range(mask.shape[-1]), mask.shape)


# Which frames a latent chooses among:
NEGATIVES = {
    # all B*T frames of the batch;
    'all': _all,
    # the B frames at the same time, one per sequence;
    'batch': _grouped((2, 0, 1), 2),
    # the B (K+1) frames of the windows that start at the same time.
    'window': _grouped((2, 1, 0), 1),
}
