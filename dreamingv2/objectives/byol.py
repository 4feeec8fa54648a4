"""Learns representations by predicting slow projections of frames (BYOL).

The paper's outlook proposes multi-step prediction without negatives. Shapes: B
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
  """Multi-step prediction of slow projections, with a cosine distance.

  Losses: 'byol' = sum_k cosine_k, the distance between a prediction from
  latent k and the slow projection of frame t+k; 'aux', the distance of a
  prediction from the online projection of the other view of frame t, which
  trains the projection; 'overshooting' as in DreamingV2. The predictor, the
  slow target and the normalisation over the batch prevent a collapse. Without
  the normalisation, all targets were equal after 20 updates; with a weight of
  1 instead of 5 beside the KL terms, some posteriors became constant.

  Source: outlook of Okada & Taniguchi 2022, section VI; Grill et al. 2020 for
  projector, predictor and slow target. The combination is ours.
  """

  def __init__(self, config, latent, shapes):
    c, momentum = config.byol, config.contrastive.momentum
    self._steps = multistep.MultiStep(config, latent)
    self._slow_encoder = multistep.SlowEncoder(config, shapes, momentum)
    self._follow_project = tfutils.SlowCopy(momentum)
    make = lambda: Projector(c.units, c.size)
    self._project, self._slow_project = make(), make()
    self._predict_latent, self._predict_frame = make(), make()
    self.modules = [
        self._project, self._predict_latent, self._predict_frame,
        *self._steps.modules]

  def augment(self, data):
    """Adds a second view under 'second'; see MultiStep.augment."""
    return self._steps.augment(data)

  def terms(self, wm, data, embed, post, prior):
    """Computes cosine_k, KL_k and the auxiliary term; see the base class."""
    target = tf.stop_gradient(
        self._slow_project(self._slow_encoder(data['second'])))  # [B, T, P]
    latents, kls, valid = self._steps.predict(wm, data, post, prior)
    values = []
    for k, latent in enumerate(latents):
      guess = self._predict_latent(latent, valid[k])
      future = overshooting.ahead(target, k)
      values.append(losses.masked_mean(
          losses.cosine_distance(guess, future), valid[k]))
    guess = self._predict_frame(self._project(embed))
    aux = losses.masked_mean(
        losses.cosine_distance(guess, target), valid[0])
    terms, metrics = self._steps.summarise(byol=values, overshooting=kls)
    return {**terms, 'aux': aux}, metrics, tf.math.l2_normalize(target, -1)

  def update(self, wm):
    """Moves the slow encoder and the slow projection."""
    self._slow_encoder.update(wm.encoder)
    self._follow_project(self._project, self._slow_project)


class Projector(tfutils.Module):
  """Two dense layers, normalised over the batch and rectified between them.

  Source: Grill et al. 2020, section 3.3 (projector and predictor alike).
  """

  def __init__(self, units, size):
    self._hidden = layers.Dense(units)
    self._norm = layers.BatchNorm()
    self._out = layers.Dense(size, bias=False)

  def __call__(self, x, mask=None):
    """Maps [..., X] to float32 [..., size]; `mask` selects the statistics."""
    x = self._hidden(tf.cast(x, tf.float32))
    return self._out(tf.nn.relu(self._norm(x, mask)))
