"""MuJoCo's own OpenGL renderer, without a display."""

import functools
import os
import subprocess
import sys

import numpy as np

from . import base

# The shadow map and multisampling cost time, not the pixels. `full` is what
# the model asks for. `medium` changes only the edges of shadows, 0.2% of the
# pixels. `light` also has jagged edges: 1 of 255 on average.
QUALITIES = {
    'full': {},
    'light': {'shadowsize': 256, 'offsamples': 0},
    'medium': {'shadowsize': 1024},
}

REFUSED = ()

PACKAGES = {
    'egl': 'libegl1 libopengl0 libgl1-mesa-dri',
    'osmesa': 'libosmesa6',
}

# Texts in messages of mujoco and PyOpenGL -> what they really mean.
CAUSES = {
    'eglQueryString': 'libEGL is missing',
    'glGetError': 'libOpenGL is missing',
    'Cannot initialize a EGL device display': 'no OpenGL driver was found',
    'OSMesa': 'libOSMesa is missing',
    'OpenGL platform library has not been loaded': 'it needs a display',
    "No module named 'mujoco'": 'mujoco is missing (pip install mujoco)',
}

SOFTWARE = ('llvmpipe', 'softpipe', 'swrast', 'software')

_PROBE = """
import os, mujoco, numpy
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/>'
    '<geom type="sphere" size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
assert renderer.render().std() > 1, 'the picture is black'
from OpenGL import GL
print('\\n' + GL.glGetString(GL.GL_RENDERER).decode(), flush=True)
os._exit(0)
"""


def validate():
  """Does nothing; MuJoCo is always installed."""


def prepare():
  """Returns the environment variables of the processes that render."""
  backend, device = probe()
  print(describe(backend, device))
  return environ(backend)


def probe(backend=''):
  """Finds a way to render: `$MUJOCO_GL` if it is set, else EGL or OSMesa.

  Args:
    backend: The only back end to try; '' tries all.

  Returns:
    The back end ('egl', 'osmesa', ...) and the name of the OpenGL device.

  Raises:
    RuntimeError: No back end works; the message says what to install.
  """
  return _probe(
      backend or os.environ.get('MUJOCO_GL', '').strip().lower())


def environ(backend):
  """Returns the environment variables that select `backend`.

  The variable that chooses a CUDA device is removed: simulators do not compute
  on one, and robosuite refuses some of its values.
  """
  platform = {'PYOPENGL_PLATFORM': backend} if backend in PACKAGES else {}
  return {'MUJOCO_GL': backend, 'CUDA_VISIBLE_DEVICES': None, **platform}


def describe(backend, device):
  """Returns one line that names the renderer and its device."""
  software = any(word in device.lower() for word in SOFTWARE)
  kind = 'software, on the CPU' if software else 'GPU'
  name = backend.upper() if backend in PACKAGES else backend
  return f'Rendering with {name} on {device} ({kind}).'


@functools.lru_cache(None)
def _probe(wanted):
  failures = {}
  for backend in [wanted] if wanted else PACKAGES:
    device, failures[backend] = _try(backend)
    if device:
      return backend, device
  tried = '; '.join(f'{k}: {v}' for k, v in failures.items())
  install = ' or '.join(
      f'apt-get install {v}' for k, v in PACKAGES.items()
      if k in failures or wanted not in PACKAGES)
  set_to = os.environ.get('MUJOCO_GL', '')
  hint = f' (MUJOCO_GL is set to {set_to!r})' if set_to else ''
  raise RuntimeError(
      f'MuJoCo cannot render here{hint}: {tried}; install a software '
      f'renderer: {install}')


def _try(backend):
  """Returns the device that renders with `backend`, and the failure."""
  variables = {**os.environ, **environ(backend)}
  try:
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', _PROBE], timeout=60,
        env={k: v for k, v in variables.items() if v is not None},
        stdin=subprocess.DEVNULL, capture_output=True, text=True)
  except subprocess.TimeoutExpired:
    return '', 'no answer within 60 seconds'
  if not result.returncode:
    return result.stdout.strip().splitlines()[-1], ''
  return '', _cause(result.stderr, result.returncode)


def _cause(stderr, code):
  for words, cause in CAUSES.items():
    if words in stderr:
      return cause
  lines = stderr.strip().splitlines()
  return lines[-1] if lines else f'exit code {code}'


def apply_quality(model, quality, size):
  """Sets the quality of `model`, an MjModel; call it before any rendering.

  Args:
    quality: One of the keys of `QUALITIES`.
    size: Height and width of the image in pixels.
  """
  for name, value in QUALITIES[quality].items():
    setattr(model.vis.quality, name, value)
  # A buffer that is only as large as the image saves up to 1/4 of the time.
  model.vis.global_.offheight, model.vis.global_.offwidth = size


class Renderer(base.Renderer):
  """Draws compiled models with MuJoCo's OpenGL renderer."""

  def __init__(self, size=(64, 64), quality='full', hide=()):
    super().__init__(size, quality, hide)
    self._renderer = None

  def __call__(self, model, data, camera):
    if self._renderer is None or self._renderer.model is not model:
      self._build(model)
    self._update(data, camera)
    return self._renderer.render()

  def background(self, model, data, camera):
    import mujoco
    if self._renderer is None or self._renderer.model is not model:
      self._build(model)
    sites = self._option.sitegroup.copy()
    self._option.sitegroup[:] = 0  # Even invisible ones would be seen.
    self._renderer.enable_segmentation_rendering()
    try:
      self._update(data, camera)
      number, kind = np.moveaxis(self._renderer.render(), -1, 0)
    finally:
      self._renderer.disable_segmentation_rendering()
      self._option.sitegroup[:] = sites
    geom = kind == mujoco.mjtObj.mjOBJ_GEOM
    return ~geom | (model.geom_bodyid[np.where(geom, number, 0)] == 0)

  def close(self):
    """Frees the OpenGL context; the next call creates a new one."""
    if self._renderer is not None:
      self._renderer.close()
      self._renderer = None

  def _update(self, data, camera):
    """Fills the scene with what can be seen.

    OpenGL also computes every vertex of a mesh that is out of sight, which is
    half of the time on robosuite's Lift, so such geoms are left out. They stay
    where they can be seen nevertheless: by a shadow or in a mirror.
    """
    model, scene = self._renderer.model, self._renderer.scene
    number = camera if isinstance(camera, int) else model.camera(camera).id
    groups = model.geom_group.copy()
    if number >= 0 and not _has_indirect(model):
      outside = _outside(model, data, number, scene, self.size)
      model.geom_group[outside] = np.argmin(self._option.geomgroup)  # Hidden.
    try:
      self._renderer.update_scene(data, camera, self._option)
    finally:
      model.geom_group[:] = groups

  def _build(self, model):
    import mujoco
    self.close()
    apply_quality(model, self._quality, self.size)
    self._option = mujoco.MjvOption()
    # As in dm_control: the beams of distance sensors are not drawn.
    self._option.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = 0
    for group in self._hide:
      self._option.geomgroup[group] = 0
    self._renderer = mujoco.Renderer(model, *self.size)


def _has_indirect(model):
  """Says whether shadows are cast, or anything is mirrored."""
  return bool(
      np.any(model.light_castshadow & model.light_active)
      or np.any(model.mat_reflectance > 0))


def _outside(model, data, number, scene, size):
  """Returns which geoms have their bounding box out of a camera's sight.

  Args:
    number: Number of a camera of the model.
    scene: Scene of the model; its cameras are overwritten.
    size: Height and width of the image in pixels.

  Returns:
    bool [N], for each geom of the model.
  """
  import mujoco
  view = mujoco.MjvCamera()
  view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
  mujoco.mjv_updateCamera(model, data, view, scene)
  eye = mujoco.mjv_averageCamera(*scene.camera)
  if eye.orthographic:
    return np.zeros(model.ngeom, bool)
  near, top = eye.frustum_near, eye.frustum_top
  bottom, middle = eye.frustum_bottom, eye.frustum_center
  half = eye.frustum_width or (top - bottom) / 2 * size[1] / size[0]
  right = np.cross(eye.forward, eye.up)
  # Outward normals of the four sides, which meet in the eye, and of the front.
  normals = np.stack([
      near * right - (middle + half) * eye.forward,
      (middle - half) * eye.forward - near * right,
      near * eye.up - top * eye.forward,
      bottom * eye.forward - near * eye.up,
      -eye.forward])
  turn = data.geom_xmat.reshape(-1, 3, 3)
  center, extent = np.split(model.geom_aabb, 2, -1)
  # What is no mesh may have been resized after the model was compiled.
  mesh = model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
  extent = np.where(mesh[:, None], extent, np.maximum(
      extent, model.geom_size.sum(-1, keepdims=True)))
  place = data.geom_xpos + np.einsum('nij,nj->ni', turn, center) - eye.pos
  reach = np.einsum('kni,ni->kn', np.abs(np.einsum(
      'kj,nji->kni', normals, turn)), extent)
  out = (normals @ place.T > reach).any(0)
  return out & ~np.isin(model.geom_type, (
      mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD))
