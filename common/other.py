"""Scans, schedules, returns, exploration noise and running statistics."""

import collections
import contextlib
import re
import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from . import distribute
from . import dists
from . import losses
from . import tfutils


class RandomAgent:
  """Draws actions uniformly from the action space.

  Args:
    act_space: Dict with the space of 'action'.
    seed: Seed of this agent's own generator.
  """

  def __init__(self, act_space, seed=0):
    self._space = act_space['action']
    self._rng = np.random.default_rng(seed)

  def __call__(self, obs, state=None, mode=None):
    """Returns actions [N, A] for N observations, as the policy does."""
    N, A = len(obs['is_first']), self._space.shape[0]
    if getattr(self._space, 'discrete', False):
      action = np.eye(A, dtype=np.float32)[self._rng.integers(0, A, N)]
    else:
      action = self._rng.uniform(
          self._space.low, self._space.high, (N, A)).astype(np.float32)
    return {'action': action}, None

  def state(self):
    """Returns the state of the generator, for a checkpoint."""
    return self._rng.bit_generator.state

  def restore(self, state):
    """Restores what `state` returned."""
    self._rng.bit_generator.state = state

  def skip(self, number):
    """Jumps to draws that differ for every number."""
    self._rng.bit_generator.advance(number << 64)


def static_scan(fn, inputs, start):
  """Applies a recurrent function over the first axis of `inputs`.

  Args:
    fn: Maps (state, inputs of one step) to the next state.
    inputs: Dict of [T, ...].
    start: Dict, state before the first step; has the keys of what fn returns.

  Returns:
    Dict of states stacked to [T, ...].
  """
  lengths = {k: v.shape[0] for k, v in inputs.items()}
  assert len({*lengths.values()}) == 1, f'lengths of inputs: {lengths}'
  length = next(iter(lengths.values()))
  if tf.executing_eagerly():
    states, state = [], start
    parts = {k: tf.unstack(v) for k, v in inputs.items()}
    for t in range(length):
      state = fn(state, {k: v[t] for k, v in parts.items()})
      states.append(state)
    return {k: tf.stack([s[k] for s in states]) for k in start}
  arrays = {
      k: tf.TensorArray(v.dtype, length).unstack(v) for k, v in inputs.items()}
  outs = {
      k: tf.TensorArray(v.dtype, length, element_shape=v.shape)
      for k, v in start.items()}

  def body(t, state, outs):
    state = fn(state, {k: v.read(t) for k, v in arrays.items()})
    return t + 1, state, {k: v.write(t, state[k]) for k, v in outs.items()}

  _, _, outs = tf.while_loop(
      lambda t, *_: t < length, body, (tf.constant(0), dict(start), outs),
      maximum_iterations=length)
  return {k: v.stack() for k, v in outs.items()}


def _linear(step, start, end, duration):
  mix = tf.clip_by_value(step / max(duration, 1), 0, 1)
  return (1 - mix) * start + mix * end


def _exp(step, start, end, halflife):
  _check_positive(halflife)
  return (start - end) * 0.5 ** (step / halflife) + end


def _horizon(step, start, end, duration):
  _check_positive(start, end)
  return 1 - 1 / _linear(step, start, end, duration)


def _check_positive(*divisors):
  if min(divisors) <= 0:
    raise ValueError(divisors)


SCHEDULES = {
    'exp': _exp, 'horizon': _horizon, 'linear': _linear,
    'warmup': lambda step, duration, value: _linear(step, 0, value, duration)}


def schedule(string, step):
  """Evaluates a scheduled number at `step`.

  Args:
    string: A number, or 'linear(start,end,duration)',
      'warmup(duration,value)', 'exp(start,end,halflife)', or
      'horizon(start,end,duration)': the discount 1 - 1 / h of a horizon h
      that moves linearly.
    step: Agent step, scalar tensor.

  Returns:
    Float32 scalar.

  Raises:
    ValueError: `string` is anything else.
  """
  string = str(string).replace(' ', '')
  match = re.fullmatch(r'(\w+)\(([^)]*)\)', string)
  try:
    if not match:
      return tf.constant(float(string))
    args = [float(x) for x in match.group(2).split(',')]
    return SCHEDULES[match.group(1)](tf.cast(step, tf.float32), *args)
  except (KeyError, TypeError, ValueError):
    raise ValueError(
        f"schedule '{string}' is not understood; write a number, "
        f'linear(start,end,duration), warmup(duration,value), '
        f'exp(start,end,halflife) or horizon(start,end,duration), with a '
        f'halflife and horizons above 0') from None


def lambda_return(reward, value, pcont, bootstrap, lambda_):
  """Computes lambda returns backwards in time.

  G[t] = r[t] + d[t] ((1 - lambda) v[t+1] + lambda G[t+1])
  with v[T] = G[T] = bootstrap.

  Args:
    reward: [T, ...].
    value: [T, ...].
    pcont: [T, ...], discounts d between 0 and 1.
    bootstrap: [...], value of the state after the last one.
    lambda_: 0 for one-step returns, 1 for Monte-Carlo returns.

  Returns:
    [T, ...].

  Source: Hafner et al. 2021, Eq. 4.
  """
  assert reward.shape == value.shape == pcont.shape and (
      reward.shape[1:] == bootstrap.shape), (
      f'reward {reward.shape}, value {value.shape}, pcont {pcont.shape}, '
      f'bootstrap {bootstrap.shape}')
  values = [*tf.unstack(value)[1:], bootstrap]
  rewards, discounts = tf.unstack(reward), tf.unstack(pcont)
  returns, last = [], bootstrap
  for t in reversed(range(len(rewards))):
    target = (1 - lambda_) * values[t] + lambda_ * last
    last = rewards[t] + discounts[t] * target
    returns.append(last)
  return tf.stack(returns[::-1])


def actor_dist(name, discrete):
  """Returns the entry of DistLayer.DISTS that `actor.dist` means.

  Raises:
    ValueError: It gives no actions of that kind.
  """
  if name == 'auto':
    return 'onehot' if discrete else 'trunc_normal'
  if discrete != (name == 'onehot') or name in (
      'binary', 'symlog', 'twohot'):
    raise ValueError(
        f"actor.dist '{name}' does not fit "
        f"{'discrete' if discrete else 'continuous'} actions; use auto")
  return name


def draw(states, most):
  """Draws some of the states of a batch, each at most once.

  Args:
    states: Dict of [B, T, ...].
    most: Largest number of states over all replicas; 0 for all.

  Returns:
    Dict of [1, N, ...]; the same dict if it holds no more than `most`.
  """
  batch = next(iter(states.values())).shape[:2]
  total, number = batch[0] * batch[1], distribute.part(most)
  if not most or number >= total:
    return states
  noise = tf.random.stateless_uniform([total], tfutils.next_seed())
  chosen = tf.math.top_k(noise, number).indices
  return {k: tf.gather(tf.reshape(v, [total, *v.shape[2:]]), chosen)[None]
          for k, v in states.items()}


def action_noise(action, amount, act_space):
  """Adds exploration noise to actions [N, A].

  For continuous actions, `amount` is the standard deviation of normal noise,
  and the result is clipped to -1..1. For discrete actions, it is the
  probability of a uniform action.
  """
  assert action.shape[1:] == act_space.shape, (
      f'action {action.shape}, act_space {act_space.shape}')
  amount = tf.cast(amount, action.dtype)
  if getattr(act_space, 'discrete', False):
    probs = amount / action.shape[-1] + (1 - amount) * action
    return dists.OneHotDist(tf.math.log(probs + 1e-8)).sample()
  noise = tf.random.stateless_normal(
      action.shape, tfutils.next_seed(), dtype=action.dtype)
  return tf.clip_by_value(action + amount * noise, -1, 1)


class StreamNorm(tfutils.Module):
  """Divides by a running mean magnitude, or by a running root mean square.

  Rare values are not scaled up without limit. Values of 0 say nothing about
  the scale of the others and are ignored, and the divisor is at least 1/20 of
  the largest value of the last update. With a mean over all values, a first
  reward of 1 after 500 updates without rewards became 12, after 2,000 updates
  113. Both rules are ours. With dense rewards, they ignore only the zero
  rewards of resets.

  Args:
    momentum: Share of the old mean that an update keeps; 1 switches it off.
    scale: Factor on the result.
    eps: Added to the divisor.
    order: 1 for the mean magnitude, 2 for the root mean square.
  """

  FLOOR = 0.05  # Smallest divisor, as a share of the largest value.

  def __init__(self, momentum=0.99, scale=1.0, eps=1e-8, order=1):
    self._momentum = momentum
    self._scale = scale
    self._eps = eps
    self._order = order
    self.mag = tf.Variable(1.0, trainable=False)

  def __call__(self, inputs):
    """Updates the mean, then returns normalised inputs and metrics."""
    metrics = {
        'mean': tf.reduce_mean(inputs), 'std': tf.math.reduce_std(inputs)}
    self.update(inputs)
    outputs = self.transform(inputs)
    metrics['normed_mean'] = tf.reduce_mean(outputs)
    metrics['normed_std'] = tf.math.reduce_std(outputs)
    return outputs, metrics

  def update(self, batch):
    """Moves the mean towards that of a batch, ignoring zeros."""
    if self._momentum == 1:
      return
    batch = tf.abs(tf.cast(batch, tf.float32)) ** self._order
    mag = losses.masked_mean(batch, batch != 0)
    after = self._momentum * self.mag + (1 - self._momentum) * mag
    largest = distribute.maximum(tf.reduce_max(batch))
    after = tf.maximum(after, self.FLOOR ** self._order * largest)
    # A mean that is not finite would stay so and spoil all later updates.
    use = tf.math.is_finite(mag) & (mag > 0)
    self.mag.assign(tf.where(use, after, self.mag))

  def transform(self, inputs):
    """Normalises inputs without updating."""
    divisor = self.mag ** (1 / self._order) + self._eps
    return inputs / divisor * self._scale


class ReturnNorm(tfutils.Module):
  """Tracks the range of returns, by which the actor's objective is divided.

  S <- momentum S + (1 - momentum) (Per(R, high) - Per(R, low)), at first 0;
  the divisor is max(floor, S).

  Percentiles ignore outliers; the floor keeps rare and small returns small.

  Args:
    momentum: Share of the old range that an update keeps.
    low: Percentile at the lower end.
    high: Percentile at the upper end.
    floor: Smallest divisor.

  Source: Hafner et al. 2023 (DreamerV3), section "Actor learning".
  """

  def __init__(self, momentum=0.99, low=5.0, high=95.0, floor=1.0):
    self._momentum = momentum
    self._percentiles = [low, high]
    self._floor = floor
    self.range = tf.Variable(0.0, trainable=False)

  def __call__(self, returns):
    """Updates the range by returns [H, N]; returns the divisor, a scalar."""
    values = tf.reshape(tf.stop_gradient(returns), [-1])
    low, high = tf.unstack(tfp.stats.percentile(
        distribute.gather(values), self._percentiles, interpolation='linear'))
    mix = self._momentum
    after = mix * self.range + (1 - mix) * (high - low)
    # A range that is not finite would stay so and spoil all later updates.
    after = tf.where(tf.math.is_finite(after), after, self.range)
    self.range.assign(after)
    return tf.maximum(after, self._floor)


def return_norm(momentum, **kwargs):
  """Returns a ReturnNorm, or None if the momentum of 1 switches it off.

  Without it there is no variable, so that older checkpoints load.
  """
  return ReturnNorm(momentum, **kwargs) if momentum < 1 else None


class Timer:
  """Adds up the wall-clock seconds spent in named sections."""

  def __init__(self):
    self._totals = collections.defaultdict(float)
    self._start = time.perf_counter()

  @contextlib.contextmanager
  def section(self, name):
    """Times the body of a with statement."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self._totals[name] += time.perf_counter() - start

  def result(self, reset=False):
    """Returns each section's share of the time since the last reset."""
    total = max(time.perf_counter() - self._start, 1e-9)
    shares = {name: value / total for name, value in self._totals.items()}
    if reset:
      self._start = time.perf_counter()
      self._totals.clear()
    return shares
