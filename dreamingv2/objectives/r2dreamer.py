"""Learns representations by redundancy reduction (R2-Dreamer).

Shapes: B batch, T time, E embedding, F feature.
"""

import tensorflow as tf

from ..common import layers
from ..common import losses
from ..common import tfutils
from .base import Objective


class R2Dreamer(Objective):
  """Lets features predict the embedding of their own frame, decorrelated.

  Loss: 'barlow_twins', the distance from the identity of the cross-correlation
  between a linear map of h and z [B*T, E] and the embedding [B*T, E]. As a
  target the embedding gets no gradient; it gets one through the posterior. No
  decoder, no augmentation, no slow copy, no prediction ahead.

  Source: R2-Dreamer (ICLR 2026), by its authors' code. Left out: DreamerV3
  as its base (uniform mix, two-hot heads, its optimiser); ours is DreamerV2.
  """

  def __init__(self, config, latent, shapes):
    self._config = config.r2dreamer
    self._project = Projection()
    self.modules = [self._project]

  def terms(self, wm, data, embed, post, prior):
    """Computes the loss of features and embeddings; see the base class."""
    c = self._config
    target = tf.stop_gradient(tf.cast(embed, tf.float32))
    feat = tf.cast(wm.rssm.get_feat(post), tf.float32)
    guess = self._project(feat, target.shape[-1])
    mask = tf.ones(target.shape[:-1], tf.bool)
    loss = losses.barlow_twins(guess, target, mask, c.redundancy)
    return {'barlow_twins': c.scale * loss}, {}, target


class Projection(tfutils.Module):
  """Linear map without bias; the first call sets its output size."""

  def __call__(self, x, size):
    """Maps [..., X] to [..., size]."""
    return self.get('layer', layers.Dense, size, bias=False)(x)
