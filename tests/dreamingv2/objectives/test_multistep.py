import types

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import latents
from dreamingv2.common import tfutils
from dreamingv2.objectives import multistep

B, T, A, S = 3, 7, 2, 4


class Sums:
  """Stands for the RSSM: the action moves the mean, each step adds width."""

  def img_step(self, state, action):
    mean = state['stoch'] + tf.repeat(action, S // A, -1)
    return {
        'deter': state['deter'], 'stoch': mean, 'mean': mean,
        'std': state['std'] + 0.5}

  def sample(self, stats):
    return {**stats, 'stoch': stats['mean']}


@pytest.fixture
def make_case(make_config):
  """Returns a function: settings to MultiStep, its world model and data."""

  def make(**updates):
    config = make_config('dreaming', updates={
        'contrastive.dynamics': 'rssm', 'contrastive.kl_free': 0.0,
        **{k.replace('__', '.') if '__' in k else f'contrastive.{k}': v
           for k, v in updates.items()}})
    rng = np.random.default_rng(0)
    normal = lambda *size: rng.normal(size=(B, T, *size)).astype(np.float32)
    first = rng.random((B, T)) < 0.3
    mean = normal(S)
    post = {
        'deter': normal(1), 'stoch': mean, 'mean': mean,
        'std': np.exp(normal(S))}
    steps = multistep.MultiStep(config, latents.make('gaussian', S, 0))
    data = {'action': normal(A), 'is_first': first}
    return (steps, types.SimpleNamespace(rssm=Sums()),
            {k: tf.constant(v) for k, v in data.items()},
            {k: tf.constant(v) for k, v in post.items()})

  return make


def loop(data, post, d):
  """Yields b, t and the latent d steps after t, where it is valid."""
  action, first = data['action'].numpy(), data['is_first'].numpy()
  for b in range(B):
    for t in range(T - d):
      if not first[b, t + 1: t + d + 1].any():
        total = action[b, t + 1: t + d + 1].sum(0)
        yield b, t, post['stoch'][b, t].numpy() + np.repeat(total, S // A)


@pytest.mark.parametrize('horizon', [0, 1, 3])
def test_predict_gives_latents_and_masks_of_a_loop(horizon, make_case):
  steps, wm, data, post = make_case(horizon=horizon)
  found, kls, valid = steps.predict(wm, data, post, None)
  assert [x.shape for x in found] == [(B, T, S)] * (horizon + 1)
  assert len(kls) == horizon and valid.shape == (horizon + 2, B, T)
  right = np.zeros(valid.shape, bool)
  for d in range(horizon + 2):
    for b, t, latent in loop(data, post, d):
      right[d, b, t] = True
      if d <= horizon:
        np.testing.assert_allclose(found[d][b, t], latent, atol=1e-5)
  np.testing.assert_array_equal(valid, right)
  assert right[0].all() and not right[1].all()


@pytest.mark.parametrize('free, settings, weight', [
    (0.0, {}, 1), (1e3, {}, 1), (4.5, {'kl__free_avg': False}, 1),
    (0.0, {'kl_balanced': True}, 1), (4.5, {'kl__dyn': 0.5}, 0.5),
    (4.5, {'kl__dyn': 0.5, 'kl_balanced': True}, 0.6),
    (4.5, {'kl__dyn': 2.0, 'kl__free_avg': False}, 2)])
def test_divergences_equal_a_loop(free, settings, weight, make_case):
  """Free nats limit the mean or each entry; kl.dyn and kl.rep weigh."""
  steps, wm, data, post = make_case(horizon=2, kl_free=free, **settings)
  _, kls, _ = steps.predict(wm, data, post, None)
  q = {k: v.numpy().astype(np.float64) for k, v in post.items()}
  for k, kl in enumerate(kls, 1):
    values = []
    for b, t, mean in loop(data, post, k + 1):
      std = q['std'][b, t] + 0.5 * (k + 1)
      ratio = (q['std'][b, t + k + 1] / std) ** 2
      shift = ((q['mean'][b, t + k + 1] - mean) / std) ** 2
      values.append(0.5 * (ratio + shift - 1 - np.log(ratio)).sum())
    assert values
    assert free != 4.5 or k == 1 or min(values) < free < max(values)
    right = (
        max(free, np.mean(values)) if settings.get('kl__free_avg', True)
        else np.mean([max(free, x) for x in values]))
    np.testing.assert_allclose(kl, weight * right, rtol=1e-4)


def test_predict_takes_the_first_step_from_the_prior(make_case):
  steps, wm, data, post = make_case(horizon=1)
  prior = {k: v for k, v in post.items() if k != 'stoch'}
  prior = {**prior, 'mean': post['mean'] + 5}
  found, _, valid = steps.predict(wm, data, post, prior)
  for b, t in np.argwhere(valid[1]):
    np.testing.assert_allclose(
        found[1][b, t], prior['mean'][b, t + 1], atol=1e-6)


@pytest.mark.parametrize('stop', [False, True])
def test_sg_start_stops_the_gradient_at_the_start(stop, make_case):
  steps, wm, data, post = make_case(horizon=1, sg_start=stop)
  with tf.GradientTape() as tape:
    tape.watch(post['stoch'])
    found, _, valid = steps.predict(wm, data, post, None)
    value = tf.reduce_sum(found[1][valid[1]])
  grad = tape.gradient(value, post['stoch'])
  right = np.repeat(valid[1].numpy()[..., None], S, -1)
  if stop:
    assert grad is None
  else:
    np.testing.assert_array_equal(grad, right)


@pytest.mark.parametrize('name', ['mean', 'sum'])
def test_summarise_reduces_over_k_and_numbers_the_metrics(name, make_case):
  steps = make_case(k_reduce=name)[0]
  values = [tf.constant(x) for x in (1.0, 2.0, 6.0)]
  terms, metrics = steps.summarise(nce=values, overshooting=values[1:])
  scale = {'mean': (3, 2), 'sum': (1, 1)}[name]
  assert float(terms['nce']) == 9 / scale[0]
  assert float(terms['overshooting']) == 8 / scale[1]
  assert {k: float(v) for k, v in metrics.items()} == {
      'nce_0': 1, 'nce_1': 2, 'nce_2': 6, 'overshooting_1': 2,
      'overshooting_2': 6}
  assert float(steps.summarise(overshooting=[])[0]['overshooting']) == 0


def test_augment_gives_two_shifted_views_of_the_images_alone(make_model):
  wm, data = make_model('dreamingv2', vector=False)
  scaled = wm.preprocess(data)
  views = wm.objective.augment(scaled)
  slow = views.pop('second')
  assert set(views) == set(slow) == set(scaled)
  for key in set(scaled) - {'image'}:
    assert views[key] is scaled[key] and slow[key] is scaled[key]
  images = [x['image'].numpy() for x in (scaled, views, slow)]
  assert images[0].shape == images[1].shape == images[2].shape
  # Among six independent shifts, some neighbours must differ.
  assert not np.array_equal(images[0], images[1])
  assert not np.array_equal(images[1], images[2])


@pytest.mark.parametrize(
    'name, moved', [('keys', (False, True)), ('same', (True, True))])
def test_shifted_chooses_the_views_that_move(name, moved, make_model):
  wm, data = make_model('dreamingv2', vector=False, contrastive__shifted=name)
  scaled = wm.preprocess(data)
  views = wm.objective.augment(scaled)
  views = [views['image'].numpy(), views['second']['image'].numpy()]
  assert moved == tuple(
      not np.array_equal(x, scaled['image']) for x in views)
  assert np.array_equal(*views) == (name == 'same')


def test_unknown_shifted_names_the_choices(make_model):
  with pytest.raises(ValueError, match='contrastive.shifted.*each'):
    make_model('dreamingv2', contrastive__shifted='key')


def test_augment_without_pad_changes_nothing(make_model):
  wm, data = make_model('dreamingv2', vector=False, contrastive__pad=0)
  scaled = wm.preprocess(data)
  views = wm.objective.augment(scaled)
  np.testing.assert_array_equal(views['image'], scaled['image'])
  np.testing.assert_array_equal(views['second']['image'], scaled['image'])


def variables(wm):
  slow = tfutils.named_variables(wm.objective)
  slow = {k.split('/', 2)[2]: v.numpy() for k, v in slow.items()
          if k.startswith('slow_encoder/encoder/')}
  online = {k: v.numpy() for k, v in
            tfutils.named_variables(wm.encoder).items()}
  assert slow.keys() == online.keys()
  return online, slow


def test_slow_encoder_copies_first_and_then_follows(make_model):
  wm, data = make_model('dreamingv2')
  online, slow = variables(wm)
  for key in online:
    np.testing.assert_array_equal(online[key], slow[key])
  wm.train(data)
  online, slow = variables(wm)
  for key in online:
    np.testing.assert_array_equal(online[key], slow[key])
  right = slow
  for _ in range(4):
    wm.train(data)
    online, slow = variables(wm)
    for key in online:
      right[key] = 0.95 * right[key] + 0.05 * online[key]
      np.testing.assert_allclose(slow[key], right[key], rtol=1e-5, atol=1e-7)
  assert any(np.abs(online[k] - slow[k]).max() > 1e-5 for k in online)
