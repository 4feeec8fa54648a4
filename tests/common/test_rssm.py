import itertools

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import nets
from dreamingv2.common import tfutils
from tests.helpers import normal

pytestmark = pytest.mark.usefixtures('seed')

B, T, E, A = 3, 5, 7, 2
SIZES = {
    'ensemble': 1, 'stoch': 4, 'deter': 6, 'hidden': 8, 'act': 'elu',
    'norm': 'none', 'std_act': 'sigmoid2', 'min_std': 0.1}
KINDS = pytest.mark.parametrize('discrete', [0, 3])


def build(discrete, **sizes):
  """Returns an RSSM with categoricals of `discrete` classes, or Gaussians."""
  latent = 'categorical' if discrete else 'gaussian'
  return nets.EnsembleRSSM(
      **{'latent': latent, 'discrete': discrete, **SIZES, **sizes})


def make_rssm(discrete, **sizes):
  """Returns an RSSM with random variables and inputs of `observe`."""
  rssm = build(discrete, **sizes)
  data = {
      'embed': tf.constant(normal(B, T, E)),
      'action': tf.constant(normal(B, T, A, seed=1)),
      'is_first': tf.constant(np.eye(1, T, dtype=bool).repeat(B, 0))}
  rssm.observe(**data)
  for i, var in enumerate(tfutils.trainable(rssm)):
    var.assign(0.7 * normal(*var.shape, seed=100 + i))
  return rssm, data


def feed_noise(monkeypatch, rssm, noise):
  """Replaces the latent's next draws by given ones and checks their shapes."""
  queue = list(noise)

  def draw(batch_shape):
    noise = queue.pop(0)
    assert list(noise.shape[:len(batch_shape)]) == list(batch_shape)
    return tf.constant(noise)

  monkeypatch.setattr(rssm.latent, 'noise', draw)
  return queue


def step_noise(rssm, discrete):
  if discrete:
    shape = [B, rssm.latent.stoch]
    return [
        np.random.default_rng(50 + t).random(shape, np.float32)
        for t in range(T)]
  return [normal(B, rssm.latent.size, seed=50 + t) for t in range(T)]


def assert_states_equal(actual, expected, rtol=1e-4, atol=1e-5):
  assert actual.keys() == expected.keys()
  for key in expected:
    np.testing.assert_allclose(
        actual[key], expected[key], rtol=rtol, atol=atol, err_msg=key)


@KINDS
@pytest.mark.parametrize('given', [False, True])
def test_observe_equals_obs_step_by_step(discrete, given, monkeypatch):
  rssm, data = make_rssm(discrete)
  is_first = np.zeros((B, T), bool)
  is_first[0, 0] = is_first[1, 2] = is_first[2, 4] = True
  data['is_first'] = tf.constant(is_first)
  state = rssm.initial(B)
  if given:
    state = rssm.img_step(state, data['action'][:, 0])
  noise = step_noise(rssm, discrete)
  feed_noise(monkeypatch, rssm, [np.stack(noise)])
  post, prior = rssm.observe(**data, state=state)
  queue = feed_noise(monkeypatch, rssm, noise)
  states = []
  for t in range(T):
    state = rssm.obs_step(
        state, *[data[k][:, t] for k in ('action', 'embed', 'is_first')])
    states.append(state)
  assert not queue
  expected = {k: np.stack([s[k] for s in states], 1) for k in state}
  assert_states_equal(post, expected)
  for t in range(T):
    stats = rssm.prior_ensemble(post['deter'][:, t])[0]
    for key in stats:
      np.testing.assert_allclose(prior[key][:, t], stats[key], rtol=1e-4)
  assert prior.keys() == post.keys() - {'stoch'}


@KINDS
def test_observe_starts_afresh_in_the_middle_of_a_chunk(
    discrete, monkeypatch):
  rssm, data = make_rssm(discrete)
  is_first = np.zeros((B, T), bool)
  is_first[:, 0] = is_first[1, 3] = True
  noise = np.stack(step_noise(rssm, discrete))
  feed_noise(monkeypatch, rssm, [noise, noise[3:]])
  whole, _ = rssm.observe(
      data['embed'], data['action'], tf.constant(is_first))
  late, _ = rssm.observe(
      data['embed'][:, 3:], data['action'][:, 3:],
      tf.constant(is_first[:, 3:]))
  assert_states_equal(
      {k: v[1, 3:] for k, v in whole.items()},
      {k: v[1] for k, v in late.items()})
  # The other episodes continue.
  assert np.abs(whole['deter'][0, 3] - late['deter'][0, 0]).max() > 1e-3


@KINDS
def test_first_step_ignores_the_state_and_the_action_before_it(
    discrete, monkeypatch):
  rssm, data = make_rssm(discrete)
  noise = step_noise(rssm, discrete)[0]
  feed_noise(monkeypatch, rssm, [noise] * 3)
  old = {k: tf.constant(5 * normal(*v.shape)) for k, v in
         rssm.initial(B).items()}
  first = tf.constant([True, False, True])
  action, embed = data['action'][:, 0], data['embed'][:, 0]
  mixed = rssm.obs_step(old, action, embed, first)
  fresh = rssm.obs_step(
      rssm.initial(B), tf.zeros_like(action), embed, tf.zeros([B], bool))
  going = rssm.obs_step(old, action, embed, tf.zeros([B], bool))
  for n, other in enumerate((fresh, going, fresh)):
    assert_states_equal(
        {k: v[n] for k, v in mixed.items()},
        {k: v[n] for k, v in other.items()})
  assert np.abs(fresh['deter'] - going['deter']).max() > 1e-3


@KINDS
def test_no_gradient_crosses_is_first(discrete):
  rssm, data = make_rssm(discrete)
  is_first = np.zeros((B, T), bool)
  is_first[:, 0] = is_first[1, 3] = True
  embed, action = data['embed'], data['action']
  with tf.GradientTape() as tape:
    tape.watch([embed, action])
    post, _ = rssm.observe(embed, action, tf.constant(is_first))
    total = tf.reduce_sum(rssm.get_feat(post)[:, 4] * normal(
        rssm.latent.size + 6))
  embeds, actions = [
      np.abs(x).sum(-1) > 0 for x in tape.gradient(total, [embed, action])]
  np.testing.assert_array_equal(embeds[0], [1, 1, 1, 1, 1])
  np.testing.assert_array_equal(embeds[1], [0, 0, 0, 1, 1])
  np.testing.assert_array_equal(actions[0], [0, 1, 1, 1, 1])
  np.testing.assert_array_equal(actions[1], [0, 0, 0, 0, 1])


@KINDS
def test_imagine_equals_img_step_by_step(discrete, monkeypatch):
  rssm, data = make_rssm(discrete)
  start = rssm.obs_step(
      rssm.initial(B), data['action'][:, 0], data['embed'][:, 0],
      data['is_first'][:, 0])
  noise = step_noise(rssm, discrete)
  feed_noise(monkeypatch, rssm, [np.stack(noise), *noise])
  imagined = rssm.imagine(data['action'], start)
  state = start
  for t in range(T):
    state = rssm.img_step(state, data['action'][:, t])
    assert_states_equal({k: v[:, t] for k, v in imagined.items()}, state)


@KINDS
def test_img_step_gives_the_prior_of_the_next_deter(discrete):
  """Neither the posterior's deter nor its prior depends on the embedding."""
  rssm, data = make_rssm(discrete)
  start = rssm.img_step(rssm.initial(B), data['action'][:, 0])
  imagined = rssm.img_step(start, data['action'][:, 1])
  post, prior = rssm.observe(
      data['embed'][:, 1:2], data['action'][:, 1:2], tf.zeros([B, 1], bool),
      start)
  np.testing.assert_allclose(
      post['deter'][:, 0], imagined['deter'], rtol=1e-5, atol=1e-6)
  for key in imagined.keys() - {'deter', 'stoch'}:
    np.testing.assert_allclose(
        prior[key][:, 0], imagined[key], rtol=1e-4, atol=1e-5)
    assert np.abs(post[key][:, 0] - imagined[key]).max() > 1e-2


@KINDS
def test_steps_take_the_mode_if_asked(discrete):
  rssm, data = make_rssm(discrete)
  args = [data[k][:, 0] for k in ('action', 'embed', 'is_first')]
  for step in (
      lambda: rssm.obs_step(rssm.initial(B), *args, sample=False),
      lambda: rssm.img_step(rssm.initial(B), args[0], sample=False)):
    state, again = step(), step()
    assert_states_equal(state, again, 0, 0)
    expected = state['mean'].numpy() if not discrete else np.eye(discrete)[
        state['logit'].numpy().argmax(-1)].reshape(B, -1)
    np.testing.assert_array_equal(state['stoch'], expected)


@KINDS
def test_step_equals_numpy(discrete, monkeypatch):
  """Follows the drawing: [stoch, action] -> deter -> stats and sample."""
  rssm, data = make_rssm(discrete)
  v = {k: x.numpy() for k, x in tfutils.named_variables(rssm).items()}
  prev = {k: x.numpy() for k, x in rssm.img_step(
      rssm.initial(B), data['action'][:, 0]).items()}
  action, embed = data['action'][:, 1].numpy(), data['embed'][:, 1].numpy()

  def dense(name, *inputs):
    kernel = np.concatenate([
        v[f'{name}/kernel{i}'] for i in range(len(inputs))])
    return np.concatenate(inputs, -1) @ kernel + v[f'{name}/bias']

  elu = lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)
  x = elu(dense('img_in', prev['stoch'], action))
  gates = dense('cell/layer', x, prev['deter'])
  gates -= gates.mean(-1, keepdims=True)
  gates /= np.sqrt((gates ** 2).mean(-1, keepdims=True) + 1e-3)
  gates = gates * v['cell/layer/norm/scale'] + v['cell/layer/norm/offset']
  reset, cand, update = np.split(gates, 3, -1)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  cand = np.tanh(sigmoid(reset) * cand)
  update = sigmoid(update - 1)
  deter = update * cand + (1 - update) * prev['deter']
  prior = dense('img_dist/0', elu(dense('img_out/0', deter)))
  post = dense('obs_dist', elu(dense('obs_out', deter, embed)))
  noise = step_noise(rssm, discrete)[0]
  feed_noise(monkeypatch, rssm, [noise, noise])
  for x, state in (
      (prior, rssm.img_step(prev, action)),
      (post, rssm.obs_step(prev, action, embed, tf.zeros([B], bool)))):
    if discrete:
      logit = x.reshape(B, 4, 3)
      share = np.exp(logit) / np.exp(logit).sum(-1, keepdims=True)
      below = share.cumsum(-1) <= noise[..., None]
      stoch = np.eye(3)[below.sum(-1)].reshape(B, 12)
      expected = {'logit': logit, 'stoch': stoch}
    else:
      mean, std = x[:, :4], 2 * sigmoid(x[:, 4:] / 2) + 0.1
      expected = {'mean': mean, 'std': std, 'stoch': mean + std * noise}
    assert_states_equal(state, {'deter': deter, **expected}, 1e-3, 1e-4)


def test_feat_is_stoch_then_deter():
  rssm, data = make_rssm(0)
  post, _ = rssm.observe(**data)
  feat = rssm.get_feat(post)
  np.testing.assert_array_equal(feat[..., :4], post['stoch'])
  np.testing.assert_array_equal(feat[..., 4:], post['deter'])


def kl_numpy(lhs, rhs):
  """Computes KL [B, T] of NumPy statistics, entry by entry."""
  out = np.zeros((B, T))
  for index in np.ndindex(B, T):
    if 'logit' in lhs:
      for p, q in zip(lhs['logit'][index], rhs['logit'][index], strict=True):
        p, q = [np.exp(x) / np.exp(x).sum() for x in (p, q)]
        out[index] += sum(
            a * np.log(a / b) for a, b in zip(p, q, strict=True))
    else:
      for m, s, n, r in zip(*[
          x[k][index] for x in (lhs, rhs) for k in ('mean', 'std')],
          strict=True):
        out[index] += np.log(r / s) + (s * s + (m - n) ** 2) / (
            2 * r * r) - 0.5
  return out


def make_stats(discrete, seed):
  if discrete:
    return {'logit': tf.constant(normal(B, T, 4, 3, seed=seed))}
  return {
      'mean': tf.constant(normal(B, T, 4, seed=seed)),
      'std': tf.constant(np.exp(0.3 * normal(B, T, 4, seed=seed + 10)))}


@KINDS
@pytest.mark.parametrize('forward', [False, True])
@pytest.mark.parametrize('free_avg', [False, True])
@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_kl_loss_equals_numpy(discrete, forward, free_avg, share):
  """`share` of the entries are below the free nats."""
  rssm = build(discrete)
  post, prior = make_stats(discrete, 0), make_stats(discrete, 1)
  lhs, rhs = (prior, post) if forward else (post, prior)
  kl = kl_numpy(*[
      {k: np.float64(v) for k, v in x.items()} for x in (lhs, rhs)])
  free = np.quantile(kl, share)
  loss, value = rssm.kl_loss(post, prior, forward, 0.8, free, free_avg)
  expected = (
      max(kl.mean(), free) if free_avg else np.maximum(kl, free).mean())
  np.testing.assert_allclose(value, kl, rtol=1e-4)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def kl_gradients(rssm, post, prior, *args):
  with tf.GradientTape() as tape:
    tape.watch([post, prior])
    loss = rssm.kl_loss(post, prior, *args)[0]
  return tape.gradient(loss, [post, prior])


@KINDS
@pytest.mark.parametrize('forward', [False, True])
def test_kl_loss_trains_the_prior_by_the_balance(discrete, forward):
  """0.8 of the divergence's gradient reaches the prior, 0.2 the posterior."""
  rssm = build(discrete)
  post, prior = make_stats(discrete, 0), make_stats(discrete, 1)
  with tf.GradientTape() as tape:
    tape.watch([post, prior])
    args = (prior, post) if forward else (post, prior)
    plain = tf.reduce_mean(rssm.latent.kl(*args))
  whole = tape.gradient(plain, [post, prior])
  for free_avg in (False, True):
    parts = kl_gradients(rssm, post, prior, forward, 0.8, 0.0, free_avg)
    for part, full, share in zip(parts, whole, (0.2, 0.8), strict=True):
      for key in full:
        assert np.abs(full[key]).max() > 1e-3
        np.testing.assert_allclose(
            part[key], share * full[key], rtol=1e-4, atol=1e-7)


@KINDS
@pytest.mark.parametrize('forward', [False, True])
@pytest.mark.parametrize('balance', [0.5, 0.8])
def test_kl_loss_weighs_prior_and_posterior_by_dyn_and_rep(
    discrete, forward, balance):
  """Free nats limit each entry of each side; the balance does not count."""
  rssm = build(discrete)
  post, prior = make_stats(discrete, 0), make_stats(discrete, 1)
  lhs, rhs = (prior, post) if forward else (post, prior)
  kl = kl_numpy(*[
      {k: np.float64(v) for k, v in x.items()} for x in (lhs, rhs)])
  free = np.median(kl)
  for free_avg, clipped in (
      (True, max(kl.mean(), free)), (False, np.maximum(kl, free).mean())):
    loss, _ = rssm.kl_loss(
        post, prior, forward, balance, free, free_avg, 0.5, 0.1)
    np.testing.assert_allclose(loss, 0.6 * clipped, rtol=1e-5)
  whole = kl_gradients(rssm, post, prior, forward, 0.5, 0.0, False)
  parts = kl_gradients(rssm, post, prior, forward, balance, 0.0, True, 2, 0.1)
  for part, full, weight in zip(parts, whole, (0.1, 2), strict=True):
    for key in full:
      np.testing.assert_allclose(
          part[key], weight * full[key], rtol=1e-4, atol=1e-7)


@KINDS
def test_kl_loss_sends_no_gradient_within_the_free_nats(discrete):
  rssm = build(discrete)
  post, prior = make_stats(discrete, 0), make_stats(discrete, 1)
  kl = rssm.latent.kl(post, prior).numpy()
  free = float(np.median(kl)) + 1e-3
  by_entry = kl_gradients(rssm, post, prior, False, 0.8, free, False)
  for grads in by_entry:
    for grad in grads.values():
      moved = np.abs(grad.numpy().reshape(B, T, -1)).max(-1) > 0
      np.testing.assert_array_equal(moved, kl > free)
  mean = float(kl.mean())
  for limit, moves in ((mean + 0.1, False), (mean - 0.1, True)):
    for grads in kl_gradients(rssm, post, prior, False, 0.8, limit, True):
      for grad in grads.values():
        assert (np.abs(grad).max() > 0) == moves


@KINDS
def test_ensemble_prior_is_that_of_a_member_drawn_for_every_step(discrete):
  rssm, data = make_rssm(discrete, ensemble=3)
  key = 'logit' if discrete else 'mean'

  def find_member(prior):
    members = rssm.prior_ensemble(prior['deter'])
    found = [
        i for i, member in enumerate(members)
        if np.allclose(prior[key], member[key], rtol=1e-4, atol=1e-5)]
    assert len(members) == 3 and len(found) == 1
    return found[0]

  priors = [rssm.observe(**data)[1] for _ in range(5)]
  members = [[
      find_member({k: v[:, t] for k, v in prior.items()}) for t in range(T)]
      for prior in priors]
  assert any(len({*steps}) > 1 for steps in members)  # As in DreamerV2.
  assert {0, 1, 2} == {*itertools.chain(*members)}
  action = data['action'][:, 0]
  # 20 draws find each of the three in 999 of 1000 cases.
  assert {0, 1, 2} == {
      find_member(rssm.img_step(rssm.initial(B), action)) for _ in range(20)}


def test_ensemble_members_have_their_own_variables():
  one, three = [
      tfutils.named_variables(make_rssm(0, ensemble=n)[0]) for n in (1, 3)]
  new = three.keys() - one.keys()
  assert {k.rsplit('/', 1)[0] for k in new} == {
      'img_out/1', 'img_out/2', 'img_dist/1', 'img_dist/2'}


@KINDS
def test_initial_state_is_zero_with_plain_statistics(discrete):
  rssm, _ = make_rssm(discrete)
  state = rssm.initial(2)
  for key, value in state.items():
    expected = np.ones if key == 'std' else np.zeros
    np.testing.assert_array_equal(value, expected(value.shape))
  assert state['deter'].shape == (2, 6)
  assert state['stoch'].shape == (2, rssm.latent.size)


def test_rssm_names_the_known_std_acts():
  with pytest.raises(ValueError, match='rssm.std_act'):
    nets.EnsembleRSSM(**{**SIZES, 'std_act': 'exp'})


def test_kl_loss_of_hybrids_gives_each_family_its_own_free_nats():
  rssm = nets.EnsembleRSSM(
      **{**SIZES, 'latent': 'hybrid', 'discrete': 3, 'continuous': 2})
  stats = lambda seed: rssm.latent.stats(
      tf.constant(normal(B, T, rssm.latent.outputs, seed=seed)))
  post, prior = stats(0), stats(1)
  parts = [float(tf.reduce_mean(x)) for x in rssm.latent.kls(post, prior)]
  for free in (0.0, min(parts) + 0.01, max(parts) + 0.01):
    loss, value = rssm.kl_loss(post, prior, False, 0.8, free, True)
    right = sum(max(x, free) for x in parts)
    np.testing.assert_allclose(loss, right, rtol=1e-5)
    np.testing.assert_allclose(tf.reduce_mean(value), sum(parts), rtol=1e-5)


def test_posterior_from_the_embedding_needs_gaussians():
  for latent in ('categorical', 'hybrid'):
    with pytest.raises(ValueError, match='rssm.posterior embed.*gaussian'):
      build(3, latent=latent, posterior='embed')
  with pytest.raises(ValueError, match="'frame'; known: "):
    build(0, posterior='frame')


@KINDS
def test_observe_in_a_graph_equals_eager(discrete, monkeypatch):
  rssm, data = make_rssm(discrete)
  noise = np.stack(step_noise(rssm, discrete))
  feed_noise(monkeypatch, rssm, [noise] * 2)
  eager = rssm.observe(**data)
  graph = tf.function(rssm.observe, autograph=False)(**data)
  for a, b in zip(graph, eager, strict=True):
    assert_states_equal(a, b)


@KINDS
def test_rssm_and_head_agree_in_half_and_in_single_precision(
    discrete, half, monkeypatch):
  rssm, data = make_rssm(discrete)
  head = nets.MLP([], 2, 8, dist='mse')
  noise = np.stack(step_noise(rssm, discrete))
  results = []
  for prepare in (lambda: None, half):
    prepare()
    feed_noise(monkeypatch, rssm, [noise])
    inputs = {**data, 'embed': tfutils.cast(data['embed'])}
    post, prior = rssm.observe(**inputs)
    feat = rssm.get_feat(post)
    results.append({
        'feat': feat, 'reward': head(feat).mode(),
        **{f'post_{k}': post[k] for k in post.keys() - {'deter', 'stoch'}},
        **{f'prior_{k}': prior[k] for k in prior.keys() - {'deter'}}})
  single, double = results
  assert single['feat'].dtype == tf.float32
  assert double['feat'].dtype == tf.float16
  for key, value in single.items():
    assert key == 'feat' or double[key].dtype == tf.float32
    # Float16 keeps 1e-3; five steps of a few layers multiply it.
    np.testing.assert_allclose(
        double[key], value, rtol=0.03, atol=0.03, err_msg=key)


@KINDS
@pytest.mark.parametrize('free_avg', [False, True])
def test_kl_loss_of_balance_one_half_is_the_plain_divergence(
    discrete, free_avg):
  """As in DreamerV2, it has the whole gradient and free nats per entry."""
  rssm = build(discrete)
  post, prior = make_stats(discrete, 0), make_stats(discrete, 1)
  kl = rssm.latent.kl(post, prior).numpy()
  free = float(np.median(kl)) + 1e-3
  loss, _ = rssm.kl_loss(post, prior, False, 0.5, free, free_avg)
  np.testing.assert_allclose(loss, np.maximum(kl, free).mean(), rtol=1e-5)
  with tf.GradientTape() as tape:
    tape.watch([post, prior])
    plain = tf.reduce_mean(rssm.latent.kl(post, prior))
  whole = tape.gradient(plain, [post, prior])
  parts = kl_gradients(rssm, post, prior, False, 0.5, 0.0, free_avg)
  for part, full in zip(parts, whole, strict=True):
    for key in full:
      np.testing.assert_allclose(part[key], full[key], rtol=1e-4, atol=1e-7)
