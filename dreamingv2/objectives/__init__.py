"""Ways to learn representations, by the names that configs.yaml uses."""

from ..common.config import known
from .contrastive import Contrastive
from .reconstruction import Reconstruction

OBJECTIVES = {
    'contrastive': Contrastive,
    'reconstruction': Reconstruction,
}


def make(config, latent, shapes):
  """Returns the objective that `config.objective` names.

  Args:
    config: Whole config.
    latent: Kind of stochastic state, `rssm.latent`.
    shapes: Observation key to shape.

  Raises:
    ValueError: Unknown objective.
  """
  known('objective', config.objective, OBJECTIVES)
  return OBJECTIVES[config.objective](config, latent, shapes)
