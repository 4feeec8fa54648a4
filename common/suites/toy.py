"""Tasks in plain NumPy: they show learning without a simulator.

    python -m dreamingv2.common.suites.toy  # Returns of simple policies.
"""

import functools
import itertools
import types

import gymnasium
import numpy as np

from .. import envs
from .. import renderers
from ..config import check_known
from ..renderers import base
from ..renderers import distractors as distractorlib

OPTIONS = {'camera': 'whole', 'distractors': distractorlib.OPTIONS}
CAMERAS = ('whole', 'dot')
TARGET = 0, 90, 180, 255
DOT = 255, 220, 40, 255


def tasks():
  return sorted(TASKS)


def validate(task, options):
  check_known('toy task', task, TASKS)
  known = CAMERAS if task in WORLDS else CAMERAS[:1]
  for name in renderers.cameras(options['camera']).values():
    check_known(f'toy.camera of {task}', name, known)
  allowed = ('background', 'colors') if task in WORLDS else ()
  for key, value in options['distractors'].items():
    if value != distractorlib.OPTIONS[key] and key not in allowed:
      raise ValueError(
          f'distractors.{key} is {value!r}, but toy_{task} cannot draw that; '
          f'leave it at {distractorlib.OPTIONS[key]!r}')


def limit(task, options):
  return Reach.LENGTH if task == 'reach' else None


def make(task, seed=0, size=(64, 64), action_repeat=1, **options):
  return TASKS[task](
      size=size, seed=seed, action_repeat=action_repeat,
      **{**OPTIONS, **options})


class Square:
  """The unit square; its edges stop the dot.

  Reward in [0, 1]: 1 on the target, falling to 0 at half the side's length.
  """

  START = 0.1, 0.9  # Dot and target begin within these bounds.

  @staticmethod
  def place(point):
    """Moves points [..., 2] outside the square back to its edge."""
    return np.clip(point, 0, 1)

  @staticmethod
  def offset(point, origin):
    """Returns the vector [..., 2] from `origin` to `point`."""
    return point - origin

  @staticmethod
  def reward(offset):
    """Returns rewards [...], given the vector [..., 2] from target to dot."""
    return np.maximum(0, 1 - 2 * np.linalg.norm(offset, axis=-1))

  @staticmethod
  def encode(point):
    """Returns a point [2] as numbers that change smoothly, float32."""
    return np.float32(point)


class Torus:
  """The unit square with opposite edges joined.

  Reward in [-1, 1]: the mean of cos(2 pi offset) over both axes. Dot and
  target start uniformly. Under any policy that does not see both, the offset
  stays uniform, so its expected reward is 0.
  """

  START = 0.0, 1.0

  @staticmethod
  def place(point):
    """Moves points [..., 2] that left the square to its opposite side."""
    return point % 1

  @staticmethod
  def offset(point, origin):
    """Returns the shortest vector [..., 2] from `origin` to `point`."""
    return (point - origin + 0.5) % 1 - 0.5

  @staticmethod
  def reward(offset):
    """Returns rewards [...], given the vector [..., 2] from target to dot."""
    return np.cos(2 * np.pi * offset).mean(-1)

  @staticmethod
  def encode(point):
    """Returns a point [2] as cosines and sines of both axes, float32 [4]."""
    angle = 2 * np.pi * point
    return np.float32([*np.cos(angle), *np.sin(angle)])


class Reach:
  """Moves a bright dot onto a dim square.

  Action [2]: velocity to the right and down in [-1, 1]; 1 moves the dot by a
  tenth of the image per step. Episodes last 50 steps and never terminate.
  Success means a distance below a tenth of the image. `baselines` returns what
  simple policies earn.

  Args:
    world: Square or Torus; defines the edges and the reward.
    size: Height and width of the image in pixels.
    seed: Seed of the start positions of dot and target.
    action_repeat: Steps per action; their rewards add up.
    camera: 'whole' sees the square as it is, 'dot' moves with the dot, which
      stays in the middle of its image; or both, separated by a comma (see
      `renderers.cameras`).
    distractors: See `renderers.distractors`; the camera does not turn.
  """

  LENGTH = 50
  SPEED = 0.1

  def __init__(
      self, world, size, seed, action_repeat, camera, distractors):
    self._world = world
    self._cameras = {
        key: CAMERAS.index(name)
        for key, name in renderers.cameras(camera).items()}
    self._size = tuple(size)
    self._render = distractorlib.wrap(Painter(size), seed, distractors)
    self._colors = types.SimpleNamespace(
        mat_rgba=np.array([TARGET, DOT]) / 255, geom_rgba=np.zeros((0, 4)),
        light_diffuse=np.zeros((0, 3)))
    self._repeat = action_repeat
    self._random = np.random.default_rng(seed)
    self._step = 0

  @property
  def obs_space(self):
    image = gymnasium.spaces.Box(0, 255, (*self._size, 3), np.uint8)
    return {**{key: image for key in self._cameras}, **envs.ENDLESS}

  @property
  def act_space(self):
    return {'action': gymnasium.spaces.Box(-1, 1, (2,), np.float32)}

  def seed(self, number):
    self._random = np.random.default_rng(number)
    self._render.seed(number)

  def reset(self):
    self._step, self._success = 0, False
    self._render.reset()
    self._dot, self._target = self._random.uniform(
        *self._world.START, (2, 2))
    return self._obs(envs.flags(is_first=True))

  def step(self, action):
    reward, self._success = 0.0, False
    for _ in range(self._repeat):
      self._dot = self.move(self._world, self._dot, action['action'])
      reward += self._world.reward(self._offset())
      self._success |= bool(np.linalg.norm(self._offset()) < 0.1)
      self._step += 1
      if self._step >= self.LENGTH:
        break
    return self._obs(envs.flags(reward, is_last=self._step >= self.LENGTH))

  @classmethod
  def move(cls, world, dot, action):
    """Returns the positions of dots [..., 2] after actions [..., 2]."""
    return world.place(dot + cls.SPEED * np.clip(action, -1, 1))

  def success(self):
    return self._success

  def truth(self):
    return {
        'dot': self._world.encode(self._dot),
        'target': self._world.encode(self._target)}

  def images(self):
    state = types.SimpleNamespace(  # What Distractors asks of MuJoCo's data.
        world=self._world, dot=self._dot, target=self._target,
        cam_xmat=np.tile(np.eye(3).ravel(), (len(CAMERAS), 1)))
    return {
        key: self._render(self._colors, state, number)
        for key, number in self._cameras.items()}

  def close(self):
    pass

  def _offset(self):
    return self._world.offset(self._dot, self._target)

  def _obs(self, ends):
    return {**self.images(), **ends}


class Painter(base.Renderer):
  """Draws Reach. Its model holds the colours, its data dot and target."""

  def __call__(self, model, data, camera):
    image = np.zeros((*self.size, 3), np.uint8)
    for mask, color in zip(
        self._masks(data, camera), model.mat_rgba, strict=True):
      image[mask] = np.round(255 * color[:3])
    return image

  def background(self, model, data, camera):
    return ~np.any(self._masks(data, camera), 0)

  def _masks(self, data, camera):
    """Returns where the target and the dot are, bool [H, W] each."""
    rows, cols = np.indices(self.size) / np.reshape(self.size, (2, 1, 1))
    corner = data.dot - 0.5 if CAMERAS[camera] == 'dot' else 0.0
    pixels = np.stack([cols, rows], -1) + corner
    side = abs(data.world.offset(pixels, data.target)).max(-1)
    radius = np.linalg.norm(data.world.offset(pixels, data.dot), axis=-1)
    return side < 0.15, radius < 0.12


def baselines(task, episodes=4000, seed=0):
  """Simulates the returns of policies that see different things in Reach.

  random: Uniform actions.
  blind: The best of several plans that see nothing: some steps into a corner,
  after which the dot's position is known, some steps back, then standing
  still.
  no_target: The best of moving to a fixed place, which needs only the dot.
  oracle: Moving straight to the target.

  Args:
    task: 'reach' or 'torus'.
    episodes: Number of episodes of each policy; all use the same starts.
    seed: Seed of the starts and of the random actions.

  Returns:
    Dict of name to mean return per episode.
  """
  check_known('toy task with baselines', task, WORLDS)
  world, rng = WORLDS[task], np.random.default_rng(seed)
  starts = rng.uniform(*world.START, (2, episodes, 2))
  earn = lambda policy: float(simulate(world, *starts, policy).mean())
  go = lambda place: lambda t, dot, target: (
      world.offset(place, dot) / Reach.SPEED)
  plan = lambda there, back: lambda t, dot, target: np.ones(2) * (
      1.0 if t < there else -1.0 if t < there + back else 0.0)
  places = itertools.product(np.linspace(0.1, 0.9, 9), repeat=2)
  return {
      'random': earn(lambda *_: rng.uniform(-1, 1, (episodes, 2))),
      'blind': max(
          earn(plan(*x)) for x in itertools.product(range(11), range(8))),
      'no_target': max(earn(go(np.array(x))) for x in places),
      'oracle': earn(lambda t, dot, target: go(target)(t, dot, target))}


def simulate(world, dot, target, policy):
  """Plays whole episodes of Reach without images.

  Args:
    world: Square or Torus.
    dot: Start positions of the dots, [N, 2].
    target: Positions of the targets, [N, 2].
    policy: Maps step, dots and targets to actions [N, 2].

  Returns:
    Returns of the episodes, [N].
  """
  total = 0.0
  for t in range(Reach.LENGTH):
    dot = Reach.move(world, dot, policy(t, dot, target))
    total += world.reward(world.offset(dot, target))
  return total


def main():
  """Prints the baselines of every task that has them."""
  for name in sorted(WORLDS):
    means = [f'{k} {v:.1f}' for k, v in baselines(name).items()]
    print(f'toy_{name}: {", ".join(means)}')


def dummy(size, seed, action_repeat, camera, distractors):
  """Makes random observations; `action_repeat` divides their number."""
  return envs.Dummy('continuous', size, 100 // action_repeat, seed)


WORLDS = {'reach': Square, 'torus': Torus}
TASKS = {
    'dummy': dummy,
    **{k: functools.partial(Reach, v) for k, v in WORLDS.items()}}


if __name__ == '__main__':
  main()
