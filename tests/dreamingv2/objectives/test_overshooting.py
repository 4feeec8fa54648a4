import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import latents
from dreamingv2.common import nets
from dreamingv2.common import tfutils
from dreamingv2.objectives import overshooting

B, T, A = 2, 6, 3


class Sums:
  """Replaces the RSSM: adds up the actions and counts its steps."""

  def __init__(self):
    self.steps = 0

  def img_step(self, state, action):
    self.steps += 1
    return {
        'deter': state['deter'], 'stoch': state['stoch'] + action,
        'mean': state['stoch'] + 10 * action, 'std': state['std'] + 1}


class Counts:
  """Replaces the dynamics: multiplies by 2, then adds the action."""

  def __call__(self, stoch, action, states):
    return 2 * stoch + action


def make_post(rng):
  normal = lambda *shape: rng.normal(size=(B, T, *shape)).astype(np.float32)
  return {
      'deter': normal(4), 'stoch': normal(A), 'mean': normal(A),
      'std': np.zeros((B, T, A), np.float32)}, normal(A)


def run(dynamics, horizon):
  post, action = make_post(np.random.default_rng(0))
  rssm = Sums()
  predicted = overshooting.predict(
      rssm, dynamics, {k: tf.constant(v) for k, v in post.items()},
      tf.constant(action), horizon)
  return post, action, rssm, predicted


@pytest.mark.parametrize('horizon', [1, 2, 3])
def test_predict_consumes_the_actions_after_the_start(horizon):
  post, action, rssm, (stoch, _) = run(
      overshooting.RSSM(None), horizon)
  assert rssm.steps == horizon + 1 and len(stoch) == horizon + 1
  for d in range(horizon + 1):
    for b in range(B):
      for t in range(T - d):
        right = post['stoch'][b, t] + action[b, t + 1: t + d + 1].sum(0)
        np.testing.assert_allclose(stoch[d][b, t], right, rtol=1e-5)


@pytest.mark.parametrize('horizon', [1, 2, 3])
def test_predict_gives_the_priors_from_distance_two(horizon):
  post, action, _, (_, priors) = run(overshooting.RSSM(None), horizon)
  assert len(priors) == horizon
  for d, prior in enumerate(priors, 2):
    assert set(prior) == {'mean', 'std'}
    for b in range(B):
      for t in range(T - d):
        before = post['stoch'][b, t] + action[b, t + 1: t + d].sum(0)
        np.testing.assert_allclose(
            prior['mean'][b, t], before + 10 * action[b, t + d], rtol=1e-4)
        np.testing.assert_allclose(prior['std'][b, t], d)


def test_predict_rolls_dynamics_on_their_own_latents():
  post, action, _, (stoch, priors) = run(Counts(), 3)
  for b in range(B):
    for t in range(T - 3):
      right = post['stoch'][b, t]
      for d in range(1, 4):
        right = 2 * right + action[b, t + d]
        np.testing.assert_allclose(stoch[d][b, t], right, rtol=1e-4)
  _, _, _, (_, others) = run(overshooting.RSSM(None), 3)
  for mine, theirs in zip(priors, others, strict=True):
    np.testing.assert_array_equal(mine['mean'], theirs['mean'])


def test_predict_executes_nothing_for_horizon_zero():
  post, _, rssm, (stoch, priors) = run(Counts(), 0)
  assert rssm.steps == 0 and priors == [] and len(stoch) == 1
  np.testing.assert_array_equal(stoch[0], post['stoch'])


@pytest.mark.parametrize('dynamics', ['linear', 'rssm'])
@pytest.mark.parametrize('latent', latents.LATENTS)
def test_predict_with_the_one_step_prior_computes_the_same(latent, dynamics):
  rng = np.random.default_rng(0)
  normal = lambda *size: tf.constant(rng.normal(size=size), tf.float32)
  tfutils.setup()
  rssm = nets.EnsembleRSSM(
      1, latent, stoch=3, discrete=4, continuous=2, deter=5, hidden=6)
  dynamics = overshooting.make(dynamics, rssm.latent)
  embed, action, horizon = normal(B, T, 7), normal(B, T, A), 2
  first = tf.constant([[True] + [False] * (T - 1), [False] * T])
  valid = overshooting.valid(first, horizon + 1)

  def run(shortcut):
    tfutils.generator().reset_from_seed(0)
    with tf.GradientTape() as tape:
      tape.watch(embed)
      post, prior = rssm.observe(embed, action, first)
      predicted, priors = overshooting.predict(
          rssm, dynamics, post, action, horizon, prior if shortcut else None)
      values = [
          *(x[valid[d]] for d, x in enumerate(predicted)),
          *(v[valid[d]] for d, x in enumerate(priors, 2) for v in x.values())]
      total = tf.add_n([tf.reduce_sum(tf.sin(3 * x)) for x in values])
    variables = tfutils.trainable([rssm])
    return values, tape.gradient(total, [embed, *variables])

  run(False)  # Creates the variables.
  for mine, theirs in zip(run(True), run(False), strict=True):
    assert any(np.abs(x).max() > 0.01 for x in theirs if x is not None)
    for x, y in zip(mine, theirs, strict=True):
      np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_predict_is_differentiable_in_the_start():
  post, action = make_post(np.random.default_rng(0))
  post = {k: tf.constant(v) for k, v in post.items()}
  with tf.GradientTape() as tape:
    tape.watch(post['stoch'])
    stoch, _ = overshooting.predict(
        Sums(), overshooting.RSSM(None), post, tf.constant(action), 2)
    value = tf.reduce_sum(stoch[2][:, :T - 2])
  grad = tape.gradient(value, post['stoch']).numpy()
  assert (grad[:, :T - 2] == 1).all() and (grad[:, T - 2:] == 0).all()


@pytest.mark.parametrize('horizon', [0, 1, 3])
def test_valid_equals_a_loop(horizon):
  rng = np.random.default_rng(1)
  first = rng.random((5, 9)) < 0.25
  valid = overshooting.valid(tf.constant(first), horizon).numpy()
  assert valid.shape == (horizon + 1, 5, 9)
  for d in range(horizon + 1):
    for b in range(5):
      for t in range(9):
        right = t + d < 9 and not first[b, t + 1: t + d + 1].any()
        assert valid[d, b, t] == right, (d, b, t)


@pytest.mark.parametrize('dtype', [bool, np.float32])
@pytest.mark.parametrize('distance', [0, 1, 4])
def test_ahead_shifts_and_wraps_around(dtype, distance):
  x = np.random.default_rng(2).integers(0, 2, (2, 5, 3)).astype(dtype)
  shifted = overshooting.ahead(tf.constant(x), distance)
  np.testing.assert_array_equal(shifted, np.roll(x, -distance, 1))


def linear(latent):
  """Returns linear dynamics and their matrices A and B."""
  dynamics = overshooting.make('linear', latent)
  dynamics(tf.zeros([1, latent.size]), tf.zeros([1, A]), None)
  (kernel,) = tfutils.named_variables(dynamics).values()
  assert kernel.shape == [latent.size + A, latent.size]
  return dynamics, kernel


def test_linear_dynamics_are_linear_without_bias_for_gaussians():
  latent = latents.make('gaussian', 4, 0)
  dynamics, kernel = linear(latent)
  rng = np.random.default_rng(3)
  z = rng.normal(size=(7, 4)).astype(np.float32)
  a = rng.normal(size=(7, A)).astype(np.float32)
  right = z @ kernel.numpy()[:4] + a @ kernel.numpy()[4:]
  result = dynamics(tf.constant(z), tf.constant(a), None)
  np.testing.assert_allclose(result, right, atol=1e-5)


def test_linear_dynamics_are_logits_for_categoricals():
  latent = latents.make('categorical', 2, 3)
  dynamics, kernel = linear(latent)
  rng = np.random.default_rng(4)
  z = np.eye(3, dtype=np.float32)[rng.integers(0, 3, (1, 2))].reshape(1, 6)
  a = rng.normal(size=(1, A)).astype(np.float32)
  logit = (np.concatenate([z, a], -1) @ kernel.numpy()).reshape(2, 3)
  probs = np.exp(logit) / np.exp(logit).sum(-1, keepdims=True)
  N = 20000
  result = dynamics(
      tf.repeat(tf.constant(z), N, 0), tf.repeat(tf.constant(a), N, 0), None)
  result = result.numpy().reshape(N, 2, 3)
  np.testing.assert_allclose(result.sum(-1), 1, atol=1e-5)
  # Five standard errors of a frequency of N draws.
  np.testing.assert_allclose(
      result.mean(0), probs, atol=5 * 0.5 / N ** 0.5)


def test_linear_dynamics_pass_gradient_through_categorical_samples():
  dynamics, kernel = linear(latents.make('categorical', 2, 3))
  weight = tf.random.stateless_normal([5, 6], [0, 1])
  with tf.GradientTape() as tape:
    out = dynamics(tf.ones([5, 6]), tf.ones([5, A]), None)
    value = tf.reduce_sum(weight * out)
  assert float(tf.norm(tape.gradient(value, kernel))) > 1e-3


def test_rssm_dynamics_have_nothing_to_train():
  dynamics = overshooting.make('rssm', latents.make('categorical', 2, 3))
  state = {'stoch': tf.ones([2, 6])}
  assert dynamics(None, None, state) is state['stoch']
  assert not tfutils.named_variables(dynamics)


def test_make_names_unknown_dynamics():
  with pytest.raises(ValueError, match="'gru'; known: .*linear"):
    overshooting.make('gru', latents.make('categorical', 2, 3))


def test_masks_need_no_operation_that_gpus_lack():
  """TensorFlow has no GPU kernel of Roll for bools."""
  graph = tf.function(
      lambda x: overshooting.valid(x, 3), autograph=False
  ).get_concrete_function(tf.TensorSpec([B, T], tf.bool)).graph
  assert not [
      op for op in graph.get_operations()
      if op.type == 'Roll' and op.inputs[0].dtype == tf.bool]
