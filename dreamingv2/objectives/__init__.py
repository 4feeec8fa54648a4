"""The objectives, under the names that configs.yaml uses."""

from ..common.config import check_known
from .barlow_twins import BarlowTwins
from .bootstrap import Bootstrap
from .byol import BYOL
from .contrastive import Contrastive
from .cross_modal import CrossModal
from .cvrl import CVRL
from .forward import Forward
from .predictive import Predictive
from .prototypes import Prototypes
from .r2dreamer import R2Dreamer
from .reconstruction import Reconstruction

OBJECTIVES = {
    'barlow_twins': BarlowTwins,
    'bootstrap': Bootstrap,
    'byol': BYOL,
    'contrastive': Contrastive,
    'cross_modal': CrossModal,
    'cvrl': CVRL,
    'forward': Forward,
    'predictive': Predictive,
    'prototypes': Prototypes,
    'r2dreamer': R2Dreamer,
    'reconstruction': Reconstruction,
}


def make(config, latent, shapes):
  """Returns the objective that `config.objective` names.

  Args:
    config: Whole config.
    latent: Kind of stochastic state, `rssm.latent`.
    shapes: Observation key to shape.

  Raises:
    ValueError: Unknown objective, or one that cannot learn `rssm.latent` or
      needs another `rssm.posterior`.
  """
  name, rssm = config.objective, config.rssm
  check_known('objective', name, OBJECTIVES)
  cls = OBJECTIVES[name]
  check_known(f"rssm.latent of objective '{name}'", rssm.latent, cls.latents)
  if cls.posterior:
    check_known(
        f"rssm.posterior of objective '{name}'", rssm.posterior,
        [cls.posterior])
  return cls(config, latent, shapes)
