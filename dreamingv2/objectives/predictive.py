"""Learns representations by temporal predictive coding (TPC).

Shapes: B batch, T time, S stochastic state.
"""

import tensorflow as tf

from ..common import losses
from ..common import tfutils
from .base import Objective


class Predictive(Objective):
  """Lets the code of a frame choose its prior among the batch's priors.

  The code m of a frame is the posterior's mean, which sees the frame alone;
  the posterior has the prior's standard deviation. There is no divergence, no
  decoder, no augmentation, no slow copy and no negative from another time.

  Losses: 'tpc', a noisy code chooses among the B priors of its time;
  'consistency', -log p(m) under its own prior; 'static', a noisy code
  chooses among the B codes of its time. The first step of a chunk or episode
  has no prediction and counts in 'static' only.

  Source: Nguyen et al. 2021 (TPC), as built by the authors of DreamerPro,
  which Okada & Taniguchi 2022 compare with. Left out of the original:
  centring the codes, a growing consistency weight, and updates before acting.
  The block `tpc` has DreamerPro's 150 sequences; the original has 250.
  """

  latents = ('gaussian',)
  posterior = 'embed'

  def __init__(self, config, latent, shapes):
    self._config = config.predictive
    self._latent = latent

  def kl_loss(self, wm, data, post, prior):
    """Returns a loss of 0; the divergence is only a metric."""
    return tf.constant(0.0), wm.rssm.latent.kl(post, prior)

  def terms(self, wm, data, embed, post, prior):
    """Computes the three terms; see the base class."""
    c = self._config
    code = post['mean']  # [B, T, S]
    std = c.noise * tf.ones_like(code)
    noisy = code + std * tf.random.stateless_normal(
        code.shape, tfutils.next_seed())
    predicted = ~data['is_first']
    tpc, hit = self._choose(
        noisy, {k: prior[k] for k in ('mean', 'std')}, predicted)
    static, static_hit = self._choose(
        noisy, {'mean': code, 'std': std}, tf.ones_like(predicted))
    consistency = -losses.masked_mean(
        self._latent.log_prob(code, prior), predicted)
    terms = {
        'tpc': tpc, 'consistency': c.consistency * consistency,
        'static': static}
    metrics = {'tpc_accuracy': hit, 'static_accuracy': static_hit}
    return terms, metrics, code

  def _choose(self, sample, stats, mask):
    """Lets samples choose among the B densities of their time.

    Args:
      sample: [B, T, S].
      stats: 'mean' and 'std' [B, T, S].
      mask: Bool [B, T], the entries to use, as samples and as densities.

    Returns:
      Mean loss in nats (ln B at chance) and accuracy.
    """
    swap = lambda x: tf.transpose(x, [1, 0, 2])  # [T, B, S]
    stats = {k: swap(v)[:, None] for k, v in stats.items()}
    logits = self._latent.log_prob(swap(sample)[:, :, None], stats)
    mask = tf.transpose(mask)  # [T, B]
    labels = tf.broadcast_to(tf.range(mask.shape[1]), mask.shape)
    values = losses.info_nce(logits, labels, mask, mask)
    return [losses.masked_mean(x, mask) for x in values]
