"""Ways to learn representations, by the names that configs.yaml uses."""

import difflib

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
  name = config.objective
  if name not in OBJECTIVES:
    near = difflib.get_close_matches(name, OBJECTIVES, 1) or OBJECTIVES
    raise ValueError(
        f"objective '{name}' is unknown; did you mean {', '.join(near)}? "
        f"Known: {', '.join(OBJECTIVES)}. Set it with --objective")
  return OBJECTIVES[name](config, latent, shapes)
