"""Observes without touching: draws and scores what features contain."""

import tensorflow as tf

from . import readout
from .common import nets
from .common import tfutils
from .common import truth as truths
from .objectives import openloop


class Probe(tfutils.Module):
  """Reconstructs observations from features that get no gradient.

  It has its own optimiser and restores the state of the noise generator, so
  that an agent is the same to the bit with and without a probe.

  Attributes:
    decoder: Network that maps features to distributions by key.
  """

  def __init__(self, config, shapes):
    self.decoder = nets.Decoder(shapes, **config.decoder)
    self._opt = tfutils.Optimizer(
        'probe', **{**config.model_opt, 'wd_pattern': '.*'})

  def build(self, outputs):
    """Creates the variables, given outputs of the world model's loss."""
    with tfutils.keep_generator():
      self.decoder(outputs['feat'])
    self._opt.build([self.decoder])

  def train(self, outputs):
    """Takes one gradient step on features and batch; returns metrics."""
    feat, data = tf.stop_gradient(outputs['feat']), outputs['data']
    with tf.GradientTape() as tape:
      terms = {
          key: -tf.reduce_mean(dist.log_prob(tf.cast(data[key], tf.float32)))
          for key, dist in self.decoder(feat).items()}
      loss = tf.add_n(list(terms.values()))
    metrics = self._opt(tape, loss, [self.decoder])
    return {**metrics, **{f'probe_{k}_loss': v for k, v in terms.items()}}

  def report(self, wm, data):
    """Draws open-loop predictions, one video per camera."""
    with tfutils.keep_generator():
      videos = openloop.video_pred(wm, self.decoder, data)
    return {f'probe_openl_{key}': video for key, video in videos.items()}

  def measure(self, wm, episodes):
    """Scores linear readouts of the simulator's state, see readout.

    Every third episode is held out.

    Args:
      wm: World model.
      episodes: Dicts of arrays [T, ...], as the driver hands them on.

    Returns:
      Metrics probe_r2_NAME_WHEN; none if the simulator tells no state, or if
      there are fewer than three episodes.
    """
    told = [truths.of(x) for x in episodes]
    if len(episodes) < 3 or not all(told):
      return {}
    pairs = list(zip(readout.represent(wm, episodes), told, strict=True))
    test = pairs[2::3]
    train = [x for i, x in enumerate(pairs) if i % 3 < 2]
    return {
        f'probe_r2_{name}_{when}': score['r2']
        for name, scores in readout.state_scores(train, test).items()
        for when, score in scores.items() if score['r2'] is not None}
