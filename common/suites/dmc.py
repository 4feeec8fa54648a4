"""DeepMind Control: the suite (`walker_walk`) and the manipulation tasks
(`manip_reach_duplo`), with pixels from a camera."""

import ast
import functools
import importlib.util
import pathlib

import gymnasium
import numpy as np

from .. import envs
from .. import renderers
from ..config import check_known
from ..renderers import distractors
from ..worker import Diverged

OPTIONS = {
    'camera': '-1',
    'render': 'full',
    'renderer': 'mujoco',
    'distractors': distractors.OPTIONS,
}

# DreamerV2's short name of a domain -> dm_control's name.
ALIASES = {'cup': 'ball_in_cup'}

# Cameras that see the whole robot, for domains where camera 0 does not.
CAMERAS = {'quadruped': 2}


@functools.lru_cache(None)
def tasks():
  """Maps task names to (domain, task), read without importing dm_control."""
  suite = {
      f'{path.stem}_{name}': (path.stem, name)
      for path in sorted((_root() / 'suite').glob('*.py'))
      for name in _decorated(path, 'SUITE')}
  manip = {
      f'manip_{name.removesuffix("_features")}': ('manip', name)
      for path in sorted((_root() / 'manipulation').glob('*.py'))
      for name in _decorated(path, 'registry') if name.endswith('_features')}
  return {**suite, **manip}


def validate(task, options):
  check_known('dmc task', _canonical(task), tasks())


def limit(task, options):
  return 250 if task.startswith('manip_') else 1000  # 1 per control step.


def make(task, seed=0, size=(64, 64), action_repeat=1, **options):
  return DMC(
      *tasks()[_canonical(task)], seed, size, action_repeat,
      **{**OPTIONS, **options})


class DMC:
  """One task of dm_control.

  Observations are the task's own vectors by name, and `image`. The end of an
  episode is terminal if dm_control's discount is 0.

  Args:
    domain: Domain of the suite, or 'manip'.
    size: Height and width of the image in pixels.
    action_repeat: Control steps per agent step; their rewards add up.
    camera: Name or number, or several separated by commas (see
      `renderers.cameras`); -1 takes the task's usual camera.
    render: Quality: full, medium or light.
    renderer: One of the keys of `renderers.RENDERERS`.
    distractors: See `renderers.distractors`.

  Raises:
    ValueError: The task does not have the camera.
  """

  def __init__(
      self, domain, task, seed, size, action_repeat, camera, render,
      renderer, distractors):
    self._env = _load(domain, task, seed)
    self._repeat = action_repeat
    self._size = tuple(size)
    self._render = renderers.make(
        renderer, size, render, seed=seed, distractors=distractors)
    self._manip = domain == 'manip'
    self._cameras = {
        key: self._find(name, CAMERAS.get(domain, 0))
        for key, name in renderers.cameras(camera).items()}

  @property
  def obs_space(self):
    vectors = {
        _plain(key): gymnasium.spaces.Box(
            -np.inf, np.inf, (int(np.prod(spec.shape)),), np.float32)
        for key, spec in self._env.observation_spec().items()}
    image = gymnasium.spaces.Box(0, 255, (*self._size, 3), np.uint8)
    images = {key: image for key in self._cameras}
    return {**vectors, **images, **envs.ENDLESS}

  @property
  def act_space(self):
    spec = self._env.action_spec()
    low, high = (
        np.broadcast_to(x, spec.shape).astype(np.float32)
        for x in (spec.minimum, spec.maximum))
    return {'action': gymnasium.spaces.Box(low, high)}

  def seed(self, number):
    # Tasks of the suite hold their generator; those of composer do not.
    owner = self._env if self._manip else self._env.task
    (owner.random_state if self._manip else owner.random).seed(number)
    self._render.seed(number)

  def reset(self):
    step = self._env.reset()
    self._render.reset()
    if self._env.physics.model.nhfield:
      self._render.close()  # New terrain must be uploaded again.
    return self._obs(step, envs.flags(is_first=True))

  def step(self, action):
    reward = 0.0
    for _ in range(self._repeat):
      step = self._advance(action['action'])
      reward += step.reward or 0.0
      if step.last():
        break
    return self._obs(step, envs.flags(
        reward, False, step.last(), step.discount == 0))

  def images(self):
    physics = self._env.physics
    return {
        key: self._render(physics.model.ptr, physics.data.ptr, number)
        for key, number in self._cameras.items()}

  def close(self):
    self._render.close()
    self._env.close()

  def _advance(self, action):
    from dm_control.rl import control
    try:
      return self._env.step(action)
    except control.PhysicsError as error:
      raise Diverged(f'dm_control: {error}') from None

  def _obs(self, step, ends):
    vectors = {
        _plain(key): np.asarray(value, np.float32).ravel()
        for key, value in step.observation.items()}
    return {**vectors, **self.images(), **ends}

  def _find(self, camera, usual):
    """Returns the number of a camera, given by name or number."""
    if self._manip:
      self._env.reset()  # Only this compiles the model.
    model = self._env.physics.model
    names = [
        model.id2name(i, 'camera') or str(i) for i in range(model.ncam)]
    if str(camera) == '-1':
      return usual
    if str(camera).isdigit() and int(camera) < len(names):
      return int(camera)
    check_known('dmc.camera', camera, names)
    return names.index(camera)


def _load(domain, task, seed):
  if domain == 'manip':
    from dm_control import manipulation
    return manipulation.load(task, seed=seed)
  from dm_control import suite
  return suite.load(domain, task, task_kwargs={'random': seed})


def _canonical(task):
  domain, _, rest = task.partition('_')
  return f'{ALIASES.get(domain, domain)}_{rest}' if rest else task


def _plain(key):
  """Turns a path of dm_control into a name for files and metrics."""
  return key.replace('/', '_')


def _decorated(path, name):
  """Returns the functions of a file that carry the decorator `@name.add`."""
  tree = ast.parse(path.read_text())
  return [
      node.name for node in tree.body if isinstance(node, ast.FunctionDef)
      and any(f'{name}.add(' in ast.unparse(x) for x in node.decorator_list)]


def _root():
  spec = importlib.util.find_spec('dm_control')
  if spec is None:
    raise ImportError(
        'dm_control is not installed; run install.sh, or pip install '
        'dm_control==1.0.41')
  return pathlib.Path(spec.submodule_search_locations[0])
