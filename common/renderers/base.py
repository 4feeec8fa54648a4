"""The interface of renderers."""

from collections.abc import Sequence

import numpy as np


class Renderer:
  """Draws compiled models.

  Args:
    size: Height and width of the image in pixels.
    quality: One of the keys of `QUALITIES` in the renderer's module.
    hide: Groups of geoms that are not drawn.
  """

  def __init__(
      self, size: Sequence[int] = (64, 64), quality: str = 'full',
      hide: Sequence[int] = ()) -> None:
    self.size = tuple(size)
    self._quality = quality
    self._hide = hide

  def __call__(self, model, data, camera: str | int) -> np.ndarray:
    """Draws what `camera` (name or number) sees, uint8 [H, W, 3], upright."""
    raise NotImplementedError

  def background(self, model, data, camera: str | int) -> np.ndarray:
    """Returns where sky or the world's own geoms are visible, bool [H, W]."""
    raise NotImplementedError

  def seed(self, number: int) -> None:
    """Seeds random properties; the next `reset` depends on `number` alone."""

  def reset(self) -> None:
    """Resamples all random properties; call it before each episode."""

  def close(self) -> None:
    """Frees resources; the next call allocates them again."""
