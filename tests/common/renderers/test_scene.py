"""Tests the walk over a model with no renderer but MuJoCo's own."""

import mujoco
import numpy as np
import pytest

from dreamingv2.common.renderers import scene

XML = """
<mujoco>
  <asset>
    <texture name="two" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 0 1"
      width="8" height="8"/>
    <material name="metal" rgba="0.2 0.3 0.4 1" shininess="1"
      reflectance="0.25"/>
    <material name="board" texture="two" texrepeat="2 3"/>
    <material name="exact" metallic="0.7" roughness="0.1"/>
    <mesh name="ball" vertex="{vertices}" face="{faces}"/>
  </asset>
  <worldbody>
    <geom name="ground" type="plane" size="0 2 1" material="board"/>
    <geom name="hidden" type="sphere" size="0.1" group="0"/>
    <geom name="collision" type="sphere" size="0.1" group="3"/>
    <geom name="glass" type="sphere" size="0.1" rgba="1 1 1 0" group="1"/>
    <site name="mark" type="sphere" size="0.1" rgba="0 1 0 1"/>
    <site name="unseen" size="0.1" rgba="0 1 0 -0.5"/>
    <body name="arm" pos="0 0 1" euler="0 90 0">
      <freejoint/>
      <geom name="box" type="box" size="1 2 3" group="1" material="metal"/>
      <geom name="capsule" type="capsule" size="0.1 0.4" group="2"
        material="metal" rgba="1 0 0 1"/>
      <geom name="cylinder" type="cylinder" size="0.2 0.3" group="1"
        material="exact"/>
      <geom name="egg" type="ellipsoid" size="1 2 3" group="1"/>
      <geom name="mesh" type="mesh" mesh="ball" group="1"/>
    </body>
    <camera name="front" pos="1 2 3" xyaxes="0 1 0 0 0 1" fovy="30"/>
  </worldbody>
</mujoco>
"""


@pytest.fixture(scope='module')
def model():
  points = scene.ball(np.array([1.0, 1, 1])).reshape(-1, 3)
  vertices, index = np.unique(points.round(6), axis=0, return_inverse=True)
  words = lambda x: ' '.join(map(str, np.ravel(x)))
  return mujoco.MjModel.from_xml_string(XML.format(
      vertices=words(vertices), faces=words(index.ravel())))


@pytest.fixture
def data(model):
  data = mujoco.MjData(model)
  mujoco.mj_forward(model, data)
  return data


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  return tmp_path


def names(model, parts):
  return [getattr(model, x.kind)(x.number).name for x in parts]


def find(model, name, **kwargs):
  parts = scene.walk(model, **kwargs)
  return parts[names(model, parts).index(name)]


def put_in_cache(model, home, count):
  """Replaces the simplified mesh in the cache by its first triangles."""
  vertices, faces = scene._triangles(model, 0)
  key = scene.simplified_key(vertices, faces, 100)
  path = home / f'dreamingv2/meshes/{key}.npz'
  path.parent.mkdir(parents=True)
  points = vertices[faces][:count]
  np.savez(path, points=points)
  return points


def volume(points):
  """Returns the volume inside triangles that all face outwards."""
  a, b, c = np.moveaxis(points.astype(np.float64), 1, 0)
  return (a * np.cross(b, c)).sum() / 6


def test_walk_finds_what_mujoco_draws(model):
  seen = [
      'ground', 'hidden', 'box', 'capsule', 'cylinder', 'egg', 'mesh', 'mark']
  assert names(model, scene.walk(model)) == seen
  seen.remove('hidden')
  seen.remove('ground')
  assert names(model, scene.walk(model, hide=[0])) == seen


def test_walk_leaves_the_model_as_it_is(model):
  before = {
      x: getattr(model, x).copy() for x in dir(model)
      if isinstance(getattr(model, x), np.ndarray)}
  scene.walk(model)
  for name, value in before.items():
    np.testing.assert_array_equal(getattr(model, name), value, err_msg=name)


@pytest.mark.parametrize('name,size,expected,tolerance', [
    ('box', [1, 2, 3], 48, 1e-6),
    ('capsule', [0.1, 0.4, 0], np.pi * (0.008 + 0.004 / 3), 0.03),
    ('cylinder', [0.2, 0.3, 0], np.pi * 0.024, 0.02),
    ('ellipsoid', [1, 2, 3], 8 * np.pi, 0.03),
    ('sphere', [0.5, 0, 0], np.pi / 6, 0.03)])
def test_shapes_have_their_volume_and_face_outwards(
    name, size, expected, tolerance):
  points = scene.SHAPES[name](np.array(size, float))
  assert volume(points) == pytest.approx(expected, rel=tolerance)
  assert volume(points) <= expected * (1 + 1e-6)  # Inside what is round.


def test_ground_faces_up_and_is_large_where_it_has_no_end(model):
  mesh = find(model, 'ground').mesh
  np.testing.assert_allclose(np.abs(mesh.points).max((0, 1)), [10, 2, 0])
  np.testing.assert_allclose(mesh.normals, np.tile([0, 0, 1], (2, 3, 1)))


def test_normals_are_smooth_on_balls_and_sharp_on_boxes(model):
  ball = find(model, 'mark').mesh
  np.testing.assert_allclose(
      ball.normals, ball.points / np.linalg.norm(
          ball.points, axis=-1, keepdims=True), atol=0.05)
  box = find(model, 'box').mesh
  assert set(np.abs(box.normals).round(6).ravel()) == {0, 1}
  for part in scene.walk(model):
    np.testing.assert_allclose(
        np.linalg.norm(part.mesh.normals, axis=-1), 1, atol=1e-5)


def test_surfaces_follow_mujocos_rules(model):
  surface = lambda name: find(model, name).surface
  assert surface('box').rgba == pytest.approx((0.2, 0.3, 0.4, 1))
  assert surface('box').metallic == pytest.approx(0.25)
  assert surface('box').roughness == pytest.approx(0.1)
  assert surface('capsule').rgba == (1, 0, 0, 1)  # The geom's own colour.
  assert surface('cylinder').metallic == pytest.approx(0.7)
  assert surface('cylinder').roughness == pytest.approx(0.1)
  assert surface('mark').rgba == (0, 1, 0, 1)
  assert surface('egg').texture is None


def test_textures_are_read_and_repeated(model):
  part = find(model, 'ground')
  assert part.surface.texture.shape == (8, 8, 3)
  colors = np.unique(part.surface.texture.reshape(-1, 3), axis=0)
  assert colors.tolist() == [[0, 0, 255], [255, 0, 0]]
  low, high = part.mesh.uvs.min((0, 1)), part.mesh.uvs.max((0, 1))
  np.testing.assert_allclose(high - low, [2, 3])


def test_poses_move_points_to_where_they_are(model, data):
  parts = scene.walk(model)
  positions, rotations = scene.poses(data, parts)
  index = names(model, parts).index('box')
  corner = positions[index] + rotations[index] @ [1, 2, 3]
  np.testing.assert_allclose(corner, [3, 2, 0], atol=1e-6)
  assert positions.shape == (8, 3) and rotations.shape == (8, 3, 3)


def test_camera_is_found_by_name_and_number(model, data):
  position, rotation, fovy = scene.camera(model, data, 'front')
  np.testing.assert_allclose(position, [1, 2, 3])
  np.testing.assert_allclose(rotation[:, 2], [1, 0, 0])  # Backwards.
  assert fovy == 30
  np.testing.assert_array_equal(scene.camera(model, data, 0)[1], rotation)
  with pytest.raises(ValueError, match="camera 'back'; known: front"):
    scene.camera(model, data, 'back')


def test_meshes_have_their_triangles(model):
  mesh = find(model, 'mesh').mesh
  assert len(mesh.points) == model.mesh_facenum[0] == 528
  assert volume(mesh.points) == pytest.approx(4 / 3 * np.pi, rel=0.03)
  assert mesh.key == find(model, 'mesh').mesh.key
  assert mesh.key != find(model, 'egg').mesh.key


def test_simplified_meshes_keep_their_shape_and_are_cached(model, home):
  pytest.importorskip('fast_simplification')
  mesh = find(model, 'mesh', faces=100).mesh
  assert 50 < len(mesh.points) <= 100
  assert volume(mesh.points) == pytest.approx(4 / 3 * np.pi, rel=0.2)
  file, = (home / 'dreamingv2/meshes').iterdir()
  file.write_bytes(b'damaged')
  assert find(model, 'mesh', faces=100).mesh.key == mesh.key
  assert len(list((home / 'dreamingv2/meshes').iterdir())) == 1


def test_simplified_meshes_are_read_from_the_cache(model, home):
  points = put_in_cache(model, home, 7)
  np.testing.assert_array_equal(
      find(model, 'mesh', faces=100).mesh.points, points)


def test_lightened_model_is_a_copy_that_mujoco_draws_alike(model, home):
  points = put_in_cache(model, home, 90)
  before = model.mesh_face.copy()
  copy = scene.lighten(model, 100)
  np.testing.assert_array_equal(model.mesh_face, before)
  assert copy.mesh_facenum[0] == 90 and model.mesh_facenum[0] == 528
  np.testing.assert_allclose(
      find(copy, 'mesh').mesh.points, points, atol=1e-6)
