"""Learns representations by predicting slow projections of frames (BYOL).

The paper's outlook: its multi-step prediction without negatives. Shapes: B
batch, T time, Z flat latent, P size of a projection.
"""

import tensorflow as tf

from ..common import layers
from ..common import losses
from ..common import tfutils
from . import multistep
from . import overshooting
from .base import Objective


class BYOL(Objective):
  """Multi-step prediction of slow projections, by cosine.

  Losses: 'byol' = sum_k cosine_k, the distance between a prediction from
  latent k and the slow projection of frame t+k; 'aux', the same from the
  online projection of the other view of frame t, which trains the projection;
  'overshooting' as in DreamingV2. What keeps the solution from collapsing is
  the predictor, the slow target and the reward.

  Source: outlook of Okada & Taniguchi 2022, section VI; Grill et al. 2020 for
  projector, predictor and slow target. How they join is ours.
  """

  def __init__(self, config, latent, shapes):
    c, momentum = config.byol, config.contrastive.momentum
    self._steps = multistep.MultiStep(config, latent)
    self._slow_encoder = multistep.SlowEncoder(config, shapes, momentum)
    self._follow_project = tfutils.SlowCopy(momentum)
    make = lambda: layers.Stack([c.units, c.size])
    self._project, self._slow_project = make(), make()
    self._predict_latent, self._predict_frame = make(), make()
    self.modules = [
        self._project, self._predict_latent, self._predict_frame,
        *self._steps.modules]

  def augment(self, data):
    """Adds a second, independently shifted view under 'second'."""
    return self._steps.augment(data)

  def loss(self, wm, data, embed, post, prior):
    """Computes cosine_k, KL_k and the auxiliary term; see the base class."""
    target = tf.stop_gradient(
        self._slow_project(self._slow_encoder(data['second'])))  # [B, T, P]
    latents, kls, valid = self._steps.predict(wm, data, post, prior)
    values = []
    for k, latent in enumerate(latents):
      guess = self._predict_latent(tf.cast(latent, tf.float32))
      future = overshooting.ahead(target, k)
      values.append(losses.masked_mean(
          losses.cosine_distance(guess, future), valid[k]))
    guess = self._predict_frame(self._project(tf.cast(embed, tf.float32)))
    aux = tf.reduce_mean(losses.cosine_distance(guess, target))
    terms, metrics = self._steps.summarise(byol=values, overshooting=kls)
    metrics['target_spread'] = tf.reduce_mean(tf.math.reduce_std(
        tf.math.l2_normalize(target, -1), [0, 1]))  # 0: collapsed.
    return {**terms, 'aux': aux}, metrics

  def update(self, wm):
    """Moves the slow encoder and the slow projection."""
    self._slow_encoder.update(wm.encoder)
    self._follow_project(self._project, self._slow_project)
