"""robosuite: every environment by its name, with camera images."""

import ast
import importlib.util
import logging
import pathlib
import types

import gymnasium
import numpy as np

from .. import envs
from .. import renderers
from .. import worker
from ..config import check_known
from ..renderers import distractors

OPTIONS = {
    'robots': 'auto',
    'controller': 'OSC_POSE',
    'camera': 'agentview',
    'horizon': 500,
    'control_freq': 20,
    'reward_shaping': True,
    'proprio': False,
    'render': 'full',
    'renderer': 'mujoco',
    'distractors': distractors.OPTIONS,
}

# The paper's name of a task -> robosuite's name.
ALIASES = {'PegInHole': 'TwoArmPegInHole'}


def tasks():
  """Returns the names of robosuite's environments without importing it."""
  folder = _root() / 'environments/manipulation'
  return sorted(
      node.name for path in folder.glob('*.py')
      for node in ast.parse(path.read_text()).body
      if isinstance(node, ast.ClassDef) and not node.name.endswith('Env'))


def validate(task, options):
  check_known(
      'robosuite task', ALIASES.get(task, task), tasks() + list(ALIASES))
  check_known('robosuite.controller', options['controller'], _controllers())
  for key in ('horizon', 'control_freq'):
    if not options[key] >= 1:
      raise ValueError(f'robosuite.{key} is {options[key]}; it must be >= 1')
  if not importlib.util.find_spec('robosuite_models'):
    for name in _names(options['robots']):
      check_known('robosuite.robots', name, ['auto'] + _built_in_robots())


def limit(task, options):
  # Shaped rewards of the paper's tasks are at most 1 per control step.
  known_most = task in ('Door', 'Lift', 'PegInHole', 'TwoArmPegInHole')
  return options['horizon'] if known_most else None


def make(task, seed=0, size=(64, 64), action_repeat=1, **options):
  return Robosuite(
      ALIASES.get(task, task), seed, size, action_repeat,
      **{**OPTIONS, **options})


class Robosuite:
  """One robosuite environment.

  The model is built once: each reset draws new positions, but not new sizes of
  objects. The end of the horizon is last but not terminal.

  Args:
    size: Height and width of the image in pixels.
    action_repeat: Control steps per agent step; their rewards add up.
    robots: One name, several (a list, or separated by commas), or 'auto': one
      Panda per arm that the task needs.
    controller: Controller of the arms ('OSC_POSE', 'JOINT_VELOCITY', ...), or
      of the whole robot ('BASIC', 'WHOLE_BODY_IK', ...).
    camera: One camera of the model, or several separated by commas; see
      `renderers.cameras`.
    horizon: Control steps per episode.
    control_freq: Control steps per second.
    reward_shaping: Whether rewards are dense instead of sparse; both are at
      most 1 per control step.
    proprio: Whether to add the state of each robot (`robot0`, ...) and of the
      objects (`object`) as vectors.
    render: Quality: full, medium, or light, which also leaves out reflections.
    renderer: One of the keys of `renderers.RENDERERS`.
    distractors: See `renderers.distractors`.

  Raises:
    ValueError: The task cannot have these robots, controller or camera.
    ImportError: robosuite is not installed.
  """

  def __init__(
      self, task, seed, size, action_repeat, robots, controller, camera,
      horizon, control_freq, reward_shaping, proprio, render, renderer,
      distractors):
    robosuite = _import()
    names = _robots(task, robots)
    self._env = robosuite.make(
        task, robots=names, seed=seed, hard_reset=False,
        controller_configs=[_controller(controller, x) for x in names],
        use_camera_obs=False, has_renderer=False, has_offscreen_renderer=False,
        renderer='mujoco', use_object_obs=proprio, horizon=horizon,
        control_freq=control_freq, reward_shaping=reward_shaping)
    self._model = self._env.sim.model._model
    self._cameras = renderers.cameras(camera)
    for name in self._cameras.values():
      check_known(
          f'robosuite.camera of {task}', name,
          self._env.sim.model.camera_names)
    if render == 'light':
      self._model.mat_reflectance[:] = 0
    self._repeat = action_repeat
    self._size = tuple(size)
    self._render = renderers.make(
        renderer, size, render, hide=[0], seed=seed, distractors=distractors)
    self._vectors = {
        key: key.replace('_proprio-state', '').replace('-state', '')
        for key in self._env.reset() if key.endswith('-state') and proprio}

  @property
  def obs_space(self):
    obs = self._env.observation_spec()
    vectors = {
        new: gymnasium.spaces.Box(-np.inf, np.inf, obs[old].shape, np.float32)
        for old, new in self._vectors.items()}
    image = gymnasium.spaces.Box(0, 255, (*self._size, 3), np.uint8)
    images = {key: image for key in self._cameras}
    return {**images, **vectors, **envs.ENDLESS}

  @property
  def act_space(self):
    low, high = (np.asarray(x, np.float32) for x in self._env.action_spec)
    return {'action': gymnasium.spaces.Box(low, high)}

  def seed(self, number):
    # In place, because samplers of placements hold the same generator.
    self._env.rng.bit_generator.state = np.random.default_rng(
        number).bit_generator.state
    self._render.seed(number)

  def reset(self):
    self._render.reset()
    return self._obs(self._env.reset(), envs.flags(is_first=True))

  def step(self, action):
    reward = 0.0
    for _ in range(self._repeat):
      obs, value, done, _ = self._env.step(action['action'])
      worker.check_mujoco(self._env.sim.data._data)
      reward += value
      if done:
        break
    terminal = done and self._env.timestep < self._env.horizon
    return self._obs(obs, envs.flags(reward, False, done, terminal))

  def success(self):
    return bool(self._env._check_success())

  def images(self):
    return {
        key: self._render(self._model, self._env.sim.data._data, name)
        for key, name in self._cameras.items()}

  def close(self):
    self._render.close()
    self._env.close()

  def _obs(self, obs, ends):
    vectors = {
        new: np.asarray(obs[old], np.float32)
        for old, new in self._vectors.items()}
    return {**self.images(), **vectors, **ends}


def _import():
  logging.getLogger('robosuite_logs').addFilter(
      lambda record: record.levelno >= logging.ERROR)
  import robosuite
  _adapt()
  return robosuite


def _adapt():
  """Adapts robosuite 1.5.2 to MuJoCo 3.10 and newer, whose signatures differ.

  It changes nothing up to MuJoCo 3.9.
  """
  import mujoco
  from robosuite.controllers.parts import controller
  from robosuite.utils import binding_utils
  if 'd: mujoco' not in mujoco.mj_fullM.__doc__:
    return
  binding_utils.MjData.qM = property(lambda self: self._data)
  controller.mujoco = types.SimpleNamespace(
      mj_fullM=lambda model, matrix, data: mujoco.mj_fullM(
          model, data, matrix))
  # Its joint types are no longer equal to NumPy's integers.
  binding_utils.MjModel.jnt_type = property(
      lambda self: self._model.jnt_type.tolist())


def _root():
  spec = importlib.util.find_spec('robosuite')
  if spec is None:
    raise ImportError(
        'robosuite is not installed; run install.sh, or pip install '
        'robosuite==1.5.2')
  return pathlib.Path(spec.origin).parent


def _names(robots):
  if isinstance(robots, str):
    robots = robots.split(',')
  return [x.strip() for x in robots]


def _built_in_robots():
  tree = ast.parse((_root() / 'robots/__init__.py').read_text())
  table, = (
      node.value for node in tree.body if isinstance(node, ast.Assign)
      and node.targets[0].id == 'ROBOT_CLASS_MAPPING')
  return [key.value for key in table.keys]


def _controllers():
  folder = _root() / 'controllers/config/default'
  return sorted(x.stem.upper() for x in folder.glob('*/*.json'))


def _controller(name, robot):
  """Returns robosuite's settings of controller `name` for `robot`.

  The robot's own settings are kept if they are of that kind already.
  """
  from robosuite import controllers
  if name not in controllers.ALL_PART_CONTROLLERS:
    check_known('robosuite.controller', name, (
        *controllers.ALL_PART_CONTROLLERS,
        *controllers.ALL_COMPOSITE_CONTROLLERS))
    return controllers.load_composite_controller_config(name)
  config = controllers.load_composite_controller_config(robot=robot)
  part = controllers.load_part_controller_config(default_controller=name)
  for arm in {'left', 'right'} & set(config['body_parts']):
    settings = config['body_parts'][arm]
    if settings['type'] != name:
      config['body_parts'][arm] = {**part, 'gripper': settings['gripper']}
  if name == 'JOINT_VELOCITY':
    config['type'] = _register_joint_velocity()
  return config


def _register_joint_velocity():
  """Registers a composite controller whose arms follow joint velocities."""
  from robosuite.controllers.composite import composite_controller
  part = _joint_velocity()

  class VelocityArms(composite_controller.CompositeController):
    name = 'VELOCITY_ARMS'

    def _init_controllers(self):
      configs = self.part_controller_config
      arms = {x: configs[x] for x in self.arms if x in configs}
      self.part_controller_config = {
          k: v for k, v in configs.items() if k not in arms}
      super()._init_controllers()
      self.part_controller_config = configs
      others = self.part_controllers
      self.part_controllers = {
          k: others[k] if k in others else part(**arms[k]) for k in configs}

  composite_controller.register_composite_controller(VelocityArms)
  return VelocityArms.name


def _joint_velocity():
  """Returns a working class of robosuite's joint velocity controller.

  The class in robosuite 1.5.2 fails: it assigns to a property without a
  setter. Gains and gravity compensation are the same.
  """
  from robosuite.controllers.parts import controller
  from robosuite.controllers.parts import generic

  class JointVelocity(generic.JointVelocityController):

    @property
    def torque_compensation(self):
      return super().torque_compensation

    @torque_compensation.setter
    def torque_compensation(self, value):
      pass

    def run_controller(self):
      self.update()
      error = self.goal_vel - self.joint_vel
      self.derr_buf.push(error - self.last_err)
      self.last_err = error
      if not self.saturated:
        self.summed_err += error
      torques = (
          self.kp * error + self.ki * self.summed_err
          + self.kd * self.derr_buf.average + self.torque_compensation)
      self.torques = self.clip_torques(torques)
      self.saturated = not np.array_equal(self.torques, torques)
      controller.Controller.run_controller(self)
      return self.torques

  return JointVelocity


def _robots(task, robots):
  """Returns the list of robots for `task`."""
  from robosuite.environments.base import REGISTERED_ENVS
  from robosuite.environments.manipulation import two_arm_env
  from robosuite.robots import ROBOT_CLASS_MAPPING
  from robosuite.utils.robot_utils import check_bimanual
  two = issubclass(REGISTERED_ENVS[task], two_arm_env.TwoArmEnv)
  robots = _names(robots)
  if robots == ['auto']:
    return ['Panda'] * (2 if two else 1)
  for name in robots:
    check_known('robosuite.robots', name, ROBOT_CLASS_MAPPING)
  arms = sum(2 if check_bimanual(name) else 1 for name in robots)
  if two and arms != 2 or not two and len(robots) != 1:
    raise ValueError(
        f'{task} takes ' + (
            'two robots, or one with two arms' if two else 'one robot')
        + f'; robosuite.robots is {",".join(robots)}')
  return robots
