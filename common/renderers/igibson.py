"""iGibson 2's MeshRenderer, which drew the robots of the paper.

It draws physically based surfaces, lit by an image of a room, and shadows. It
draws the parts that `scene.walk` finds in the model. Transparent parts are
drawn opaque.
"""

import collections
import collections.abc
import importlib.util
import os
import tempfile

import numpy as np
import PIL.Image

from ..files import write_atomic
from ..files import write_bytes
from . import base
from . import mujoco
from . import scene

QUALITIES = scene.QUALITIES

# New colours in each episode would fill OpenGL's memory with textures.
REFUSED = ('colors',)

SHADOW = 1.5  # m, range of shadows to each side of the model's middle.
FINER = 2  # Oversampling: shadows are only as fine as the drawn image.


def validate():
  """Checks that iGibson is installed."""
  for name in ('igibson', 'pybullet', 'fast_simplification'):
    if not importlib.util.find_spec(name):
      raise ImportError(
          f'renderer igibson needs {name}, which is not installed; run '
          'scripts/install_igibson.sh (docs/rendering.md)')


def prepare():
  """Returns the environment variables of the processes that render.

  iGibson must be the only user of OpenGL in its process.
  """
  device = mujoco.probe('egl')[1]
  print(mujoco.describe('iGibson', device))
  return {**mujoco.environ('off'), 'IG_LOG_LEVEL': 'ERROR'}


class Renderer(base.Renderer):
  """Draws compiled models with iGibson's MeshRenderer."""

  def __init__(self, size=(64, 64), quality='full', hide=()):
    super().__init__(size, quality, hide)
    self._model = None
    self._renderer = None  # MeshRenderer; starting it takes many seconds.
    self._shapes = {}  # Key of a mesh -> vertex array and buffer of OpenGL.
    self._textures = {}  # Colour and picture -> texture of OpenGL.

  def __call__(self, model, data, camera):
    image = self._draw(model, data, camera, 'rgb')
    return (image.clip(0, 1) * 255).round().astype(np.uint8)

  def background(self, model, data, camera):
    return self._draw(model, data, camera, 'seg')[..., 0] < 0.5

  def close(self):
    """Drops the model. The OpenGL context lasts as long as the process."""
    self._model = None

  def _draw(self, model, data, camera, mode):
    live = [getattr(model, x) for x in scene.LIVE]
    if self._model is not model or not all(
        map(np.array_equal, live, self._live)):
      self._build(model)
      self._model, self._live = model, [x.copy() for x in live]
    for group, position, rotation in zip(
        self._renderer.instances, *scene.poses(data, self._parts),
        strict=True):
      group.poses_trans[0][3, :3] = position
      group.poses_rot[0][:3, :3] = rotation
    position, rotation, fovy = scene.camera(model, data, camera)
    _, up, back = rotation.T
    self._renderer.set_camera(position, position - back, up)
    self._renderer.set_fov(fovy)
    lamp = np.array([*model.stat.center[:2], 10])
    self._renderer.set_light_position_direction(lamp, lamp * [1, 1, 0])
    marks = [
        group for group, part in zip(
            self._renderer.instances, self._parts, strict=True)
        if mode == 'seg' and part.kind == 'site']
    image = self._renderer.render(modes=(mode,), hidden=marks)[0][..., :3]
    height, width = self.size
    return image.reshape(
        height, len(image) // height, width, -1, 3).mean((1, 3))

  def _build(self, model):
    quality = QUALITIES[self._quality]
    if self._renderer is None:
      factor = FINER if quality['shadows'] else 1
      self._renderer = _start(
          [x * factor for x in self.size], quality['shadows'])
    self._parts = scene.walk(model, self._hide, quality['faces'])
    renderer = self._renderer
    for name in (
        'VAOs', 'VBOs', 'faces', 'instances', 'shape_material_idx',
        'visual_objects'):
      getattr(renderer, name).clear()
    renderer.material_idx_to_material_instance_mapping.clear()
    for number, part in enumerate(self._parts):
      self._add(number, part, _is_moving(model, part))

  def _add(self, number, part, moving):
    """Adds a part as the instance group `number`."""
    from igibson.render.mesh_renderer import materials
    from igibson.render.mesh_renderer import visual_object
    renderer = self._renderer
    vao, vbo = self._upload(part.mesh)
    renderer.VAOs.append(vao)
    renderer.VBOs.append(vbo)
    renderer.faces.append(np.arange(part.mesh.points.size // 3))
    renderer.shape_material_idx.append(number)
    renderer.material_idx_to_material_instance_mapping[number] = (
        materials.Material('texture', texture_id=self._paint(part.surface)))
    renderer.visual_objects.append(visual_object.VisualObject(
        '', [number], [number], [number], number, renderer))
    renderer.add_instance_group(
        [number], poses_trans=[np.eye(4, dtype=np.float32)],
        poses_rot=[np.eye(4, dtype=np.float32)], use_pbr_mapping=False,
        class_id=511 * moving)  # 'seg' draws 511 almost white, 0 black.
    renderer.instances[-1].metalness = part.surface.metallic
    renderer.instances[-1].roughness = part.surface.roughness

  def _upload(self, mesh):
    """Returns a mesh's vertex array and buffer; uploads each mesh once."""
    if mesh.key not in self._shapes:
      corners = np.concatenate([
          mesh.points, mesh.normals, mesh.uvs,
          np.zeros((*mesh.points.shape[:2], 6))], -1)  # Two tangents.
      self._shapes[mesh.key] = self._renderer.r.load_object_meshrenderer(
          self._renderer.shaderProgram,
          corners.reshape(-1, 14).astype(np.float32))
    return self._shapes[mesh.key]

  def _paint(self, surface):
    """Returns the texture of a surface; uploads each texture once.

    A plain colour becomes a texture too: without one, the shader gets no
    light.
    """
    picture = surface.texture
    if picture is None:
      picture = np.full((1, 1, 3), 255, np.uint8)
    picture = (picture * np.array(surface.rgba[:3])).round().astype(np.uint8)
    key = (picture.shape, picture.tobytes())
    if key not in self._textures:
      with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'texture.png')
        image = PIL.Image.fromarray(picture)
        write_atomic(path, lambda file: image.save(file, 'png'))
        self._textures[key] = self._renderer.r.loadTexture(path, 1.0, '')
    return self._textures[key]


def room(height=64):
  """Returns the light of a room from all directions.

  White walls, a grey floor, and lamps in the ceiling and high on one side.

  Returns:
    Radiance [H, 2 * H, 3], from the ceiling (first row) to the floor.
  """
  polar = (np.arange(height) + 0.5) / height * np.pi
  azimuth = (np.arange(2 * height) + 0.5) / height * np.pi
  up = np.cos(polar)[:, None] + 0 * azimuth
  light = np.where(up > 0.6, 0.6, np.where(up > -0.4, 0.5, 0.25))
  ceiling = np.stack([
      np.sin(polar)[:, None] * f(azimuth) / np.maximum(up, 0.1)
      for f in (np.cos, np.sin)])
  lamps = (np.abs(np.abs(ceiling) - 0.5) < 0.2).all(0) & (up > 0.1)
  window = (np.abs(up - 0.35) < 0.2) & (np.abs(azimuth - 2.4) < 0.5)
  light = light + 2.5 * lamps + 1.5 * window
  return light[..., None] * np.array([1.0, 0.98, 0.95])


def write_hdr(path, image):
  """Writes radiance [H, W, 3] as an image in Radiance's HDR format."""
  mantissa, exponent = np.frexp(np.maximum(image.max(-1), 1e-20))
  scale = mantissa * 256 / np.maximum(image.max(-1), 1e-20)
  pixels = np.concatenate([
      image * scale[..., None], (exponent + 128)[..., None]], -1)
  header = '#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {} +X {}\n'
  write_bytes(
      path, header.format(*image.shape[:2]).encode()
      + pixels.clip(0, 255).astype(np.uint8).tobytes())


def _start(size, shadows):
  """Returns a MeshRenderer with an empty scene."""
  collections.Iterable = collections.abc.Iterable  # Its name in older Pythons.
  from igibson.render.mesh_renderer import mesh_renderer_cpu
  from igibson.render.mesh_renderer import mesh_renderer_settings
  from igibson.utils import mesh_util
  height, width = size
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'room.hdr')
    write_hdr(path, room())
    renderer = mesh_renderer_cpu.MeshRenderer(
        width, height, rendering_settings=(
            mesh_renderer_settings.MeshRendererSettings(
                msaa=True, enable_shadow=shadows, env_texture_filename=path,
                env_texture_filename2=path, env_texture_filename3=path,
                # The default, 460, gives black images on Mesa 22.
                glsl_version_override=450)))
  renderer.set_z_near_z_far(scene.NEAR, scene.FAR)
  renderer.lightP = mesh_util.ortho(
      -SHADOW, SHADOW, -SHADOW, SHADOW, -10, 20.0)
  return renderer


def _is_moving(model, part):
  return bool(getattr(model, f'{part.kind}_bodyid')[part.number])
