import numpy as np
import pytest

from dreamingv2.common import tfutils


def stack(wm, name, x):
  """Applies one of the objective's networks in NumPy."""
  named = {k.removeprefix(f'{name}/layers/'): v.numpy() for k, v in
           tfutils.named_variables(wm.objective).items()
           if k.startswith(f'{name}/')}
  x = x @ named['0/kernel0'] + named['0/bias']
  x = np.where(x > 0, x, np.expm1(x))
  return x @ named['1/kernel0'] + named['1/bias']


def cosine(x, y):
  x, y = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y)]
  return 2 - 2 * np.sum(x * y, -1)


def test_terms_equal_a_loop(make_model, pieces):
  wm, data = make_model('byol', contrastive__horizon=0)
  args = pieces(wm, data)
  terms, metrics = wm.objective.loss(wm, *args)
  data, embed, post, _ = args
  target = stack(wm, 'slow_project', wm.objective._slow_encoder(
      data['second']).numpy())
  guess = stack(wm, 'predict_latent', post['stoch'].numpy())
  np.testing.assert_allclose(
      terms['byol'], np.mean(cosine(guess, target)), rtol=1e-4)
  guess = stack(wm, 'predict_frame', stack(wm, 'project', embed.numpy()))
  np.testing.assert_allclose(
      terms['aux'], np.mean(cosine(guess, target)), rtol=1e-4)
  assert float(metrics['target_spread']) > 0


def test_prediction_k_steps_ahead_meets_the_frame_of_that_time(
    make_model, pieces, monkeypatch):
  """With latents that are the target itself, every distance is zero."""
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
  monkeypatch.setattr(wm.objective, '_predict_latent', lambda x: x)
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
      wm.objective)[f'{name}/layers/0/kernel0'].numpy()
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
