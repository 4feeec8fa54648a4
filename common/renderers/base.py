"""The interface of renderers."""


class Renderer:
  """Draws compiled models.

  Args:
    size: height and width of the image in pixels.
    quality: a key of `QUALITIES` of the renderer's module.
    hide: geom groups that are not drawn.
  """

  def __init__(self, size=(64, 64), quality='full', hide=()):
    self.size = tuple(size)
    self._quality = quality
    self._hide = hide

  def __call__(self, model, data, camera):
    """Draws what `camera` (name or number) sees, uint8 [H, W, 3], upright."""
    raise NotImplementedError

  def background(self, model, data, camera):
    """Tells where sky or the world's own geoms are seen, bool [H, W]."""
    raise NotImplementedError

  def seed(self, number):
    """Lets the next `reset` depend on that number alone."""

  def reset(self):
    """Draws anew what is random; call at the start of each episode."""

  def close(self):
    """Frees what it holds; the next call makes it anew."""
