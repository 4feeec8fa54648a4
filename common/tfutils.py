"""Variables, modules, precision, randomness and the optimiser."""

import contextlib
import re

import numpy as np
import tensorflow as tf
from tf_keras import mixed_precision

from . import distribute
from .config import check_known

PRECISIONS = {
    '16': 'mixed_float16',
    '32': 'float32',
    'bf16': 'mixed_bfloat16',
    'tf32': 'float32',
}


def setup(precision='auto', deterministic=False, seed=0):
  """Sets precision, GPU memory growth, determinism and the random seed.

  On recent GPUs, TensorFlow would round the factors of float32 products to 10
  bits (TF32). This function switches that off, except for 'tf32': rounded
  distances and logits of nearly equal vectors would be noise. This also holds
  for '16' and 'bf16', which compute them in float32 for that reason.

  Args:
    precision: '16', '32', 'bf16', 'tf32', or 'auto' for '16' on a GPU and
      '32' on a CPU.
    deterministic: Whether to forbid operations whose result depends on the
      timing of threads.
    seed: Seed of TensorFlow's global generator.

  Returns:
    The names of the GPUs found, and the precision chosen.

  Raises:
    ValueError: The precision is unknown.
  """
  tf.get_logger().setLevel('ERROR')
  gpus = distribute.gpus()
  check_known('precision', precision, ['auto', *PRECISIONS])
  if precision == 'auto':
    precision = '16' if gpus else '32'
  mixed_precision.set_global_policy(PRECISIONS[precision])
  tf.config.experimental.enable_tensor_float_32_execution(
      precision == 'tf32')
  if deterministic:
    tf.config.experimental.enable_op_determinism()
    # After this, TensorFlow cannot replace it by its own generator.
    tf.random.set_global_generator(tf.random.Generator.from_seed(seed))
  tf.random.set_seed(seed)
  generator().reset_from_seed(seed)
  return [gpu.name for gpu in gpus], precision


def compute_dtype():
  """Returns the dtype of activations; variables are always float32."""
  return tf.as_dtype(mixed_precision.global_policy().compute_dtype)


def cast(x):
  """Casts a float tensor to the compute dtype."""
  return tf.cast(x, compute_dtype())


def zeros(spaces, batch, length):
  """Returns a zero batch: {key of `spaces`: [batch, length, ...]}."""
  return {
      k: tf.zeros([batch, length, *v.shape], stored_dtype(v.dtype))
      for k, v in spaces.items()}


def stored_dtype(dtype):
  """Returns the dtype in which the driver stores values of a space."""
  dtype = tf.as_dtype(dtype)
  if dtype.is_floating:
    return tf.float32
  return tf.int32 if dtype.is_integer and dtype != tf.uint8 else dtype


def to_arrays(nest):
  """Returns nested tensors as NumPy arrays, bfloat16 as float32, or None."""
  half = lambda x: tf.cast(x, tf.float32) if x.dtype == tf.bfloat16 else x
  convert = lambda x: np.asarray(half(tf.convert_to_tensor(x)))
  return None if nest is None else tf.nest.map_structure(convert, nest)


def from_arrays(nest, like):
  """Reverses `to_arrays`; `like` holds nested tensors of the right dtypes."""
  convert = lambda x, y: tf.cast(x, y.dtype)
  return None if nest is None else tf.nest.map_structure(convert, nest, like)


def compile(fn, xla=False):
  """Returns `fn` as a graph, or an XLA program, traced on its first call."""
  # No function here needs AutoGraph, which would convert Python control flow
  # on tensors and makes tracing slow.
  return tf.function(fn, autograph=False, jit_compile=xla or None)


def generator():
  """Returns the generator of all noise; checkpoints contain its state."""
  return tf.random.get_global_generator()


@contextlib.contextmanager
def keep_generator():
  """Restores the state of the generator after the body of a with statement."""
  state = tf.identity(generator().state)
  yield
  generator().state.assign(state)


def split(fn):
  """Returns a training step split over the replicas, see distribute.split."""
  return distribute.split(fn, next_seed)


def next_seed():
  """Draws a stateless seed, int32 [2], and advances the generator."""
  seed = distribute.seed()
  return generator().uniform_full_int([2], tf.int32) if seed is None else seed


class Module:
  """Creates its parts on first use and keeps them under stable names."""

  def get(self, name, ctor, *args, **kwargs):
    """Returns the part called `name`; creates it with `ctor` if it is new."""
    parts = self.__dict__.setdefault('_parts', {})
    if name not in parts:
      parts[name] = ctor(*args, **kwargs)
    return parts[name]

  def var(self, name, init, shape):
    """Returns the float32 variable `name`; the first call initialises it."""
    return self.get(name, lambda: tf.Variable(
        init(shape, tf.float32), name=name))


def named_variables(obj, prefix=''):
  """Maps '/'-separated attribute paths to variables, each variable once.

  Args:
    obj: A module, variable, or nested dicts and lists of them.
    prefix: Path of `obj` itself.

  Returns:
    {path: variable}, sorted by path. The order in which attributes were set
    does not matter.
  """
  variables = {}
  _collect(obj, prefix, variables, set())
  return dict(sorted(variables.items()))


def _collect(obj, path, variables, seen):
  if isinstance(obj, tf.Variable):
    if obj.ref() not in seen:
      seen.add(obj.ref())
      assert path not in variables, f'two variables are called {path}'
      variables[path] = obj
    return
  if isinstance(obj, Module):
    items = {k: v for k, v in vars(obj).items() if k != '_parts'}
    items.update(vars(obj).get('_parts', {}))
  elif isinstance(obj, dict):
    items = obj
  elif isinstance(obj, (list, tuple)):
    items = {str(i): v for i, v in enumerate(obj)}
  else:
    return
  if id(obj) in seen:
    return
  seen.add(id(obj))
  for name in sorted(items, key=str):
    name, value = str(name).lstrip('_'), items[name]
    _collect(value, f'{path}/{name}' if path else name, variables, seen)


def trainable(modules):
  """Returns the variables of modules, sorted by their paths."""
  return list(named_variables(modules).values())


class SlowCopy(Module):
  """Moves the variables of one module slowly towards those of another.

  target <- (1 - fraction) target + fraction source, at every update whose
  index is a multiple of `every`. The call during the build, index -1, and the
  call after the first update, index 0, copy the source.
  Source: Okada & Taniguchi 2022, section III-E; Hafner et al. 2021 for the
  target critic.
  """

  def __init__(self, fraction, every=1):
    self.fraction = fraction
    self.every = every
    self.updates = tf.Variable(-1, dtype=tf.int64, trainable=False)

  def __call__(self, source, target):
    """Moves the variables of `target` towards those of `source`."""
    source, target = named_variables(source), named_variables(target)
    assert source.keys() == target.keys(), (source.keys(), target.keys())
    copy = self.updates <= 0
    due = copy | (self.updates % self.every == 0)
    mix = tf.where(copy, 1.0, tf.where(due, self.fraction, 0.0))
    for name, var in target.items():
      # This weighted sum, unlike var + mix * difference, copies to the bit if
      # mix is 1.
      var.assign(mix * source[name] + (1 - mix) * var)
    self.updates.assign_add(1)


class Optimizer(Module):
  """Adam with clipping by global norm, weight decay and loss scaling.

  An update with a gradient that is not finite is skipped and counted. With
  float16 the loss is scaled: the scale is halved after every skipped update,
  and doubled after 2000 good updates in a row.
  """

  BETA1, BETA2 = 0.9, 0.999
  GROWTH = 2000  # Good updates before the loss scale is doubled.
  OPTS = ('adam',)

  def __init__(
      self, name, lr, eps=1e-4, clip=0.0, wd=0.0, opt='adam',
      wd_pattern='.*'):
    """Stores the rates.

    Args:
      name: Prefix of the metrics.
      lr: Learning rate.
      eps: Adam's epsilon, added to the root of the second moment.
      clip: Largest global norm of the gradients; 0 disables clipping.
      wd: Fraction of every variable that is removed per update.
      opt: Must be 'adam', which all systems use.
      wd_pattern: Regular expression searched for in '<name>/<path>' of each
        variable. Only variables that match decay.

    Raises:
      ValueError: `opt` is unknown, or `wd_pattern` is no regular expression.
    """
    self.name = name
    check_known(f'{name}_opt.opt', opt, self.OPTS)
    self._lr, self._eps, self._clip, self._wd = lr, eps, clip, wd
    try:
      self._decays = re.compile(wd_pattern)
    except re.error as error:
      raise ValueError(
          f"{name}_opt.wd_pattern '{wd_pattern}' is no regular expression: "
          f'{error}') from None
    self._scaled = compute_dtype() == tf.float16
    self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
    self.skipped = tf.Variable(0, dtype=tf.int64, trainable=False)
    self.good = tf.Variable(0, dtype=tf.int64, trainable=False)
    # In other precisions it is unused, but float16 may take a run over.
    self.scale = tf.Variable(2.0 ** 15, trainable=False)
    self.slots = {}

  def build(self, modules):
    """Creates the moments of all variables of `modules`, a dict or list.

    Raises:
      ValueError: `wd_pattern` matches none of the variables.
    """
    assert not self.slots, f'{self.name}: built twice'
    variables = named_variables(modules)
    if self._wd and not any(map(self._decay, variables)):
      raise ValueError(
          f"{self.name}_opt.wd_pattern '{self._decays.pattern}' matches "
          f'no variable; one is {self.name}/{next(iter(variables))}')
    for name, var in variables.items():
      self.slots[name] = {
          key: tf.Variable(tf.zeros_like(var), trainable=False)
          for key in ('m', 'v')}

  def __call__(self, tape, loss, modules):
    """Updates the variables of `modules` along the gradient of `loss`.

    Args:
      tape: Tape on which `loss`, a float32 scalar, was computed.
      loss: Scalar.
      modules: The same as passed to `build`.

    Returns:
      Metrics: the loss, the norm of the gradients before clipping, and the
        number of skipped updates.
    """
    variables = named_variables(modules)
    assert variables and variables.keys() == self.slots.keys(), (
        f'{self.name}: build() saw other modules')
    # The loss scale enters as the gradient of the loss to itself.
    grads = tape.gradient(
        loss, list(variables.values()),
        output_gradients=self.scale.value() if self._scaled else None)
    missing = [n for n, g in zip(variables, grads, strict=True) if g is None]
    assert not missing, f'{self.name}: no gradient reaches {missing}'
    if self._scaled:
      grads = [grad / self.scale for grad in grads]
    grads = distribute.mean(grads)
    norm = tf.linalg.global_norm(grads)
    finite = tf.math.is_finite(norm)
    tf.cond(
        finite,
        lambda: self._apply(grads, variables, norm),
        lambda: tf.constant(False))
    self._count(finite)
    metrics = {
        f'{self.name}_loss': loss,
        f'{self.name}_grad_norm': norm,
        f'{self.name}_skipped': self.skipped.read_value()}
    if self._scaled:
      metrics[f'{self.name}_loss_scale'] = self.scale.read_value()
    return metrics

  def _apply(self, grads, variables, norm):
    factor = 1.0
    if self._clip:
      factor = self._clip / tf.maximum(norm, self._clip)
    time = tf.cast(self.updates + 1, tf.float32)
    power1, power2 = self.BETA1 ** time, self.BETA2 ** time
    for grad, (name, var) in zip(grads, variables.items(), strict=True):
      if self._wd and self._decay(name):
        # Not var.assign, for which replicas would have to wait.
        tf.raw_ops.AssignVariableOp(
            resource=var.handle, value=(1 - self._wd) * var)
      slot = self.slots[name]
      tf.raw_ops.ResourceApplyAdam(
          var=var.handle, m=slot['m'].handle, v=slot['v'].handle,
          beta1_power=power1, beta2_power=power2, lr=self._lr,
          beta1=self.BETA1, beta2=self.BETA2, epsilon=self._eps,
          grad=grad * factor)
    self.updates.assign_add(1)
    return tf.constant(True)

  def _decay(self, path):
    return self._decays.search(f'{self.name}/{path}')

  def _count(self, finite):
    self.skipped.assign_add(tf.cast(~finite, tf.int64))
    self.good.assign(tf.where(finite, self.good + 1, 0))
    if self._scaled:
      grow = finite & (self.good % self.GROWTH == 0)
      scale = tf.where(grow, self.scale * 2, self.scale)
      self.scale.assign(tf.where(finite, scale, tf.maximum(scale / 2, 1.0)))
