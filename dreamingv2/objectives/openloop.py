"""Draws what a decoder reconstructs from states and from predictions."""

import tensorflow as tf


def video_pred(wm, decoder, data, seen=5, sequences=6):
  """Draws truth, model and error as one video per camera.

  The first `seen` frames are reconstructed from the posterior; the model
  predicts the others from actions alone. Rows: truth, model, error; columns:
  sequences.

  Args:
    wm: World model.
    decoder: Decoder of the world model's features.
    data: Batch [B, T, ...] as replayed.
    seen: Frames that the model observes.
    sequences: Number of sequences, one column each.

  Returns:
    Camera to video [T, 3H, columns * W, C] in 0..1.
  """
  data = {k: v[:sequences] for k, v in wm.preprocess(data).items()}
  seen = min(seen, data['action'].shape[1] - 1)
  embed = wm.encoder(data)
  states, _ = wm.rssm.observe(
      embed[:, :seen], data['action'][:, :seen], data['is_first'][:, :seen])
  last = {k: v[:, -1] for k, v in states.items()}
  prior = wm.rssm.imagine(data['action'][:, seen:], last)
  recon, openl = [decoder(wm.rssm.get_feat(x)) for x in (states, prior)]
  return {
      key: _rows(data[key], recon[key].mode(), openl[key].mode())
      for key in decoder.cnn_keys}


def _rows(truth, recon, openl):
  truth = tf.cast(truth, tf.float32) + 0.5
  model = tf.concat([recon, openl], 1) + 0.5
  error = (model - truth + 1) / 2
  video = tf.concat([truth, model, error], 2)
  B, T, H, W, C = video.shape
  video = tf.reshape(tf.transpose(video, [1, 2, 0, 3, 4]), [T, H, B * W, C])
  return tf.clip_by_value(video, 0, 1)
