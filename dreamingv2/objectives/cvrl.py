"""Learns representations by contrasting states with frames (CVRL).

Shapes: B batch, T time, P size of a projection.
"""

import tensorflow as tf

from ..common import layers
from ..common import losses
from .base import Objective


class CVRL(Objective):
  """Lets every state choose its frame among all B*T frames of the batch.

  Losses: 'nce'. Two networks map the embedding of a frame and the feature of
  a state (h and z) to vectors whose inner product is the score. No roll-out,
  no augmentation, no slow copy.

  Source: Ma et al. 2020 (CVRL). Left out: its hybrid actor-critic with
  model-free gradients and its planning at test time, which concern behaviour.
  """

  def __init__(self, config, latent, shapes):
    c = config.cvrl
    self._frame = layers.Stack([2 * c.units, c.units])
    self._state = layers.Stack([c.units, c.units])
    self.modules = [self._frame, self._state]

  def terms(self, wm, data, embed, post, prior):
    """Computes the InfoNCE loss; see the base class."""
    flat = lambda x: tf.reshape(tf.cast(x, tf.float32), [-1, x.shape[-1]])
    frames = self._frame(flat(embed))  # [B*T, P]
    states = self._state(flat(wm.rssm.get_feat(post)))
    logits = tf.matmul(states, frames, transpose_b=True)
    value, hit = losses.info_nce(logits, tf.range(logits.shape[0]))
    metrics = {'nce_accuracy': tf.reduce_mean(hit)}
    return {'nce': tf.reduce_mean(value)}, metrics, frames
