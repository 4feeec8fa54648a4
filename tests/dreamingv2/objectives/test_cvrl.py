import numpy as np

from dreamingv2.common import tfutils


def stack(wm, name, x):
  named = {k.removeprefix(f'{name}/layers/'): v.numpy() for k, v in
           tfutils.named_variables(wm.objective).items()
           if k.startswith(f'{name}/')}
  x = x @ named['0/kernel0'] + named['0/bias']
  return np.where(x > 0, x, np.expm1(x)) @ named['1/kernel0'] + named['1/bias']


def test_loss_equals_a_loop(make_model, pieces):
  wm, data = make_model('cvrl_nce')
  args = pieces(wm, data)
  terms, metrics = wm.objective.loss(wm, *args)
  _, embed, post, _ = args
  B, T = embed.shape[:2]
  frames = stack(wm, 'frame', embed.numpy())
  states = stack(wm, 'state', wm.rssm.get_feat(post).numpy())
  values, hits = [], []
  for b, t in np.ndindex(B, T):
    scores = np.array([
        states[b, t] @ frames[i, j] for i, j in np.ndindex(B, T)])
    scores -= scores.max()
    values.append(np.log(np.exp(scores).sum()) - scores[b * T + t])
    hits.append(scores.argmax() == b * T + t)
  np.testing.assert_allclose(terms['nce'], np.mean(values), rtol=1e-4)
  np.testing.assert_allclose(metrics['nce_accuracy'], np.mean(hits))


def test_gradient_map(make_model, moved_by):
  wm, data = make_model('cvrl_nce')
  assert moved_by(wm, data, 'nce_loss') == {
      'encoder', 'gru', 'posterior', 'objective'}


def test_loss_alone_falls_on_one_batch(make_model):
  wm, data = make_model('cvrl_nce', model_opt__lr=1e-2, loss_scales__kl=0.0,
                        loss_scales__reward=0.0)
  values = [float(wm.train(data)[2]['nce_loss']) for _ in range(12)]
  assert np.mean(values[-3:]) < 0.8 * np.mean(values[:2])
