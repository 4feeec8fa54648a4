"""Learns representations by contrasting predicted latents with frames.

DreamingV2 with categorical latents, Dreaming with Gaussian ones and linear
dynamics. Shapes: B batch, T time, K horizon, W = T - K complete windows, E
embedding, Z = S*C flat latent.
"""

import tensorflow as tf

from ..common import augment
from ..common import layers
from ..common import losses
from ..common import nets
from ..common import tfutils
from ..common.config import known
from . import overshooting
from .base import Objective


class Contrastive(Objective):
  """Multi-step InfoNCE with overshooting KL, auxiliary term, slow encoder.

  Losses: 'nce' = sum_k NCE_k and 'overshooting' = sum_{k>=1} KL_k, for k up
  to the horizon K, and 'aux'. KL_0 is the world model's own 'kl'. The only
  stop-gradient is behind the slow encoder.

  Source: Okada & Taniguchi 2022, Eqs. 3, 4, 6 and Fig. 2.
  """

  scales = {'overshooting': 'kl'}  # One sum over all k in Eq. 3.

  def __init__(self, config, latent, shapes):
    c = self._config = config.contrastive
    for key in ('negatives', 'aux_negatives'):
      known(f'contrastive.{key}', c[key], NEGATIVES)
    known('contrastive.k_reduce', c.k_reduce, REDUCE)
    length = config.dataset.length
    limit = min(length, config.replay.maxlen or length) - 2
    if not 0 <= c.horizon <= limit:
      raise ValueError(
          f'contrastive.horizon {c.horizon} is not in 0..{limit}, what '
          f'dataset.length {length} leaves room for')
    if c.vmf and hasattr(latent, 'classes'):
      raise ValueError(
          'contrastive.vmf True needs Gaussian latents; set rssm.discrete 0')
    self._balance = config.kl.balance
    self._latent = latent
    self._dynamics = overshooting.make(c.dynamics, latent)
    self._critic = layers.Dense(latent.size, bias=False)
    self._slow_encoder = nets.Encoder(shapes, **config.encoder)
    self._slow_critic = layers.Dense(latent.size, bias=False)
    self._follow_encoder = tfutils.SlowCopy(c.momentum)
    self._follow_critic = tfutils.SlowCopy(c.momentum)
    self.modules = [self._critic, self._dynamics]

  def augment(self, data):
    """Adds a second, independently shifted view under 'slow'."""
    images = [k for k, v in data.items() if len(v.shape) == 5]
    views = [{
        k: augment.random_shift(
            data[k], self._config.pad, self._config.shift_per_frame)
        for k in images} for _ in range(2)]
    return {**data, **views[0], 'slow': {**data, **views[1]}}

  def loss(self, wm, data, embed, post, prior):
    """Computes NCE_k, KL_k and the auxiliary term; see the base class."""
    c = self._config
    keys = self._keys(data['slow'])  # [B, T, Z]
    start = post
    if c.sg_start:
      start = {k: tf.stop_gradient(v) for k, v in post.items()}
    latents, priors = overshooting.predict(
        wm.rssm, self._dynamics, start, data['action'], c.horizon)
    latents[0] = post['stoch']
    valid = overshooting.valid(data['is_first'], c.horizon + 1)
    nce, nce_hit = contrast(
        self._score, latents, keys, valid[c.horizon], c.negatives,
        c.symmetric)
    kls = self._overshoot(post, priors, valid)
    guess = self._latent.from_vector(
        self._critic(tf.cast(embed, tf.float32)))
    aux, aux_hit = contrast(
        self._score, [guess], keys, valid[0], c.aux_negatives, c.symmetric)
    terms = {
        'nce': REDUCE[c.k_reduce](nce),
        'overshooting': REDUCE[c.k_reduce](kls) if kls else tf.constant(0.0),
        'aux': aux[0]}
    metrics = {'aux_accuracy': aux_hit[0]}
    for k, (value, hit) in enumerate(zip(nce, nce_hit, strict=True)):
      metrics[f'nce_{k}'], metrics[f'nce_accuracy_{k}'] = value, hit
    for k, value in enumerate(kls, 1):
      metrics[f'overshooting_{k}'] = value
    return terms, metrics

  def update(self, wm):
    """Moves the slow encoder, and the slow critic if there is one."""
    self._follow_encoder(wm.encoder, self._slow_encoder)
    if self._config.slow_critic:
      self._follow_critic(self._critic, self._slow_critic)

  def _keys(self, data):
    """Computes critic vectors [B, T, Z] of frames by the slow encoder."""
    embed = tf.stop_gradient(self._slow_encoder(data))
    embed = tf.cast(embed, tf.float32)  # W e decides small differences.
    if self._config.slow_critic:
      out = tf.stop_gradient(self._slow_critic(embed))
    else:
      out = self._critic(embed)
    return self._latent.critic(out)

  def _score(self, sample, critic):
    """Scores all pairs [..., N, M] of samples and critic vectors."""
    if self._config.vmf:
      sample = tf.math.l2_normalize(tf.cast(sample, tf.float32), -1)
      critic = tf.math.l2_normalize(critic, -1)
      return self._latent.score(sample, critic) / self._config.temperature
    return self._latent.score(sample, critic)

  def _overshoot(self, post, priors, valid):
    """Computes KL_k = KL(q[t+k+1] || p(t+k+1 | start t)) for k = 1..K.

    The prior chases the posterior, which gets no gradient unless
    `kl_balanced`; free nats apply to each k by itself.
    """
    c, kl = self._config, self._latent.kl
    sg = lambda x: {k: tf.stop_gradient(v) for k, v in x.items()}
    out = []
    for k, prior in enumerate(priors, 1):
      q = {key: overshooting.ahead(post[key], k + 1) for key in prior}
      clip = lambda x, k=k: tf.maximum(
          losses.masked_mean(x, valid[k + 1]), c.kl_free)
      value = clip(kl(sg(q), prior))
      if c.kl_balanced:
        value *= self._balance
        value += (1 - self._balance) * clip(kl(q, sg(prior)))
      out.append(value)
    return out


REDUCE = {
    'mean': lambda x: tf.add_n(x) / len(x),
    'sum': tf.add_n,
}


def contrast(score, latents, keys, valid, negatives, symmetric=False):
  """Contrasts every predicted latent with the frames of its negative set.

  Args:
    score: Maps samples [..., N, Z] and critic vectors [..., M, Z] to logits
      [..., N, M].
    latents: List of K+1 [B, T, Z]; entry k predicts frame t+k.
    keys: Critic vectors of the frames, [B, T, Z].
    valid: Windows t..t+K that stay within chunk and episode, [B, T] bool.
    negatives: Entry of NEGATIVES.
    symmetric: Average with the loss of frames choosing among latents.

  Returns:
    Lists over k of mean losses in nats and of mean accuracies. Chance is
    the logarithm of the number of candidates.

  Source: Okada & Taniguchi 2022, section II-C and Fig. 2.
  """
  K = len(latents) - 1
  W = keys.shape[1] - K
  rows = tf.stack([x[:, :W] for x in latents])  # [K+1, B, W, Z]
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
  frame = tf.range(B)[:, None] * T + tf.range(W)  # Of start, [B, W].
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
    perm: Order of the axes (k, b, w) of [K+1, B, W]: first those that number
      the groups, then those that number a group's candidates.
    lead: How many number the groups.
  """
  inverse = [perm.index(i) for i in range(3)]

  def contrast_groups(score, rows, keys, mask, symmetric):
    K1, _, W = mask.shape
    cols = tf.stack([keys[:, k: k + W] for k in range(K1)])
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
  """Averages `values` with those of the square logits' other direction."""
  logits = tf.linalg.matrix_transpose(logits)
  others = losses.info_nce(logits, _diagonal(mask), mask, mask)
  return [(x + y) / 2 for x, y in zip(values, others, strict=True)]


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
