import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import tfutils


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def sinkhorn(scores, eps):
  q = np.exp(scores / eps)
  q /= q.sum()
  N, P = q.shape
  for _ in range(3):
    q /= q.sum(0) * P
    q /= q.sum(1, keepdims=True) * N
  return q * N


@pytest.fixture
def small_model(make_model):

  def make(**updates):
    return make_model('dreamerpro', **{
        'prototypes__count': 6, 'prototypes__size': 3,
        'prototypes__sinkhorn_eps': 0.5, **updates})

  return make


def find(wm, *parts):
  named = tfutils.named_variables(wm.objective)
  return [named[x].numpy() for x in parts]


def test_terms_equal_a_loop(small_model, pieces):
  wm, data = small_model()
  args = pieces(wm, data)
  data, embed, post, _ = args
  terms, metrics = wm.objective.loss(wm, *args)
  (vectors,) = find(wm, 'table/vectors')
  slow = wm.objective._slow_encoder(data).numpy()
  project = lambda x, name: x @ find(wm, f'{name}/kernel0')[0] + find(
      wm, f'{name}/bias')[0]
  whole = [
      project(embed.numpy(), 'project_embed'),
      project(wm.rssm.get_feat(post).numpy(), 'project_feat')]
  frame, feat = [x[:, 1:] for x in whole]
  goal = project(slow, 'slow_embed')[:, 1:]
  B = len(frame) // 2
  views = [slice(0, B), slice(B, 2 * B)]
  targets = [
      sinkhorn(unit(goal[v]).reshape(-1, 3) @ vectors.T, 0.5) for v in views]
  logps = [[
      log_softmax(unit(x[v]).reshape(-1, 3) @ vectors.T / 0.1)
      for v in views] for x in (frame, feat)]
  cross = lambda q, logp: -np.mean(np.sum(q * logp, -1))
  swav = sum(cross(targets[1 - i], logps[0][i]) / 2 for i in range(2))
  temporal = sum(cross(targets[i], logps[1][i]) / 2 for i in range(2))
  np.testing.assert_allclose(terms['swav'], swav, rtol=1e-4)
  np.testing.assert_allclose(terms['temporal'], temporal, rtol=1e-4)
  norm = sum(
      np.mean((np.linalg.norm(x, axis=-1) - 1) ** 2) for x in whole)
  np.testing.assert_allclose(metrics['prototype_norm'], norm, rtol=1e-4)
  assert 'norm' not in terms


def test_norm_counts_only_if_weighted(small_model):
  wm, data = small_model(prototypes__norm=0.5)
  _, _, _, metrics = wm.loss(data)
  np.testing.assert_allclose(
      metrics['norm_loss'], 0.5 * float(metrics['prototype_norm']), rtol=1e-5)


def test_norm_of_a_zero_projection_has_a_finite_gradient(small_model):
  """Vectors of zeros have such a projection until biases have moved."""
  wm, data = small_model(prototypes__norm=1.0)
  metrics = wm.train({**data, 'state': tf.zeros_like(data['state'])})[2]
  assert np.isfinite(metrics['model_grad_norm'])


def test_prototypes_do_not_move_before_the_freeze_ends(small_model):
  wm, data = small_model(prototypes__freeze=3, model_opt__lr=1e-2)
  (start,) = find(wm, 'table/vectors')
  np.testing.assert_allclose(np.linalg.norm(start, axis=-1), 1, rtol=1e-5)
  # Only rounding changes them, when decayed vectors are scaled back to unit
  # length.
  for _ in range(3):
    wm.train(data)
    np.testing.assert_allclose(find(wm, 'table/vectors')[0], start, atol=1e-6)
  wm.train(data)
  (moved,) = find(wm, 'table/vectors')
  assert np.abs(moved - start).max() > 1e-4
  np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), 1, rtol=1e-5)


BOTH = {'encoder', 'gru', 'posterior', 'objective'}


@pytest.mark.parametrize('name, parts', [
    ('swav_loss', {'encoder', 'objective'}), ('temporal_loss', BOTH)])
def test_gradient_map(name, parts, small_model, moved_by):
  wm, data = small_model()
  assert moved_by(wm, data, name) == parts


def test_both_views_go_through_the_whole_model(small_model, make_model):
  wm, data = make_model(
      'dreamerpro', vector=False, prototypes__count=6, prototypes__shift=3.0)
  B, T = data['reward'].shape
  _, state, outputs, _ = wm.loss(data)
  assert outputs['feat'].shape[:2] == [2 * B, T]
  for key in ('action', 'is_terminal', 'reward'):
    first, second = np.split(outputs['data'][key].numpy(), 2)
    np.testing.assert_array_equal(first, second)
  first, second = np.split(outputs['data']['image'].numpy(), 2)
  assert np.abs(first - second).max() > 0.1
  # The next batch starts from the state of the first view.
  assert state['deter'].shape[0] == B
  right = outputs['post']['deter'][:B, -1]
  np.testing.assert_array_equal(state['deter'], right)
  wm.loss(data, state)


def test_slow_projection_follows(small_model):
  wm, data = small_model()
  for _ in range(2):
    wm.train(data)
  slow, online = find(wm, 'slow_embed/kernel0', 'project_embed/kernel0')
  assert 0 < np.abs(slow - online).max()
  wm.train(data)
  moved, source = find(wm, 'slow_embed/kernel0', 'project_embed/kernel0')
  np.testing.assert_allclose(moved, 0.95 * slow + 0.05 * source, atol=1e-6)


def test_warm_up_must_fit_the_chunk(small_model):
  with pytest.raises(ValueError, match=r'prototypes.warm_up 7 .*0\.\.6'):
    small_model(prototypes__warm_up=7)


def test_prototypes_used_counts_how_many_share_the_frames(small_model):
  wm, data = small_model(prototypes__sinkhorn_iters=50)
  _, _, _, metrics = wm.loss(data)
  np.testing.assert_allclose(metrics['prototypes_used'], 6, rtol=1e-2)
