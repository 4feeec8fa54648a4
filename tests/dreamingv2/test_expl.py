import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import expl
from dreamingv2.common import tfutils
from tests.helpers import copy
from tests.helpers import to_tensors

BEHAVIORS = sorted(expl.BEHAVIORS)


@pytest.fixture
def make_explorer(make_config, make_agent, make_batch):
  """Returns a function that builds an agent and outputs of its model."""

  def make(name, discrete=False, **updates):
    config = make_config(updates={
        'expl_behavior': name, 'disag_models': 3, **updates})
    agent = make_agent(config, discrete)
    data = to_tensors(make_batch(config, discrete=discrete))
    _, _, outputs, _ = agent.wm.loss(data)
    return agent, data, outputs

  return make


@pytest.mark.parametrize('discrete', [False, True])
@pytest.mark.parametrize('name', BEHAVIORS)
def test_behavior_trains_and_leaves_the_world_model_alone(
    name, discrete, make_explorer):
  agent, _, outputs = make_explorer(name, discrete)
  behavior = agent.parts['expl_behavior']
  assert behavior is not agent.parts['task_behavior']
  before = copy(agent.wm), copy(agent.parts['task_behavior']), copy(behavior)
  metrics = behavior.train(outputs['post'], outputs, outputs['data'])
  assert all(np.isfinite(float(v)) for v in metrics.values())
  task = agent.parts['task_behavior']
  for old, new in zip(before, (copy(agent.wm), copy(task)), strict=False):
    assert not [k for k in old if not np.array_equal(old[k], new[k])]
  after = copy(behavior)
  moved = {
      k for k in after if not np.array_equal(before[2][k], after[k])}
  if name == 'Random':
    assert metrics == {} and not after
  else:
    assert [k for k in moved if k.startswith('behavior/actor/')]
    assert [k for k in moved if k.startswith('head')]


@pytest.mark.parametrize('name', BEHAVIORS)
def test_agent_explores_and_logs_its_training(
    name, make_explorer, make_batch):
  agent, data, _ = make_explorer(name)
  _, metrics = agent.train(data)
  names = {k for k in metrics if k.startswith('expl_')}
  assert ('expl_actor_loss' in names) == (name != 'Random')
  obs = {k: v[:, 0] for k, v in data.items() if k != 'action'}
  outputs, _ = agent.policy(obs, None, 'explore')
  assert outputs['action'].shape == (3, 2)
  assert np.abs(outputs['action']).max() <= 1


@pytest.mark.parametrize('name', BEHAVIORS)
def test_save_and_load_cover_the_behavior(name, make_explorer, make_config):
  agent, data, _ = make_explorer(name)
  agent.train(data)
  arrays = agent.save()
  other, _, _ = make_explorer(name)
  other.load(arrays)
  for key, value in other.save().items():
    np.testing.assert_array_equal(value, arrays[key])
  learns = [k for k in arrays if k.startswith('expl_behavior/behavior/')]
  assert bool(learns) == (name != 'Random')


def test_random_is_uniform(make_spaces):
  feat = tf.zeros([4000, 3])
  space = make_spaces()[1]['action']
  actor = expl.Random(None, space, None, None, None).actor
  action = actor(feat).sample(seed=[1, 2]).numpy()
  assert action.shape == (4000, 2)
  assert np.abs(action).max() <= 1
  # Mean and variance of the uniform distribution on -1..1.
  np.testing.assert_allclose(action.mean(0), 0, atol=0.05)
  np.testing.assert_allclose(action.var(0), 1 / 3, atol=0.03)
  space = make_spaces(discrete=True)[1]['action']
  actor = expl.Random(None, space, None, None, None).actor
  action = actor(feat).sample(seed=[1, 2]).numpy()
  np.testing.assert_allclose(action.sum(-1), 1, atol=1e-6)
  np.testing.assert_allclose(action.mean(0), 0.5, atol=0.05)


def imagine(agent, outputs):
  return agent.wm.imagine(
      agent.parts['expl_behavior'].actor, outputs['post'],
      outputs['data']['is_terminal'], 3)


def ensemble(behavior, inputs):
  return np.stack([
      head(tf.constant(inputs)).mode().numpy() for head in behavior._heads])


@pytest.mark.parametrize('log, scale', [(False, 1.0), (True, 2.0)])
@pytest.mark.parametrize('cond', [False, True])
def test_plan2explore_pays_for_disagreement(
    cond, log, scale, make_explorer):
  agent, _, outputs = make_explorer(
      'Plan2Explore', disag_action_cond=cond, disag_log=log,
      expl_intr_scale=scale)
  behavior = agent.parts['expl_behavior']
  seq = imagine(agent, outputs)
  feat, action = seq['feat'].numpy(), seq['action'].numpy()
  rewards = behavior._intr_reward(seq).numpy()
  assert rewards.shape == feat.shape[:2]
  for t in range(len(feat)):
    inputs = feat[t]
    if cond:  # Reward of action t, taken in the state before.
      begin = max(t, 1)
      inputs = np.concatenate([feat[begin - 1], action[begin]], -1)
    right = ensemble(behavior, inputs).std(0).mean(-1)
    right = scale * (np.log(right) if log else right)
    np.testing.assert_allclose(rewards[t], right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('discrete', [False, True])
def test_plan2explore_credits_the_action_that_earned_it(
    discrete, make_explorer):
  """The advantage of action t counts rewards from t on.

  REINFORCE, for discrete actions, uses only these numbers. The gradient
  through the dynamics goes from reward t to action t.
  """
  agent, _, outputs = make_explorer('Plan2Explore', discrete)
  seq = imagine(agent, outputs)
  reward = agent._expl_behavior._intr_reward
  before = reward(seq).numpy()
  for t in range(1, len(before)):
    action = seq['action'].numpy()
    action[t] = action[t][:, ::-1]  # The other one-hot, or another action.
    with tf.GradientTape() as tape:
      actions = tf.constant(action)
      tape.watch(actions)
      after = reward({**seq, 'action': actions})
      own = after[t]
    moved = np.abs(after.numpy() - before).max(-1) > 1e-6
    first = t == 1  # Reward 0 repeats reward 1.
    assert moved.tolist() == [
        u == t or first and u == 0 for u in range(len(before))]
    slope = tape.gradient(own, actions).numpy()
    assert np.abs(slope[t]).max() > 0
    assert not np.abs(np.delete(slope, t, 0)).any()


@pytest.mark.parametrize('offset', [0, 1, 2])
@pytest.mark.parametrize('target', sorted(expl.Plan2Explore.TARGETS))
def test_plan2explore_predicts_what_follows(target, offset, make_explorer):
  agent, data, outputs = make_explorer(
      'Plan2Explore', disag_target=target, disag_offset=offset)
  behavior = agent.parts['expl_behavior']
  feat = outputs['feat'].numpy()
  follows = outputs['post' if target in ('deter', 'stoch') else target]
  follows = follows[target] if isinstance(follows, dict) else follows
  action = np.concatenate(
      [data['action'][:, 1:], 0 * data['action'][:, :1]], 1)
  T = feat.shape[1]
  errors = []
  for t in range(T - offset):
    inputs = np.concatenate([feat[:, t], action[:, t]], -1)
    means = ensemble(behavior, inputs)
    error = means - follows[:, t + offset].numpy()
    errors.append((
        error ** 2 / 2 + np.log(2 * np.pi) / 2).sum(-1).sum(0).mean())
  metrics = behavior.train(outputs['post'], outputs, outputs['data'])
  np.testing.assert_allclose(
      metrics['disag_loss'], np.mean(errors), rtol=1e-4)


@pytest.mark.parametrize('name', ['ModelLoss', 'Plan2Explore'])
def test_extrinsic_reward_is_added_by_its_scale(name, make_explorer):
  rewards = []
  for scale in (0.0, 2.0):
    agent, _, outputs = make_explorer(name, expl_extr_scale=scale)
    seq = imagine(agent, outputs)
    rewards.append(agent.parts['expl_behavior']._intr_reward(seq).numpy())
  reward = agent.wm.heads['reward'](seq['feat']).mode().numpy()
  np.testing.assert_allclose(
      rewards[1] - rewards[0], 2 * reward, rtol=1e-3, atol=1e-5)


def test_model_loss_predicts_the_divergence(make_explorer):
  agent, _, outputs = make_explorer('ModelLoss', expl_intr_scale=0.5)
  behavior = agent.parts['expl_behavior']
  value = behavior._head(outputs['feat']).mode().numpy()
  error = value - outputs['kl'].numpy()
  right = np.mean(error ** 2 / 2 + np.log(2 * np.pi) / 2)
  seq = imagine(agent, outputs)
  np.testing.assert_allclose(
      behavior._intr_reward(seq),
      0.5 * behavior._head(seq['feat']).mode().numpy(), rtol=1e-5)
  metrics = behavior.train(outputs['post'], outputs, outputs['data'])
  np.testing.assert_allclose(metrics['model_loss_loss'], right, rtol=1e-5)


@pytest.mark.parametrize('name, key, value, text', [
    ('Plan2Explore', 'disag_target', 'image', 'deter, embed, feat, stoch'),
    ('ModelLoss', 'expl_model_loss', 'image', 'kl')])
def test_bad_settings_are_named(name, key, value, text, make_explorer):
  with pytest.raises(ValueError, match=text) as error:
    make_explorer(name, **{key: value})
  assert key in str(error.value) and '\n' not in str(error.value)


def weights(module):
  return list(tfutils.named_variables(module, '').values())


def test_models_that_agree_leave_a_finite_gradient(make_explorer):
  agent, _, outputs = make_explorer('Plan2Explore')
  behavior = agent.parts['expl_behavior']
  first, *others = behavior._heads
  for head in others:
    for old, new in zip(weights(head), weights(first), strict=True):
      old.assign(new)
  metrics = behavior.train(outputs['post'], outputs, outputs['data'])
  assert float(metrics['actor_skipped']) == 0
  assert np.isfinite(float(metrics['actor_grad_norm']))


def test_plan2explore_predicts_nothing_beyond_an_episode(
    make_explorer, make_batch):
  agent, data, outputs = make_explorer('Plan2Explore', disag_offset=2)
  first = data['is_first'].numpy()
  first[:, 3] = True  # The starts 1 and 2 do not see their target.
  outputs['data']['is_first'] = tf.constant(first)
  behavior = agent.parts['expl_behavior']

  def loss(**changes):
    variables = [x for head in behavior._heads for x in weights(head)]
    before = [x.numpy() for x in variables]
    context = {**outputs, 'post': {**outputs['post'], **changes}}
    value = behavior.train(outputs['post'], context, outputs['data'])
    for variable, old in zip(variables, before, strict=True):
      variable.assign(old)
    return float(value['disag_loss'])

  target = outputs['post']['stoch'].numpy()
  hidden, seen = target.copy(), target.copy()
  hidden[:, 3:5] += 1
  seen[:, 5] += 1
  assert loss(stoch=tf.constant(hidden)) == pytest.approx(loss(), rel=1e-5)
  assert loss(stoch=tf.constant(seen)) > loss() + 0.01


def test_models_must_not_look_beyond_the_batch(make_explorer, make_config):
  length = make_config().dataset.length
  with pytest.raises(ValueError, match='disag_offset is .* less than data'):
    make_explorer('Plan2Explore', disag_offset=length)
