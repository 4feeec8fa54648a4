"""Learns representations by reconstructing observations (DreamerV2)."""

from ..common import nets
from . import openloop
from .base import Objective


class Reconstruction(Objective):
  """Adds a decoder, which the world model trains by likelihood.

  Source: Hafner et al. 2021, Eq. 2; Okada & Taniguchi 2022, Eq. 2.
  """

  def __init__(self, config, latent, shapes):
    self.heads = {'decoder': nets.Decoder(shapes, **config.decoder)}

  def report(self, wm, data):
    """Draws open-loop predictions, one video per camera."""
    videos = openloop.video_pred(wm, self.heads['decoder'], data)
    return {f'openl_{key}': video for key, video in videos.items()}
