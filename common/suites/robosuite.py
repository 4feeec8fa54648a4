"""robosuite: every environment by its name, with camera images."""

import ast
import importlib.util
import inspect
import json
import logging
import pathlib
import types

import gymnasium
import numpy as np

from .. import envs
from .. import loading
from .. import renderers
from .. import worker
from ..config import check_known
from ..renderers import distractors

OPTIONS = {
    'import': '',
    'robots': 'auto',
    'gripper': 'default',
    'controller': 'OSC_POSE',
    'camera': 'agentview',
    'horizon': 500,
    'control_freq': 20,
    'reward_shaping': True,
    'proprio': False,
    'render': 'full',
    'renderer': 'mujoco',
    'distractors': distractors.OPTIONS,
    'env_args': {},
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
  for name in _names(options['import']):
    loading.find(name)
  if not options['import']:
    check_known(
        'robosuite task', ALIASES.get(task, task), tasks() + list(ALIASES))
  if options['controller'].endswith('.json'):
    _read_controller(options['controller'])
  else:
    check_known('robosuite.controller', options['controller'], _controllers())
  more = options['import'] or importlib.util.find_spec('robosuite_models')
  if not more:
    for name in _names(options['robots']):
      check_known('robosuite.robots', name, ['auto'] + _built_in_robots())


def limit(task, options):
  # Shaped rewards of the paper's tasks are at most 1 per control step.
  known_most = task in ('Door', 'Lift', 'PegInHole', 'TwoArmPegInHole')
  known_most &= not options['import'] and not options['env_args']
  return options['horizon'] if known_most else None


def make(task, seed=0, size=(64, 64), action_repeat=1, **options):
  options = {**OPTIONS, **options}
  for name in _names(options.pop('import')):
    loading.load(name)
  return Robosuite(
      ALIASES.get(task, task), seed, size, action_repeat, **options)


class Robosuite:
  """One robosuite environment.

  The model is built once: each reset draws new positions, but not new sizes of
  objects. The end of the horizon is last but not terminal.

  Args:
    size: Height and width of the image in pixels.
    action_repeat: Control steps per agent step; their rewards add up.
    robots: One name, several (a list, or separated by commas), or 'auto': one
      Panda per arm that the task needs.
    gripper: 'default', or names, one for each robot.
    controller: Controller of the arms ('OSC_POSE', 'JOINT_VELOCITY', ...), or
      of the whole robot ('BASIC', 'WHOLE_BODY_IK', ...), or a JSON file with
      the settings of either.
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
    env_args: Other arguments of the environment's class.

  Raises:
    ValueError: The task cannot have these robots, grippers, controller, camera
      or arguments.
    ImportError: robosuite is not installed.
  """

  def __init__(
      self, task, seed, size, action_repeat, robots, gripper, controller,
      camera, horizon, control_freq, reward_shaping, proprio, render, renderer,
      distractors, env_args):
    robosuite = _import()
    names = _robots(task, robots)
    kwargs = dict(
        robots=names, seed=seed, hard_reset=False,
        controller_configs=[_controller(controller, x) for x in names],
        use_camera_obs=False, has_renderer=False, has_offscreen_renderer=False,
        renderer='mujoco', use_object_obs=proprio, horizon=horizon,
        control_freq=control_freq, reward_shaping=reward_shaping)
    if gripper != 'default':  # Some tasks refuse this argument.
      kwargs['gripper_types'] = _grippers(gripper)
    _check_args(task, env_args, kwargs)
    self._env = robosuite.make(task, **kwargs, **env_args)
    self._light = render == 'light'
    self._prepare_model()
    self._cameras = renderers.cameras(camera)
    for name in self._cameras.values():
      check_known(
          f'robosuite.camera of {task}', name,
          self._env.sim.model.camera_names)
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
    self._success = False
    return self._obs(self._env.reset(), envs.flags(is_first=True))

  def step(self, action):
    reward, self._success = 0.0, False
    for _ in range(self._repeat):
      obs, value, done, _ = self._env.step(action['action'])
      worker.check_mujoco(self._env.sim.data._data)
      reward += value
      self._success |= bool(self._env._check_success())
      if done:
        break
    terminal = done and self._env.timestep < self._env.horizon
    return self._obs(obs, envs.flags(reward, False, done, terminal))

  def success(self):
    return self._success

  def truth(self):
    return {**self._arms(), **self._objects()}

  def images(self):
    return {
        key: self._render(self._model, self._env.sim.data._data, name)
        for key, name in self._cameras.items()}

  def replay(self, model, states, actions, repeat=1):
    """Draws the recorded states of a demonstration.

    Args:
      model: XML of the model that it was recorded with.
      states: Flattened states of the simulator before each action, [T, S].
      actions: Actions, [T, A]; the last one led to no recorded state.
      repeat: Control steps per row; their rewards add up, and the row's action
        is their mean.

    Returns:
      List of observations with 'action'; the first is the reset.
    """
    self._env.reset()
    self._env.reset_from_xml_string(self._env.edit_model_xml(model))
    self._prepare_model()
    self._render.close()  # It holds the model before.
    self._render.reset()
    low, high = self._env.action_spec
    scaled = np.clip(2 * (actions - low) / (high - low) - 1, -1, 1)
    rows, reward = [], 0.0
    for index, state in enumerate(states):
      self._env.sim.set_state_from_flattened(state)
      self._env.sim.forward()
      reward += self._env.reward(actions[index - 1]) if index else 0.0
      if index % repeat == 0:
        obs = self._env._get_observations(force_update=True)
        begin = max(0, index - repeat)
        action = scaled[begin: index].mean(0) if index else 0 * low
        rows.append({
            **self._obs(obs, envs.flags(reward, not index)),
            'action': action.astype(np.float32)})
        reward = 0.0
    return rows

  def describe(self):
    """Returns the names and types that demonstrations must agree with."""
    robots = self._env.robots
    return {
        'env_name': type(self._env).__name__,
        'controllers': tuple(
            {arm: x.part_controller_config[arm]['type'] for arm in x.arms}
            for x in robots),
        'action': self._env.action_dim,
        'state': len(self._env.sim.get_state().flatten())}

  def close(self):
    self._render.close()
    self._env.close()

  def _prepare_model(self):
    self._model = self._env.sim.model._model
    if self._light:
      self._model.mat_reflectance[:] = 0

  def _obs(self, obs, ends):
    vectors = {
        new: np.asarray(obs[old], np.float32)
        for old, new in self._vectors.items()}
    return {**self.images(), **vectors, **ends}

  def _arms(self):
    """Returns each arm's joints in rad, and its hand's position."""
    data, result, robots = self._env.sim.data, {}, self._env.robots
    for index, robot in enumerate(robots):
      name = f'robot{index}_' if len(robots) > 1 else ''
      result[f'{name}joints'] = np.float32(robot._joint_positions)
      for arm in robot.arms:
        part = f'{name}{arm}_' if len(robot.arms) > 1 else name
        site = robot.eef_site_id[arm]
        result[f'{part}gripper_m'] = np.float32(data.site_xpos[site])
    return result

  def _objects(self):
    """Returns positions of loose objects, and joints of doors and such."""
    import mujoco
    data, result = self._env.sim.data, {}
    for index in range(self._model.njnt):
      joint = self._model.joint(index)
      name = joint.name.removesuffix('_joint0')
      if joint.type[0] == mujoco.mjtJoint.mjJNT_FREE:
        result[f'{name}_m'] = np.float32(data.xpos[joint.bodyid[0]])
      elif not name.startswith(('gripper', 'robot', 'mobilebase')):
        result[name] = np.float32(data.qpos[joint.qposadr])
    return result


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
  return loading.folder('robosuite', (
      'robosuite is not installed; run install.sh, or pip install '
      'robosuite==1.5.2'))


def _names(robots):
  if isinstance(robots, str):
    robots = robots.split(',')
  return [x.strip() for x in robots if x.strip()]


def _built_in_robots():
  tree = ast.parse((_root() / 'robots/__init__.py').read_text())
  table, = (
      node.value for node in tree.body if isinstance(node, ast.Assign)
      and node.targets[0].id == 'ROBOT_CLASS_MAPPING')
  return [key.value for key in table.keys]


def _controllers():
  folder = _root() / 'controllers/config/default'
  return sorted(x.stem.upper() for x in folder.glob('*/*.json'))


def _read_controller(path):
  """Returns the settings in a JSON file, of an arm or of a whole robot."""
  try:
    settings = json.loads(pathlib.Path(path).expanduser().read_text())
  except ValueError as error:
    raise ValueError(
        f'robosuite.controller {path} is not JSON: {error}') from None
  if not isinstance(settings, dict) or 'type' not in settings:
    raise ValueError(
        f"robosuite.controller {path} has no 'type'; robosuite's folder "
        f'controllers/config has examples')
  return settings


def _controller(name, robot):
  """Returns robosuite's settings of controller `name` for `robot`.

  The robot's own settings are kept if they are of that kind already.
  """
  from robosuite import controllers
  is_file = name.endswith('.json')
  part = _read_controller(name) if is_file else None
  if is_file and 'body_parts' in part:
    # This function also fills in what composite controllers need.
    return controllers.load_composite_controller_config(
        str(pathlib.Path(name).expanduser()))
  kind = part['type'] if is_file else name
  if kind not in controllers.ALL_PART_CONTROLLERS:
    check_known('robosuite.controller', kind, (
        *controllers.ALL_PART_CONTROLLERS,
        *controllers.ALL_COMPOSITE_CONTROLLERS))
    return controllers.load_composite_controller_config(kind)
  config = controllers.load_composite_controller_config(robot=robot)
  part = part or controllers.load_part_controller_config(
      default_controller=kind)
  for arm in {'left', 'right'} & set(config['body_parts']):
    settings = config['body_parts'][arm]
    if is_file or settings['type'] != kind:
      config['body_parts'][arm] = {'gripper': settings['gripper'], **part}
  if kind == 'JOINT_VELOCITY':
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


def _grippers(names):
  """Returns robosuite's names of grippers."""
  from robosuite.models.grippers import GRIPPER_MAPPING
  names = _names(names)
  for name in names:
    check_known(
        'robosuite.gripper', name,
        ['default', *(x for x in GRIPPER_MAPPING if x)])
  return names[0] if len(names) == 1 else names


def _check_args(task, args, own):
  """Raises ValueError for an argument that a class does not take from us."""
  from robosuite.environments.base import REGISTERED_ENVS
  taken = {
      name for kind in REGISTERED_ENVS[task].__mro__
      for name in inspect.signature(kind.__init__).parameters
  } - {'self', 'args', 'kwargs'}
  for name in args:
    check_known(f'argument of {task} in env_args', name, taken)
    if name in {'gripper_types', *own}:
      raise ValueError(
          f'env_args sets {name}; set it by the keys that begin with '
          f'robosuite.')


def _robots(task, robots):
  """Returns the list of robots for `task`."""
  from robosuite.environments.base import REGISTERED_ENVS
  from robosuite.environments.manipulation import two_arm_env
  from robosuite.robots import ROBOT_CLASS_MAPPING
  from robosuite.utils.robot_utils import check_bimanual
  check_known('robosuite task', task, REGISTERED_ENVS)
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
