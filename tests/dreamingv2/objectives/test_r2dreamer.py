import numpy as np
import tensorflow as tf

from dreamingv2.common import tfutils


def test_loss_equals_a_loop(make_model, pieces):
  wm, data = make_model('r2dreamer', vector=True, rssm__latent='gaussian')
  args = pieces(wm, data)
  terms, _ = wm.objective.loss(wm, *args)
  _, embed, post, _ = args
  named = tfutils.named_variables(wm.objective)
  assert list(named) == ['project/layer/kernel0']
  kernel = named['project/layer/kernel0'].numpy()
  flat = lambda x: np.reshape(x, [-1, x.shape[-1]])
  lhs = flat(wm.rssm.get_feat(post).numpy()) @ kernel
  rhs = flat(embed.numpy())
  lhs, rhs = [(x - x.mean(0)) / x.std(0) for x in (lhs, rhs)]
  size, total = kernel.shape[1], 0.0
  for i in range(size):
    for j in range(size):
      corr = np.mean(lhs[:, i] * rhs[:, j])
      total += (1 - corr) ** 2 if i == j else 5e-4 * corr ** 2
  np.testing.assert_allclose(terms['barlow_twins'], 0.05 * total, rtol=1e-3)


def test_gradient_map(make_model, moved_by):
  wm, data = make_model('r2dreamer')
  assert moved_by(wm, data, 'barlow_twins_loss') == {
      'encoder', 'gru', 'posterior', 'objective'}


def test_embedding_gets_no_gradient_as_a_target(make_model, pieces):
  wm, data = make_model('r2dreamer')
  data, embed, post, prior = pieces(wm, data)
  with tf.GradientTape() as tape:
    tape.watch(embed)
    terms, _ = wm.objective.loss(wm, data, embed, post, prior)
  assert tape.gradient(terms['barlow_twins'], embed) is None


def test_loss_alone_falls_on_one_batch(make_model):
  wm, data = make_model(
      'r2dreamer', rssm__latent='gaussian', model_opt__lr=1e-2,
      loss_scales__kl=0.0, loss_scales__reward=0.0)
  values = [
      float(wm.train(data)[2]['barlow_twins_loss']) for _ in range(20)]
  assert np.mean(values[-3:]) < 0.8 * np.mean(values[:2])
