import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import agent as agents
from dreamingv2.common import dists
from dreamingv2.common.tfutils import named_variables
from tests.helpers import assert_equal
from tests.helpers import copy
from tests.helpers import scalars
from tests.helpers import to_tensors


@pytest.fixture
def make_behavior(make_config, make_spaces):

  def make(discrete=False, **updates):
    config = make_config(updates=updates)
    tfstep = tf.Variable(0, dtype=tf.int64)
    behavior = agents.ActorCritic(
        config, make_spaces(discrete)[1]['action'], tfstep)
    behavior.build(tf.zeros([1, 4]))
    # The target critic must not be mistaken for the critic.
    for var in named_variables(behavior.critic).values():
      var.assign_add(0.1 * tf.random.stateless_normal(var.shape, [1, 2]))
    return behavior

  return make


H, N = 4, 5


def make_seq(behavior, discrete=False, seed=0):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)
  feat = normal(H + 1, N, 4)
  action = rng.uniform(-0.9, 0.9, (H + 1, N, 2))
  if discrete:
    action = np.eye(2)[rng.integers(0, 2, (H + 1, N))]
  return {
      'feat': feat, 'action': tf.constant(action, tf.float32),
      'policy': behavior.actor.params(feat[:-1]),
      'reward': normal(H + 1, N),
      'discount': tf.constant(rng.uniform(0, 1, (H + 1, N)), tf.float32),
      'weight': tf.constant(rng.uniform(0, 1, (H + 1, N)), tf.float32)}


def test_target_equals_a_loop(make_behavior):
  behavior = make_behavior(discount_lambda=0.7)
  seq = make_seq(behavior)
  target, metrics = behavior.target(seq)
  value = behavior._target_critic(seq['feat']).mode().numpy()
  reward, disc = seq['reward'].numpy(), seq['discount'].numpy()
  assert target.shape == (H, N)
  for n in range(N):
    last = value[H, n]
    for t in reversed(range(H)):
      mixed = 0.3 * value[t + 1, n] + 0.7 * last
      last = reward[t, n] + disc[t, n] * mixed
      np.testing.assert_allclose(target[t, n], last, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
      metrics['critic_target'], target.numpy().mean(), rtol=1e-4)


@pytest.mark.parametrize('grad, discrete', [
    ('dynamics', False), ('reinforce', False), ('both', False),
    ('reinforce', True), ('both', True)])
def test_actor_loss_equals_a_loop(grad, discrete, make_behavior):
  behavior = make_behavior(
      discrete, actor_grad=grad, actor_ent='0.3', actor_grad_mix='0.2')
  seq = make_seq(behavior, discrete)
  rng = np.random.default_rng(1)
  target = rng.normal(size=(H, N)).astype(np.float32)
  loss, metrics = behavior.actor_loss(seq, tf.constant(target))
  base = behavior._target_critic(seq['feat']).mode().numpy()
  policy = behavior.actor(seq['feat'])
  entropy = policy.entropy().numpy()
  total = 0.0
  for t in range(H - 1):
    logp = behavior.actor(seq['feat'][t]).log_prob(
        seq['action'][t + 1]).numpy()
    for n in range(N):
      score = logp[n] * (target[t + 1, n] - base[t, n])
      value = {
          'dynamics': target[t + 1, n], 'reinforce': score,
          'both': 0.2 * target[t + 1, n] + 0.8 * score}[grad]
      total += float(seq['weight'][t, n]) * (value + 0.3 * entropy[t, n])
  np.testing.assert_allclose(loss, -total / ((H - 1) * N), rtol=1e-4)
  np.testing.assert_allclose(
      metrics['actor_ent'], entropy[:H - 1].mean(), rtol=1e-4)


@pytest.mark.parametrize('grad', ['both', 'dynamics', 'reinforce'])
def test_actor_objective_is_divided_by_the_range_of_returns(
    grad, make_behavior):
  """The entropy is not; the range grows with every update."""
  behavior = make_behavior(
      actor_grad=grad, actor_ent='0.3', **{'return_norm.momentum': 0.5})
  seq = make_seq(behavior)
  target = 20 * np.random.default_rng(1).normal(size=(H, N)).astype('f')
  norm, behavior.retnorm = behavior.retnorm, None
  plain = float(behavior.actor_loss(seq, tf.constant(target))[0])
  entropy = behavior.actor.dist(seq['policy'][:-1]).entropy()
  extra = float(-0.3 * tf.reduce_mean(seq['weight'][:-2] * entropy))
  behavior.retnorm, right = norm, 0.0
  for _ in range(3):
    loss, metrics = behavior.actor_loss(seq, tf.constant(target))
    span = np.percentile(target, 95) - np.percentile(target, 5)
    right = 0.5 * right + 0.5 * span
    np.testing.assert_allclose(metrics['return_range'], right, rtol=1e-4)
    np.testing.assert_allclose(
        loss, extra + (plain - extra) / right, rtol=1e-4)


@pytest.mark.parametrize('dist', ['symlog', 'twohot'])
def test_value_of_a_head_for_numbers_of_all_sizes(dist, make_behavior):
  """Targets use its prediction, its loss the weighted log probability."""
  behavior = make_behavior(**{'critic.dist': dist})
  seq = make_seq(behavior)
  params = behavior.critic.params(seq['feat'])
  make = {
      'symlog': lambda x: dists.SymlogDist(x[..., 0], 0),
      'twohot': lambda x: dists.TwoHotDist(x, 0)}[dist]
  target = 50 * np.random.default_rng(1).normal(size=(H, N)).astype('f')
  loss, metrics = behavior.critic_loss(seq, tf.constant(target))
  weight, logp = seq['weight'], make(params[:-1]).log_prob(target)
  np.testing.assert_allclose(
      loss, -np.mean(weight[:-1] * logp), rtol=1e-5)
  np.testing.assert_allclose(
      metrics['critic'], np.mean(make(params[:-1]).mode()), rtol=1e-4)
  slow = make(behavior._target_critic.params(seq['feat'])).mode()
  result, _ = behavior.target(seq)
  right = seq['reward'][H - 1] + seq['discount'][H - 1] * slow[H]
  np.testing.assert_allclose(result[H - 1], right, rtol=1e-4)


def test_the_most_pessimistic_critic_counts(make_behavior):
  """In targets and baselines; each critic has the loss that it has alone."""
  behavior = make_behavior(**{'critic.ensemble': 3})
  seq = make_seq(behavior)
  values = lambda net: np.stack([
      member(seq['feat']).mode() for member in net._members])
  slow = values(behavior._target_critic)
  assert len({*slow.argmin(0).flat}) > 1, 'one member is always the smallest'
  target, _ = behavior.target(seq)
  right = seq['reward'][H - 1] + seq['discount'][H - 1] * slow.min(0)[H]
  np.testing.assert_allclose(target[H - 1], right, rtol=1e-4)
  loss, metrics = behavior.critic_loss(seq, target)
  weight = seq['weight'][:-1].numpy()
  right = sum(
      -np.mean(weight * member(seq['feat'][:-1]).log_prob(target))
      for member in behavior.critic._members)
  np.testing.assert_allclose(loss, right, rtol=1e-4)
  np.testing.assert_allclose(
      metrics['critic'], values(behavior.critic).min(0)[:-1].mean(), rtol=1e-4)


def test_every_critic_of_an_ensemble_learns_and_has_a_slow_copy(
    make_config, make_agent, make_batch):
  config = make_config(updates={'critic.ensemble': 2})
  agent = make_agent(config)
  behavior = agent.parts['task_behavior']
  before = [copy(member) for member in behavior.critic._members]
  kernels = [next(v for v in x.values() if v.ndim == 2) for x in before]
  assert np.abs(kernels[0] - kernels[1]).max() > 0.01, 'they begin alike'
  agent.train(make_batch(config))
  for old, member in zip(before, behavior.critic._members, strict=True):
    new = copy(member)
    assert all(np.abs(new[k] - old[k]).max() > 0 for k in old)
  assert_equal(copy(behavior.critic), copy(behavior._target_critic))


def test_imagination_starts_from_some_of_the_states(
    make_config, make_agent, make_batch):
  config = make_config(updates={'imag_starts': 5})
  agent = make_agent(config)
  data = to_tensors(make_batch(config))
  _, _, outputs, _ = agent.wm.loss(data)
  reward = lambda seq: seq['action'][..., 0]
  seq, target, _ = agent.parts['task_behavior'].dream(
      agent.wm, outputs['post'], data['is_terminal'], reward)
  assert seq['feat'].shape[:2] == (4, 5) and target.shape == (3, 5)
  known = {tuple(x) for x in tf.reshape(
      outputs['feat'], [21, -1]).numpy().tolist()}
  starts = {tuple(x) for x in seq['feat'][0].numpy().tolist()}
  assert len(starts) == 5 and starts < known


def test_actor_gradient_is_auto_by_kind_of_action(make_behavior):
  for discrete, name in ((False, 'dynamics'), (True, 'reinforce')):
    auto, given = [
        make_behavior(discrete, actor_grad=x) for x in ('auto', name)]
    assert_equal(copy(auto.actor), copy(auto.actor))
    seq = make_seq(auto, discrete)
    target = tf.constant(
        np.random.default_rng(1).normal(size=(H, N)), tf.float32)
    for src, dst in zip(
        named_variables(auto._target_critic).values(),
        named_variables(given._target_critic).values(), strict=True):
      dst.assign(src)
    np.testing.assert_allclose(
        auto.actor_loss(seq, target)[0], given.actor_loss(seq, target)[0],
        rtol=1e-6)


def test_reinforce_gives_the_targets_no_gradient(make_behavior):
  for grad in ('dynamics', 'reinforce', 'both'):
    behavior = make_behavior(actor_grad=grad)
    seq = make_seq(behavior)
    target = tf.ones([H, N])
    with tf.GradientTape() as tape:
      tape.watch(target)
      loss, _ = behavior.actor_loss(seq, target)
    gradient = tape.gradient(loss, target)
    assert (gradient is None) == (grad == 'reinforce')
    if gradient is not None:  # Target 0 has no action.
      assert (gradient[0].numpy() == 0).all()
      assert (gradient[1:].numpy() < 0).all()


def test_critic_loss_equals_a_loop(make_behavior):
  behavior = make_behavior()
  seq = make_seq(behavior)
  target = np.random.default_rng(1).normal(size=(H, N)).astype(np.float32)
  loss, _ = behavior.critic_loss(seq, tf.constant(target))
  value = behavior.critic(seq['feat']).mode().numpy()
  total = 0.0
  for t in range(H):
    for n in range(N):
      error = target[t, n] - value[t, n]
      logp = -error ** 2 / 2 - np.log(2 * np.pi) / 2
      total -= float(seq['weight'][t, n]) * logp
  np.testing.assert_allclose(loss, total / (H * N), rtol=1e-5)


def test_critic_loss_reaches_only_the_critic(make_behavior):
  behavior = make_behavior()
  seq = make_seq(behavior)
  target = tf.ones([H, N])
  with tf.GradientTape() as tape:
    tape.watch([seq['feat'], seq['weight'], target])
    loss, _ = behavior.critic_loss(seq, target)
  inputs, params = tape.gradient(loss, [
      [seq['feat'], seq['weight'], target],
      list(named_variables(behavior.critic).values())])
  assert inputs == [None] * 3
  assert all(float(tf.norm(x)) > 0 for x in params)


def test_target_critic_is_copied_at_updates_0_100_200(make_behavior):
  behavior = make_behavior()
  critic = next(iter(named_variables(behavior.critic).values()))
  target = next(iter(named_variables(behavior._target_critic).values()))
  copied = []
  for update in range(205):
    critic.assign_add(tf.ones_like(critic))
    behavior.update_slow_target()
    if np.array_equal(critic, target):
      copied.append(update)
  assert copied == [0, 100, 200]


def test_target_critic_equals_the_critic_when_built(
    make_config, make_agent):
  behavior = make_agent(make_config()).parts['task_behavior']
  assert_equal(copy(behavior.critic), copy(behavior._target_critic))


def test_without_slow_target_the_critic_is_its_own_target(make_behavior):
  behavior = make_behavior(slow_target=False)
  assert behavior._target_critic is behavior.critic
  behavior.update_slow_target()
  names = [k for k in named_variables(behavior) if 'critic/' in k]
  assert len(names) == len(named_variables(behavior.critic))


@pytest.mark.parametrize('discrete', [False, True])
def test_stored_policies_equal_the_actor_on_the_features(
    discrete, make_config, make_agent, make_batch):
  config = make_config()
  agent = make_agent(config, discrete)
  data = to_tensors(make_batch(config, discrete=discrete))
  _, _, outputs, _ = agent.wm.loss(data)
  actor = agent.parts['task_behavior'].actor
  seq = agent.wm.imagine(actor, outputs['post'], data['is_terminal'], 3)
  assert seq['feat'].shape[:2] == (4, config.dataset.batch * 7)
  right = actor.params(tf.stop_gradient(seq['feat'][:-1]))
  # The products are the same, only batched in another way.
  np.testing.assert_allclose(seq['policy'], right, atol=1e-5)


@pytest.mark.parametrize('discrete, grad', [
    (False, 'auto'), (False, 'reinforce'), (False, 'both'), (True, 'auto'),
    (True, 'both'), (True, 'dynamics')])
def test_behaviour_trains_actor_and_critic_alone(
    discrete, grad, make_config, make_agent, make_batch):
  config = make_config(updates={'actor_grad': grad})
  agent = make_agent(config, discrete)
  data = to_tensors(make_batch(config, discrete=discrete))
  _, _, outputs, _ = agent.wm.loss(data)
  behavior = agent.parts['task_behavior']
  before = copy(agent.wm), copy(behavior.actor), copy(behavior.critic)
  metrics = scalars(behavior.train(
      agent.wm, outputs['post'], data['is_terminal'],
      lambda seq: agent.wm.heads['reward'](seq['feat']).mode()))
  assert all(np.isfinite(v) for v in metrics.values())
  assert metrics['actor_skipped'] == metrics['critic_skipped'] == 0
  assert_equal(before[0], copy(agent.wm))
  for old, new in zip(
      before[1:], (copy(behavior.actor), copy(behavior.critic)),
      strict=True):
    assert not [k for k in old if np.array_equal(old[k], new[k])]


def test_dynamics_gradient_climbs_the_imagined_reward(
    make_config, make_agent, make_batch):
  config = make_config(updates={
      'actor_grad': 'dynamics', 'actor_opt.lr': 3e-2, 'actor_ent': '0'})
  agent = make_agent(config)
  data = to_tensors(make_batch(config))
  _, _, outputs, _ = agent.wm.loss(data)
  # The reward is the first action entry, through the dynamics or not.
  reward = lambda seq: seq['action'][..., 0]
  means = []
  for _ in range(10):
    agent.parts['task_behavior'].train(
        agent.wm, outputs['post'], data['is_terminal'], reward)
    means.append(float(tf.reduce_mean(agent.parts['task_behavior'].actor(
        outputs['feat']).mode()[..., 0])))
  assert means[-1] > means[0] + 0.2


def test_reward_normalisation_is_applied(make_config, make_agent, make_batch):
  config = make_config(updates={'reward_norm.scale': 3.0})
  agent = make_agent(config)
  data = to_tensors(make_batch(config))
  _, _, outputs, _ = agent.wm.loss(data)
  metrics = agent.parts['task_behavior'].train(
      agent.wm, outputs['post'], data['is_terminal'],
      lambda seq: tf.ones(seq['feat'].shape[:-1]))
  np.testing.assert_allclose(metrics['reward_mean'], 1)
  np.testing.assert_allclose(metrics['reward_normed_mean'], 3, rtol=1e-5)


@pytest.mark.parametrize(
    'grad, reaches', [('both', True), ('reinforce', False)])
def test_gradient_of_both_reaches_the_action_in_the_score(
    grad, reaches, make_behavior):
  behavior = make_behavior(
      actor_grad=grad, actor_ent='0', actor_grad_mix='0.2')
  seq = make_seq(behavior)
  target = tf.constant(
      np.random.default_rng(1).normal(size=(H, N)), tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(seq['action'])
    loss, _ = behavior.actor_loss(seq, target)
  gradient = tape.gradient(loss, seq['action'])
  assert (gradient is not None) == reaches
  if not reaches:
    return
  base = behavior._target_critic(seq['feat'][:-2]).mode()
  right = np.zeros(gradient.shape)
  for t in range(H - 1):
    action = seq['action'][t + 1]
    with tf.GradientTape() as tape:
      tape.watch(action)
      logp = behavior.actor(seq['feat'][t]).log_prob(action)
    slope = tape.gradient(logp, action).numpy()
    scale = 0.8 * seq['weight'][t] * (target[t + 1] - base[t])
    right[t + 1] = -np.asarray(scale)[:, None] * slope / ((H - 1) * N)
  np.testing.assert_allclose(gradient, right, rtol=1e-3, atol=1e-6)
