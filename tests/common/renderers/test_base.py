import pytest

from dreamingv2.common import renderers
from dreamingv2.common.renderers import base


def test_renderer_keeps_its_size_and_draws_nothing_itself():
  renderer = base.Renderer([48, 64])
  assert renderer.size == (48, 64)
  for draw in (renderer, renderer.background):
    with pytest.raises(NotImplementedError):
      draw(None, None, 0)
  for call in (renderer.reset, renderer.close, lambda: renderer.seed(0)):
    assert call() is None


@pytest.mark.parametrize('name', renderers.RENDERERS)
def test_every_renderer_draws_and_tells_the_background(name):
  kind = renderers._module(name).Renderer
  assert issubclass(kind, base.Renderer)
  assert kind.__call__ is not base.Renderer.__call__
  assert kind.background is not base.Renderer.background
