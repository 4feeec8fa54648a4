"""The interface of objectives: ways to learn representations."""

import typing
from collections.abc import Sequence

import tensorflow as tf

from ..common import tfutils
from ..common.config import Config

Tensors: typing.TypeAlias = dict[str, tf.Tensor]


class Objective(tfutils.Module):
  """Base class: owns what only representation learning needs; has no loss.

  The world model is passed as `wm` and never kept.

  Attributes:
    heads: Heads that the world model adds to its own and trains by likelihood.
    modules: Other modules that the model optimiser updates; no slow copies.
    views: Number of copies of the given batch that `augment` stacks along the
      batch axis.
    latents: Kinds of stochastic state that the objective can learn.
    posterior: The `rssm.posterior` that the objective needs; '' for any.
  """

  heads: dict[str, tf.Module] = {}
  modules: Sequence[tf.Module] = ()
  views: int = 1
  latents: tuple[str, ...] = ('categorical', 'gaussian', 'hybrid')
  posterior: str = ''

  def __init__(
      self, config: Config, latent: str, shapes: dict[str, tuple[int, ...]]):
    """Creates the parts.

    Args:
      config: Whole config.
      latent: Kind of stochastic state.
      shapes: Observation key to shape.
    """

  def augment(self, data: Tensors) -> Tensors:
    """Returns the batch to train on, [B, T, ...]; not used for acting."""
    return data

  def kl_loss(
      self, wm, data: Tensors, post: Tensors, prior: Tensors
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the loss between posterior and prior of the same step.

    Args:
      wm: World model.
      data: Augmented batch [B, T, ...].
      post: Posterior states [B, T, ...].
      prior: Prior statistics [B, T, ...].

    Returns:
      Scalar, and divergences [B, T] in nats.
    """
    return wm.rssm.kl_loss(post, prior, **wm.config.kl)

  def loss(
      self, wm, data: Tensors, embed: tf.Tensor, post: Tensors,
      prior: Tensors) -> tuple[Tensors, Tensors]:
    """Computes `terms`, and measures whether representations collapse.

    Subclasses do not override this. 'code' is the mean of the posterior's
    latent state, 'target' is what the objective predicts.

    Returns:
      Dict of scalar losses, weighted by `loss_scales`, and metrics.
    """
    terms, metrics, target = self.terms(wm, data, embed, post, prior)
    parts = {'code': wm.rssm.latent.mean(post), 'target': target}
    for name, x in parts.items():
      if x is not None:
        spread, rank = measure_variety(x)
        metrics = {**metrics, f'{name}_spread': spread, f'{name}_rank': rank}
    return terms, metrics

  def terms(
      self, wm, data: Tensors, embed: tf.Tensor, post: Tensors,
      prior: Tensors) -> tuple[Tensors, Tensors, tf.Tensor | None]:
    """Computes all losses but those of the heads and the one-step divergence.

    Args:
      wm: World model.
      data: Augmented batch [B, T, ...].
      embed: [B, T, E].
      post: Posterior states [B, T, ...].
      prior: Prior statistics [B, T, ...].

    Returns:
      Dict of scalar losses, metrics, and the predicted targets [..., P], to
      see whether they collapse; None if the targets are observations.
    """
    return {}, {}, None

  def update(self, wm) -> None:
    """Updates slow copies and the like, after the optimiser's step."""

  def report(self, wm, data: Tensors) -> Tensors:
    """Returns images and videos for the log."""
    return {}


def measure_variety(x, most=256):
  """Measures how much vectors differ: a collapsed representation is constant.

  Args:
    x: Vectors [..., P].
    most: Number of vectors to use, evenly spaced; the cost is its square.

  Returns:
    Spread and rank, float32 scalars without gradient. The spread, in 0..1, is
    variance / mean square. The rank, at most P, is the number of directions in
    which the vectors vary: (sum l)^2 / sum l^2 with the eigenvalues l of their
    covariance. Both are 0 if all vectors are equal.
  """
  x = tf.stop_gradient(tf.cast(tf.reshape(x, [-1, x.shape[-1]]), tf.float32))
  x = x[::max(1, x.shape[0] // most)]
  total = tf.reduce_sum(x ** 2)
  x -= tf.reduce_mean(x, 0)
  variance = tf.reduce_sum(x ** 2)
  x *= tf.math.rsqrt(tf.maximum(variance, 1e-30))
  share = tf.reduce_sum(x ** 2)  # 1, or 0 without variance.
  gram = tf.matmul(x, x, transpose_b=True)
  rank = share ** 2 / tf.maximum(tf.reduce_sum(gram ** 2), 1e-30)
  return variance / tf.maximum(total, 1e-30), rank
