"""Value functions, one or several."""

import tensorflow as tf

from . import nets
from .tfutils import Module


def make(ensemble, **mlp):
  """Returns an MLP for values, or Critics if `ensemble` is more than 1."""
  if ensemble == 1:
    return nets.MLP([], **mlp)
  return Critics([nets.MLP([], **mlp) for _ in range(ensemble)])


class Critics(Module):
  """Ensemble of critics, of which the most pessimistic one counts.

  An actor that follows the errors of a critic finds states whose value is too
  high. Critics err in different places, so the smallest value errs less.
  Source: Fujimoto et al. 2018, section 4.2, for Q functions.
  """

  def __init__(self, members):
    self._members = members

  def __call__(self, features):
    """Returns a SmallestValue [...] given features [..., F]."""
    return SmallestValue([member(features) for member in self._members])


class SmallestValue:
  """What several critics say; the mode is the smallest of theirs."""

  def __init__(self, dists):
    self._dists = dists

  def mode(self):
    """Returns the smallest mode [...]."""
    return tf.reduce_min([d.mode() for d in self._dists], 0)

  def log_prob(self, value):
    """Returns the sum of log p(value) [...] over the critics."""
    return tf.add_n([d.log_prob(value) for d in self._dists])
