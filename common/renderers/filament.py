"""Filament, the physically based renderer of newer MuJoCo wheels.

It is lit by an image of a studio, has shadows and tone mapping, and uses
Vulkan.
"""

import functools
import importlib.util
import pathlib
import re
import subprocess
import sys

import numpy as np

from . import base
from . import mujoco
from . import scene

_PROBE = """
import os
import mujoco.experimental.studio.window
from mujoco import mjrf
mjrf.Context(mjrf.ContextConfig(
    graphics_api=mjrf.GraphicsApi.GRAPHICS_API_VULKAN))
os._exit(0)
"""

LIGHT = 0.35  # Factor on the model's lights, which add to the studio's.
UNSEEN = 5  # Group of geoms and sites that is not drawn.

QUALITIES = scene.QUALITIES
REFUSED = ()


def validate():
  """Checks that Filament is installed."""
  # find_spec does not import it; a process with TensorFlow should not.
  spec = importlib.util.find_spec('mujoco')
  new = (pathlib.Path(spec.origin).parent / 'mjrf.py').exists()
  if not new or not importlib.util.find_spec('fast_simplification'):
    raise ImportError(
        'renderer filament needs mujoco 3.17.0 and fast_simplification; run '
        'scripts/install_filament.sh (docs/rendering.md)')


def prepare():
  """Returns the environment variables of the processes that render."""
  print(mujoco.describe('Filament', _probe()))
  return mujoco.environ('off')


@functools.lru_cache(None)
def _probe():
  """Returns the name of the Vulkan device that Filament uses."""
  try:
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _PROBE], timeout=300,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
  except subprocess.TimeoutExpired:
    raise RuntimeError(
        'Filament gave no answer within 300 seconds') from None
  device = re.search("Selected physical device '(.*?)'", result.stdout)
  if result.returncode or not device:
    raise RuntimeError(
        'Filament found no Vulkan device; install a software one: apt-get '
        'install libvulkan1 mesa-vulkan-drivers')
  return device[1]


class Renderer(base.Renderer):
  """Draws a copy of the model, so that the simulated model does not change."""

  def __init__(self, size=(64, 64), quality='full', hide=()):
    super().__init__(size, quality, hide)
    self._model = None

  def __call__(self, model, data, camera):
    return self._draw(model, data, camera, 'DEFAULT')

  def background(self, model, data, camera):
    code = self._draw(model, data, camera, 'SEGMENTATION_BY_ID')
    geom = code.astype(int) @ [1, 256, 65536] - 1
    return (geom < 0) | (model.geom_bodyid[geom % model.ngeom] == 0)

  def close(self):
    self._model = self._copy = self._scene = None
    self._target = self._context = None

  def _draw(self, model, data, camera, mode):
    from mujoco import mjrf
    if self._model is not model:
      self._build(model)
    for name in scene.LIVE:
      getattr(self._copy, name)[:] = getattr(model, name)
    self._copy.light_diffuse[:] = LIGHT * model.light_diffuse
    self._scene.update(data)
    image = np.zeros((*self.size, 3), np.uint8)
    read = mjrf.ReadRequest(target=self._target)
    read.set_buffer(image)
    request = self._request(*scene.camera(model, data, camera))
    request.draw_mode = getattr(mjrf.DrawMode, f'DRAW_MODE_{mode}')
    request.post_processing = mode == 'DEFAULT'
    self._context.wait_for_frame(self._context.render([request], [read]))
    return image

  def _request(self, position, rotation, fovy):
    from mujoco import mjrf
    height, width = self.size
    right, up, back = rotation.T.astype(np.float32)
    top = scene.NEAR * np.tan(np.radians(fovy) / 2)
    request = mjrf.RenderRequest(scene=self._scene.scene, target=self._target)
    request.camera = mjrf.Camera(
        pos=position.astype(np.float32), forward=-back, up=up,
        frustum_bottom=-top, frustum_top=top, frustum_near=scene.NEAR,
        frustum_far=scene.FAR)
    request.viewport.left = request.viewport.bottom = 0
    request.viewport.width, request.viewport.height = width, height
    request.shadows = QUALITIES[self._quality]['shadows']
    request.reflections = False  # They are upside down on Vulkan.
    return request

  def _build(self, model):
    from mujoco import mjrf
    from mujoco.experimental.studio import window  # noqa: F401, shaders.
    from mujoco.rendering.filament import model_scene
    self.close()
    quality = QUALITIES[self._quality]
    copy = scene.lighten(model, quality['faces'] or np.inf)
    copy.vis.quality.shadowsize = 512
    copy.light_castshadow[:] = quality['shadows']
    self._hide_unseen(copy)
    api = mjrf.GraphicsApi.GRAPHICS_API_VULKAN
    self._context = mjrf.Context(mjrf.ContextConfig(graphics_api=api))
    self._scene = model_scene.ModelScene(self._context, copy)
    self._target = self._context.create_render_target(
        mjrf.RenderTargetConfig(
            color_format=mjrf.PixelFormat.PIXEL_FORMAT_RGB8))
    self._target.resize(*self.size[::-1])
    self._model, self._copy = model, copy

  def _hide_unseen(self, model):
    """Moves what must stay hidden to another group; Filament ignores alpha."""
    for kind, hide in (('geom', self._hide), ('site', ())):
      groups = getattr(model, f'{kind}_group')
      for number, group in enumerate(groups):
        if group in hide or scene.color(model, kind, number)[3] <= 0:
          groups[number] = UNSEEN
