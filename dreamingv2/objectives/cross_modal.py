"""Learns representations by comparing states with each modality (MSSM).

Every camera is a modality. Shapes: B batch, T time, P size of a code.
"""

import re

import tensorflow as tf

from ..common import layers
from ..common import losses
from ..common import nets
from .base import Objective


class CrossModal(Objective):
  """Lets every state choose its frame among all B*T, for each camera.

  Loss: 'nce', the mean over cameras of InfoNCE with the score
  -||g_m(state) - code_m(frame)||^2, where each camera m has its own network
  g_m and its own convolutional code.

  Source: Chen et al. 2021 (MuMMI), whose model is called MSSM. Left out: the
  product of one Gaussian posterior per modality (here one encoder sees all
  cameras), and masks for modalities that are sometimes missing.
  """

  def __init__(self, config, latent, shapes):
    c = config.cross_modal
    keys = nets.Encoder(shapes, **config.encoder).cnn_keys
    if len(keys) < 2:
      raise ValueError(
          f"objective 'cross_modal' compares cameras and needs two of them, "
          f'but encoder.cnn_keys {config.encoder.cnn_keys} matches '
          f"{', '.join(keys) or 'none'}; set robosuite.camera, dmc.camera or "
          f'toy.camera to two names separated by a comma')
    single = lambda key: {
        **config.encoder, 'cnn_keys': re.escape(key), 'mlp_keys': '$^'}
    self._encoders = {
        key: nets.Encoder(shapes, **single(key)) for key in keys}
    self._codes = {key: layers.Dense(c.size) for key in keys}
    self._guesses = {key: layers.Stack([c.units, c.size]) for key in keys}
    self.modules = [self._encoders, self._codes, self._guesses]

  def terms(self, wm, data, embed, post, prior):
    """Computes the InfoNCE loss of every camera; see the base class."""
    flat = lambda x: tf.reshape(tf.cast(x, tf.float32), [-1, x.shape[-1]])
    feat = flat(wm.rssm.get_feat(post))
    values, codes, metrics = [], [], {}
    for key, encoder in self._encoders.items():
      code = self._codes[key](flat(encoder(data)))  # [B*T, P]
      logits = -losses.square_distances(self._guesses[key](feat), code)
      value, hit = losses.info_nce(logits, tf.range(logits.shape[0]))
      values.append(tf.reduce_mean(value))
      codes.append(code)
      metrics[f'nce_{key}'] = values[-1]
      metrics[f'nce_accuracy_{key}'] = tf.reduce_mean(hit)
    loss = tf.add_n(values) / len(values)
    return {'nce': loss}, metrics, tf.concat(codes, -1)
