"""Shared by objectives that predict k = 0..K steps ahead on two views."""

import tensorflow as tf

from ..common import augment
from ..common import losses
from ..common import nets
from ..common import tfutils
from ..common.config import check_known
from . import overshooting


class MultiStep(tfutils.Module):
  """Predicts latents from every state, and computes the divergences.

  All objectives use the settings in `contrastive` of configs.yaml.

  Attributes:
    modules: Modules that the model optimiser updates.

  Source: Okada & Taniguchi 2022, Eqs. 3 and 4.
  """

  def __init__(self, config, latent):
    c = self._config = config.contrastive
    check_known('contrastive.k_reduce', c.k_reduce, REDUCE)
    check_known('contrastive.shifted', c.shifted, SHIFTED)
    length = config.dataset.length
    limit = min(length, config.replay.maxlen or length) - 2
    if not 0 <= c.horizon <= limit:
      raise ValueError(
          f'contrastive.horizon {c.horizon} is not in 0..{limit}, the limit '
          f'that dataset.length {length} sets')
    self._kl = config.kl
    self._latent = latent
    self._dynamics = overshooting.make(c.dynamics, latent)
    self.modules = [self._dynamics]

  def augment(self, data):
    """Shifts the images as SHIFTED says; adds a view under 'second'."""
    c = self._config
    shift = lambda: {
        k: augment.random_shift(v, c.pad, c.shift_per_frame)
        if len(v.shape) == 5 else v for k, v in data.items()}
    first, second = SHIFTED[c.shifted](shift, data)
    return {**first, 'second': second}

  def predict(self, wm, data, post, prior):
    """Rolls out from all states; see `overshooting.predict`.

    Args:
      wm: World model.
      data: Batch [B, T, ...].
      post: Posterior states [B, T, ...].
      prior: Prior statistics [B, T, ...] of the same steps.

    Returns:
      Latents [K+1] of [B, T, Z]; divergences KL_1..KL_K, a list of scalars;
      `valid` [K+2, B, T].
    """
    c, start = self._config, post
    if c.sg_start:
      # Gradients through `prior` would reach the states before the start.
      start, prior = {k: tf.stop_gradient(v) for k, v in post.items()}, None
    latents, priors = overshooting.predict(
        wm.rssm, self._dynamics, start, data['action'], c.horizon, prior)
    latents[0] = post['stoch']
    valid = overshooting.valid(data['is_first'], c.horizon + 1)
    return latents, self._overshoot(post, priors, valid), valid

  def reduce(self, values):
    """Sums or averages a list over k."""
    return REDUCE[self._config.k_reduce](values)

  def summarise(self, **values):
    """Reduces lists over k to losses, and keeps each entry as a metric.

    Args:
      **values: Loss name to list of scalars.

    Returns:
      Losses and metrics.
    """
    terms = {
        name: self.reduce(v) if v else tf.constant(0.0)
        for name, v in values.items()}
    first = {'overshooting': 1}  # Its index 0 is the world model's own KL.
    metrics = {
        f'{name}_{k}': x for name, v in values.items()
        for k, x in enumerate(v, first.get(name, 0))}
    return terms, metrics

  def _overshoot(self, post, priors, valid):
    """Computes KL_k = KL(q[t+k+1] || p(t+k+1 | start t)) for k = 1..K.

    The loss trains the prior; the posterior gets gradient only if
    `kl_balanced`. The sides have the weights that `kl.dyn` and `kl.rep` name.
    Free nats apply to each k and family separately, as `kl.free_avg` says.
    """
    c, kls = self._config, self._latent.kls
    dyn, rep = losses.kl_weights(
        self._kl.balance, self._kl.dyn, self._kl.rep)
    sg = lambda x: {k: tf.stop_gradient(v) for k, v in x.items()}
    out = []
    for k, prior in enumerate(priors, 1):
      q = {key: overshooting.ahead(post[key], k + 1) for key in prior}
      clip = lambda parts, k=k: tf.add_n([
          self._clip(x, valid[k + 1]) for x in parts])
      value = clip(kls(sg(q), prior))
      if c.kl_balanced or self._kl.dyn:
        value *= dyn
      if c.kl_balanced:
        value += rep * clip(kls(q, sg(prior)))
      out.append(value)
    return out

  def _clip(self, x, mask):
    free = self._config.kl_free
    if self._kl.free_avg:
      return tf.maximum(losses.masked_mean(x, mask), free)
    return losses.masked_mean(tf.maximum(x, free), mask)


class SlowEncoder(tfutils.Module):
  """A moving average of the world model's encoder.

  Args:
    config: Whole config.
    shapes: Observation key to shape.
    momentum: Share of the weights that every update replaces.

  Source: Okada & Taniguchi 2022, section III-E.
  """

  def __init__(self, config, shapes, momentum):
    self.encoder = nets.Encoder(shapes, **config.encoder)
    self._follow = tfutils.SlowCopy(momentum)

  def __call__(self, data):
    """Returns embeddings [..., E] in float32 without gradient."""
    return tf.cast(tf.stop_gradient(self.encoder(data)), tf.float32)

  def update(self, encoder):
    """Moves the weights towards those of `encoder`."""
    self._follow(encoder, self.encoder)


REDUCE = {
    'mean': lambda x: tf.add_n(x) / len(x),
    'sum': tf.add_n,
}
# Which of the two views, the encoder's and the slow encoder's, are shifted:
SHIFTED = {
    # both, independently of each other;
    'each': lambda shift, data: (shift(), shift()),
    # the slow encoder's alone;
    'keys': lambda shift, data: (data, shift()),
    # both in the same way.
    'same': lambda shift, data: (shift(),) * 2,
}
