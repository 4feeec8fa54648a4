"""What the world model asks of a way to learn representations."""

from ..common import tfutils


class Objective(tfutils.Module):
  """Owns what exists only for representation learning; does nothing itself.

  The world model is passed as `wm` and never kept.

  Attributes:
    heads: Merged into the world model's heads and trained by likelihood.
    modules: What else the model optimiser moves; never slow copies.
    views: How many times the batch that `augment` returns holds the one it
      was given, one below the other.
    latents: Kinds of stochastic state that it can learn.
    posterior: The `rssm.posterior` that it needs; '' for any.
  """

  heads = {}
  modules = ()
  views = 1
  latents = ('categorical', 'gaussian', 'hybrid')
  posterior = ''

  def __init__(self, config, latent, shapes):
    """Creates the parts.

    Args:
      config: Whole config.
      latent: Kind of stochastic state.
      shapes: Observation key to shape.
    """

  def augment(self, data):
    """Returns the batch to train on, [B, T, ...]; not used for acting."""
    return data

  def kl_loss(self, wm, data, post, prior):
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

  def loss(self, wm, data, embed, post, prior):
    """Computes the losses beyond heads and the one-step divergence.

    Args:
      wm: World model.
      data: Augmented batch [B, T, ...].
      embed: [B, T, E].
      post: Posterior states [B, T, ...].
      prior: Prior statistics [B, T, ...].

    Returns:
      Dict of scalar losses, weighted by `loss_scales`, and metrics.
    """
    return {}, {}

  def update(self, wm):
    """Moves what follows the weights, after the optimiser's step."""

  def report(self, wm, data):
    """Returns images and videos for the log."""
    return {}
