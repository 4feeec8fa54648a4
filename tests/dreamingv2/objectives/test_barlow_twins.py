import numpy as np
import pytest

from dreamingv2.common import tfutils


def compare(x, y):
  """Computes the scaled loss of [N, P] in NumPy."""
  x, y = [(v - v.mean(0)) / v.std(0) for v in (x, y)]
  corr = x.T @ y / len(x)
  off = np.sum(corr ** 2) - np.sum(np.diag(corr) ** 2)
  return 0.05 * (np.sum((1 - np.diag(corr)) ** 2) + 5e-3 * off)


def test_terms_equal_a_loop(make_model, pieces):
  wm, data = make_model(
      'barlow_twins', rssm__latent='gaussian', barlow_twins__size=6)
  args = pieces(wm, data)
  data, embed, post, _ = args
  data['second']['state'] = data['state'] * 1.5  # Vectors are not shifted.
  terms, metrics = wm.objective.loss(wm, *args)
  kernels = {
      k: tfutils.named_variables(wm.objective)[f'project_{k}/kernel0'].numpy()
      for k in ('frame', 'latent')}
  frames = [x.numpy() @ kernels['frame'] for x in (
      embed, wm.encoder(data['second']))]
  flat = lambda x: np.reshape(x, [-1, x.shape[-1]])
  right = compare(flat(post['stoch'].numpy() @ kernels['latent']),
                  flat(frames[1]))
  np.testing.assert_allclose(metrics['barlow_twins_0'], right, rtol=1e-3)
  right = compare(flat(frames[0]), flat(frames[1]))
  np.testing.assert_allclose(terms['aux'], right, rtol=1e-3, atol=1e-5)
  total = sum(float(metrics[f'barlow_twins_{k}']) for k in range(4))
  np.testing.assert_allclose(terms['barlow_twins'], total, rtol=1e-5)


def test_prediction_k_steps_ahead_meets_the_frame_of_that_time(
    make_model, pieces, monkeypatch):
  wm, data = make_model('barlow_twins', barlow_twins__size=4)
  args = pieces(wm, data)
  frames = wm.objective._project_frame(wm.encoder(args[0]['second'])).numpy()
  real = wm.objective._steps.predict

  def predict(*inputs):
    latents, kls, valid = real(*inputs)
    return [np.roll(frames, -k, 1) for k in range(len(latents))], kls, valid

  monkeypatch.setattr(wm.objective._steps, 'predict', predict)
  monkeypatch.setattr(wm.objective, '_project_latent', lambda x: x)
  _, metrics = wm.objective.loss(wm, *args)
  T = frames.shape[1]
  for k in range(4):
    rows = frames[:, k: T].reshape(-1, 4)
    np.testing.assert_allclose(
        metrics[f'barlow_twins_{k}'], compare(rows, rows), rtol=1e-2,
        atol=1e-5)


ALL = {'encoder', 'gru', 'posterior', 'prior', 'objective'}


@pytest.mark.parametrize('name, parts', [
    ('barlow_twins_0', ALL - {'prior'}), ('barlow_twins_2', ALL),
    ('aux_loss', {'encoder', 'objective'})])
def test_gradient_map(name, parts, make_model, moved_by):
  wm, data = make_model('barlow_twins')
  assert moved_by(wm, data, name) == parts


def test_nothing_is_slow(make_model):
  wm, _ = make_model('barlow_twins')
  assert not [k for k in tfutils.named_variables(wm) if 'slow' in k]


def test_loss_alone_falls_on_one_batch(make_model):
  wm, data = make_model(
      'barlow_twins', rssm__latent='gaussian', model_opt__lr=1e-2,
      barlow_twins__size=8, loss_scales__kl=0.0, loss_scales__reward=0.0)
  values = [float(wm.train(data)[2]['barlow_twins_loss']) for _ in range(20)]
  assert np.mean(values[-3:]) < 0.8 * np.mean(values[:2])
