import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import tfutils


def project(wm, name, x):
  """Applies one of the objective's networks in NumPy."""
  named = {k.removeprefix(f'{name}/'): v.numpy() for k, v in
           tfutils.named_variables(wm.objective).items()
           if k.startswith(f'{name}/')}
  x = x @ named['hidden/kernel0'] + named['hidden/bias']
  x = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
  x = np.maximum(x * named['norm/scale'] + named['norm/offset'], 0)
  return x @ named['out/kernel0']


def cosine(x, y):
  x, y = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y)]
  return 2 - 2 * np.sum(x * y, -1)


def test_terms_equal_a_loop(make_model, pieces):
  wm, data = make_model('byol', contrastive__horizon=0)
  args = pieces(wm, data)
  terms, metrics = wm.objective.loss(wm, *args)
  data, embed, post, _ = args
  target = project(
      wm, 'slow_project', wm.objective._slow_encoder(data['second']).numpy())
  guess = project(wm, 'predict_latent', post['stoch'].numpy())
  np.testing.assert_allclose(
      terms['byol'], np.mean(cosine(guess, target)), rtol=1e-4)
  guess = project(wm, 'predict_frame', project(wm, 'project', embed.numpy()))
  np.testing.assert_allclose(
      terms['aux'], np.mean(cosine(guess, target)), rtol=1e-4)
  assert 0 < float(metrics['target_spread']) <= 1


def test_prediction_k_steps_ahead_meets_the_frame_of_that_time(
    make_model, pieces, monkeypatch):
  """If the latents are equal to the target, every distance is zero."""
  wm, data = make_model('byol')
  args = pieces(wm, data)
  target = wm.objective._slow_project(
      wm.objective._slow_encoder(args[0]['second']))
  real = wm.objective._steps.predict

  def predict(*inputs):
    latents, kls, valid = real(*inputs)
    T = target.shape[1]
    truth = [np.zeros(target.shape, np.float32) for _ in latents]
    for k in range(len(latents)):
      for t in range(T - k):
        truth[k][:, t] = target[:, t + k]
    return truth, kls, valid

  monkeypatch.setattr(wm.objective._steps, 'predict', predict)
  monkeypatch.setattr(wm.objective, '_predict_latent', lambda x, mask: x)
  terms, _ = wm.objective.loss(wm, *args)
  np.testing.assert_allclose(terms['byol'], 0, atol=1e-5)


ALL = {'encoder', 'gru', 'posterior', 'prior', 'objective'}


@pytest.mark.parametrize('name, parts', [
    ('byol_0', ALL - {'prior'}), ('byol_1', ALL), ('byol_3', ALL),
    ('aux_loss', {'encoder', 'objective'})])
def test_gradient_map(name, parts, make_model, moved_by):
  wm, data = make_model('byol')
  assert moved_by(wm, data, name) == parts


def test_slow_projection_copies_and_then_follows(make_model):
  wm, data = make_model('byol')
  find = lambda name: tfutils.named_variables(
      wm.objective)[f'{name}/hidden/kernel0'].numpy()
  wm.train(data)
  np.testing.assert_array_equal(find('slow_project'), find('project'))
  before = find('slow_project')
  wm.train(data)
  np.testing.assert_allclose(
      find('slow_project'), 0.95 * before + 0.05 * find('project'), atol=1e-6)


def test_loss_alone_falls_on_one_batch(make_model):
  wm, data = make_model('byol', rssm__latent='gaussian', model_opt__lr=1e-2,
                        loss_scales__kl=0.0, loss_scales__reward=0.0)
  values = [float(wm.train(data)[2]['byol_loss']) for _ in range(12)]
  assert np.mean(values[-3:]) < 0.8 * np.mean(values[:2])


def test_statistics_are_of_what_counts(make_model):
  """Masked entries and those beyond a chunk change nothing."""
  wm, data = make_model('byol')
  wm.loss(data)
  mask = tf.constant([[True, True, False], [True, False, False]])
  x = tf.random.stateless_normal([2, 3, wm.rssm.latent.size], [1, 2])
  other = tf.where(mask[..., None], x, 100.0)
  found, changed = [
      wm.objective._predict_latent(v, mask) for v in (x, other)]
  np.testing.assert_allclose(found[mask], changed[mask], rtol=1e-4, atol=1e-5)
