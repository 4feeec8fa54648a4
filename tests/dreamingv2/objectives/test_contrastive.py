import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import objectives
from dreamingv2.common import latents as latentlib
from dreamingv2.common import tfutils
from tests.helpers import to_tensors


class Prior:
  """Replaces the RSSM: its statistics are linear in sample and action."""

  def __init__(self, latent, action_size):
    rng = np.random.default_rng(7)
    self.latent = latent
    self.matrix = rng.normal(size=(
        latent.size + action_size, latent.outputs)).astype(np.float32)

  def img_step(self, state, action):
    x = tf.concat([state['stoch'], action], -1)
    stats = self.latent.stats(tf.matmul(x, self.matrix))
    return {**stats, 'deter': state['deter'],
            'stoch': self.latent.mode(stats)}


class Model:

  def __init__(self, rssm):
    self.rssm = rssm


@pytest.fixture
def make_case(make_config, make_batch):
  """Returns a function that builds an objective and its arguments."""

  def make(latent='categorical', resets=False, **updates):
    updates = {f'contrastive.{k}': v for k, v in updates.items()}
    config = make_config(
        latent=latent, updates={'contrastive.dynamics': 'rssm', **updates})
    rng = np.random.default_rng(5)
    data = make_batch(config)
    if resets:
      data['is_first'][0, 3] = data['is_first'][1, 5] = True
    data = {k: tf.constant(v) for k, v in data.items()}
    data['second'] = {'state': tf.constant(
        rng.normal(size=(*data['reward'].shape, 5)), tf.float32)}
    kind = latentlib.make(latent, 4, 4, 3)
    objective = objectives.make(config, kind, {'state': (5,)})
    wm = Model(Prior(kind, data['action'].shape[-1]))
    post = kind.stats(tf.constant(rng.normal(
        size=(*data['reward'].shape, kind.outputs)), tf.float32))
    post['stoch'] = kind.mode(post)
    post['deter'] = tf.zeros([*data['reward'].shape, 1])
    embed = tf.constant(
        rng.normal(size=(*data['reward'].shape, 16)), tf.float32)
    args = (wm, data, embed, post, None)
    objective.loss(*args)  # Creates the variables.
    return objective, args

  return make


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def kl_loop(latent, lhs, rhs):
  """Computes KL(lhs || rhs) [...] of statistics in NumPy."""
  lhs, rhs = [
      {k: np.asarray(v, np.float64) for k, v in x.items()}
      for x in (lhs, rhs)]
  if latent == 'categorical':
    p, q = log_softmax(lhs['logit']), log_softmax(rhs['logit'])
    return (np.exp(p) * (p - q)).sum((-2, -1))
  ratio = lhs['std'] / rhs['std']
  shift = (lhs['mean'] - rhs['mean']) / rhs['std']
  return (0.5 * (ratio ** 2 + shift ** 2 - 1) - np.log(ratio)).sum(-1)


def overshoot_loop(latent, args, horizon, free):
  """Computes KL_1..KL_K one start at a time."""
  wm, data, _, post, _ = args
  action, first = data['action'].numpy(), data['is_first'].numpy()
  keys = ('logit',) if latent == 'categorical' else ('mean', 'std')
  terms = [[] for _ in range(horizon)]
  for b, t in itertools.product(*map(range, first.shape)):
    state = {k: post[k][b, t][None] for k in ('stoch', 'deter')}
    for d in range(1, horizon + 2):
      if t + d >= first.shape[1] or first[b, t + d]:
        break
      state = wm.rssm.img_step(state, action[b, t + d][None])
      if d > 1:
        q = {k: post[k][b, t + d] for k in keys}
        terms[d - 2].append(
            kl_loop(latent, q, {k: state[k][0] for k in keys}))
  return [max(np.mean(x), free) for x in terms]


@pytest.mark.parametrize('resets', [False, True])
@pytest.mark.parametrize('latent', ['categorical', 'gaussian'])
def test_overshooting_equals_a_loop(latent, resets, make_case):
  objective, args = make_case(latent, resets, kl_free=0.0)
  terms, metrics = objective.loss(*args)
  right = overshoot_loop(latent, args, 3, 0.0)
  assert len(right) == 3 and min(right) > 0
  for k, value in enumerate(right, 1):
    np.testing.assert_allclose(
        metrics[f'overshooting_{k}'], value, rtol=1e-4)
  np.testing.assert_allclose(terms['overshooting'], sum(right), rtol=1e-4)


@pytest.mark.parametrize('latent', ['categorical', 'gaussian'])
def test_overshooting_gradient_is_finite_despite_masked_entries(
    latent, make_case):
  objective, args = make_case(latent, resets=True, kl_free=0.0)
  with tf.GradientTape() as tape:
    tape.watch(args[3]['stoch'])
    terms, _ = objective.loss(*args)
    value = terms['overshooting']
  grad = tape.gradient(value, args[3]['stoch']).numpy()
  assert np.isfinite(grad).all() and np.abs(grad).max() > 1e-3


def test_overshooting_clips_the_mean_of_each_k(make_case):
  _, args = make_case(kl_free=0.0)
  values = overshoot_loop('categorical', args, 3, 0.0)
  free = (min(values) + max(values)) / 2
  objective, args = make_case(kl_free=free)
  _, metrics = objective.loss(*args)
  terms = [float(metrics[f'overshooting_{k}']) for k in (1, 2, 3)]
  np.testing.assert_allclose(terms, np.maximum(values, free), rtol=1e-4)
  assert np.isclose(terms, free).any()


@pytest.mark.parametrize('balanced', [False, True])
def test_overshooting_moves_the_posterior_only_if_balanced(
    balanced, make_case):
  objective, args = make_case(kl_free=0.0, kl_balanced=balanced)
  logit = args[3]['logit']
  plain = overshoot_loop('categorical', args, 3, 0.0)
  with tf.GradientTape() as tape:
    # The samples do not depend on it here, so it only acts as q in the KL.
    tape.watch(logit)
    terms, _ = objective.loss(*args)
    value = terms['overshooting']
  np.testing.assert_allclose(value, sum(plain), rtol=1e-4)
  grad = tape.gradient(value, logit)
  assert balanced == (grad is not None and float(tf.norm(grad)) > 1e-3)


def critics(objective, args, latent, vmf):
  """Computes the critic vectors of samples and frames in NumPy."""
  (name,) = [
      k for k in tfutils.named_variables(objective) if k.startswith('critic')]
  kernel = tfutils.named_variables(objective)[name].numpy()
  # The slow encoder of this vector case is one dense layer with ELU.
  slow = {k: v.numpy() for k, v in tfutils.named_variables(objective).items()
          if 'slow_encoder' in k}
  (weight,) = [v for k, v in slow.items() if 'kernel' in k]
  (bias,) = [v for k, v in slow.items() if 'bias' in k]
  x = args[1]['second']['state'].numpy() @ weight + bias
  out = np.where(x > 0, x, np.expm1(x)) @ kernel
  if latent == 'categorical':
    S, C = args[3]['logit'].shape[-2:]
    out = log_softmax(out.reshape(*out.shape[:-1], S, C)).reshape(out.shape)
  z = args[3]['stoch'].numpy()
  if vmf:
    out = out / np.linalg.norm(out, axis=-1, keepdims=True) / 0.1
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
  return z, out


@pytest.mark.parametrize('latent, vmf', [
    ('categorical', False), ('gaussian', False), ('gaussian', True)])
def test_nce_scores_posteriors_by_the_critic_of_slow_frames(
    latent, vmf, make_case):
  objective, args = make_case(latent, horizon=0, vmf=vmf)
  _, metrics = objective.loss(*args)
  z, keys = critics(objective, args, latent, vmf)
  logits = np.einsum('itz,jtz->tij', z, keys)
  right = -np.mean(np.einsum('tii->ti', log_softmax(logits)))
  np.testing.assert_allclose(metrics['nce_0'], right, rtol=1e-4)


def test_k_reduce_sums_or_averages(make_case):
  for name, factor in (('sum', 1.0), ('mean', 0.25)):
    objective, args = make_case(k_reduce=name)
    terms, metrics = objective.loss(*args)
    total = sum(float(metrics[f'nce_{k}']) for k in range(4))
    np.testing.assert_allclose(terms['nce'], factor * total, rtol=1e-5)
    assert float(metrics['overshooting_1']) > 0


def test_horizon_zero_rolls_nothing_out(make_case):
  objective, (_, *args) = make_case(horizon=0)
  terms, metrics, _ = objective.terms(Model(None), *args)
  assert float(terms['overshooting']) == 0
  assert [k for k in metrics if k.startswith('nce_')] == [
      'nce_0', 'nce_accuracy_0']
  assert not [k for k in metrics if k.startswith('overshooting')]


def test_windows_across_episodes_get_no_gradient(make_case):
  objective, args = make_case(horizon=1, aux_negatives='batch')
  wm, data, embed, post, prior = args
  first = np.zeros(data['is_first'].shape, bool)
  first[1, 3] = True
  data = {**data, 'is_first': tf.constant(first)}
  with tf.GradientTape() as tape:
    tape.watch(post['stoch'])
    terms, _ = objective.loss(wm, data, embed, post, prior)
    value = terms['nce']
  norm = np.linalg.norm(tape.gradient(value, post['stoch']), axis=-1)
  assert norm[1, 2] == 0 and (norm[:, -1] == 0).all()
  norm[1, 2] = 1
  assert (norm[:, :-1] > 0).all()


@pytest.mark.parametrize('key, value, text', [
    ('negatives', 'row', 'all, batch, window'),
    ('aux_negatives', 'row', 'all, batch, window'),
    ('k_reduce', 'max', 'mean, sum'),
    ('horizon', 6, r'0\.\.5'),
    ('horizon', -1, r'0\.\.5'),
    ('dynamics', 'gru', 'linear, rssm'),
    ('vmf', True, 'rssm.latent gaussian'),
])
def test_bad_settings_are_named(key, value, text, make_config):
  config = make_config(updates={f'contrastive.{key}': value})
  with pytest.raises(ValueError, match=text) as error:
    latent = latentlib.make('categorical', 4, 4)
    objectives.make(config, latent, {'state': (5,)})
  assert f'contrastive.{key}' in str(error.value)
  assert '\n' not in str(error.value)


# The following tests use the objective inside the real world model.


@pytest.fixture
def make_model(make_config, make_agent, make_batch):

  def make(vector=True, **updates):
    config = make_config('dreamingv2', vector=vector, updates={
        f'contrastive.{k}': v for k, v in updates.items()})
    return make_agent(config).wm, to_tensors(make_batch(config))

  return make


def norms(wm, data, grads_of, name):
  """Returns the largest gradient norm of a metric in each part."""
  with tf.GradientTape() as tape:
    tape.watch(list(tfutils.named_variables(wm).values()))
    _, _, _, metrics = wm.loss(data)
    value = metrics[name]
  grads = grads_of(tape, value, wm)
  parts = {
      'encoder': 'encoder/', 'gru': 'rssm/cell/',
      'posterior': 'rssm/obs_', 'prior': 'rssm/img_out',
      'head': 'heads/', 'critic': 'objective/critic/',
      'slow': 'objective/slow_'}
  out = {}
  for part, start in parts.items():
    values = [v for k, v in grads.items() if k.startswith(start)]
    assert values, (part, sorted(grads))
    out[part] = max(values)
  return {k for k, v in out.items() if v > 1e-8}


ALL = {'encoder', 'gru', 'posterior', 'prior', 'critic'}


@pytest.mark.parametrize('name, parts', [
    ('nce_0', ALL - {'prior'}),
    ('nce_1', ALL), ('nce_2', ALL), ('nce_3', ALL),
    ('aux_loss', {'encoder', 'critic'}),
    ('overshooting_1', ALL - {'critic'}),
    ('overshooting_3', ALL - {'critic'}),
    ('kl_loss', ALL - {'critic'}),
    ('reward_loss', ALL - {'prior', 'critic'} | {'head'})])
def test_gradient_map(name, parts, make_model, grads_of):
  wm, data = make_model(kl_free=0.0)
  wm.config = wm.config.update({'kl.free': 0.0})
  assert norms(wm, data, grads_of, name) == parts


def test_sg_start_keeps_roll_outs_from_the_posterior(make_model, grads_of):
  wm, data = make_model(sg_start=True, kl_free=0.0)
  for name in ('nce_1', 'nce_3'):
    assert norms(wm, data, grads_of, name) == {'gru', 'prior', 'critic'}
  assert norms(wm, data, grads_of, 'overshooting_2') == {'gru', 'prior'}
  assert norms(wm, data, grads_of, 'nce_0') == ALL - {'prior'}


def test_slow_critic_leaves_the_critic_to_the_auxiliary_term(
    make_model, grads_of):
  wm, data = make_model(slow_critic=True)
  assert norms(wm, data, grads_of, 'nce_1') == ALL - {'critic'}
  assert norms(wm, data, grads_of, 'aux_loss') == {'encoder', 'critic'}


def test_no_decoder_exists(make_model):
  wm, _ = make_model()
  assert set(wm.heads) == {'reward'}
  assert not [k for k in tfutils.named_variables(wm) if 'decoder' in k]


def test_the_optimiser_moves_no_slow_copy(make_model):
  wm, _ = make_model(slow_critic=True)
  moved = tfutils.named_variables(wm.modules)
  assert not [k for k in moved if 'slow' in k]
  assert [k for k in moved if k.startswith('objective/0')]  # The critic.
  assert [k for k in tfutils.named_variables(wm.objective) if 'slow' in k]


def test_losses_start_at_chance(make_model):
  wm, data = make_model(vector=False)
  B, T = data['reward'].shape
  _, _, _, metrics = wm.loss(data)
  for k in range(4):
    # The spread of a random critic's logits adds a little loss.
    np.testing.assert_allclose(
        metrics[f'nce_{k}'], math.log(B * 4), atol=0.2)
  np.testing.assert_allclose(metrics['aux_loss'], math.log(B * T), atol=0.2)


@pytest.mark.parametrize('name', ['aux', 'nce'])
def test_a_loss_alone_falls_on_one_batch(
    name, make_config, make_agent, make_batch):
  config = make_config('dreamingv2', latent='gaussian', updates={
      'model_opt.lr': 1e-2,
      r'loss_scales\.(aux|kl|nce|reward)': 0.0,
      f'loss_scales.{name}': 1.0})
  wm, data = make_agent(config).wm, to_tensors(make_batch(config))
  values = [float(wm.train(data)[2][f'{name}_loss']) for _ in range(12)]
  # Samples are noisy, so means are compared.
  assert np.mean(values[-3:]) < 0.8 * np.mean(values[:2])


@pytest.mark.parametrize('used', [False, True])
def test_slow_critic_exists_only_if_used(used, make_model):
  wm, data = make_model(slow_critic=used)
  named = tfutils.named_variables(wm.objective)
  slow = [v for k, v in named.items() if k.startswith('slow_critic/')]
  assert len(slow) == used
  if used:
    (online,) = [v for k, v in named.items() if k.startswith('critic/')]
    np.testing.assert_array_equal(slow[0], online)
    start = slow[0].numpy()
    wm.train(data)
    np.testing.assert_array_equal(slow[0], online)
    assert np.abs(start - online.numpy()).max() > 0
