import subprocess
import sys
import types
from unittest import mock

import numpy as np
import pytest

from dreamingv2.common import envs
from dreamingv2.common.renderers import mujoco
from tests.helpers import in_worker


@pytest.fixture(autouse=True)
def forget(monkeypatch):
  monkeypatch.delenv('MUJOCO_GL', raising=False)
  mujoco._probe.cache_clear()
  yield
  mujoco._probe.cache_clear()


def answer(monkeypatch, answers):
  """Fakes the answers of the probes; returns the back ends that were tried."""
  tried = []

  def run(*args, env, **kwargs):
    tried.append(env['MUJOCO_GL'])
    text = answers[env['MUJOCO_GL']]
    good = 'Error' not in text
    return types.SimpleNamespace(
        returncode=0 if good else 1, stdout='warning\n' + text, stderr=text)
  monkeypatch.setattr(subprocess, 'run', run)
  return tried


def test_probe_finds_a_renderer_on_this_machine():
  backend, device = mujoco.probe()
  assert backend in ('egl', 'osmesa') and device
  assert device in mujoco.describe(backend, device)
  assert 'tensorflow' not in mujoco._PROBE


def test_probe_takes_the_first_that_works(monkeypatch):
  tried = answer(monkeypatch, {
      'egl': "AttributeError: 'NoneType' ... 'eglQueryString'",
      'osmesa': 'llvmpipe (LLVM 15)'})
  assert mujoco.probe() == ('osmesa', 'llvmpipe (LLVM 15)')
  mujoco.probe()
  assert tried == ['egl', 'osmesa']


def test_probe_obeys_the_user(monkeypatch):
  monkeypatch.setenv('MUJOCO_GL', 'osmesa')
  tried = answer(monkeypatch, {'osmesa': 'softpipe'})
  assert mujoco.probe() == ('osmesa', 'softpipe')
  assert tried == ['osmesa']


@pytest.mark.parametrize('message,cause', [
    ("AttributeError: 'NoneType' object has no attribute 'eglQueryString'",
     'libEGL is missing'),
    ("AttributeError: 'NoneType' object has no attribute 'glGetError'",
     'libOpenGL is missing'),
    ('ImportError: Cannot initialize a EGL device display. This likely',
     'no OpenGL driver'),
    ('RuntimeError: something new', 'something new')])
def test_probe_says_what_to_install(monkeypatch, message, cause):
  answer(monkeypatch, {'egl': message, 'osmesa': 'Error: OSMesa'})
  with pytest.raises(RuntimeError) as info:
    mujoco.probe()
  text = str(info.value)
  assert cause in text and '\n' not in text
  assert 'apt-get install libegl1 libopengl0 libgl1-mesa-dri' in text
  assert 'apt-get install libosmesa6' in text


def test_probe_reports_a_wrong_variable(monkeypatch):
  monkeypatch.setenv('MUJOCO_GL', 'opengl9')
  answer(monkeypatch, {'opengl9': 'RuntimeError: invalid value'})
  with pytest.raises(RuntimeError, match='MUJOCO_GL.*opengl9.*libegl1'):
    mujoco.probe()


@pytest.mark.parametrize('device,kind', [
    ('llvmpipe (LLVM 15.0.6, 256 bits)', 'software'),
    ('NVIDIA H100 PCIe/PCIe/SSE2', 'GPU')])
def test_describe_tells_software_from_gpu(device, kind):
  assert kind in mujoco.describe('egl', device)


def test_environ_hides_the_cuda_choice():
  environ = mujoco.environ('egl')
  assert environ['MUJOCO_GL'] == environ['PYOPENGL_PLATFORM'] == 'egl'
  assert environ['CUDA_VISIBLE_DEVICES'] is None


def pictures():
  """Draws a red ball over a grey floor with every quality, in a worker."""
  import mujoco as simulator

  from dreamingv2.common.renderers import mujoco
  xml = (
      '<mujoco><worldbody><light pos="0 -1 3" dir="0 .3 -1"/>'
      '<camera name="front" pos="0 -4 1" xyaxes="1 0 0 0 0 1"/>'
      '<geom type="plane" size="5 5 1"/>'
      '<geom pos="0 0 2" type="sphere" size=".4" rgba="1 0 0 1" group="2"/>'
      '</worldbody></mujoco>')
  result = {}
  for quality in (*mujoco.QUALITIES, 'hidden'):
    model = simulator.MjModel.from_xml_string(xml)
    data = simulator.MjData(model)
    simulator.mj_forward(model, data)
    hide = [2] if quality == 'hidden' else []
    draw = mujoco.Renderer(
        (48, 64), 'full' if hide else quality, hide)
    result[quality] = draw(model, data, 'front')
    draw.close()
    assert (draw(model, data, 0) == result[quality]).all()
    draw.close()
  return result


def test_renderer_draws_upright_and_hides_groups():
  make = lambda: types.SimpleNamespace(  # noqa: E731
      obs_space=pictures(), close=lambda: None)
  env = envs.Async(make, environ=mujoco.environ(mujoco.probe()[0]))
  images = env.obs_space
  env.close()
  for quality in mujoco.QUALITIES:
    image = images[quality].astype(int)
    assert image.shape == (48, 64, 3)
    red = image[..., 0] - image[..., 1] > 60
    assert red[:24].sum() > 20 and not red[24:].any(), quality
  hidden = images['hidden'].astype(int)
  assert not (hidden[..., 0] - hidden[..., 1] > 60).any()


CULLED = """
<mujoco>
  <asset><material name="mirror" reflectance="{mirror}"/>
    <mesh name="wedge" vertex="0 0 0 1 0 0 0 .3 0 0 0 .2"/></asset>
  <worldbody>
    <light pos="0 8 6" dir="0 -.6 -1" castshadow="{shadow}"/>
    <camera name="eye" pos="0 -2 .5" xyaxes="1 0 0 0 .15 1" fovy="{fovy}"/>
    <geom type="plane" size="9 9 1" material="mirror"/>
    {geoms}
  </worldbody>
</mujoco>
"""


def crowd(random):
  """Returns bodies of all shapes around a camera, many across its edges."""
  shapes = ('sphere', 'box', 'capsule', 'ellipsoid', 'cylinder', 'mesh')
  lines = []
  for index in range(60):
    numbers = lambda low, high: ' '.join(
        map(str, random.uniform(low, high, 3)))  # noqa: E731
    shape = shapes[index % len(shapes)]
    mesh = 'mesh="wedge"' * (shape == 'mesh')
    lines.append(
        f'<geom type="{shape}" {mesh} size="{numbers(.02, .4)}" '
        f'pos="{numbers(-4, 4)}" euler="{numbers(0, 360)}" '
        f'rgba="{numbers(0, 1)} {1 - .5 * (index % 2)}"/>')
  return '\n'.join(lines)


def culled(size, seed=0, indirect=None, **settings):
  """Draws with and without what is out of sight.

  Returns:
    Both pictures with their background marked, and the numbers of geoms drawn.
  """
  import mujoco as simulator
  random = np.random.default_rng(seed)
  text = {
      'mirror': 0, 'shadow': 'false', 'fovy': random.uniform(20, 90),
      'geoms': crowd(random), **settings}
  model = simulator.MjModel.from_xml_string(CULLED.format(**text))
  data = simulator.MjData(model)
  simulator.mj_forward(model, data)
  groups, images, counts = model.geom_group.copy(), [], []
  for rule in (indirect or mujoco._has_indirect, lambda model: True):
    with mock.patch.object(mujoco, '_has_indirect', rule):
      draw = mujoco.Renderer(size, 'full')
      images.append(draw(model, data, 'eye').astype(int))
      images[-1][draw.background(model, data, 0)] += 300
      counts.append(draw._renderer.scene.ngeom)
      draw.close()
    assert (model.geom_group == groups).all()
  return images, counts


@pytest.mark.parametrize('size', [(48, 64), (64, 40)])
def test_what_is_out_of_sight_is_left_out_and_nothing_else(size):
  drawn = set()
  for (one, two), (few, every) in in_worker(
      lambda: [culled(size, seed) for seed in range(20)]):
    assert (one == two).all() and one.std() > 5
    assert few < every == 61
    drawn.add(few)
  assert len(drawn) > 5


@pytest.mark.parametrize('settings', [{'shadow': 'true'}, {'mirror': 0.5}])
def test_shadows_and_mirror_images_of_what_is_out_of_sight_stay(settings):
  ball = '<geom type="sphere" size=".5" pos="0 6 3.2"/>'
  draw = lambda **options: in_worker(  # noqa: E731
      lambda: culled((48, 64), geoms=ball, fovy=40, **options))
  (one, two), counts = draw(**settings)
  assert (one == two).all() and counts == [2, 2]
  (one, two), counts = draw(indirect=lambda model: False, **settings)
  assert (one != two).any() and counts == [1, 2]
  assert draw()[1] == [1, 2]


def test_importing_the_renderer_needs_no_simulator():
  code = (
      'import sys, dreamingv2.common.renderers.mujoco\n'
      'assert not {"mujoco", "OpenGL", "tensorflow"} & set(sys.modules)')
  env = {'PYTHONPATH': ':'.join(sys.path), 'PATH': ''}
  subprocess.run([sys.executable, '-c', code], check=True, env=env)
