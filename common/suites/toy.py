"""Tasks in plain NumPy: to see the whole loop learn without a simulator."""

import gymnasium
import numpy as np

from .. import envs
from ..config import known

OPTIONS = {}


def tasks():
  return sorted(TASKS)


def validate(task, options):
  known('toy task', task, TASKS)


def limit(task, options):
  return Reach.LENGTH if task == 'reach' else None


def make(task, seed=0, size=(64, 64), action_repeat=1):
  return TASKS[task](size=size, seed=seed, action_repeat=action_repeat)


class Reach:
  """Moves a bright dot onto a dim square.

  Action [2]: velocity to the right and down in [-1, 1], of which 1 is a tenth
  of the image per step. Reward in [0, 1] per step: 1 on the target, 0 from a
  distance of half the image on. Episodes last 50 steps and never terminate.
  Success is a distance below a tenth of the image.
  A random policy earns 10 of 50, going straight there 48 (200 episodes).
  """

  LENGTH = 50
  SPEED = 0.1

  def __init__(self, size=(64, 64), seed=0, action_repeat=1):
    self._size = tuple(size)
    self._repeat = action_repeat
    self._random = np.random.default_rng(seed)
    self._step = 0

  @property
  def obs_space(self):
    image = gymnasium.spaces.Box(0, 255, (*self._size, 3), np.uint8)
    return {'image': image, **envs.FLAGS}

  @property
  def act_space(self):
    return {'action': gymnasium.spaces.Box(-1, 1, (2,), np.float32)}

  def seed(self, number):
    self._random = np.random.default_rng(number)

  def reset(self):
    self._step = 0
    self._dot, self._target = self._random.uniform(0.1, 0.9, (2, 2))
    return self._obs(envs.flags(is_first=True))

  def step(self, action):
    reward = 0.0
    for _ in range(self._repeat):
      move = self.SPEED * np.clip(action['action'], -1, 1)
      self._dot = np.clip(self._dot + move, 0, 1)
      reward += max(0, 1 - 2 * np.linalg.norm(self._dot - self._target))
      self._step += 1
      if self._step >= self.LENGTH:
        break
    return self._obs(envs.flags(reward, is_last=self._step >= self.LENGTH))

  def success(self):
    return bool(np.linalg.norm(self._dot - self._target) < 0.1)

  def close(self):
    pass

  def _obs(self, ends):
    rows, cols = np.indices(self._size) / np.reshape(self._size, (2, 1, 1))
    image = np.zeros((*self._size, 3), np.uint8)
    x, y = self._target
    image[np.maximum(abs(cols - x), abs(rows - y)) < 0.15] = (0, 90, 180)
    x, y = self._dot
    image[np.hypot(cols - x, rows - y) < 0.12] = (255, 220, 40)
    return {'image': image, **ends}


def dummy(size, seed, action_repeat):
  """Makes random observations, whose length `action_repeat` divides."""
  return envs.Dummy('continuous', size, 100 // action_repeat, seed)


TASKS = {'dummy': dummy, 'reach': Reach}
