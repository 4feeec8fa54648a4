"""Learns representations by clustering frames and states (DreamerPro).

Shapes: B batch, V = 2B both views, T time, W = T - warm_up, N = B*W, P
prototypes, D size of a projection.
"""

import tensorflow as tf

from ..common import augment
from ..common import layers
from ..common import losses
from ..common import tfutils
from . import multistep
from .base import Objective


class Prototypes(Objective):
  """Predicts balanced prototype assignments of frames from views and states.

  Both views go through the whole model, stacked along the batch axis.

  Losses: 'swav', a frame predicts the assignment of the same frame in the
  other view; 'temporal', a state predicts the assignment of its frame; 'norm',
  the squared distance of projections from unit length before they are
  normalised. The first `warm_up` steps count in 'norm' only. Sinkhorn's
  algorithm computes the assignments from a slow encoder and projection, for N
  frames per view at once. Prototypes are unit vectors whose gradient is zero
  in the first `freeze` updates.

  Source: Deng et al. 2022 (DreamerPro).
  """

  views = 2

  def __init__(self, config, latent, shapes):
    c = self._config = config.prototypes
    if not 0 <= c.warm_up < config.dataset.length:
      raise ValueError(
          f'prototypes.warm_up {c.warm_up} is not in '
          f'0..{config.dataset.length - 1}, below dataset.length')
    self._table = Table(c.count, c.size)
    make = lambda: layers.Dense(c.size)
    self._project_embed, self._project_feat = make(), make()
    self._slow_embed = make()
    self._slow_encoder = multistep.SlowEncoder(config, shapes, c.momentum)
    self._follow_embed = tfutils.SlowCopy(c.momentum)
    # The world model's `build` calls `update`, which makes this 0.
    self._updates = tf.Variable(-1, dtype=tf.int64, trainable=False)
    self.modules = [self._project_embed, self._project_feat, self._table]

  def augment(self, data):
    """Stacks two independently shifted views of the batch, [2B, T, ...]."""
    images = [k for k, v in data.items() if len(v.shape) == 5]
    shift = lambda x: augment.bilinear_shift(x, self._config.shift)
    return {
        k: tf.concat([shift(v), shift(v)] if k in images else [v, v], 0)
        for k, v in data.items()}

  def terms(self, wm, data, embed, post, prior):
    """Computes the three terms; see the base class."""
    c = self._config
    cast = lambda x: tf.cast(x, tf.float32)
    feat = self._project_feat(cast(wm.rssm.get_feat(post)))
    frame = self._project_embed(cast(embed))
    slow = tf.stop_gradient(self._slow_embed(self._slow_encoder(data)))
    table = self._table(frozen=self._updates < c.freeze)
    unit = lambda x: tf.math.l2_normalize(x[:, c.warm_up:], -1)
    score = lambda x: tf.matmul(  # [2, N, P]
        tf.reshape(unit(x), [2, -1, c.size]),
        tf.broadcast_to(table, [2, *table.shape]), transpose_b=True)
    target = tf.stop_gradient(tf.stack([
        losses.sinkhorn(x, c.sinkhorn_eps, c.sinkhorn_iters)
        for x in tf.unstack(score(slow))]))
    logp = lambda x: tf.nn.log_softmax(score(x) / c.temperature, -1)
    cross = lambda target, logp: -tf.reduce_mean(
        tf.reduce_sum(target * logp, -1))
    terms = {
        'swav': cross(target[::-1], logp(frame)),
        'temporal': cross(target, logp(feat))}
    # The gradient of the length of a zero vector would not be finite.
    length = lambda x: tf.sqrt(tf.reduce_sum(x ** 2, -1) + 1e-12)
    norm = tf.add_n([
        tf.reduce_mean((length(x) - 1) ** 2) for x in (frame, feat)])
    if c.norm:
      terms['norm'] = c.norm * norm
    share = tf.reduce_mean(target, [0, 1])
    used = tf.exp(-tf.reduce_sum(share * tf.math.log(share + 1e-12)))
    metrics = {'prototype_norm': norm, 'prototypes_used': used}
    return terms, metrics, unit(slow)

  def update(self, wm):
    """Updates the slow parts; normalises the prototypes to unit length."""
    self._slow_encoder.update(wm.encoder)
    self._follow_embed(self._project_embed, self._slow_embed)
    self._table.normalize()
    self._updates.assign_add(1)


class Table(tfutils.Module):
  """P unit vectors of size D."""

  def __init__(self, count, size):
    self._shape = [count, size]

  def __call__(self, frozen):
    """Returns the vectors [P, D]; if frozen, their gradient is zero."""
    table = self._get()
    frozen = tf.cast(frozen, tf.float32)
    # Zero instead of None: the optimiser needs a gradient for each variable.
    return frozen * tf.stop_gradient(table) + (1 - frozen) * table

  def normalize(self):
    """Divides every vector by its length."""
    table = self._get()
    table.assign(tf.math.l2_normalize(table, -1))

  def _get(self):
    def init(shape, dtype):
      x = tf.random.stateless_normal(shape, tfutils.next_seed(), dtype=dtype)
      return tf.math.l2_normalize(x, -1)
    return self.var('vectors', init, self._shape)
