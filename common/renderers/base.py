"""The interface of renderers."""

from collections.abc import Sequence

import numpy as np


class Renderer:
  """Draws compiled models.

  Args:
    size: height and width of the image in pixels.
    quality: a key of `QUALITIES` of the renderer's module.
    hide: geom groups that are not drawn.
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
    """Tells where sky or the world's own geoms are seen, bool [H, W]."""
    raise NotImplementedError

  def seed(self, number: int) -> None:
    """Lets the next `reset` depend on that number alone."""

  def reset(self) -> None:
    """Draws anew what is random; call at the start of each episode."""

  def close(self) -> None:
    """Frees what it holds; the next call makes it anew."""
