"""Learns representations by decorrelating predictions of frames.

The paper's outlook proposes multi-step prediction without negatives. Shapes: B
batch, T time, Z flat latent, P size of a projection.
"""

import tensorflow as tf

from ..common import layers
from ..common import losses
from . import multistep
from . import overshooting
from .base import Objective


class BarlowTwins(Objective):
  """Multi-step prediction that drives cross-correlations to the identity.

  Losses: 'barlow_twins' = sum_k of the loss between the projections of latent
  k and of frame t+k; 'aux', the same loss between the two views of frame t;
  'overshooting' as in DreamingV2. Both sides get gradient. No slow copy is
  needed, since decorrelated dimensions cannot collapse.

  Source: outlook of Okada & Taniguchi 2022, section VI; Zbontar et al. 2021,
  Eq. 1. The combination is ours. Left out: the hidden layers of the projector.
  The loss normalises the projections over the batch, as in the source.
  """

  def __init__(self, config, latent, shapes):
    self._config = config.barlow_twins
    self._steps = multistep.MultiStep(config, latent)
    make = lambda: layers.Dense(self._config.size, bias=False)
    self._project_latent, self._project_frame = make(), make()
    self.modules = [
        self._project_latent, self._project_frame, *self._steps.modules]

  def augment(self, data):
    """Adds a second view under 'second'; see MultiStep.augment."""
    return self._steps.augment(data)

  def terms(self, wm, data, embed, post, prior):
    """Computes the correlations for all k, KL_k, aux; see the base class."""
    first, second = [
        self._project_frame(tf.cast(x, tf.float32))
        for x in (embed, wm.encoder(data['second']))]  # [B, T, P]
    latents, kls, valid = self._steps.predict(wm, data, post, prior)
    values = []
    for k, latent in enumerate(latents):
      guess = self._project_latent(tf.cast(latent, tf.float32))
      values.append(self._compare(
          guess, overshooting.ahead(second, k), valid[k]))
    aux = self._compare(first, second, valid[0])
    terms, metrics = self._steps.summarise(
        barlow_twins=values, overshooting=kls)
    return {**terms, 'aux': aux}, metrics, second

  def _compare(self, lhs, rhs, mask):
    c = self._config
    return c.scale * losses.barlow_twins(lhs, rhs, mask, c.redundancy)
