import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import episodes
from dreamingv2.common import tfutils

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def policy():
  """Restores the precision, which is global."""
  yield
  tfutils.setup('32')


class Parts(tfutils.Module):
  """Has the given attributes, in their order."""

  def __init__(self, **parts):
    for key, value in parts.items():
      setattr(self, key, value)


def make_vars(*values):
  return {
      f'x{i}': tf.Variable(value, dtype=tf.float32)
      for i, value in enumerate(values)}


@pytest.mark.parametrize('precision, compute', [
    ('16', tf.float16), ('32', tf.float32), ('bf16', tf.bfloat16),
    ('tf32', tf.float32)])
def test_setup_sets_the_compute_dtype(precision, compute):
  assert tfutils.setup(precision)[1] == precision
  assert tfutils.compute_dtype() == compute
  assert tfutils.cast(tf.zeros([1])).dtype == compute
  init = tf.zeros_initializer()
  assert Parts().var('x', init, [2]).dtype == tf.float32


@pytest.mark.parametrize('gpus, precision', [([], '32'), (['gpu:0'], '16')])
def test_setup_auto_chooses_half_precision_on_a_gpu(
    gpus, precision, monkeypatch):
  devices = [tf.config.PhysicalDevice(name, 'GPU') for name in gpus]
  grown = []
  monkeypatch.setattr(
      tf.config, 'list_physical_devices', lambda kind: devices)
  monkeypatch.setattr(
      tf.config.experimental, 'set_memory_growth',
      lambda gpu, on: grown.append((gpu.name, on)))
  assert tfutils.setup('auto') == (gpus, precision)
  assert grown == [(name, True) for name in gpus]


def test_setup_names_the_known_precisions():
  with pytest.raises(ValueError, match="'8'; known: 16, 32, auto, bf16, tf32"):
    tfutils.setup('8')


def test_setup_seeds_all_noise():
  draws = []
  for seed in (3, 3, 4):
    tfutils.setup('32', seed=seed)
    draws.append([tfutils.next_seed().numpy().tolist() for _ in range(3)])
  assert draws[0] == draws[1] != draws[2]
  assert draws[0][0] != draws[0][1] != draws[0][2]


def test_setup_forbids_nondeterminism_only_if_asked(monkeypatch):
  calls = []
  monkeypatch.setattr(
      tf.config.experimental, 'enable_op_determinism',
      lambda: calls.append(1))
  tfutils.setup('32')
  assert not calls
  tfutils.setup('32', deterministic=True)
  assert calls


def test_next_seed_advances_inside_a_graph():
  function = tf.function(tfutils.next_seed)
  assert function().numpy().tolist() != function().numpy().tolist()


def test_module_creates_each_part_once():
  module = Parts()
  first = module.get('part', list, 'ab')
  assert first == ['a', 'b'] and module.get('part', list, 'cd') is first
  init = tf.ones_initializer()
  var = module.var('x', init, [2])
  np.testing.assert_array_equal(var, [1, 1])
  assert module.var('x', init, [2]) is var


def test_named_variables_do_not_depend_on_the_order_of_attributes():
  a, b, c, d = [tf.Variable(float(i)) for i in range(4)]
  lazy = Parts()
  lazy.get('kernel', lambda: d)
  one = Parts(first=a, _second={'y': b, 'x': [c, lazy]})
  two = Parts(_second={'x': [c, lazy], 'y': b}, first=a)
  names = ['first', 'second/x/0', 'second/x/1/kernel', 'second/y']
  for module in (one, two):
    named = tfutils.named_variables(module)
    assert list(named) == names
    for var, same in zip(named.values(), (a, c, d, b), strict=True):
      assert var is same
  assert list(tfutils.named_variables(one, 'wm'))[0] == 'wm/first'
  assert tfutils.trainable(one)[3] is b


def test_named_variables_list_what_is_shared_once():
  var = tf.Variable(0.0)
  part = Parts(var=var)
  named = tfutils.named_variables({'b': part, 'a': part, 'c': [var, 3, None]})
  assert list(named) == ['a/var']
  part.owner = part  # A cycle must end.
  assert list(tfutils.named_variables(part)) == ['var']


def test_named_variables_refuse_two_of_one_name():
  module = Parts(x=tf.Variable(0.0), _x=tf.Variable(1.0))
  with pytest.raises(AssertionError, match='x'):
    tfutils.named_variables(module)


def test_slow_copy_copies_twice_and_then_follows_the_recursion():
  rng = np.random.default_rng(0)
  source, target = make_vars([0.0, 0.0], 0.0), make_vars([7.0, 7.0], 7.0)
  copy = tfutils.SlowCopy(0.05)
  expected = None
  for index in range(-1, 5):
    value = rng.normal(0, 1, 2).astype(np.float32)
    source['x0'].assign(value)
    source['x1'].assign(value[0])
    copy(source, target)
    if index <= 0:
      expected = value
      np.testing.assert_array_equal(target['x0'], value)
    else:
      expected = 0.95 * expected + 0.05 * value
    np.testing.assert_allclose(target['x0'], expected, rtol=1e-5)
    np.testing.assert_allclose(target['x1'], expected[0], rtol=1e-5)


@pytest.mark.parametrize('fraction', [1.0, 0.5])
def test_slow_copy_waits_between_its_updates(fraction):
  source, target = make_vars(0.0), make_vars(-1.0)
  copy = tf.function(tfutils.SlowCopy(fraction, every=100))
  changed, before = [], -1.0
  for update in range(-1, 202):
    source['x0'].assign(update + 10.0)
    copy(source, target)
    after = target['x0'].numpy()
    if after != before:
      changed.append(update)
      share = 1.0 if update <= 0 else fraction
      assert after == share * (update + 10) + (1 - share) * before
    before = after
  assert changed == [-1, 0, 100, 200]


def test_slow_copy_refuses_other_modules():
  with pytest.raises(AssertionError):
    tfutils.SlowCopy(0.5)(make_vars(0.0), make_vars(0.0, 1.0))


def test_slow_copy_keeps_its_count_as_a_variable():
  assert list(tfutils.named_variables(tfutils.SlowCopy(0.5))) == ['updates']


class NumpyAdam:
  """Adam on a list of float64 arrays, written from the formulas."""

  def __init__(self, values, lr, eps, clip, wd):
    self.x = [np.array(v, np.float64) for v in values]
    self.m = [np.zeros_like(v) for v in self.x]
    self.v = [np.zeros_like(v) for v in self.x]
    self.lr, self.eps, self.clip, self.wd, self.t = lr, eps, clip, wd, 0

  def step(self, grads):
    norm = math.sqrt(sum((g ** 2).sum() for g in grads))
    if self.clip and norm > self.clip:
      grads = [g * self.clip / norm for g in grads]
    self.t += 1
    rate = self.lr * math.sqrt(1 - 0.999 ** self.t) / (1 - 0.9 ** self.t)
    for i, g in enumerate(grads):
      self.m[i] = 0.9 * self.m[i] + 0.1 * g
      self.v[i] = 0.999 * self.v[i] + 0.001 * g ** 2
      self.x[i] = (1 - self.wd) * self.x[i]
      self.x[i] -= rate * self.m[i] / (np.sqrt(self.v[i]) + self.eps)
    return norm


def linear_loss(variables, grads):
  """Returns a loss with the given gradients."""
  return tf.add_n([
      tf.reduce_sum(v * tf.cast(g, tf.float32))
      for v, g in zip(variables.values(), grads, strict=True)])


@pytest.mark.parametrize('eps, clip, wd', [
    (1e-5, 0.0, 0.0), (0.3, 0.0, 0.0), (1e-5, 2.0, 0.0), (1e-5, 0.0, 0.1),
    (1e-2, 2.0, 0.01)])
def test_optimizer_equals_adam_in_numpy(eps, clip, wd):
  values = [[1.0, -2.0], [[3.0]]]
  variables = make_vars(*values)
  opt = tfutils.Optimizer('model', 0.1, eps, clip, wd)
  opt.build(variables)
  adam = NumpyAdam(values, 0.1, eps, clip, wd)
  step = tf.function(lambda *grads: run_optimizer(opt, variables, grads))
  rng = np.random.default_rng(0)
  norms = []
  for _ in range(8):
    # Gradient norms below and above the clip.
    scale = rng.choice([0.1, 10.0])
    grads = [scale * rng.normal(0, 1, np.shape(v)) for v in values]
    metrics = step(*grads)
    norms.append(adam.step(grads))
    assert metrics['model_grad_norm'].numpy() == pytest.approx(
        norms[-1], rel=1e-5)
    for var, x in zip(variables.values(), adam.x, strict=True):
      np.testing.assert_allclose(var, x, rtol=1e-4, atol=1e-5)
  assert min(norms) < 2 < max(norms)
  assert 'model_loss_scale' not in metrics


def run_optimizer(opt, variables, grads):
  with tf.GradientTape() as tape:
    loss = linear_loss(variables, grads)
  return opt(tape, loss, variables)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('graph', [False, True])
def test_optimizer_skips_and_counts_gradients_that_are_not_finite(bad, graph):
  variables = make_vars([1.0, 2.0], 3.0)
  opt = tfutils.Optimizer('actor', 0.1, clip=1.0, wd=0.1)
  opt.build(variables)
  step = lambda grads: run_optimizer(opt, variables, grads)
  step = tf.function(step) if graph else step
  step([np.ones(2), np.ones(())])
  everything = {**variables, **tfutils.named_variables(opt)}
  del everything['skipped'], everything['good']
  before = {k: v.numpy() for k, v in everything.items()}
  metrics = step([np.array([0.0, bad]), np.ones(())])
  for key, value in before.items():
    np.testing.assert_array_equal(everything[key], value, key)
  assert metrics['actor_skipped'] == 1
  assert opt.updates == 1 and opt.good == 0
  metrics = step([np.ones(2), np.ones(())])
  assert metrics['actor_skipped'] == 1 and opt.updates == 2
  assert all(np.isfinite(v).all() for v in variables.values())


def test_optimizer_halves_and_doubles_the_scale_of_float16(monkeypatch):
  monkeypatch.setattr(tfutils.Optimizer, 'GROWTH', 3)
  tfutils.setup('16')
  variables = make_vars(1.0)
  opt = tfutils.Optimizer('model', 0.1)
  opt.build(variables)
  scales = []
  for grad in [np.nan, 1, 1, np.inf, 1, 1, 1, 1, 1, 1, 1]:
    metrics = run_optimizer(opt, variables, [np.float64(grad)])
    scales.append(math.log2(metrics['model_loss_scale'].numpy()))
  assert scales == [14, 14, 14, 13, 13, 13, 14, 14, 14, 15, 15]
  for _ in range(20):
    run_optimizer(opt, variables, [np.float64(np.nan)])
  assert opt.scale == 1


def test_optimizer_scales_the_loss_so_that_float16_does_not_underflow():
  tfutils.setup('16')
  variables = make_vars(1.0)
  opt = tfutils.Optimizer('model', 0.1)
  opt.build(variables)
  with tf.GradientTape(persistent=True) as tape:
    # 1e-5 * 1e-4 is below the smallest float16.
    x = tf.cast(variables['x0'], tf.float16) * tf.constant(1e-4, tf.float16)
    loss = tf.cast(x, tf.float32) * 1e-5
  assert tape.gradient(loss, variables['x0']) == 0
  norm = opt(tape, loss, variables)['model_grad_norm'].numpy()
  assert norm == pytest.approx(1e-9, rel=0.01)


def test_float16_takes_over_with_a_loss_scale_of_its_own():
  """With `precision auto`, a run may move from a CPU to a GPU."""
  scales = []
  for precision in ('32', '16'):
    tfutils.setup(precision)
    scales.append(tfutils.Optimizer('model', 0.1).scale.numpy())
  assert scales[0] == scales[1] > 1


def test_optimizer_names_variables_that_no_gradient_reaches():
  variables = make_vars(1.0, 2.0)
  opt = tfutils.Optimizer('critic', 0.1)
  opt.build(variables)
  with pytest.raises(AssertionError, match=r'critic: no gradient.*x1'):
    with tf.GradientTape() as tape:
      loss = variables['x0'] ** 2
    opt(tape, loss, variables)


def test_optimizer_wants_the_modules_it_was_built_for():
  opt = tfutils.Optimizer('model', 0.1)
  opt.build(make_vars(1.0))
  with pytest.raises(AssertionError, match='build'):
    run_optimizer(opt, make_vars(1.0, 2.0), [np.ones(()), np.ones(())])
  with pytest.raises(AssertionError, match='built twice'):
    opt.build(make_vars(1.0))


def test_optimizer_names_the_known_kinds():
  with pytest.raises(ValueError, match="model_opt.opt 'sgd'.*adam"):
    tfutils.Optimizer('model', 0.1, opt='sgd')


def test_optimizer_keeps_its_state_as_variables():
  opt = tfutils.Optimizer('model', 0.1)
  opt.build({'net': Parts(w=tf.Variable(1.0))})
  assert list(tfutils.named_variables(opt)) == [
      'good', 'scale', 'skipped', 'slots/net/w/m', 'slots/net/w/v', 'updates']


@pytest.mark.parametrize('dtype', [
    bool, 'uint8', 'uint16', 'int32', 'int64', 'float16', 'float32',
    'float64'])
def test_stored_dtype_is_what_the_replay_converts_to(dtype):
  stored = episodes.convert({'x': np.zeros(2, dtype)})['x'].dtype
  assert tfutils.stored_dtype(np.dtype(dtype)) == stored


def test_compile_traces_a_function_once():
  traces = []

  def double(x):
    traces.append(1)
    return 2 * x

  function = tfutils.compile(double)
  assert [function(tf.constant(i)).numpy() for i in range(3)] == [0, 2, 4]
  assert len(traces) == 1


def test_arrays_of_nested_tensors_come_back_with_their_dtypes():
  nest = (
      {'a': tf.constant([1.5], tf.bfloat16), 'b': tf.constant([2], tf.int32)},
      tf.constant([0.1], tf.float16))
  arrays = tfutils.to_arrays(nest)
  assert arrays[0]['a'].dtype == np.float32
  again = tfutils.from_arrays(arrays, nest)
  for one, two in zip(tf.nest.flatten(nest), tf.nest.flatten(again),
                      strict=True):
    assert one.dtype == two.dtype
    np.testing.assert_array_equal(one.numpy(), two.numpy())
  assert tfutils.to_arrays(None) is tfutils.from_arrays(None, nest) is None


def test_setup_is_deterministic_in_a_fresh_process():
  """Setup must make a generator there, as TensorFlow refuses to do it."""
  code = (
      'from dreamingv2.common import tfutils; '
      'tfutils.setup("32", True, 3); print(tfutils.next_seed().numpy())')
  outs = [
      subprocess.run(
          [sys.executable, '-c', code], capture_output=True, text=True,
          cwd=ROOT).stdout for _ in range(2)]
  assert outs[0] == outs[1] and outs[0].startswith('[')


@pytest.mark.parametrize('pattern, decays', [
    ('.*', {'x0', 'x1'}), ('x1', {'x1'}), ('^model/x0', {'x0'}),
    ('^x0', None)])
def test_optimizer_decays_what_the_pattern_names(pattern, decays):
  variables = make_vars(1.0, 2.0)
  opt = tfutils.Optimizer('model', 0.1, wd=0.5, wd_pattern=pattern)
  if decays is None:
    with pytest.raises(ValueError, match=r"model_opt.*'\^x0'.*model/x0"):
      opt.build(variables)
    return
  opt.build(variables)
  run_optimizer(opt, variables, [0.0, 0.0])
  halved = {
      name for name, old in (('x0', 1.0), ('x1', 2.0))
      if variables[name].numpy() == pytest.approx(old / 2)}
  assert halved == decays


def test_optimizer_refuses_a_pattern_that_is_none():
  with pytest.raises(ValueError, match=r"actor_opt.wd_pattern '\(' is no"):
    tfutils.Optimizer('actor', 0.1, wd_pattern='(')


@pytest.mark.parametrize('precision', sorted(tfutils.PRECISIONS))
def test_float32_products_are_not_rounded_but_on_request(precision):
  tfutils.setup(precision)
  allowed = tf.config.experimental.tensor_float_32_execution_enabled()
  assert allowed == (precision == 'tf32')
