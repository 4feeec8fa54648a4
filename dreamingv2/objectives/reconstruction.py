"""Learns representations by reconstructing observations (DreamerV2)."""

import tensorflow as tf

from ..common import nets
from .base import Objective


class Reconstruction(Objective):
  """Trains a decoder by likelihood; the world model adds all the rest.

  Source: Hafner et al. 2021, Eq. 2; Okada & Taniguchi 2022, Eq. 2.
  """

  def __init__(self, config, latent, shapes):
    self.heads = {'decoder': nets.Decoder(shapes, **config.decoder)}

  def report(self, wm, data):
    """Draws truth, open-loop prediction and error as one video per camera.

    The first frames, five if there are more, are reconstructed from the
    posterior, the rest is predicted from actions alone. Rows: truth, model,
    error; columns: six sequences.
    """
    data = wm.preprocess(data)
    return {
        f'openl_{key}': _open_loop(wm, data, key)
        for key in self.heads['decoder'].cnn_keys}


def _open_loop(wm, data, key, seen=5, sequences=6):
  data = {k: v[:sequences] for k, v in data.items()}
  seen = min(seen, data['action'].shape[1] - 1)
  decoder = wm.heads['decoder']
  truth = tf.cast(data[key], tf.float32) + 0.5
  embed = wm.encoder(data)
  states, _ = wm.rssm.observe(
      embed[:, :seen], data['action'][:, :seen], data['is_first'][:, :seen])
  recon = decoder(wm.rssm.get_feat(states))[key].mode()
  last = {k: v[:, -1] for k, v in states.items()}
  prior = wm.rssm.imagine(data['action'][:, seen:], last)
  openl = decoder(wm.rssm.get_feat(prior))[key].mode()
  model = tf.concat([recon, openl], 1) + 0.5
  error = (model - truth + 1) / 2
  video = tf.concat([truth, model, error], 2)
  B, T, H, W, C = video.shape
  video = tf.reshape(tf.transpose(video, [1, 2, 0, 3, 4]), [T, H, B * W, C])
  return tf.clip_by_value(video, 0, 1)
