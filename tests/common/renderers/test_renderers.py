"""Tests every installed renderer of the table in the same way."""

import functools

import numpy as np
import PIL.Image
import pytest

from dreamingv2.common import identity
from dreamingv2.common import renderers
from dreamingv2.common import suites
from tests.helpers import in_worker

TASKS = ['dmc_walker_walk', 'robosuite_Lift']
STEPS = 3
BEHIND = (255, 0, 255)
SCENE = """
<mujoco>
  <asset><material name="ground" reflectance="0.5"/></asset>
  <worldbody>
    <light pos="0 0 5"/>
    <camera name="above" pos="0 0 3"/>
    <geom type="plane" size="9 9 1" material="ground"/>
    <geom type="sphere" pos="0 0.8 0.5" size="0.3" rgba="1 1 1 1"/>
  </worldbody>
</mujoco>
"""


def installed(name):
  try:
    renderers.validate(name, 'render', 'light')
  except ImportError as error:
    pytest.skip(str(error))


def play(task, renderer, quality='light', steps=STEPS, **options):
  """Returns observations of two episodes, and the mask of the background."""
  suite, name = suites.parse('', task)
  options = {'renderer': renderer, 'render': quality, **options}

  def run():
    env = suites.make(suite, name, seed=1, **options)
    random, obs = np.random.default_rng(0), []
    for _ in range(2):
      obs.append(env.reset())
      for _ in range(steps):
        action = random.uniform(-1, 1, env.act_space['action'].shape)
        obs.append(env.step({'action': action.astype(np.float32)}))
    if 'distractors' in options:
      return obs, None
    inner = identity.innermost(env)
    physics = (
        (inner._env.physics.model.ptr, inner._env.physics.data.ptr, 0)
        if suite == 'dmc'
        else (inner._model, inner._env.sim.data._data, 'agentview'))
    return obs, inner._render.background(*physics)

  return in_worker(run, suite, **options)


@pytest.mark.parametrize('name', sorted(renderers.RENDERERS))
@pytest.mark.parametrize('task', TASKS)
def test_renderer_changes_images_and_nothing_else(name, task):
  installed(name)
  (plain, behind), (other, hidden) = play(task, 'mujoco'), play(task, name)
  for one, two in zip(plain, other, strict=True):
    assert one.keys() == two.keys()
    for key in one:
      if key != 'image':
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
  image = other[-1]['image']
  assert image.shape == (64, 64, 3) and image.dtype == np.uint8
  assert image.std() > 10 and 20 < image.mean() < 235
  assert (np.abs(
      image.astype(int) - plain[-1]['image'].astype(int)).mean() > 3) == (
          name != 'mujoco')
  # The camera is the same and upright, so the foreground has equal pixels.
  assert 0.02 < (~behind).mean() < 0.98
  assert (~behind & ~hidden).sum() > 0.85 * (~behind | ~hidden).sum()
  assert len({x['image'].tobytes() for x in other}) > STEPS


@pytest.mark.parametrize('name', sorted(set(renderers.RENDERERS) - {'mujoco'}))
@pytest.mark.parametrize('task', TASKS)
def test_distractors_cover_the_same_pixels(name, task, tmp_path):
  installed(name)
  PIL.Image.new('RGB', (8, 8), BEHIND).save(tmp_path / 'a.png')
  options = {'distractors': {
      'colors': 0.0, 'camera': 0.05, 'background': str(tmp_path)}}
  plain, other = [
      [(x['image'] != BEHIND).any(-1) for x in play(task, y, **options)[0]]
      for y in ('mujoco', name)]
  for one, two in zip(plain, other, strict=True):
    assert 0.02 < one.mean() < 0.98
    assert (one & two).sum() > 0.85 * (one | two).sum()
  assert len({x.tobytes() for x in other}) > STEPS  # The camera moves.


@functools.lru_cache(None)
def paint(name):
  """Returns images of SCENE in which more and more geoms are black."""
  installed(name)

  def run():
    import mujoco
    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    render = renderers.make(name, (64, 64), 'light')
    images = [render(model, data, 'above')]
    for part in ('geom_rgba', 'light_diffuse', 'mat_rgba'):
      getattr(model, part)[-1, :3] = 0
      images.append(render(model, data, 'above'))
    return [x.astype(int) for x in images]

  return in_worker(run, 'dmc', renderer=name)


@pytest.mark.parametrize('name', sorted(renderers.RENDERERS))
def test_colors_that_change_are_drawn(name):
  _, ball, light, ground = [x.mean() for x in paint(name)]
  assert ground < 0.5 * light
  if 'colors' not in renderers._module(name).REFUSED:
    assert light < ball - 1


@pytest.mark.parametrize('name', sorted(renderers.RENDERERS))
def test_mirrors_show_a_thing_where_it_is(name):
  white, black = paint(name)[:2]
  changed = np.abs(white - black).max(-1) > 10
  assert changed[:32].any() and not changed[32:].any()


@pytest.mark.parametrize('name', sorted(renderers.RENDERERS))
def test_qualities_have_the_same_names(name):
  assert set(renderers._module(name).QUALITIES) == {'full', 'light', 'medium'}


@pytest.mark.parametrize('suite, task', [
    ('dmc', 'walker_walk'), ('robosuite', 'Lift'), ('ur5', 'reach')])
def test_bad_names_are_told(suite, task):
  with pytest.raises(ValueError, match="renderer 'mujuco'; known: mujoco, "):
    suites.validate(suite, task, {'renderer': 'mujuco'})
  with pytest.raises(ValueError, match=f"{suite}.render 'best'; known: full"):
    suites.validate(suite, task, {'render': 'best'})


def test_suites_without_models_say_that_they_draw_themselves():
  with pytest.raises(ValueError, match="option of suite toy 'renderer'"):
    suites.validate('toy', 'reach', {'renderer': 'igibson'})


def test_refused_distractors_are_told():
  with pytest.raises(ValueError, match='igibson cannot draw distractors.co'):
    suites.validate('dmc', 'walker_walk', {
        'renderer': 'igibson',
        'distractors': {'colors': 0.5, 'camera': 0.0, 'background': ''}})
