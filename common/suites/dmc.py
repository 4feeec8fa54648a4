"""DeepMind Control: the suite (`walker_walk`) and the manipulation tasks
(`manip_reach_duplo`), with pixels from a camera."""

import ast
import functools

import gymnasium
import numpy as np

from .. import envs
from .. import loading
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

# Geoms of a domain whose positions `truth` tells.
POINTS = {'reacher': ('finger', 'target')}


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
  domain, name = tasks()[_canonical(task)]
  return DMC(
      _load(domain, name, seed), seed, size, action_repeat,
      usual=CAMERAS.get(domain, 0), points=POINTS.get(domain, ()),
      **{**OPTIONS, **options})


class DMC:
  """One task of dm_control, of a suite's domain or of composer.

  Observations are the task's own vectors and images by name, and `image`. The
  end of an episode is terminal if dm_control's discount is 0.

  Args:
    env: Environment of dm_control.
    seed: Seed of what is drawn at random.
    size: Height and width of the image in pixels.
    action_repeat: Control steps per agent step; their rewards add up.
    camera: Name or number, or several separated by commas (see
      `renderers.cameras`); -1 takes the task's usual camera.
    render: Quality: full, medium or light.
    renderer: One of the keys of `renderers.RENDERERS`.
    distractors: See `renderers.distractors`.
    usual: Number of the task's usual camera.
    ends: Spaces of the reward and of the flags, see envs.
    points: Names of the geoms whose positions `truth` tells.

  Raises:
    ValueError: The task does not have the camera, or observes something of
      the same name.
  """

  def __init__(
      self, env, seed, size, action_repeat, camera, render, renderer,
      distractors, usual=0, ends=envs.ENDLESS, points=()):
    self._env = env
    self._ends = ends
    self._repeat = action_repeat
    self._size = tuple(size)
    self._render = renderers.make(
        renderer, size, render, seed=seed, distractors=distractors)
    # Of the two kinds, only composer's environments draw random numbers.
    self._composer = hasattr(env, 'random_state')
    self._points = points
    self._cameras = {
        key: self._find(name, usual)
        for key, name in renderers.cameras(camera).items()}

  @property
  def obs_space(self):
    Box, own = gymnasium.spaces.Box, {}
    for key, spec in self._env.observation_spec().items():
      shape = _as_stored(np.zeros(spec.shape, spec.dtype)).shape
      own[_plain(key)] = (
          Box(0, 255, shape, np.uint8) if len(shape) == 3
          else Box(-np.inf, np.inf, shape, np.float32))
    image = Box(0, 255, (*self._size, 3), np.uint8)
    ours = {**{key: image for key in self._cameras}, **self._ends}
    for key in own.keys() & ours.keys():
      raise ValueError(
          f'Observation {key!r} of the task has the name of another one; '
          f'rename it in the task')
    return {**own, **ours}

  @property
  def act_space(self):
    spec = self._env.action_spec()
    low, high = (
        np.broadcast_to(x, spec.shape).astype(np.float32)
        for x in (spec.minimum, spec.maximum))
    return {'action': gymnasium.spaces.Box(low, high)}

  def seed(self, number):
    # Tasks of the suite hold their generator; those of composer do not, and
    # others may have none.
    random = self._env.random_state if self._composer else getattr(
        self._env.task, 'random', None)
    if hasattr(random, 'seed'):
      random.seed(number)
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

  def truth(self):
    physics = self._env.physics
    points = {
        f'{name}_m': np.float32(physics.named.data.geom_xpos[name])
        for name in self._points}
    return {'joints': _joints(physics), **points}

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
    own = {
        _plain(key): _as_stored(np.asarray(value))
        for key, value in step.observation.items()}
    return {**own, **self.images(), **ends}

  def _find(self, camera, usual):
    """Returns the number of a camera, given by name or number."""
    if self._composer:
      self._env.reset()  # Only this compiles the model.
    model = self._env.physics.model
    names = [
        model.id2name(i, 'camera') or str(i) for i in range(model.ncam)]
    if not names:
      raise ValueError(
          'The model has no camera to observe with; add one to its XML')
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


def _as_stored(value):
  """Returns an image [H, W, C] as it is and anything else as a vector."""
  # A buffer of composer adds an axis in front.
  if value.dtype == np.uint8 and value.ndim > 2 and (
      np.prod(value.shape[:-3]) == 1):
    return value.reshape(value.shape[-3:])
  return value.astype(np.float32).ravel()


def _joints(physics):
  """Returns all joints' positions; a hinge without limits gives cos, sin."""
  import mujoco
  kinds = mujoco.mjtJoint
  sizes = {int(kinds.mjJNT_FREE): 7, int(kinds.mjJNT_BALL): 4}
  model, values = physics.model, []
  for joint in range(model.njnt):
    kind, begin = int(model.jnt_type[joint]), model.jnt_qposadr[joint]
    value = physics.data.qpos[begin: begin + sizes.get(kind, 1)]
    if kind == int(kinds.mjJNT_HINGE) and not model.jnt_limited[joint]:
      value = [np.cos(value[0]), np.sin(value[0])]
    values.extend(value)
  return np.float32(values)


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
  return loading.folder('dm_control', (
      'dm_control is not installed; run install.sh, or pip install '
      'dm_control==1.0.41'))
