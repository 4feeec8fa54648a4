"""Learns representations with priors that match a slow posterior (BLAST)."""

import tensorflow as tf

from ..common import nets
from ..common import tfutils
from . import multistep
from .base import Objective


class Bootstrap(Objective):
  """Trains the prior to match the posterior of a slow copy; has no decoder.

  Loss: 'kl' = KL(sg(slow posterior) || prior), in place of the balanced one.
  The slow posterior has a slow encoder and slow output layers, and its input
  includes the online h. The reward trains the online posterior, and so do
  later priors, through its samples. Without rewards it collapses.

  Source: abstract of Paster et al. 2021 (BLAST). Left out: its autoregressive
  prior over the categoricals; ours is factorised, as in all systems here. The
  source does not give the rate of the slow copy; see `bootstrap.momentum`.
  """

  # With 'embed', the slow posterior would have the width of a slow prior.
  posterior = 'filter'

  def __init__(self, config, latent, shapes):
    momentum = config.bootstrap.momentum
    self._slow_encoder = multistep.SlowEncoder(config, shapes, momentum)
    self._slow_rssm = nets.EnsembleRSSM(**config.rssm)
    self._follow_posterior = tfutils.SlowCopy(momentum)

  def augment(self, data):
    """Adds the slow encoder's embedding [B, T, E] under 'slow'."""
    return {**data, 'slow': tfutils.cast(self._slow_encoder(data))}

  def kl_loss(self, wm, data, post, prior):
    """Computes KL(sg(slow posterior) || prior); see the base class."""
    slow = self._target(data, post)
    prior = {k: prior[k] for k in slow}
    c = wm.config.kl
    return wm.rssm.kl_loss(
        slow, prior, forward=False, balance=1.0, free=c.free,
        free_avg=c.free_avg, dyn=c.dyn, rep=0.0)

  def terms(self, wm, data, embed, post, prior):
    """Returns no losses; see the base class."""
    return {}, {}, wm.rssm.latent.mean(self._target(data, post))

  def update(self, wm):
    """Moves the slow encoder and the slow posterior."""
    self._slow_encoder.update(wm.encoder)
    self._follow_posterior(
        wm.rssm.posterior_modules, self._slow_rssm.posterior_modules)

  def _target(self, data, post):
    slow = self._slow_rssm.posterior(post['deter'], data['slow'])
    return {k: tf.stop_gradient(v) for k, v in slow.items()}
