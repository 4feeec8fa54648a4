"""Learns representations by a contrastive forward model (CFM).

Shapes: B batch, T time, P size of a code, N = B*(T-1) transitions.
"""

import numpy as np
import tensorflow as tf

from ..common import layers
from ..common import losses
from .base import Objective


class Forward(Objective):
  """Lets a predicted code choose the next code among the current codes.

  Loss: 'nce' with the score -||A [code; a] - other||^2. The candidates of a
  transition are its next code and the current codes of all steps but the next,
  whose current code is this next code. The linear map has no bias and no
  noise. The loss trains the encoder alone; the RSSM learns from rewards and
  the KL divergence. A perfect prediction costs 0.

  Source: Yan et al. 2020 (CFM). Left out: planning with the linear map, which
  replaces a policy there. Codes are a linear map of our embedding.
  """

  def __init__(self, config, latent, shapes):
    size = config.forward.size
    self._code = layers.Dense(size)
    self._step = layers.Dense(size, bias=False)
    self.modules = [self._code, self._step]

  def terms(self, wm, data, embed, post, prior):
    """Computes the InfoNCE loss; see the base class."""
    flat = lambda x: tf.reshape(x, [-1, x.shape[-1]])
    code = self._code(tf.cast(embed, tf.float32))  # [B, T, P]
    now, following = flat(code[:, :-1]), flat(code[:, 1:])  # [N, P]
    action = tf.cast(flat(data['action'][:, 1:]), tf.float32)
    guess = self._step(tf.concat([now, action], -1))
    valid = tf.reshape(~data['is_first'][:, 1:], [-1])  # Within an episode.
    others = -losses.square_distances(guess, now)  # [N, N]
    own = -tf.reduce_sum((guess - following) ** 2, -1)
    # The next code of step t is the current code of step t + 1.
    B, T = embed.shape[:2]
    same = np.eye(B * (T - 1), k=1, dtype=bool)
    same[T - 2::T - 1] = False  # The next row begins another sequence.
    logits = tf.where(same, -1e9, tf.linalg.set_diag(others, own))
    value, hit = losses.info_nce(logits, tf.range(own.shape[0]), valid)
    metrics = {'nce_accuracy': losses.masked_mean(hit, valid)}
    return {'nce': losses.masked_mean(value, valid)}, metrics, code
