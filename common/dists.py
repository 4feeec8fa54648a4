"""Output distributions that TFP lacks or that need care with gradients."""

import math

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from . import tfutils


def mix_uniform(logits, share):
  """Mixes a share of the uniform distribution into categoricals [..., C].

  log((1 - share) softmax(logits) + share / C)

  No class gets a probability below share / C, so divergences stay finite and
  no class loses its gradient for good.

  Args:
    logits: Float32 [..., C].
    share: Between 0 and 1; with 0 the logits are returned as they are.

  Returns:
    Logits [..., C]; with a share, they are log probabilities.

  Source: Hafner et al. 2023 (DreamerV3), section "World model learning".
  """
  if not share:
    return logits
  probs = tf.nn.softmax(logits, -1)
  return tf.math.log((1 - share) * probs + share / logits.shape[-1])


class OneHotDist:
  """One categorical over one-hot vectors with straight-through samples.

  Args:
    logits: [..., C].
  """

  def __init__(self, logits):
    self._logits = tf.cast(logits, tf.float32)
    self._dist = tfd.OneHotCategorical(self._logits)

  def mode(self):
    """Returns the most likely one-hot, with the gradient of a sample."""
    return self._through(self._dist.mode())

  def sample(self, seed=None):
    """Samples one-hots whose gradient is that of the probabilities."""
    seed = tfutils.next_seed() if seed is None else seed
    return self._through(self._dist.sample(seed=seed))

  def _through(self, onehot):
    probs = tf.nn.softmax(self._logits, -1)
    onehot = tf.stop_gradient(tf.cast(onehot, tf.float32))
    return onehot + (probs - tf.stop_gradient(probs))

  def log_prob(self, onehot):
    """Computes the log probability [...] of one-hots [..., C].

    The one-hots get no gradient.
    """
    logp = tf.nn.log_softmax(self._logits, -1)
    onehot = tf.stop_gradient(tf.cast(onehot, tf.float32))
    return tf.reduce_sum(onehot * logp, -1)

  def entropy(self):
    """Computes the entropy [...] in nats."""
    return self._dist.entropy()


class SymlogDist:
  """Predicts numbers of any size by the squared error of their symlog.

  log p(y) = -1/2 (x - symlog(y))^2 without a constant, summed over the event;
  mean and mode are symexp(x). symlog(y) = sign(y) ln(|y| + 1).

  Args:
    x: Prediction of symlog(y), float32 [..., *event].
    dims: Number of axes of the event.

  Source: Hafner et al. 2023 (DreamerV3), section "Robust predictions".
  """

  def __init__(self, x, dims):
    self._x, self._axes = x, list(range(-dims, 0))

  def mode(self):
    """Returns the predicted number."""
    return symexp(self._x)

  mean = mode

  def log_prob(self, event):
    """Computes the log density [...] up to a constant."""
    error = self._x - symlog(tf.cast(event, tf.float32))
    return -0.5 * tf.reduce_sum(error ** 2, self._axes)


class TwoHotDist:
  """Predicts numbers of any size as the mean over exponentially spaced bins.

  b = symexp(-20, ..., 20), 255 bins; mean and mode are sum_i p_i b_i;
  log p(y) = sum_i w_i log p_i, where w has the two bins next to y, so that
  sum_i w_i b_i = y. Numbers beyond the last bin count as that bin.

  Args:
    logits: Of p, float32 [..., *event, BINS].
    dims: Number of axes of the event.

  Source: Hafner et al. 2023 (DreamerV3), section "Robust predictions".
  """

  BINS = 255
  EDGE = 20.0  # Largest symlog of a bin.

  def __init__(self, logits, dims):
    self._logits, self._axes = logits, list(range(-dims, 0))
    # Equal to the bit on both sides of 0, unlike values of linspace.
    half = np.linspace(0, self.EDGE, self.BINS // 2 + 1)[1:]
    self._upper = np.expm1(half).astype(np.float32)

  def mode(self):
    """Returns the mean [..., *event]; there is no other prediction.

    Bins of equal size are subtracted first: equal probabilities give 0, not
    the rounding error of numbers up to 5e8.
    """
    probs = tf.nn.softmax(self._logits, -1)
    middle = self.BINS // 2
    lower, upper = probs[..., middle - 1::-1], probs[..., middle + 1:]
    return tf.reduce_sum((upper - lower) * self._upper, -1)

  mean = mode

  def log_prob(self, event):
    """Computes the log probability [...] of numbers, which get no gradient."""
    target = self._encode(tf.stop_gradient(tf.cast(event, tf.float32)))
    logp = tf.nn.log_softmax(self._logits, -1)
    return tf.reduce_sum(target * logp, [*(x - 1 for x in self._axes), -1])

  def _encode(self, x):
    """Returns the weights w [..., BINS] of numbers [...]."""
    bins = np.concatenate([-self._upper[::-1], [0], self._upper])
    bins = bins.astype(np.float32)
    # The share of each gap between bins that lies below x: 1, ..., 1, s, 0...
    share = tf.clip_by_value(
        (x[..., None] - bins[:-1]) / (bins[1:] - bins[:-1]), 0, 1)
    pads = [[0, 0]] * x.shape.rank
    return (tf.pad(share, [*pads, [1, 0]], constant_values=1)
            - tf.pad(share, [*pads, [0, 1]]))


def symlog(x):
  """Computes sign(x) ln(|x| + 1)."""
  return tf.sign(x) * tf.math.log1p(tf.abs(x))


def symexp(x):
  """Inverts `symlog`."""
  return tf.sign(x) * tf.math.expm1(tf.abs(x))


class TruncNormalDist:
  """Independent normals truncated to [-1, 1]; the last axis is the event.

  Samples stay inside the open interval, where the density is finite; the
  gradient passes that clipping unchanged.

  Args:
    mean: Means of the normals, within [-1, 1], [..., A].
    std: Standard deviations of the normals, [..., A].
  """

  EDGE = 1e-6
  TAIL = 1e-7  # Below this probability float32 cannot invert the CDF.

  def __init__(self, mean, std):
    self._mean, self._std = mean, std

  def sample(self, seed=None):
    """Samples actions [..., A], reparameterised.

    Inverts the CDF, with its implicit gradient. TensorFlow's own sampler
    differentiates as if the bounds moved along with the mean: at mean 0.4 and
    std 0.5 it gives d sample / d mean = 1 instead of 0.67 on average.

    Source: Figurnov et al. 2018, for z in [a, b] in units of std.
    """
    seed = tfutils.next_seed() if seed is None else seed
    mean, std = tf.stop_gradient(self._mean), tf.stop_gradient(self._std)
    u = tf.random.stateless_uniform(tf.shape(mean + std), seed)
    low, high = (-1 - mean) / std, (1 - mean) / std
    cdf_low, cdf_high = [
        tf.math.erfc(-x / math.sqrt(2)) / 2 for x in (low, high)]
    cdf = cdf_low + u * (cdf_high - cdf_low)
    z = tf.math.ndtri(tf.clip_by_value(cdf, self.TAIL, 1 - self.TAIL))
    z = tf.clip_by_value(z, low, high)
    # Derivatives of z with respect to its two bounds.
    by_low = (1 - u) * tf.exp((tf.square(z) - tf.square(low)) / 2)
    by_high = u * tf.exp((tf.square(z) - tf.square(high)) / 2)
    by_mean = 1 - by_low - by_high
    by_std = z - low * by_low - high * by_high
    event = tf.clip_by_value(mean + std * z, -1 + self.EDGE, 1 - self.EDGE)
    return (
        event + (self._mean - mean) * by_mean + (self._std - std) * by_std)

  def mode(self):
    """Returns the point of highest density: the untruncated normal's mean."""
    return tf.clip_by_value(self._mean, -1, 1)

  def log_prob(self, event):
    """Computes the log density [...]."""
    dist = tfd.TruncatedNormal(self._mean, self._std, -1, 1)
    return tf.reduce_sum(dist.log_prob(event), -1)

  def entropy(self):
    """Computes the differential entropy [...] in nats.

    TFP's version allows for bounds far from the mean and takes seven times as
    long.
    """
    low, high = (-1 - self._mean) / self._std, (1 - self._mean) / self._std
    erf = lambda x: tf.math.erf(x / math.sqrt(2))
    mass = (erf(high) - erf(low)) / 2
    pdf = lambda x: tf.exp(-tf.square(x) / 2) / math.sqrt(2 * math.pi)
    edges = (low * pdf(low) - high * pdf(high)) / (2 * mass)
    const = 0.5 * math.log(2 * math.pi * math.e)
    return tf.reduce_sum(const + tf.math.log(self._std * mass) + edges, -1)


class TanhNormal:
  """Independent normals squashed by tanh; the last axis is the event.

  Entropy and mode have no closed form; they are estimated from samples.
  """

  SAMPLES = 100
  EDGE = 1e-6

  def __init__(self, mean, std):
    self._normal = tfd.Independent(tfd.Normal(mean, std), 1)

  def sample(self, seed=None):
    """Samples actions [..., A], reparameterised."""
    seed = tfutils.next_seed() if seed is None else seed
    return tf.tanh(self._normal.sample(seed=seed))

  def mode(self):
    """Returns the sample of highest density among several [..., A].

    If the normal is wide, the density of actions is highest near the bounds,
    far from the tanh of its mean.

    Source: The sampled distribution of danijar/dreamerv2 and dreamer-pro.
    """
    sample = self._normal.sample(self.SAMPLES, seed=tfutils.next_seed())
    best = tf.argmax(self._log_prob(sample), 0)  # [...]
    chosen = tf.one_hot(best, self.SAMPLES, axis=0, dtype=sample.dtype)
    return tf.tanh(tf.reduce_sum(chosen[..., None] * sample, 0))

  def log_prob(self, event):
    """Computes the log density [...] of actions [..., A]."""
    inside = tf.clip_by_value(event, -1 + self.EDGE, 1 - self.EDGE)
    inside = event + tf.stop_gradient(inside - event)
    return self._log_prob(tf.atanh(inside))

  def entropy(self):
    """Estimates the differential entropy [...] in nats."""
    sample = self._normal.sample(self.SAMPLES, seed=tfutils.next_seed())
    return -tf.reduce_mean(self._log_prob(sample), 0)

  def _log_prob(self, x):
    # log(1 - tanh(x)^2), in a form that does not underflow.
    slope = 2 * (tf.math.log(2.0) - x - tf.nn.softplus(-2 * x))
    return self._normal.log_prob(x) - tf.reduce_sum(slope, -1)
