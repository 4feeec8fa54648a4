import time

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import other
from dreamingv2.common import tfutils
from tests.helpers import normal

pytestmark = pytest.mark.usefixtures('seed')


def run_scan(inputs, start, weight):
  """Returns states of h' = tanh(h w + x y), n' = n + 1, and gradients."""
  def step(state, x):
    h = tf.tanh(state['h'] @ weight + x['x'] * x['y'])
    return {'n': state['n'] + 1, 'h': h}

  start = {'h': start, 'n': tf.constant(0)}
  with tf.GradientTape() as tape:
    tape.watch([inputs['x'], start['h'], weight])
    states = other.static_scan(step, inputs, start)
    loss = tf.reduce_sum(states['h'] ** 2 * tf.range(1.0, 6)[:, None, None])
  return states, tape.gradient(loss, [inputs['x'], start['h'], weight])


def make_scan_inputs():
  inputs = {
      'x': tf.constant(normal(5, 2, 3)), 'y': tf.constant(normal(5, 2, 1))}
  return inputs, tf.constant(normal(2, 3, seed=1)), tf.constant(
      normal(3, 3, seed=2))


def test_scan_equals_a_loop():
  inputs, start, weight = make_scan_inputs()
  states, _ = run_scan(inputs, start, weight)
  h = start.numpy()
  for t in range(5):
    h = np.tanh(h @ weight.numpy() + inputs['x'][t] * inputs['y'][t])
    np.testing.assert_allclose(states['h'][t], h, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(states['n'], [1, 2, 3, 4, 5])


def test_scan_in_a_graph_is_a_loop_and_equals_eager_with_its_gradients():
  args = make_scan_inputs()
  eager = run_scan(*args)
  function = tf.function(run_scan, autograph=False)
  graph = function(*args)
  for a, b in zip(
      tf.nest.flatten(eager), tf.nest.flatten(graph), strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  ops = {
      op.type for op in function.get_concrete_function(
          *args).graph.get_operations()}
  assert ops & {'While', 'StatelessWhile'}


def test_scan_knows_the_static_shapes_in_a_graph():
  @tf.function(autograph=False)
  def function(x):
    out = other.static_scan(
        lambda s, x: {'h': s['h'] + x['x']}, {'x': x}, {'h': x[0]})
    assert out['h'].shape == (4, 2, 3)
    return out

  np.testing.assert_array_equal(
      function(tf.ones([4, 2, 3]))['h'][:, 0, 0], [2, 3, 4, 5])


def make_returns():
  reward, value = normal(4, 2), normal(4, 2, seed=1)
  discount = np.random.default_rng(2).uniform(0, 1, (4, 2)).astype('f')
  return reward, value, discount, normal(2, seed=3)


@pytest.mark.parametrize('lambda_', [0.0, 0.3, 0.95, 1.0])
def test_lambda_return_equals_a_recursion(lambda_):
  reward, value, discount, bootstrap = make_returns()

  def target(t, n):
    if t == 4:
      return bootstrap[n]
    after = bootstrap[n] if t == 3 else value[t + 1, n]
    return reward[t, n] + discount[t, n] * (
        (1 - lambda_) * after + lambda_ * target(t + 1, n))

  actual = other.lambda_return(
      tf.constant(reward), tf.constant(value), tf.constant(discount),
      tf.constant(bootstrap), lambda_)
  expected = [[target(t, n) for n in range(2)] for t in range(4)]
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_lambda_return_with_lambda_0_is_one_step_with_1_monte_carlo():
  reward, value, discount, bootstrap = make_returns()
  following = np.concatenate([value[1:], bootstrap[None]])
  np.testing.assert_allclose(
      other.lambda_return(reward, value, discount, bootstrap, 0.0),
      reward + discount * following, rtol=1e-5, atol=1e-6)
  expected = np.zeros((4, 2))
  for t in range(4):
    weight = np.ones(2)
    for u in range(t, 4):
      expected[t] += weight * reward[u]
      weight = weight * discount[u]
    expected[t] += weight * bootstrap
  np.testing.assert_allclose(
      other.lambda_return(reward, value, discount, bootstrap, 1.0),
      expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('text, step, value', [
    (0.3, 100, 0.3),
    ('1e-4', 0, 1e-4),
    ('linear(1, 0.1, 100)', 0, 1.0),
    ('linear(1,0.1,100)', 50, 0.55),
    ('linear(1,0.1,100)', 1000, 0.1),
    ('warmup(10,4)', 0, 0.0),
    ('warmup(10,4)', 5, 2.0),
    ('warmup(10,4)', 20, 4.0),
    ('exp(1,0.2,10)', 0, 1.0),
    ('exp(1,0.2,10)', 10, 0.6),
    ('exp(1,0.2,10)', 20, 0.4),
    ('horizon(10,100,50)', 0, 0.9),
    ('horizon(10,100,50)', 25, 1 - 1 / 55),
    ('horizon(10,100,50)', 80, 0.99)])
def test_schedule_follows_its_formula(text, step, value):
  for number in (step, tf.Variable(step, dtype=tf.int64)):
    out = other.schedule(text, number)
    assert out.dtype == tf.float32 and out.shape == ()
    np.testing.assert_allclose(out, value, rtol=1e-6)


@pytest.mark.parametrize('text', [
    'fast', 'lineal(1,2,3)', 'linear(1,2)', 'linear(1,2,x)', 'linear(1,2,3',
    '', 'exp(1,0,0)', 'exp(1,0,-5)', 'horizon(0,100,1e5)'])
def test_schedule_names_what_it_understands(text):
  with pytest.raises(ValueError, match=r'schedule .*linear\(start,end') as e:
    other.schedule(text, tf.constant(0))
  assert f"'{text}'" in str(e.value)


BOX = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


def make_onehot_space(size):
  space = gymnasium.spaces.Box(0, 1, (size,), np.float32)
  space.discrete = True
  return space


def test_action_noise_is_normal_and_clipped():
  action = tf.tile(tf.constant([[0.0, 0.9]]), [20000, 1])
  out = other.action_noise(action, 0.2, BOX).numpy()
  assert out.min() >= -1 and out.max() == 1
  # Five standard deviations of mean and standard deviation are below 0.01.
  assert out[:, 0].mean() == pytest.approx(0, abs=0.01)
  assert out[:, 0].std() == pytest.approx(0.2, abs=0.01)
  assert abs(np.corrcoef(out.T)[0, 1]) < 0.05
  np.testing.assert_array_equal(other.action_noise(action, 0.0, BOX), action)


def test_action_noise_replaces_discrete_actions_with_that_probability():
  action = tf.one_hot(tf.ones([20000], tf.int32), 4)
  out = other.action_noise(action, 0.4, make_onehot_space(4)).numpy()
  assert set(np.unique(out)) == {0, 1} and (out.sum(-1) == 1).all()
  # The standard deviation of a frequency is 0.003.
  np.testing.assert_allclose(out.mean(0), [0.1, 0.7, 0.1, 0.1], atol=0.015)


def test_stream_norm_follows_its_recursion():
  norm, mag = other.StreamNorm(momentum=0.9, scale=3.0, eps=0.01), 1.0
  for i in range(5):
    x = 10 * normal(7, seed=i)
    mag = 0.9 * mag + 0.1 * sum(abs(v) for v in x) / 7
    out, metrics = norm(tf.constant(x))
    np.testing.assert_allclose(out, 3 * x / (mag + 0.01), rtol=1e-5)
    np.testing.assert_allclose(metrics['mean'], x.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics['std'], x.std(), rtol=1e-4)
    np.testing.assert_allclose(metrics['normed_std'], out.numpy().std(),
                               rtol=1e-4)
    np.testing.assert_allclose(norm.transform(x), out, rtol=1e-6)
  assert norm.mag.numpy() == pytest.approx(mag, rel=1e-5)


def test_stream_norm_of_order_2_divides_by_the_root_mean_square():
  norm, square = other.StreamNorm(momentum=0.9, eps=0, order=2), 1.0
  for i in range(5):
    x = 10 * normal(7, seed=i)
    square = 0.9 * square + 0.1 * np.mean(x ** 2)
    out, _ = norm(tf.constant(x))
    np.testing.assert_allclose(out, x / square ** 0.5, rtol=1e-5)


@pytest.mark.parametrize('order', [1, 2])
@pytest.mark.parametrize('updates', [500, 1000, 2000])
def test_stream_norm_does_not_blow_up_what_is_rare(updates, order):
  norm = other.StreamNorm(momentum=0.99, order=order)
  update = tf.function(norm.update, autograph=False)
  x = np.zeros((8, 16), np.float32)
  for _ in range(updates):
    update(tf.constant(x))
  x[3, 5] = 1.0  # The first reward, one in 128.
  update(tf.constant(x))
  scaled = norm.transform(tf.constant(1.0)).numpy()
  assert scaled == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize('order', [1, 2])
def test_stream_norm_bounds_what_is_rare_among_small_costs(order):
  norm = other.StreamNorm(momentum=0.99, order=order)
  update = tf.function(norm.update, autograph=False)
  x = np.full((8, 16), -1e-3, np.float32)
  for _ in range(1500):
    update(tf.constant(x))
  x[3, 5] = 1.0
  update(tf.constant(x))
  scaled = norm.transform(tf.constant(1.0)).numpy()
  assert scaled <= 1 / norm.FLOOR * 1.001


def test_stream_norm_of_dense_values_is_a_mean_over_all():
  norm = other.StreamNorm(momentum=0.5, eps=0, order=2)
  x = np.abs(normal(8, 16)) + 1e-6
  norm.update(tf.constant(x))
  assert norm.mag.numpy() == pytest.approx(
      0.5 + 0.5 * np.mean(x ** 2), rel=1e-6)


@pytest.mark.parametrize('order', [1, 2])
def test_stream_norm_with_momentum_1_is_off(order):
  norm = other.StreamNorm(momentum=1.0, order=order)
  x = 100 * normal(7)
  for _ in range(3):
    np.testing.assert_allclose(norm(tf.constant(x))[0], x, rtol=1e-6)


def test_stream_norm_keeps_its_mean_as_a_variable():
  assert list(tfutils.named_variables(other.StreamNorm())) == ['mag']


def test_return_norm_equals_a_loop():
  """The first updates are below the floor of 1."""
  norm, right = other.ReturnNorm(0.75, low=10.0, high=90.0), 0.0
  update = tfutils.compile(norm)
  for i, scale in enumerate([0.1, 9.0, 0.5, 30.0]):
    x = scale * normal(5, 9, seed=i)
    x[0, 0] = 1e6  # An outlier.
    span = np.percentile(x, 90) - np.percentile(x, 10)
    right = 0.75 * right + 0.25 * span
    divisor = update(tf.constant(x))
    assert 0 < i or right < 1
    np.testing.assert_allclose(divisor, max(1, right), rtol=1e-4)
    np.testing.assert_allclose(norm.range, right, rtol=1e-4)
  assert list(tfutils.named_variables(norm)) == ['range']


def test_return_norm_is_not_poisoned_and_sends_no_gradient():
  norm, x = other.ReturnNorm(0.5), tf.constant(40 * normal(4, 4))
  with tf.GradientTape() as tape:
    tape.watch(x)
    before = norm(x)
  assert tape.gradient(before, x) is None and before > 1
  bad = tf.where(tf.range(4) == 1, np.nan, x)
  np.testing.assert_array_equal(norm(bad), before)


def test_return_norm_with_momentum_1_does_not_exist():
  assert other.return_norm(1.0, low=5.0, high=95.0, floor=1.0) is None
  assert other.return_norm(0.9, low=5.0, high=95.0, floor=1.0)


def test_draw_takes_the_same_states_of_every_entry_once():
  flat = np.arange(12)
  states = {'a': tf.reshape(flat, [3, 4]),
            'b': tf.constant(np.stack([flat, -flat], -1).reshape(3, 4, 2))}
  seen = set()
  for _ in range(40):
    drawn = {k: v.numpy() for k, v in other.draw(states, 5).items()}
    rows = drawn['a'][0]
    assert drawn['a'].shape == (1, 5) and len({*rows}) == 5
    np.testing.assert_array_equal(drawn['b'][0], np.stack([rows, -rows], -1))
    seen |= {*rows}
  assert seen == {*flat}
  for most in (0, 12, 99):
    assert other.draw(states, most) is states


@pytest.mark.parametrize('name', ['binary', 'onehot', 'symlog', 'twohot'])
def test_actor_dist_must_give_actions(name):
  assert other.actor_dist('auto', True) == 'onehot'
  assert other.actor_dist('auto', False) == 'trunc_normal'
  with pytest.raises(ValueError, match=f"'{name}' does not fit continuous"):
    other.actor_dist(name, False)
  with pytest.raises(ValueError, match="'trunc_normal' does not fit discr"):
    other.actor_dist('trunc_normal', True)


def test_timer_shares_add_up_and_start_over(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  timer = other.Timer()

  def spend(name, seconds):
    with timer.section(name):
      now[0] += seconds

  spend('act', 1.0)
  spend('train', 2.0)
  spend('act', 3.0)
  now[0] += 2.0
  assert timer.result(reset=True) == {'act': 0.5, 'train': 0.25}
  now[0] += 1.0
  spend('train', 3.0)
  assert timer.result(reset=True) == {'train': 0.75}


def test_timer_counts_sections_that_fail(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  timer = other.Timer()
  with pytest.raises(KeyError), timer.section('act'):
    now[0] += 1.0
    raise KeyError
  now[0] += 1.0
  assert timer.result(reset=True) == {'act': 0.5}


def test_random_agent_covers_the_box_and_follows_its_seed():
  space = gymnasium.spaces.Box(
      np.array([-1, 0], 'f'), np.array([1, 5], 'f'), dtype=np.float32)
  obs = {'is_first': np.zeros(4000, bool)}
  agents = [other.RandomAgent({'action': space}, s) for s in (0, 0, 1)]
  first, same, different = [a(obs)[0]['action'] for a in agents]
  assert first.shape == (4000, 2) and first.dtype == np.float32
  np.testing.assert_array_equal(first, same)
  assert not np.array_equal(first, different)
  assert not np.array_equal(first, agents[0](obs, mode='eval')[0]['action'])
  np.testing.assert_allclose(first.min(0), [-1, 0], atol=0.02)
  np.testing.assert_allclose(first.max(0), [1, 5], atol=0.02)
  np.testing.assert_allclose(first.mean(0), [0, 2.5], atol=0.15)


def test_random_agent_draws_one_hots_for_discrete_actions():
  agent = other.RandomAgent({'action': make_onehot_space(3)}, 0)
  action, state = agent({'is_first': np.zeros(6000, bool)})
  action = action['action']
  assert state is None and action.dtype == np.float32
  assert set(np.unique(action)) == {0, 1} and (action.sum(-1) == 1).all()
  # The standard deviation of a frequency is 0.006.
  np.testing.assert_allclose(action.mean(0), [1 / 3] * 3, atol=0.03)


def test_random_agent_goes_on_from_its_state():
  space = {'action': gymnasium.spaces.Box(-1, 1, (3,), np.float32)}
  obs = {'is_first': np.zeros(2, bool)}
  agent, again = other.RandomAgent(space, 1), other.RandomAgent(space, 2)
  agent(obs)
  again.restore(agent.state())
  np.testing.assert_array_equal(
      agent(obs)[0]['action'], again(obs)[0]['action'])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_stream_norm_is_not_poisoned_by_what_is_not_finite(bad):
  norm = other.StreamNorm(momentum=0.9)
  norm.update(tf.constant([3.0, 3.0]))
  before = norm.mag.numpy()
  norm.update(tf.constant([3.0, bad]))
  assert norm.mag.numpy() == before


@pytest.mark.parametrize('name', ['reward', 'value', 'pcont', 'bootstrap'])
def test_lambda_return_refuses_shapes_that_would_broadcast(name):
  args = {k: tf.ones([5, 3]) for k in ('reward', 'value', 'pcont')}
  args['bootstrap'] = tf.ones([3])
  args[name] = args[name][..., :1]
  with pytest.raises(AssertionError, match=name + r' \([5, ]*1,?\)'):
    other.lambda_return(**args, lambda_=0.9)


def test_scan_refuses_inputs_of_different_lengths():
  inputs = {'a': tf.ones([4, 2]), 'b': tf.ones([5, 2])}
  with pytest.raises(AssertionError, match="'a': 4, 'b': 5"):
    other.static_scan(lambda state, x: x, inputs, {'a': tf.ones(2)})


def test_action_noise_refuses_actions_of_another_space():
  with pytest.raises(AssertionError, match=r'action \(2, 1\)'):
    other.action_noise(tf.zeros([2, 1]), 0.1, make_onehot_space(4))
