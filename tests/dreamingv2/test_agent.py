import functools
import types

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import settings
from dreamingv2.common import tfutils
from dreamingv2.common.tfutils import named_variables
from tests.helpers import assert_equal
from tests.helpers import copy
from tests.helpers import scalars
from tests.helpers import to_tensors

# Losses of each system, without 'reward' and those of the decoder.
LOSSES = {
    'barlow_twins': {'aux', 'barlow_twins', 'kl', 'overshooting'},
    'blast_kl': {'kl'},
    'byol': {'aux', 'byol', 'kl', 'overshooting'},
    'cfm_nce': {'kl', 'nce'},
    'cvrl_nce': {'kl', 'nce'},
    'dreamer': {'image', 'kl'},
    'dreamerpro': {'kl', 'swav', 'temporal'},
    'dreamerv2': {'image', 'kl'},
    'dreaming': {'aux', 'kl', 'nce', 'overshooting'},
    'dreamingv2': {'aux', 'kl', 'nce', 'overshooting'},
    'hybrid': {'aux', 'kl', 'nce', 'overshooting'},
    'mssm_nce': {'kl', 'nce'},
    'r2dreamer': {'barlow_twins', 'kl'},
    'tpc': {'consistency', 'kl', 'static', 'tpc'},
}
# Some systems share an objective but use another latent.
OWN = {x: settings.load_config(['--configs', x]).rssm.latent for x in LOSSES}
SYSTEMS = [
    *((method, 'own') for method in sorted(LOSSES)),
    *(pytest.param(method, latent, marks=pytest.mark.slow)
      for method in sorted(LOSSES)
      for latent in ('categorical', 'gaussian', 'hybrid')
      if method not in ('dreamer', 'dreaming', 'hybrid', 'tpc')
      and (method, latent) != ('dreamerv2', 'gaussian')  # That is dreamer.
      and latent != OWN[method])]
HALF = [
    ('16', 'dreamingv2', 'categorical'),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in (
        ('16', 'dreamerpro', 'gaussian'), ('16', 'dreamerv2', 'categorical'),
        ('16', 'barlow_twins', 'categorical'), ('16', 'byol', 'categorical'),
        ('16', 'dreamerv2', 'gaussian'), ('16', 'dreamingv2', 'gaussian'),
        ('16', 'hybrid', 'hybrid'), ('16', 'tpc', 'gaussian'),
        ('bf16', 'dreamingv2', 'categorical'),
        ('bf16', 'dreamerv2', 'categorical')))]


@pytest.fixture(scope='module')
def trained(make_config, make_agent, make_batch):
  """Returns a function that updates a system three times, and remembers it."""

  @functools.lru_cache(None)
  def train(method, latent):
    # Without free nats, below which the divergence has no gradient.
    config = make_config(method, latent=latent, vector=False, updates={
        'kl.free': 0.0, 'contrastive.kl_free': 0.0, 'prototypes.freeze': 0,
        'contrastive.vmf': False})
    agent = make_agent(config)
    parts = agent.wm.modules, agent.parts['task_behavior'].actor
    before, saved = [copy(x) for x in parts], [agent.save()]
    states, metrics = [None], {}
    for seed in range(3):
      state, metrics = agent.train(make_batch(config, seed), states[-1])
      states.append(state)
      saved.append(agent.save())
    return types.SimpleNamespace(
        config=config, before=before, after=[copy(x) for x in parts],
        saved=saved, states=states, metrics=scalars(metrics))

  return train


@pytest.mark.parametrize('method, latent', SYSTEMS)
def test_agent_conformance(method, latent, trained):
  run = trained(method, latent)
  metrics, state = run.metrics, run.states[-1]
  assert all(np.isfinite(v) for v in metrics.values())
  losses = LOSSES[method] | {'actor', 'critic', 'model', 'reward'}
  assert {f'{k}_loss' for k in losses} == {
      k for k in metrics if k.endswith('_loss')}
  for name in ('model', 'actor', 'critic'):
    assert metrics[f'{name}_skipped'] == 0
  scales = {
      **run.config.loss_scales, 'image': run.config.loss_scales.decoder}
  total = sum(scales[k] * metrics[f'{k}_loss'] for k in losses - {
      'model', 'actor', 'critic'})
  np.testing.assert_allclose(metrics['model_loss'], total, rtol=1e-5)
  assert state['deter'].shape == [
      run.config.dataset.batch, run.config.rssm.deter]
  for old, new in zip(run.before, run.after, strict=True):
    same = [k for k in old if np.array_equal(old[k], new[k])]
    assert not same


def test_slow_copies_follow_in_every_system(trained):
  """Slow copies start equal and then move by their fraction."""
  methods = set()
  for method in LOSSES:
    run = trained(method, 'own')
    _, first, second, _ = run.saved
    part = run.config.bootstrap if method == 'blast_kl' else (
        run.config.prototypes if method == 'dreamerpro' else
        run.config.contrastive)
    for key in first:
      if '/slow_encoder/encoder/' not in key:
        continue
      methods.add(method)
      source = key.replace('objective/slow_encoder/encoder', 'encoder')
      np.testing.assert_array_equal(first[key], first[source])
      right = (1 - part.momentum) * first[key]
      right = right + part.momentum * second[source]
      np.testing.assert_allclose(second[key], right, rtol=1e-5, atol=1e-7)
  assert methods == {
      'blast_kl', 'byol', 'dreamerpro', 'dreaming', 'dreamingv2', 'hybrid'}


@pytest.mark.parametrize('method, latent', SYSTEMS)
def test_load_continues_identically(
    method, latent, trained, make_agent, make_batch):
  run = trained(method, latent)
  assert all(isinstance(v, np.ndarray) for v in run.saved[2].values())
  agent = make_agent(run.config, seed=5)
  agent.load(run.saved[2])
  assert_equal(agent.save(), run.saved[2])
  _, metrics = agent.train(make_batch(run.config, 2), run.states[2])
  assert scalars(metrics) == run.metrics
  assert_equal(agent.save(), run.saved[3])


def test_save_holds_moments_counters_and_noise(
    make_config, make_agent, make_batch):
  config = make_config('dreamingv2')
  agent = make_agent(config)
  before = agent.save()
  agent.train(make_batch(config))
  after = agent.save()
  assert before.keys() == after.keys()
  changed = {k for k in after if not np.array_equal(before[k], after[k])}
  assert 'generator' in changed
  for part in ('m', 'v'):
    assert [k for k in changed
            if k.startswith('wm/model_opt/slots') and k.endswith(part)]
  for name in ('model', 'actor', 'critic'):
    assert [k for k in changed if f'{name}_opt/updates' in k]
  for text in ('slow_encoder', 'target_critic', 'follow'):
    assert [k for k in after if text in k]


@pytest.mark.parametrize('change', [
    {'rssm.deter': 8}, {'objective': 'reconstruction'}, {'actor.layers': 2},
    {'rssm.latent': 'gaussian'}])
def test_load_of_another_model_is_one_line(change, make_config, make_agent):
  config = make_config('dreamingv2')
  arrays = make_agent(config.update(change)).save()
  agent = make_agent(config)
  before = agent.save()
  with pytest.raises(ValueError, match='belongs to another model') as error:
    agent.load(arrays)
  assert '\n' not in str(error.value) and 'config' in str(error.value)
  assert_equal(before, agent.save())


@pytest.mark.parametrize('method', [
    'dreamingv2', *(pytest.param(x, marks=pytest.mark.slow) for x in (
        'barlow_twins', 'blast_kl', 'dreamerpro', 'dreamerv2', 'hybrid',
        'tpc'))])
def test_eager_and_graph_agree(method, make_config, make_agent, make_batch):
  results = []
  for jit in (False, True):
    config = make_config(method, updates={'jit': jit})
    agent = make_agent(config)
    data, state = make_batch(config), None
    state, first = agent.train(data, state)
    state, second = agent.train(data, state)
    if jit:
      # With `jit`, all calls must share one graph.
      assert agent.functions['train'].experimental_get_tracing_count() == 1
    results.append((scalars(first), scalars(second), agent.save()))
  (first, second, arrays), (first2, second2, arrays2) = results
  # Sums are done in another order; Adam's first steps amplify that where the
  # gradient is near zero, by at most two learning rates per update.
  for name in first:
    np.testing.assert_allclose(
        first[name], first2[name], rtol=1e-4, atol=1e-5, err_msg=name)
  for name in ('model_loss', 'actor_loss', 'critic_loss'):
    np.testing.assert_allclose(
        second[name], second2[name], rtol=1e-2, atol=1e-3, err_msg=name)
  assert arrays.keys() == arrays2.keys()
  np.testing.assert_array_equal(arrays['generator'], arrays2['generator'])
  for key in arrays:
    if 'slots' not in key:
      np.testing.assert_allclose(
          arrays[key], arrays2[key], atol=4 * 3e-4, err_msg=key)


@pytest.mark.parametrize('precision, method, latent', HALF)
def test_half_precision_agrees_with_float32(
    precision, method, latent, make_config, make_agent, make_batch):
  results = []
  for name in ('32', precision):
    config = make_config(method, latent=latent, updates={'precision': name})
    agent = make_agent(config)
    data = make_batch(config)
    _, metrics = agent.train(data)
    results.append(scalars(metrics))
    assert all(
        np.isfinite(v) for k, v in results[-1].items()
        if not k.endswith('_grad_norm'))
    # The scale of the loss may have to be halved first.
    for _ in range(9 if name == '16' else 0):
      _, metrics = agent.train(data)
    for part in ('model', 'actor', 'critic'):
      assert np.isfinite(float(metrics[f'{part}_grad_norm'])), part
      assert float(metrics[f'{part}_skipped']) < 9, part
    assert all(
        v.dtype == tf.float32 for v in named_variables(agent.wm).values()
        if v.dtype.is_floating)
  # Three decimal digits in float16, two in bfloat16; and single samples of a
  # categorical may flip.
  tolerance = 0.05 if precision == '16' else 0.15
  for name in ['model_loss', *(f'{k}_loss' for k in LOSSES[method] - {
      'image'})]:
    np.testing.assert_allclose(
        results[0][name], results[1][name], rtol=tolerance, atol=tolerance,
        err_msg=name)


def test_same_seed_gives_the_same_agent(
    make_config, make_agent, make_batch):
  config = make_config('dreamingv2')
  arrays = []
  for seed in (1, 1, 2):
    agent = make_agent(config, seed=seed)
    agent.train(make_batch(config))
    arrays.append(agent.save())
  assert_equal(arrays[0], arrays[1])
  key = next(k for k in arrays[0] if 'encoder' in k and 'kernel' in k)
  assert not np.array_equal(arrays[0][key], arrays[2][key])


@pytest.mark.parametrize('keys, absent', [
    ({'mlp_keys': '.*', 'cnn_keys': 'image'}, None),
    ({'mlp_keys': '.*', 'cnn_keys': '$^'}, 'image'),
    ({'mlp_keys': '$^', 'cnn_keys': 'image'}, 'state')])
@pytest.mark.parametrize('method', ['dreamerpro', 'dreamerv2', 'dreamingv2'])
def test_images_and_vectors_together_or_alone(
    method, keys, absent, make_config, make_agent, make_batch):
  config = make_config(method, updates={'encoder': keys, 'decoder': keys})
  agent = make_agent(config)
  data = make_batch(config)
  _, metrics = agent.train(data)
  metrics = scalars(metrics)
  assert np.isfinite(metrics['model_loss'])
  if method == 'dreamerv2':
    shown = {k for k in ('image', 'state') if f'{k}_loss' in metrics}
    assert shown == {'image', 'state'} - {absent}
  embed = lambda data: agent.wm.encoder(
      agent.wm.preprocess(to_tensors(data))).numpy()
  for key in ('image', 'state'):
    same = np.array_equal(embed(data), embed({**data, key: 0 * data[key]}))
    assert same == (key == absent)


def test_unknown_exploration_is_named(make_config, make_agent):
  config = make_config(updates={'expl_behavior': 'Curious'})
  with pytest.raises(ValueError, match="'Curious'; known: .*greedy"):
    make_agent(config)


def test_train_carries_the_state_into_the_batch(
    make_config, make_agent, make_batch):
  config = make_config('dreamingv2')
  agent = make_agent(config)
  data = to_tensors(make_batch(config))
  data['is_first'] = tf.zeros_like(data['is_first'])
  state = {
      k: tf.ones_like(v) for k, v in
      agent.wm.rssm.initial(config.dataset.batch).items()}
  losses = []
  for start in (state, None):
    tfutils.setup('32', seed=4)
    losses.append(float(agent.wm.loss(data, start)[0]))
  assert losses[0] != losses[1]
  data['is_first'] = tf.concat(
      [tf.ones_like(data['is_first'][:, :1]), data['is_first'][:, 1:]], 1)
  losses = []
  for start in (state, None):
    tfutils.setup('32', seed=4)
    losses.append(float(agent.wm.loss(data, start)[0]))
  assert losses[0] == losses[1]


# Acting


def observe(N, seed=0):
  rng = np.random.default_rng(seed)
  return {
      'image': rng.integers(0, 256, (N, 64, 64, 3), np.uint8),
      'state': rng.normal(size=(N, 5)).astype(np.float32),
      'reward': np.zeros(N, np.float32), 'is_first': np.zeros(N, bool),
      'is_last': np.zeros(N, bool), 'is_terminal': np.zeros(N, bool)}


@pytest.mark.parametrize('discrete', [False, True])
@pytest.mark.parametrize('mode', ['train', 'eval', 'explore'])
def test_policy_gives_actions_in_range(
    mode, discrete, make_config, make_agent):
  agent = make_agent(make_config(), discrete)
  state = None
  for seed in range(3):
    outputs, state = agent.policy(observe(4, seed), state, mode)
    action = outputs['action']
    assert set(outputs) == {'action'} and isinstance(action, np.ndarray)
    assert action.shape == (4, 2) and action.dtype == np.float32
    if discrete:
      np.testing.assert_allclose(np.sort(action, -1), [[0, 1]] * 4, atol=1e-6)
    else:
      assert (np.abs(action) <= 1).all() and np.abs(action).max() > 0


def test_policy_is_traced_once_per_mode(make_config, make_agent):
  agent = make_agent(make_config(updates={'jit': True}))
  for mode in ('train', 'eval'):
    state = None
    for seed in range(5):
      agent.step.increment()
      _, state = agent.policy(observe(2, seed), state, mode)
    policy = agent.policies[mode]
    assert policy.experimental_get_tracing_count() == 1


def test_acting_gives_tensorflow_no_python_numbers(make_config, make_agent):
  """TensorFlow would keep a tensor of 0.7 KiB for each number for ever."""
  agent, seen = make_agent(make_config()), []
  agent.tfstep = types.SimpleNamespace(assign=seen.append)
  agent.step.increment()
  agent.policy(observe(1, 0))
  assert seen == [1] and not isinstance(seen[0], int)


def test_is_first_resets_the_acting_state(make_config, make_agent):
  agent = make_agent(make_config(updates={'eval_state_mean': True}))
  _, state = agent.policy(observe(2, 0), None, 'eval')
  obs = observe(2, 1)
  obs['is_first'][0] = True
  outputs, after = agent.policy(obs, state, 'eval')
  fresh, start = agent.policy(obs, None, 'eval')
  np.testing.assert_array_equal(outputs['action'][0], fresh['action'][0])
  np.testing.assert_array_equal(
      after[0]['deter'][0], start[0]['deter'][0])
  assert np.abs(after[0]['deter'][1] - start[0]['deter'][1]).max() > 1e-4


def test_eval_is_deterministic_only_with_the_mean_state(
    make_config, make_agent):
  for mean in (True, False):
    agent = make_agent(make_config(updates={'eval_state_mean': mean}))
    _, state = agent.policy(observe(64, 0), None, 'eval')
    actions = [
        agent.policy(observe(64, 1), state, 'eval')[0]['action']
        for _ in range(2)]
    assert np.array_equal(*actions) == mean


def test_training_actions_are_samples(make_config, make_agent):
  agent = make_agent(make_config(updates={'eval_state_mean': True}))
  actions = [
      agent.policy(observe(64, 1), None, 'train')[0]['action']
      for _ in range(2)]
  assert np.abs(actions[0] - actions[1]).mean() > 0.1


def test_policy_remembers_its_own_action(make_config, make_agent):
  agent = make_agent(make_config())
  outputs, (_, action) = agent.policy(observe(3), None, 'train')
  np.testing.assert_array_equal(outputs['action'], action)


@pytest.mark.parametrize('noise, mode', [
    ('expl_noise', 'train'), ('eval_noise', 'eval')])
def test_noise_is_added_in_its_mode(noise, mode, make_config, make_agent):
  actions = {}
  for amount in (0.0, 0.3):
    agent = make_agent(make_config(
        updates={noise: amount, 'eval_state_mean': True}))
    for name in ('train', 'eval'):
      tfutils.setup('32', seed=6)
      actions[amount, name] = agent.policy(
          observe(32), None, name)[0]['action']
  for name in ('train', 'eval'):
    same = np.array_equal(actions[0.0, name], actions[0.3, name])
    assert same == (name != mode)
  assert np.abs(actions[0.3, mode]).max() <= 1


def test_agent_takes_whole_rows_as_longest_chunk(make_config, make_agent):
  # A replay.maxlen of 0 stands for the length of a batch row.
  make_agent(make_config(updates={'replay.maxlen': 0}))


@pytest.mark.parametrize('method', sorted(LOSSES))
def test_small_fits_every_system(method, make_config, make_agent):
  """The settings of the size are valid for every system."""
  scales = make_config('small').loss_scales
  config = make_config(method, vector=method != 'mssm_nce', updates={
      'loss_scales': dict(scales), 'replay_reward_norm.momentum': 0.99})
  make_agent(config)  # Computes the loss once.


@pytest.mark.parametrize('method', [
    x if x in ('blast_kl', 'dreamingv2', 'hybrid', 'tpc') else
    pytest.param(x, marks=pytest.mark.slow) for x in sorted(LOSSES)])
def test_recipe_trains_every_system(
    method, make_config, make_agent, make_batch):
  """The quick ones have different latents, objectives and divergences."""
  discrete = method in ('dreamingv2', 'tpc')
  config = make_config(
      method, 'robust', vector=method != 'mssm_nce',
      updates={'imag_starts': 8, 'contrastive.kl_free': 0.0, 'kl.free': 0.0})
  if discrete:
    config = config.update({'actor.dist': 'auto'})
  agent = make_agent(config, discrete, ends=discrete)
  before, state = copy(agent.wm.modules), None
  for seed in range(2):
    state, metrics = agent.train(
        make_batch(config, seed, discrete=discrete), state)
  metrics = scalars(metrics)
  assert all(np.isfinite(v) for v in metrics.values())
  losses = LOSSES[method] - {'image'} | {'actor', 'critic', 'reward'}
  assert {f'{k}_loss' for k in losses} <= metrics.keys()
  assert not [k for k in metrics if k.endswith('_skipped') and metrics[k]]
  frozen = {k for k, v in copy(agent.wm.modules).items()
            if np.array_equal(v, before[k]) and 'prototypes' not in k}
  assert not frozen
  saved = agent.save()
  assert 'task_behavior/retnorm/range' in saved
  agent.load(saved)


def middle(shape, seed, minval=0, maxval=1, dtype=tf.float32, **_):
  """Stands in for a generator: each of its numbers is the middle."""
  del seed
  return tf.cast(tf.fill(shape, (minval + maxval) / 2), dtype)


@pytest.mark.slow  # XLA compiles for half a minute.
@pytest.mark.parametrize('method', sorted(LOSSES))
def test_update_compiled_by_xla_gives_the_same_losses(
    method, make_config, make_agent, make_batch, monkeypatch):
  configs = [
      make_config(method, updates={'jit': True, 'xla': xla}, vector=False)
      for xla in (False, True)]
  agents = [make_agent(config) for config in configs]
  # With XLA the same seed gives other numbers. TensorFlow Probability draws
  # them through tf.compat.v2.
  for module in (tf.random, tf.compat.v2.random):
    monkeypatch.setattr(module, 'stateless_uniform', middle)
    monkeypatch.setattr(module, 'stateless_normal', middle)
  data = make_batch(configs[0])
  plain, xla = [scalars(agent.train(data)[1]) for agent in agents]
  assert plain.keys() == xla.keys()
  for key in plain:
    assert xla[key] == pytest.approx(plain[key], rel=2e-3, abs=2e-4), key


def test_schedules_go_on_where_the_policy_is_never_called(
    make_config, make_agent, make_batch):
  config = make_config(
      'dreamingv2', vector=False, updates={'actor_ent': 'linear(1,0,1000)'})
  agent = make_agent(config)
  scales = []
  for step in (0, 750):
    agent.step.restore(step)
    _, metrics = agent.train(make_batch(config))
    scales.append(float(metrics['actor_ent_scale']))
  assert scales == [1, 0.25]
