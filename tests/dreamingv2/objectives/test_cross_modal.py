import numpy as np
import pytest

from dreamingv2.common import tfutils


def test_loss_equals_a_loop(make_model, pieces):
  wm, data = make_model('mssm_nce', vector=False)
  args = pieces(wm, data)
  terms, metrics = wm.objective.loss(wm, *args)
  data, embed, post, _ = args
  named = {k: v.numpy() for k, v in
           tfutils.named_variables(wm.objective).items()}
  feat = wm.rssm.get_feat(post).numpy()
  B, T = feat.shape[:2]
  values = []
  for key in ('image', 'image_side'):
    x = wm.objective._encoders[key](data).numpy()
    code = x @ named[f'codes/{key}/kernel0'] + named[f'codes/{key}/bias']
    get = lambda i, key=key: (
        named[f'guesses/{key}/layers/{i}/kernel0'],
        named[f'guesses/{key}/layers/{i}/bias'])
    guess = feat @ get(0)[0] + get(0)[1]
    guess = np.where(guess > 0, guess, np.expm1(guess))
    guess = guess @ get(1)[0] + get(1)[1]
    losses = []
    for b, t in np.ndindex(B, T):
      scores = np.array([
          -np.sum((guess[b, t] - code[i, j]) ** 2)
          for i, j in np.ndindex(B, T)])
      scores -= scores.max()
      losses.append(np.log(np.exp(scores).sum()) - scores[b * T + t])
    values.append(np.mean(losses))
    np.testing.assert_allclose(metrics[f'nce_{key}'], values[-1], rtol=1e-3)
  np.testing.assert_allclose(terms['nce'], np.mean(values), rtol=1e-3)


def test_every_camera_has_its_own_code(make_model):
  wm, data = make_model('mssm_nce', vector=False)
  before = wm.loss(data)[3]
  changed = {**data, 'image_side': data['image_side'][::-1]}
  after = wm.loss(changed)[3]
  assert float(before['nce_image_side']) != float(after['nce_image_side'])
  assert set(wm.objective._encoders) == {'image', 'image_side'}
  for key, encoder in wm.objective._encoders.items():
    assert encoder.cnn_keys == [key] and not encoder.mlp_keys


def test_gradient_map(make_model, moved_by):
  wm, data = make_model('mssm_nce', vector=False)
  assert moved_by(wm, data, 'nce_loss') == {
      'encoder', 'gru', 'posterior', 'objective'}


def test_one_camera_is_not_enough(make_config, make_agent, make_spaces):
  from dreamingv2 import agent as agents
  from dreamingv2.common import counter
  config = make_config('mssm_nce', vector=False)
  with pytest.raises(ValueError, match='two of them.*matches image;.*camera'):
    agents.Agent(config, *make_spaces(), counter.Counter(0))
