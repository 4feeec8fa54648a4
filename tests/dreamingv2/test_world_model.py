import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import dists
from tests.helpers import assert_equal
from tests.helpers import copy
from tests.helpers import scalars
from tests.helpers import to_tensors


@pytest.fixture
def make_model(make_config, make_agent, make_batch):

  def make(method='dreamingv2', ends=False, **updates):
    config = make_config(method, updates={
        k.replace('__', '.'): v for k, v in updates.items()})
    return make_agent(config, ends=ends).wm, to_tensors(make_batch(config))

  return make


def test_loss_is_the_weighted_sum(make_model):
  wm, data = make_model(
      loss_scales__nce=0.5, loss_scales__aux=3.0, loss_scales__reward=0.0,
      loss_scales__kl=0.5, loss_scales__overshooting=0.2)
  loss, _, _, metrics = wm.loss(data)
  scales = {'nce': 0.5, 'aux': 3.0, 'reward': 0, 'kl': 0.5,
            'overshooting': 0.2}
  right = sum(v * float(metrics[f'{k}_loss']) for k, v in scales.items())
  np.testing.assert_allclose(loss, right, rtol=1e-5)


@pytest.mark.parametrize('method', [
    'barlow_twins', 'byol', 'dreaming', 'dreamingv2', 'hybrid'])
def test_divergences_further_ahead_have_a_weight_of_their_own(
    method, make_model):
  """`kl` is the weight of KL_0 only."""
  totals = []
  for kl, overshooting in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
    wm, data = make_model(
        method, loss_scales__kl=kl, loss_scales__overshooting=overshooting)
    loss, _, _, metrics = wm.loss(data)
    totals.append(float(loss))
  none, near, far = totals
  m = scalars(metrics)
  np.testing.assert_allclose(near - none, m['kl_loss'], rtol=1e-3)
  np.testing.assert_allclose(far - none, m['overshooting_loss'], rtol=1e-3)


def test_decoder_scale_weighs_all_its_outputs(make_config, make_agent,
                                              make_batch):
  config = make_config('dreamerv2', updates={
      'decoder': {'mlp_keys': '.*', 'cnn_keys': 'image'},
      'loss_scales.decoder': 0.25})
  loss, _, _, metrics = make_agent(config).wm.loss(
      to_tensors(make_batch(config)))
  m = scalars(metrics)
  right = m['kl_loss'] + m['reward_loss']
  right += 0.25 * (m['image_loss'] + m['state_loss'])
  np.testing.assert_allclose(loss, right, rtol=1e-5)


@pytest.mark.parametrize('method, name', [
    ('dreamingv2', 'decoder'), ('dreamerv2', 'nce'),
    ('dreamingv2', 'discount')])
def test_scale_of_an_absent_loss_is_an_error(method, name, make_model):
  with pytest.raises(ValueError, match=f'loss_scales.{name} is 2.0') as error:
    make_model(method, **{f'loss_scales__{name}': 2.0})
  assert 'reward' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('used', [False, True])
def test_grad_heads_decide_whether_gradients_reach_the_features(
    used, make_model, grads_of):
  wm, data = make_model(
      ends=True,
      grad_heads=['reward', 'discount'] if used else ['discount'])
  for name, reaches in (('reward', used), ('discount', True)):
    with tf.GradientTape() as tape:
      value = wm.loss(data)[3][f'{name}_loss']
    norms = grads_of(tape, value, wm)
    part = lambda start: max(
        v for k, v in norms.items() if k.startswith(start))  # noqa: B023
    assert (part('encoder/') > 0) == (part('rssm/obs_') > 0) == reaches
    assert part(f'heads/{name}/') > 0


@pytest.mark.parametrize('key, value, text', [
    ('grad_heads', ['reward', 'image'], "grad_heads 'image'; known: .*reward"),
    ('clip_rewards', 'log', "'log'; known: .*identity.*tanh"),
    ('objective', 'nce', "'nce'; known: .*contrastive"),
    ('actor_grad', 'pathwise', "'pathwise'; known: .*both"),
    ('actor__dist', 'onehot', 'does not fit continuous'),
    ('model_opt__opt', 'sgd', "'sgd'; known: adam")])
def test_bad_settings_are_named(key, value, text, make_model):
  with pytest.raises(ValueError, match=text) as error:
    make_model(**{key: value})
  assert '\n' not in str(error.value)


def test_preprocess_scales_clips_and_adds_discounts(make_model):
  for name, clip in (
      ('identity', lambda x: x), ('sign', np.sign), ('tanh', np.tanh)):
    wm, data = make_model(clip_rewards=name, discount=0.9)
    terminal = np.zeros(data['reward'].shape, bool)
    terminal[1, 2] = True
    data['is_terminal'] = tf.constant(terminal)
    processed = wm.preprocess(data)
    np.testing.assert_allclose(
        processed['reward'], clip(data['reward'].numpy()), rtol=1e-5)
    np.testing.assert_allclose(
        processed['image'], data['image'].numpy() / 255 - 0.5, atol=1e-6)
    np.testing.assert_allclose(processed['discount'], 0.9 * ~terminal)
    assert processed['is_first'].dtype == tf.bool


def test_rewards_are_scaled_by_what_training_has_seen(make_model):
  wm, data = make_model(
      replay_reward_norm__momentum=0.5, clip_rewards='tanh')
  raw = np.tanh(data['reward'].numpy())
  np.testing.assert_allclose(wm.preprocess(data)['reward'], raw, rtol=1e-5)
  wm.train(data)
  square = 0.5 * 1 + 0.5 * np.mean(raw ** 2)
  for _ in range(2):  # Reading must not count.
    np.testing.assert_allclose(
        wm.preprocess(data)['reward'], raw / square ** 0.5, rtol=1e-5)


def test_likelihood_of_rewards_and_discounts_equals_a_loop(make_model):
  wm, data = make_model(ends=True)
  terminal = np.zeros(data['reward'].shape, bool)
  terminal[0, 4] = True
  data['is_terminal'] = tf.constant(terminal)
  _, _, outputs, metrics = wm.loss(data)
  feat = outputs['feat']
  mean = wm.heads['reward'](feat).mode().numpy()
  error = data['reward'].numpy() - mean
  right = np.mean(error ** 2 / 2 + np.log(2 * np.pi) / 2)
  np.testing.assert_allclose(metrics['reward_loss'], right, rtol=1e-5)
  # The Bernoulli has a soft target: the discount unless the episode ended.
  p = wm.heads['discount'](feat).mean().numpy()
  target = 0.99 * ~terminal
  right = -np.mean(target * np.log(p) + (1 - target) * np.log(1 - p))
  np.testing.assert_allclose(metrics['discount_loss'], right, rtol=1e-4)


def test_train_updates_the_model_alone(make_config, make_agent, make_batch):
  config = make_config()
  agent = make_agent(config)
  before = copy(agent.parts['task_behavior'])
  _, outputs, _ = agent.wm.train(to_tensors(make_batch(config)))
  assert_equal(before, copy(agent.parts['task_behavior']))
  assert set(outputs['data']['second']) <= set(outputs['data'])


# Imagination


class Line:
  """Replaces the RSSM: its state moves by the action."""

  class latent:

    @staticmethod
    def noise(shape):
      return tf.zeros(shape)

  def img_step(self, state, action, noise=None):
    return {'x': state['x'] + action}

  def get_feat(self, state):
    return state['x']


class Policy:
  """Acts with exactly a tenth of the state."""

  def params(self, feat):
    return feat / 10

  def dist(self, params):
    return dists.TruncNormalDist(params, 1e-4 * tf.ones_like(params))


class Head:
  """Predicts the feature's first entry."""

  def __call__(self, feat):
    self.value = feat[..., 0]
    return self

  def mean(self):
    return self.value

  mode = mean


@pytest.fixture
def line(make_model):
  """Returns a world model with linear dynamics, and start states."""
  wm, _ = make_model()
  wm.rssm = Line()
  start = {'x': tf.constant(
      np.random.default_rng(0).uniform(0.1, 0.5, (2, 3, 2)), tf.float32)}
  return wm, start


def test_imagine_aligns_features_actions_and_policies(line):
  wm, start = line
  seq = wm.imagine(Policy(), start, None, 4)
  flat = start['x'].numpy().reshape(6, 2)
  assert seq['feat'].shape == (5, 6, 2)
  assert seq['action'].shape == (5, 6, 2)
  assert seq['policy'].shape == (4, 6, 2)
  np.testing.assert_array_equal(seq['feat'][0], flat)
  np.testing.assert_array_equal(seq['action'][0], 0 * flat)
  for t in range(1, 5):
    before = seq['feat'][t - 1].numpy()
    # The policy's standard deviation is 1e-4.
    np.testing.assert_allclose(seq['action'][t], before / 10, atol=1e-3)
    np.testing.assert_allclose(
        seq['feat'][t], before + seq['action'][t].numpy(), rtol=1e-5)
    np.testing.assert_allclose(seq['policy'][t - 1], before / 10, rtol=1e-5)


def test_imagine_weighs_by_the_constant_discount(line):
  wm, start = line
  terminal = tf.constant([[False, True, False]] * 2)
  seq = wm.imagine(Policy(), start, terminal, 3)
  np.testing.assert_allclose(seq['discount'], np.full((4, 6), 0.99))
  right = 0.99 ** np.arange(4)[:, None] * np.ones((1, 6))
  np.testing.assert_allclose(seq['weight'], right, rtol=1e-6)


def test_imagine_weighs_by_the_predicted_discount(line):
  wm, start = line
  wm.heads['discount'] = Head()
  terminal = np.array([[False, True, False], [False, False, True]])
  seq = wm.imagine(Policy(), start, tf.constant(terminal), 3)
  disc = seq['feat'].numpy()[..., 0].copy()
  disc[0] = 0.99 * ~terminal.reshape(-1)
  np.testing.assert_allclose(seq['discount'], disc, rtol=1e-6)
  for t in range(4):
    np.testing.assert_allclose(
        seq['weight'][t], np.prod(disc[:t], 0), rtol=1e-5)


def test_imagine_sends_policies_no_gradient_from_features(line):
  wm, start = line
  with tf.GradientTape() as tape:
    tape.watch(start['x'])
    seq = wm.imagine(Policy(), start, None, 3)
    value = tf.reduce_sum(seq['policy'])
  assert tape.gradient(value, start['x']) is None


@pytest.mark.parametrize('wanted', [False, True])
@pytest.mark.parametrize('ends', [False, True])
def test_ends_are_predicted_where_the_environment_has_some(
    ends, wanted, make_model):
  wm, data = make_model(ends=ends, pred_discount=wanted)
  assert ('discount' in wm.heads) == (ends and wanted)
  assert ('discount_loss' in wm.loss(data)[3]) == (ends and wanted)
