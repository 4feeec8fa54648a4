"""Lists the visible parts of a MuJoCo model: shapes, surfaces, poses.

Renderers other than MuJoCo's own use it. Height fields, skins, tendons and
shadows of light sources are left to these renderers.
"""

import contextlib
import copy
import hashlib
import os
import pathlib
import typing
import zipfile

import numpy as np

from ..config import check_known
from ..files import write_atomic

SECTORS = 24  # Number of segments around round shapes.
CREASE = np.cos(np.radians(40))  # Edges sharper than 40 degrees stay sharp.
KEPT = 0.9  # Smallest share of a mesh's area that must remain.
GROUND = 10.0  # m, from the middle to the edges of infinite planes.
GROUPS = (0, 1, 2)  # Groups of geoms and sites drawn by default in MuJoCo.
RGB = 1  # Role of a texture: mujoco.mjtTextureRole.mjTEXROLE_RGB
FAR = 50.0  # m
NEAR = 0.01  # m
GRAY = (0.5, 0.5, 0.5, 1)  # MuJoCo's default; a material overrides it.

# Most triangles per mesh (0: no limit), and whether to draw shadows.
QUALITIES = {
    'full': {'faces': 0, 'shadows': True},
    'light': {'faces': 600, 'shadows': False},
    'medium': {'faces': 2000, 'shadows': True},
}

# Attributes that may change during a simulation.
LIVE = ('geom_rgba', 'geom_size', 'mat_rgba', 'site_rgba', 'site_size')


class Mesh(typing.NamedTuple):
  """Triangles of a geom in its own frame, corner by corner.

  Attributes:
    key: Equal for equal meshes.
    points: Corners in m, [N, 3, 3]
    normals: Unit normals of the corners, [N, 3, 3]
    uvs: Positions in the texture, in units of its size, [N, 3, 2]
  """

  key: str
  points: np.ndarray
  normals: np.ndarray
  uvs: np.ndarray


class Surface(typing.NamedTuple):
  """The material of a geom.

  Attributes:
    rgba: Colour in 0..1, multiplied with the texture.
    texture: Uint8 [H, W, 3], upright, or None.
    metallic: 0..1
    roughness: 0..1
  """

  rgba: tuple
  texture: np.ndarray | None
  metallic: float
  roughness: float


class Part(typing.NamedTuple):
  """A geom (kind 'geom') or site (kind 'site') by its number."""

  kind: str
  number: int
  mesh: Mesh
  surface: Surface


def walk(model, hide=(), faces=0):
  """Returns the parts of a compiled model that can be seen.

  Args:
    model: MjModel.
    hide: Groups of geoms that are not drawn.
    faces: Most triangles per mesh; 0: no limit. Textured meshes stay whole.
  """
  parts = []
  for kind in ('geom', 'site'):
    groups = set(GROUPS) - (set(hide) if kind == 'geom' else set())
    for number, group in enumerate(getattr(model, f'{kind}_group')):
      if group in groups and color(model, kind, number)[3] > 0:
        mesh = find_mesh(model, kind, number, faces)
        if mesh:
          parts.append(Part(
              kind, number, mesh, find_surface(model, kind, number)))
  return parts


def color(model, kind, number):
  """Returns the colour (red, green, blue, alpha; 0..1) of a geom or site."""
  matid = getattr(model, f'{kind}_matid')[number]
  rgba = getattr(model, f'{kind}_rgba')[number]
  if matid >= 0 and np.allclose(rgba, GRAY):
    rgba = model.mat_rgba[matid]
  return tuple(map(float, rgba))


def find_surface(model, kind, number):
  """Returns the surface of a geom or site, as MuJoCo understands it."""
  rgba = color(model, kind, number)
  matid = getattr(model, f'{kind}_matid')[number]
  if matid < 0:
    return Surface(rgba, None, 0.0, 0.6)
  metallic, roughness = model.mat_metallic[matid], model.mat_roughness[matid]
  return Surface(
      rgba, find_texture(model, matid),
      float(metallic if metallic >= 0 else model.mat_reflectance[matid]),
      float(
          roughness if roughness >= 0
          else 1 - 0.9 * model.mat_shininess[matid]))


def find_texture(model, matid):
  """Returns the image of a material, uint8 [H, W, 3], or None."""
  texid = model.mat_texid[matid][RGB]
  if texid < 0:
    return None
  height, width, channels, begin = (
      int(getattr(model, f'tex_{x}')[texid])
      for x in ('height', 'width', 'nchannel', 'adr'))
  # A cube map has six square faces below each other; the first one is taken.
  height = min(height, width) if height == 6 * width else height
  image = model.tex_data[begin: begin + height * width * channels].reshape(
      height, width, channels)
  return np.ascontiguousarray(
      image[..., :3] if channels >= 3 else image[..., :1].repeat(3, -1))


def find_mesh(model, kind, number, faces=0):
  """Returns the triangles of a geom or site, or None."""
  import mujoco
  shape = mujoco.mjtGeom(int(getattr(model, f'{kind}_type')[number]))
  shape = shape.name.removeprefix('mjGEOM_').lower()
  size = np.asarray(getattr(model, f'{kind}_size')[number], np.float64)
  matid = getattr(model, f'{kind}_matid')[number]
  texid = model.mat_texid[matid][RGB] if matid >= 0 else -1
  if shape == 'mesh':
    number = int(model.geom_dataid[number])
    if model.mesh_texcoordadr[number] >= 0 and texid >= 0:
      return _build(*_corners(model, number))
    return _build(simplify(*_triangles(model, number), faces))
  if shape not in SHAPES:
    return None
  size[:2] = np.where((shape == 'plane') & (size[:2] == 0), GROUND, size[:2])
  points = SHAPES[shape](size)
  repeat, uniform = (1, 1), False
  if texid >= 0 and model.tex_height[texid] != 6 * model.tex_width[texid]:
    repeat = model.mat_texrepeat[matid]
    uniform = bool(model.mat_texuniform[matid])
  return _build(points, project(points, repeat, uniform))


def box(size):
  """Returns the triangles of a box, [12, 3, 3], given half its sides."""
  corners = np.array(
      [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * size
  return corners[[
      [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
      [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]]


def plane(size):
  """Returns the triangles of a rectangle that faces up, [2, 3, 3]."""
  return box([*size[:2], 0])[-2:]


def lathe(radii, heights):
  """Returns the triangles of the surface that a line sweeps around z.

  Args:
    radii: Distances of the line's points from the axis in m, [P].
    heights: Their heights in m, [P].

  Returns:
    Corners [N, 3, 3] in m.
  """
  angles = np.linspace(0, 2 * np.pi, SECTORS + 1)
  turn = np.stack([np.cos(angles), np.sin(angles)], -1)
  rings = np.concatenate([
      np.asarray(radii)[:, None, None] * turn,
      np.tile(np.asarray(heights)[:, None, None], (1, SECTORS + 1, 1))], -1)
  a, b = rings[:-1, :-1], rings[:-1, 1:]
  c, d = rings[1:, 1:], rings[1:, :-1]
  points = np.stack([a, b, c, a, c, d], 2).reshape(-1, 3, 3)
  return points[np.linalg.norm(_cross(points), axis=-1) > 1e-12]


def ball(size):
  """Returns the triangles of an ellipsoid with the given radii."""
  angles = np.linspace(-np.pi / 2, np.pi / 2, SECTORS // 2 + 1)
  return lathe(np.cos(angles), np.sin(angles)) * size


def capsule(size):
  """Returns the triangles of a capsule, given radius and half its length."""
  angles = np.linspace(-np.pi / 2, np.pi / 2, SECTORS // 2 + 2)
  heights = size[0] * np.sin(angles) + size[1] * np.sign(angles)
  return lathe(size[0] * np.cos(angles), heights)


def cylinder(size):
  """Returns the triangles of a cylinder, given radius and half its length."""
  radius, half = size[:2]
  return lathe([0, radius, radius, 0], [-half, -half, half, half])


SHAPES = {
    'box': box,
    'capsule': capsule,
    'cylinder': cylinder,
    'ellipsoid': ball,
    'plane': plane,
    'sphere': lambda size: ball(size[0]),
}


def project(points, repeat, uniform):
  """Maps a texture onto triangles along the axis that each faces most.

  Args:
    repeat: Repetitions of the texture in x and y.
    uniform: Whether `repeat` counts per 2 m instead of per body.
  """
  axis = np.abs(_cross(points)).argmax(-1)
  across = np.array([[1, 2], [0, 2], [0, 1]])[axis]  # [N, 2]
  uvs = np.take_along_axis(points, across[:, None], 2)
  if not uniform:
    size = np.abs(points).max((0, 1)) + 1e-9
    uvs = uvs / size[across][:, None]
  return (uvs + 1) / 2 * repeat


def smooth(points):
  """Returns normals of corners [N, 3, 3], averaged except at sharp edges."""
  normals = _cross(points)
  units = normals / (np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-20)
  grid = np.round(
      points.reshape(-1, 3) / (np.abs(points).max() + 1e-20), 6) + 0.0
  _, vertex, count = np.unique(
      grid, axis=0, return_inverse=True, return_counts=True)
  vertex = vertex.reshape(-1)
  order = np.argsort(vertex, kind='stable')  # Corners by their vertex.
  begin = np.cumsum(count) - count
  rank = np.empty_like(order)
  rank[order] = np.arange(len(order)) - begin[vertex[order]]
  face = np.arange(len(order)) // 3
  total = np.zeros((len(order), 3))
  for shift in range(count.max(initial=0)):
    corner = np.flatnonzero(shift < count[vertex])
    at = vertex[corner]
    other = face[order[begin[at] + (rank[corner] + shift) % count[at]]]
    near = (units[face[corner]] * units[other]).sum(-1) > CREASE
    total[corner[near]] += normals[other[near]]
  length = np.linalg.norm(total, axis=-1, keepdims=True)
  return np.where(
      length > 0, total / (length + 1e-20), units[face]).reshape(-1, 3, 3)


def simplify(vertices, faces, most):
  """Returns a mesh as triangles [N, 3, 3], about `most` of them; 0: all.

  The result is cached in the user's cache folder. If simplifying would lose
  too much of the area, the result is the mesh itself.
  """
  if not most or len(faces) <= most:
    return vertices[faces]
  key = simplified_key(vertices, faces, most)
  path = cache() / f'{key}.npz'
  try:
    with np.load(path) as file:
      return file['points']
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    pass
  import fast_simplification
  welded, index = _unique(vertices)
  points = vertices[faces]
  vertices, faces = fast_simplification.simplify(
      np.ascontiguousarray(welded, np.float32),
      index[faces].astype(np.int32), target_count=most)
  small = vertices[faces].astype(np.float32)
  area = lambda points: np.linalg.norm(_cross(points), axis=-1).sum()
  # Meshes made of many loose pieces would get holes.
  points = small if area(small) > KEPT * area(points) else points
  with contextlib.suppress(OSError):  # The folder may be read-only or full.
    write_atomic(path, lambda file: np.savez_compressed(file, points=points))
  return points


def simplified_key(vertices, faces, most):
  """Returns the name of a simplified mesh in the cache."""
  return hashlib.sha256(
      vertices.tobytes() + faces.tobytes() + str(most).encode()).hexdigest()


def lighten(model, most):
  """Returns a copy of a model whose meshes have about `most` triangles.

  Meshes with a texture stay whole, and so do those whose simplified version
  does not fit in their place.
  """
  model = copy.copy(model)
  for mesh in np.flatnonzero(model.mesh_facenum > most):
    if model.mesh_texcoordadr[mesh] >= 0:
      continue
    points = simplify(*_triangles(model, mesh), most)
    vertices, corner = _unique(points.reshape(-1, 3))
    normals, shade = _unique(smooth(points).reshape(-1, 3).round(4))
    if (len(vertices) <= model.mesh_vertnum[mesh]
        and len(normals) <= model.mesh_normalnum[mesh]):
      for name, value in (
          ('vert', vertices), ('normal', normals),
          ('face', corner.reshape(-1, 3)),
          ('facenormal', shade.reshape(-1, 3))):
        kind = name.removesuffix('normal') if 'face' in name else name
        begin = getattr(model, f'mesh_{kind}adr')[mesh]
        getattr(model, f'mesh_{name}')[begin: begin + len(value)] = value
        if kind == name:
          getattr(model, f'mesh_{name}num')[mesh] = len(value)
  return model


def cache():
  """Returns the user's folder for cached results."""
  folder = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(folder).expanduser() / 'dreamingv2' / 'meshes'


def poses(data, parts):
  """Returns the poses of parts: positions in m [N, 3], rotations [N, 3, 3]."""
  where = {
      kind: (getattr(data, f'{kind}_xpos'), getattr(data, f'{kind}_xmat'))
      for kind in ('geom', 'site')}
  positions = np.array([where[x.kind][0][x.number] for x in parts])
  rotations = np.array([where[x.kind][1][x.number] for x in parts])
  return positions.reshape(-1, 3), rotations.reshape(-1, 3, 3)


def camera(model, data, name):
  """Returns the pose of a camera, given by name or number.

  Returns:
    Position in m; rotation whose columns point right, up and backwards;
    vertical field of view in degrees.

  Raises:
    ValueError: There is no such camera.
  """
  if isinstance(name, str):
    names = [model.camera(x).name for x in range(model.ncam)]
    check_known('camera', name, names)
    name = names.index(name)
  return (
      data.cam_xpos[name].copy(), data.cam_xmat[name].reshape(3, 3).copy(),
      float(model.cam_fovy[name]))


def _build(points, uvs=None):
  points = np.ascontiguousarray(points, np.float32)
  uvs = np.zeros((*points.shape[:2], 2)) if uvs is None else uvs
  uvs = np.ascontiguousarray(uvs, np.float32)
  key = hashlib.sha256(points.tobytes() + uvs.tobytes()).hexdigest()
  return Mesh(key, points, smooth(points).astype(np.float32), uvs)


def _triangles(model, number):
  """Returns vertices [V, 3] and faces [N, 3] of a mesh."""
  begin, count = model.mesh_vertadr[number], model.mesh_vertnum[number]
  first, faces = model.mesh_faceadr[number], model.mesh_facenum[number]
  return (
      model.mesh_vert[begin: begin + count],
      model.mesh_face[first: first + faces])


def _corners(model, number):
  """Returns the triangles of a mesh and their positions in the texture."""
  vertices, faces = _triangles(model, number)
  begin, first = model.mesh_texcoordadr[number], model.mesh_faceadr[number]
  index = begin + model.mesh_facetexcoord[first: first + len(faces)]
  return vertices[faces], model.mesh_texcoord[index]


def _unique(rows):
  """Returns the distinct rows and, for each row, the index of its equal."""
  rows, index = np.unique(rows, axis=0, return_inverse=True)
  return rows, index.reshape(-1)


def _cross(points):
  """Returns normals of triangles, as long as twice the area, [N, 3]."""
  a, b, c = np.moveaxis(points, 1, 0)
  return np.cross(b - a, c - a)
