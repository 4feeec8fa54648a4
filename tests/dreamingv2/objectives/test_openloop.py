import types

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.objectives import openloop

B, T, H, W = 4, 8, 2, 3
KEYS = ('image', 'image_side')


class Model:
  """Stands for the world model: the state sums what led to it.

  The state is the sum of embeddings and actions since `is_first`; what is
  predicted adds actions alone.
  """

  def __init__(self):
    self.rssm = types.SimpleNamespace(
        observe=self.observe, imagine=self.imagine,
        get_feat=lambda state: state['stoch'])

  def preprocess(self, data):
    scaled = {k: tf.cast(data[k], tf.float32) / 255 - 0.5 for k in KEYS}
    return {**data, **scaled}

  def encoder(self, data):
    return tf.reduce_mean(data['image'], [2, 3, 4])[..., None]

  def observe(self, embed, action, is_first):
    state, states = tf.zeros([embed.shape[0], 1]), []
    for t in range(embed.shape[1]):
      keep = 1 - tf.cast(is_first[:, t, None], tf.float32)
      state = keep * (state + action[:, t]) + embed[:, t]
      states.append(state)
    return {'stoch': tf.stack(states, 1)}, None

  def imagine(self, action, state):
    return {'stoch': state['stoch'][:, None] + tf.cumsum(action, 1)}


class Decoder:
  """Draws images all of whose pixels are the feature, or its negative."""

  cnn_keys = KEYS

  def __call__(self, feat):
    image = tf.tile(feat[:, :, None, None], [1, 1, H, W, 3])
    return {
        key: types.SimpleNamespace(mode=lambda x=sign * image: x)
        for key, sign in zip(KEYS, (1, -1), strict=True)}


def make_data():
  rng = np.random.default_rng(0)
  data = {key: rng.integers(0, 256, (B, T, H, W, 3)) for key in KEYS}
  data['action'] = rng.normal(size=(B, T, 1)) / 4
  data['is_first'] = np.zeros((B, T), bool)
  data['is_first'][:, 0] = data['is_first'][1, 3] = True
  types_ = {'action': np.float32, 'is_first': bool}
  return {k: v.astype(types_.get(k, np.uint8)) for k, v in data.items()}


def loop(data, seen, sequences):
  """Returns the videos, pixel block by pixel block."""
  videos = {k: np.zeros((T, 3 * H, sequences * W, 3)) for k in KEYS}
  for b in range(sequences):
    state = 0.0
    for t in range(T):
      if t < seen:
        state = 0.0 if data['is_first'][b, t] else (
            state + data['action'][b, t, 0])
        state += (data['image'][b, t] / 255 - 0.5).mean()
      else:
        state += data['action'][b, t, 0]
      for key, sign in zip(KEYS, (1, -1), strict=True):
        truth, model = data[key][b, t] / 255, sign * state + 0.5
        rows = truth, model, (model - truth + 1) / 2
        for i, row in enumerate(rows):
          videos[key][t, i * H: (i + 1) * H, b * W: (b + 1) * W] = (
              np.clip(row, 0, 1))
  return videos


@pytest.mark.parametrize('seen, sequences', [(5, 4), (2, 3), (1, 1)])
def test_video_equals_a_loop(seen, sequences):
  data = make_data()
  right = loop(data, seen, sequences)
  found = openloop.video_pred(
      Model(), Decoder(), {k: tf.constant(v) for k, v in data.items()}, seen,
      sequences)
  assert set(found) == set(KEYS)
  for key in KEYS:
    np.testing.assert_allclose(found[key], right[key], atol=1e-5)
    # The clipped and the unclipped values both occur.
    assert (right[key] == 0).any() and np.ptp(right[key]) > 0.5


def test_a_short_batch_still_predicts_its_last_frame():
  """It has fewer steps than `seen`, and fewer sequences than columns."""
  data = make_data()
  right = loop(data, T - 1, B)
  found = openloop.video_pred(
      Model(), Decoder(), {k: tf.constant(v) for k, v in data.items()}, 20, 9)
  for key in KEYS:
    np.testing.assert_allclose(found[key], right[key], atol=1e-5)
