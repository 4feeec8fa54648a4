"""Kinds of stochastic state: everything that depends on how z is distributed.

A kind knows its sizes and its divergences, how to turn a layer's outputs into
statistics, how to sample with given noise, and how a vector scores latents
(the critic of contrastive objectives). Statistics are float32; samples are
flat vectors in the compute dtype.
"""

import math

import tensorflow as tf

from . import dists
from . import tfutils
from .config import check_known


def make(
    kind, stoch, discrete, continuous=0, std_act='sigmoid2', min_std=0.1,
    unimix=0.0):
  """Returns the kind of stochastic state called `kind`.

  Args:
    kind: Entry of LATENTS.
    stoch: Number of categoricals, or of Gaussians without categoricals.
    discrete: Classes of each categorical.
    continuous: Number of Gaussians beside categoricals.
    std_act: Entry of Gaussian.STD_ACTS.
    min_std: Smallest standard deviation of a Gaussian.
    unimix: Share of the uniform distribution in each categorical.

  Raises:
    ValueError: The kind or activation is unknown.
  """
  check_known('rssm.latent', kind, LATENTS)
  return LATENTS[kind](
      stoch, discrete, continuous, unimix, std_act, min_std)


class Categorical:
  """S independent categoricals of C classes with straight-through samples.

  The gradient of a sample is that of its probabilities: z = onehot + p - sg(p)
  With `unimix`, all distributions of z contain that share of the uniform one:
  prior, posterior, p(z | x) and the critic.
  Source: Hafner et al. 2021, section 2; Okada & Taniguchi 2022, III-A;
  `unimix`: Hafner et al. 2023 (DreamerV3).
  """

  def __init__(self, stoch, classes, unimix=0.0):
    self.stoch = stoch
    self.classes = classes
    self._unimix = unimix
    self.size = stoch * classes  # Size of a flat sample.
    self.outputs = stoch * classes  # Size of what `stats` takes.

  def stats(self, x):
    """Turns layer outputs [..., S*C] into statistics, logit [..., S, C]."""
    shape = [*_sizes(x)[:-1], self.stoch, self.classes]
    logit = tf.reshape(tf.cast(x, tf.float32), shape)
    return {'logit': dists.mix_uniform(logit, self._unimix)}

  def zeros(self, batch_shape):
    """Returns the statistics of the uniform distribution."""
    return {'logit': tf.zeros([*batch_shape, self.stoch, self.classes])}

  def noise(self, batch_shape):
    """Draws the noise that `sample` needs, uniform [*batch_shape, S]."""
    return tf.random.stateless_uniform(
        [*batch_shape, self.stoch], tfutils.next_seed())

  def sample(self, stats, noise):
    """Samples flat one-hots [..., S*C] by inverting the CDF at the noise.

    This takes less than half the time of the Gumbel-max trick, which draws C
    numbers and takes two logarithms of each: 3.8 instead of 8.3 ms for 800 x
    32 x 32 on a CPU.
    """
    probs = tf.nn.softmax(stats['logit'], -1)
    flat = tf.reshape(tf.stop_gradient(probs), [-1, self.classes])
    # Multiplying by a triangle of ones gives the cumulative sums.
    cdf = tf.matmul(flat, tf.linalg.band_part(
        tf.ones([self.classes, self.classes]), 0, -1))
    # The last sum is slightly below 1; no noise may exceed it.
    level = tf.reshape(noise, [-1, 1]) * cdf[:, -1:]
    index = tf.reduce_sum(tf.cast(cdf <= level, tf.int64), -1)
    return self._through(tf.reshape(index, _sizes(probs)[:-1]), probs)

  def mean(self, stats):
    """Returns the probabilities [..., S*C] in float32."""
    return self._flat(tf.nn.softmax(stats['logit'], -1))

  def mode(self, stats):
    """Returns the most likely classes as flat one-hots, straight through."""
    probs = tf.nn.softmax(stats['logit'], -1)
    return self._through(tf.argmax(stats['logit'], -1), probs)

  def _through(self, index, probs):
    onehot = tf.one_hot(index, self.classes)
    # Equals onehot + (probs - tf.stop_gradient(probs)), but costs less.
    sample = tf.grad_pass_through(lambda _: onehot)(probs)
    return self._flat(tfutils.cast(sample))

  def _flat(self, x):
    return tf.reshape(x, [*_sizes(x)[:-2], self.size])

  def kls(self, lhs, rhs):
    """Returns KL(lhs || rhs) [...] in nats, one list entry per family."""
    return [self.kl(lhs, rhs)]

  def kl(self, lhs, rhs):
    """Computes KL(lhs || rhs) [...] in nats, summed over the S variables."""
    lhs = tf.nn.log_softmax(lhs['logit'], -1)
    rhs = tf.nn.log_softmax(rhs['logit'], -1)
    return tf.reduce_sum(tf.exp(lhs) * (lhs - rhs), [-2, -1])

  def entropy(self, stats):
    """Computes the entropy [...] in nats, summed over the S variables."""
    logp = tf.nn.log_softmax(stats['logit'], -1)
    return -tf.reduce_sum(tf.exp(logp) * logp, [-2, -1])

  def from_vector(self, x):
    """Samples p(z | x) = Categorical(softmax(x)) from vectors [..., S*C]."""
    stats = self.stats(x)
    batch_shape = stats['logit'].shape[:-2]
    return self.sample(stats, self.noise(batch_shape))

  def critic(self, x):
    """Turns vectors [..., S*C] into centred log probabilities [..., S*C].

    log p(z | x) + ln C for every class, float32. The constant leaves every
    softmax over frames unchanged, but centres scores at 0 instead of at
    -S ln C, where float16 could not tell them apart.
    Source: Okada & Taniguchi 2022, Fig. 2c, calc_pmf.
    """
    logp = tf.nn.log_softmax(self.stats(x)['logit'], -1)
    return self._flat(logp + math.log(self.classes))

  def score(self, sample, critic, temperature=0):
    """Scores all pairs of samples [..., N, S*C] and critics [..., M, S*C].

    Args:
      sample: Flat samples.
      critic: What `critic` returned.
      temperature: Ignored by categoricals.

    Returns:
      sum_{s,c} z_{s,c} log p(z_{s,c} | x), float32 [..., N, M].

    Source: Okada & Taniguchi 2022, Fig. 2c, calc_logit.
    """
    return tf.matmul(tf.cast(sample, tf.float32), critic, transpose_b=True)


class Gaussian:
  """S independent Gaussians with reparameterised samples.

  Its critic is p(z | x) proportional to exp(z^T W e) (Okada & Taniguchi 2022,
  Eq. 5), so a critic vector is W e itself.
  """

  STD_ACTS = {
      'sigmoid': tf.nn.sigmoid,
      'sigmoid2': lambda x: 2 * tf.nn.sigmoid(x / 2),
      'softplus': tf.nn.softplus,
  }

  def __init__(self, stoch, std_act, min_std):
    check_known('rssm.std_act', std_act, self.STD_ACTS)
    self.size = stoch
    self.outputs = 2 * stoch
    self._std_act = self.STD_ACTS[std_act]
    self._min_std = min_std

  def stats(self, x):
    """Turns layer outputs [..., 2S] into mean and std, each [..., S]."""
    mean, std = tf.split(tf.cast(x, tf.float32), 2, -1)
    return {'mean': mean, 'std': self._std_act(std) + self._min_std}

  def zeros(self, batch_shape):
    """Returns the statistics of the standard normal distribution."""
    shape = [*batch_shape, self.size]
    return {'mean': tf.zeros(shape), 'std': tf.ones(shape)}

  def noise(self, batch_shape):
    """Draws the noise that `sample` needs, for states of `batch_shape`."""
    return tf.random.stateless_normal(
        [*batch_shape, self.size], tfutils.next_seed())

  def sample(self, stats, noise):
    """Samples [..., S]."""
    return tfutils.cast(stats['mean'] + stats['std'] * noise)

  def mean(self, stats):
    """Returns the means [..., S] in float32."""
    return stats['mean']

  def mode(self, stats):
    """Returns the means [..., S]."""
    return tfutils.cast(stats['mean'])

  def kls(self, lhs, rhs):
    """Returns KL(lhs || rhs) [...] in nats, one list entry per family."""
    return [self.kl(lhs, rhs)]

  def kl(self, lhs, rhs):
    """Computes KL(lhs || rhs) [...] in nats, summed over the S variables."""
    ratio = tf.square(lhs['std'] / rhs['std'])
    shift = tf.square((lhs['mean'] - rhs['mean']) / rhs['std'])
    return 0.5 * tf.reduce_sum(ratio + shift - 1 - tf.math.log(ratio), -1)

  def entropy(self, stats):
    """Computes the entropy [...] in nats, summed over the S variables."""
    const = 0.5 * math.log(2 * math.pi * math.e)
    return tf.reduce_sum(tf.math.log(stats['std']) + const, -1)

  def from_vector(self, x):
    """Returns the vectors [..., S]: exp(z^T x) has no simple sampler."""
    return tfutils.cast(x)

  def critic(self, x):
    """Returns the vectors [..., S] in float32."""
    return tf.cast(x, tf.float32)

  def score(self, sample, critic, temperature=0):
    """Scores all pairs of samples [..., N, S] and critics [..., M, S].

    Args:
      sample: Samples.
      critic: What `critic` returned.
      temperature: If not 0, scores are cosines divided by it (von
        Mises-Fisher).

    Returns:
      z^T W e, float32 [..., N, M].

    Source: Okada & Taniguchi 2022, Eq. 5 and its text.
    """
    sample = tf.cast(sample, tf.float32)
    if temperature:
      sample = tf.math.l2_normalize(sample, -1) / temperature
      critic = tf.math.l2_normalize(critic, -1)
    return tf.matmul(sample, critic, transpose_b=True)

  def log_prob(self, sample, stats):
    """Computes log p(sample) [...] in nats, summed over the S variables."""
    const = 0.5 * math.log(2 * math.pi)
    error = (tf.cast(sample, tf.float32) - stats['mean']) / stats['std']
    return -tf.reduce_sum(
        0.5 * tf.square(error) + tf.math.log(stats['std']) + const, -1)


class Hybrid:
  """Places categoricals and Gaussians side by side, Z = S*C + n.

  Statistics, divergences and scores are those of the two parts. Samples and
  vectors are concatenated. Divergences of the parts are kept apart, so that
  each part has its own free nats. The score is the sum of both parts' scores,
  that is the logarithm of the product of both critics.

  Source: Outlook of Okada & Taniguchi 2022, section VI; the form is ours.
  """

  def __init__(self, categorical, gaussian):
    self._parts = [categorical, gaussian]
    self.size = sum(x.size for x in self._parts)
    self.outputs = sum(x.outputs for x in self._parts)

  def stats(self, x):
    """Turns layer outputs [..., S*C + 2n] into logit, mean and std."""
    return self._merge('stats', tf.split(
        x, [part.outputs for part in self._parts], -1))

  def zeros(self, batch_shape):
    """Returns uniform categoricals and standard normals, as statistics."""
    return self._merge('zeros', [batch_shape] * 2)

  def noise(self, batch_shape):
    """Draws the noise that `sample` needs, [*batch_shape, S + n]."""
    return tf.concat([x.noise(batch_shape) for x in self._parts], -1)

  def sample(self, stats, noise):
    """Samples [..., Z]."""
    categorical, gaussian = self._parts
    uniform, normal = tf.split(noise, [categorical.stoch, gaussian.size], -1)
    return tf.concat([
        categorical.sample(stats, uniform), gaussian.sample(stats, normal)],
        -1)

  def mean(self, stats):
    """Returns probabilities and means [..., Z] in float32."""
    return tf.concat([part.mean(stats) for part in self._parts], -1)

  def mode(self, stats):
    """Returns the most likely classes and the means [..., Z]."""
    return tf.concat([part.mode(stats) for part in self._parts], -1)

  def kls(self, lhs, rhs):
    """Returns KL(lhs || rhs) [...] in nats, one list entry per family."""
    return [part.kl(lhs, rhs) for part in self._parts]

  def kl(self, lhs, rhs):
    """Computes KL(lhs || rhs) [...] in nats, summed over all variables."""
    return tf.add_n(self.kls(lhs, rhs))

  def entropy(self, stats):
    """Computes the entropy [...] in nats, summed over all variables."""
    return tf.add_n([part.entropy(stats) for part in self._parts])

  def from_vector(self, x):
    """Returns a categorical sample beside the rest of the vectors [..., Z]."""
    return self._each('from_vector', x)

  def critic(self, x):
    """Turns vectors [..., Z] into the parts' critic vectors, float32."""
    return self._each('critic', x)

  def score(self, sample, critic, temperature=0):
    """Scores all pairs of samples [..., N, Z] and critics [..., M, Z].

    Args:
      sample: Samples.
      critic: What `critic` returned.
      temperature: If not 0, divides the cosines of the Gaussians.

    Returns:
      Sum of both parts' scores, float32 [..., N, M].
    """
    return tf.add_n([
        part.score(z, x, temperature) for part, z, x in zip(
            self._parts, self._split(sample), self._split(critic),
            strict=True)])

  def _split(self, x):
    return tf.split(x, [part.size for part in self._parts], -1)

  def _each(self, name, x):
    return tf.concat([
        getattr(part, name)(y)
        for part, y in zip(self._parts, self._split(x), strict=True)], -1)

  def _merge(self, name, args):
    first, second = [
        getattr(part, name)(x)
        for part, x in zip(self._parts, args, strict=True)]
    return {**first, **second}


class Dist:
  """The distribution of one kind with given statistics; samples [..., Z]."""

  def __init__(self, kind, stats):
    self._kind = kind
    self._stats = stats

  def sample(self, noise):
    """Returns samples [..., Z], given noise that the kind's `noise` drew."""
    return self._kind.sample(self._stats, noise)

  def mode(self):
    """Returns the most likely sample."""
    return self._kind.mode(self._stats)

  def entropy(self):
    """Computes the entropy [...] in nats, summed over all variables."""
    return self._kind.entropy(self._stats)


def _sizes(x):
  """Returns the sizes of a tensor, one of which may be unknown."""
  return [-1 if size is None else size for size in x.shape]


LATENTS = {
    'categorical': lambda stoch, discrete, continuous, unimix, *std:
        Categorical(stoch, discrete, unimix),
    'gaussian': lambda stoch, discrete, continuous, unimix, *std:
        Gaussian(stoch, *std),
    'hybrid': lambda stoch, discrete, continuous, unimix, *std: Hybrid(
        Categorical(stoch, discrete, unimix), Gaussian(continuous, *std)),
}
