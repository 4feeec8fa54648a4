import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import ranges
from dreamingv2.common import latents
from dreamingv2.objectives import predictive
from tests.helpers import normal

B, T, S = 3, 5, 4


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def log_prob(x, mean, std):
  return np.sum(
      -((x - mean) / std) ** 2 / 2 - np.log(std) - np.log(2 * np.pi) / 2, -1)


@pytest.fixture
def make_case(make_config, monkeypatch):
  """Returns a function that makes an objective, loss arguments and noise."""

  def make(batch=B, resets=True, **updates):
    config = make_config('tpc', updates={
        f'predictive.{k}': v for k, v in updates.items()})
    latent = latents.make('gaussian', S, 0)
    first = np.zeros((batch, T), bool)
    first[:, 0] = True
    if resets:
      first[1, 3] = True
    noise = normal(batch, T, S, seed=9)
    monkeypatch.setattr(
        tf.random, 'stateless_normal', lambda *args: tf.constant(noise))
    post = {'mean': tf.constant(normal(batch, T, S))}
    prior = {
        'mean': tf.constant(normal(batch, T, S, seed=1)),
        'std': tf.constant(np.abs(normal(batch, T, S, seed=2)) + 0.1)}
    objective = predictive.Predictive(config, latent, {})
    data = {'is_first': tf.constant(first)}
    return objective, (None, data, None, post, prior), noise

  return make


def test_terms_equal_a_loop(make_case):
  objective, args, noise = make_case()
  _, data, _, post, prior = args
  first = data['is_first'].numpy()
  code, mean, std = [
      x.numpy() for x in (post['mean'], prior['mean'], prior['std'])]
  noisy = code + 0.2 * noise
  tpc, static, consistency = [], [], []
  for t in range(T):
    rows = [b for b in range(B) if not first[b, t]]
    for b in rows:
      scores = np.array([
          log_prob(noisy[b, t], mean[i, t], std[i, t]) for i in rows])
      tpc.append(-log_softmax(scores)[rows.index(b)])
      consistency.append(-log_prob(code[b, t], mean[b, t], std[b, t]))
    for b in range(B):
      scores = np.array([
          log_prob(noisy[b, t], code[i, t], 0.2) for i in range(B)])
      static.append(-log_softmax(scores)[b])
  terms, _, _ = objective.terms(*args)
  np.testing.assert_allclose(terms['tpc'], np.mean(tpc), rtol=1e-4)
  np.testing.assert_allclose(terms['static'], np.mean(static), rtol=1e-4)
  np.testing.assert_allclose(
      terms['consistency'], 0.1 * np.mean(consistency), rtol=1e-4)


def test_smallest_noise_leaves_losses_and_gradients_finite(make_case):
  noise, _ = ranges.find('predictive.noise')
  objective, args, _ = make_case(noise=noise)
  code = args[3]['mean']
  with tf.GradientTape() as tape:
    tape.watch(code)
    terms, _, _ = objective.terms(*args)
    total = tf.add_n(list(terms.values()))
  assert np.isfinite(total)
  assert np.isfinite(tape.gradient(total, code)).all()


def test_one_sequence_has_nothing_to_choose(make_case):
  objective, args, _ = make_case(batch=1, resets=False)
  terms, _, _ = objective.terms(*args)
  assert float(terms['tpc']) == float(terms['static']) == 0
  assert float(terms['consistency']) != 0


def test_posterior_sees_the_frame_alone_with_the_width_of_the_prior(
    make_model, pieces):
  wm, data = make_model('tpc')
  _, embed, post, prior = pieces(wm, data)
  np.testing.assert_allclose(post['std'], prior['std'], rtol=1e-6)
  other = {**data, 'action': -data['action']}
  _, _, moved, _ = pieces(wm, other)
  np.testing.assert_array_equal(post['mean'], moved['mean'])
  assert np.abs(moved['deter'] - post['deter']).max() > 1e-4
  state = {**data, 'state': data['state'] + 1}
  assert np.abs(pieces(wm, state)[2]['mean'] - post['mean']).max() > 1e-3


CHAIN = {'encoder', 'gru', 'posterior', 'prior'}


@pytest.mark.parametrize('name, parts', [
    ('tpc_loss', CHAIN), ('consistency_loss', CHAIN),
    ('static_loss', {'encoder', 'posterior'})])
def test_gradient_map(name, parts, make_model, moved_by):
  wm, data = make_model('tpc')
  assert moved_by(wm, data, name) == parts


def test_there_is_no_divergence_but_it_is_measured(make_model):
  wm, data = make_model('tpc')
  _, _, _, metrics = wm.loss(data)
  assert float(metrics['kl_loss']) == 0 < float(metrics['model_kl'])
  make_model('tpc', loss_scales__overshooting=0.2)  # As in a size block.


@pytest.mark.parametrize('key, value, text', [
    ('rssm__latent', 'categorical', 'rssm.posterior embed'),
    ('rssm__posterior', 'filter', "rssm.posterior of objective 'predictive'"),
])
def test_bad_settings_are_named(key, value, text, make_model):
  with pytest.raises(ValueError, match=text):
    make_model('tpc', **{key: value})


def test_latent_that_the_objective_cannot_learn_is_named(make_model):
  with pytest.raises(
      ValueError, match="rssm.latent of objective 'predictive'.*gaussian"):
    make_model('tpc', rssm__latent='hybrid', rssm__posterior='filter')


@pytest.mark.parametrize('name', ['static', 'tpc'])
def test_a_loss_alone_falls_on_one_batch(name, make_model):
  wm, data = make_model('tpc', model_opt__lr=1e-2, **{
      f'loss_scales__{k}': float(k == name)
      for k in ('consistency', 'reward', 'static', 'tpc')})
  values = [float(wm.train(data)[2][f'{name}_loss']) for _ in range(20)]
  assert np.mean(values[-3:]) < 0.8 * np.mean(values[:3])
