"""A decoder that only observes: draws what an agent's features contain."""

import tensorflow as tf

from .common import nets
from .common import tfutils
from .objectives import openloop


class Probe(tfutils.Module):
  """Reconstructs observations from features that get no gradient.

  It has its own optimiser and restores the state of the noise generator, so
  that an agent is the same to the bit with and without a probe.
  """

  def __init__(self, config, shapes):
    self._decoder = nets.Decoder(shapes, **config.decoder)
    self._opt = tfutils.Optimizer(
        'probe', **{**config.model_opt, 'wd_pattern': '.*'})

  @property
  def decoder(self):
    """The network that maps features to distributions by key."""
    return self._decoder

  def build(self, outputs):
    """Creates the variables, given outputs of the world model's loss."""
    with tfutils.keep_generator():
      self._decoder(outputs['feat'])
    self._opt.build([self._decoder])

  def train(self, outputs):
    """Takes one gradient step on features and batch; returns metrics."""
    feat, data = tf.stop_gradient(outputs['feat']), outputs['data']
    with tf.GradientTape() as tape:
      terms = {
          key: -tf.reduce_mean(dist.log_prob(tf.cast(data[key], tf.float32)))
          for key, dist in self._decoder(feat).items()}
      loss = tf.add_n(list(terms.values()))
    metrics = self._opt(tape, loss, [self._decoder])
    return {**metrics, **{f'probe_{k}_loss': v for k, v in terms.items()}}

  def report(self, wm, data):
    """Draws open-loop predictions, one video per camera."""
    with tfutils.keep_generator():
      videos = openloop.video_pred(wm, self._decoder, data)
    return {f'probe_openl_{key}': video for key, video in videos.items()}
