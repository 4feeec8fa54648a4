import numpy as np
import tensorflow as tf

from dreamingv2.common import tfutils


def test_perfect_prediction_costs_nothing(make_model, pieces, monkeypatch):
  """The positive of step t is the current code of step t + 1."""
  wm, data = make_model('cfm_nce')
  args = pieces(wm, data)
  B, T = data['reward'].shape
  code = 9 * np.eye(B * T, dtype=np.float32).reshape(B, T, -1)
  monkeypatch.setattr(wm.objective, '_code', lambda x: tf.constant(code))
  monkeypatch.setattr(
      wm.objective, '_step', lambda x: code[:, 1:].reshape(-1, B * T))
  terms, metrics = wm.objective.loss(wm, *args)
  np.testing.assert_allclose(terms['nce'], 0, atol=1e-5)
  assert float(metrics['nce_accuracy']) == 1


def test_loss_equals_a_loop(make_model, pieces):
  wm, data = make_model('cfm_nce')
  first = data['is_first'].numpy()
  first[1, 3] = True
  data['is_first'] = tf.constant(first)
  args = pieces(wm, data)
  terms, _ = wm.objective.loss(wm, *args)
  named = {k: v.numpy() for k, v in
           tfutils.named_variables(wm.objective).items()}
  code = args[1].numpy() @ named['code/kernel0'] + named['code/bias']
  action = data['action'].numpy()
  B, T = first.shape
  starts = list(np.ndindex(B, T - 1))
  values = []
  for b, t in starts:
    if first[b, t + 1]:
      continue
    guess = np.concatenate(
        [code[b, t], action[b, t + 1]]) @ named['step/kernel0']
    own = -np.sum((guess - code[b, t + 1]) ** 2)
    others = [-np.sum((guess - code[i, j]) ** 2)
              for i, j in starts if (i, j) not in ((b, t), (b, t + 1))]
    values.append(np.log(np.exp(np.array([own, *others])).sum()) - own)
  np.testing.assert_allclose(terms['nce'], np.mean(values), rtol=1e-3)


def test_gradient_map(make_model, moved_by):
  wm, data = make_model('cfm_nce')
  assert moved_by(wm, data, 'nce_loss') == {'encoder', 'objective'}


def test_loss_alone_falls_on_one_batch(make_model):
  wm, data = make_model('cfm_nce', model_opt__lr=1e-2, loss_scales__kl=0.0,
                        loss_scales__reward=0.0)
  values = [float(wm.train(data)[2]['nce_loss']) for _ in range(20)]
  assert np.mean(values[-3:]) < 0.8 * np.mean(values[:2])
