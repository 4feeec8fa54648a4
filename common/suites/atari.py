"""Atari games through ALE: `--configs atari --task atari_pong`.

Needs pip install 'dreamingv2[atari]'; the games are part of ale-py.
"""

import functools

import gymnasium
import numpy as np

from .. import envs
from .. import loading
from ..config import check_known

OPTIONS = {
    'grayscale': True,
    'noops': 30,
    'sticky': True,
    'all_actions': False,
    'life_done': False,
}


@functools.lru_cache(None)
def tasks():
  """Returns the names of the games without importing ALE."""
  return sorted(x.stem for x in (_root() / 'roms').glob('*.bin'))


def validate(task, options):
  check_known('atari task', _canonical(task), tasks())


def limit(task, options):
  return None


def make(task, seed=0, size=(64, 64), action_repeat=1, **options):
  return Atari(
      _canonical(task), seed, size, action_repeat, **{**OPTIONS, **options})


class Atari:
  """One game, with the usual preprocessing.

  The image is the largest value of each pixel in the last two frames, since
  some games draw an object in every second frame only.

  Args:
    name: Name of the game.
    seed: Seed of the game and of the first actions.
    size: Height and width of the image in pixels.
    action_repeat: Frames per agent step; their rewards add up.
    grayscale: Whether images have one channel instead of three.
    noops: An episode begins with 0 to so many frames without action.
    sticky: Whether the game repeats the action before with probability 0.25.
    all_actions: Whether to offer all 18 actions instead of the game's own.
    life_done: Whether losing a life is terminal. Each episode is a new game,
      as with Gymnasium's AtariPreprocessing.
  """

  def __init__(
      self, name, seed, size, action_repeat, grayscale, noops, sticky,
      all_actions, life_done):
    import ale_py
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    self._ale = ale_py.ALEInterface()
    self._ale.setFloat('repeat_action_probability', 0.25 * sticky)
    self._rom = str(_root() / 'roms' / f'{name}.bin')
    self._size = tuple(size)
    self._repeat = action_repeat
    self._gray = grayscale
    self._noops = noops
    self._life_done = life_done
    self._lives = 0
    self.seed(seed)
    self._actions = (
        self._ale.getLegalActionSet() if all_actions
        else self._ale.getMinimalActionSet())

  @property
  def obs_space(self):
    shape = (*self._size, 1 if self._gray else 3)
    image = gymnasium.spaces.Box(0, 255, shape, np.uint8)
    return {'image': image, **envs.FLAGS}

  @property
  def act_space(self):
    return {'action': gymnasium.spaces.Discrete(len(self._actions))}

  def seed(self, number):
    self._random = np.random.default_rng(number)
    self._ale.setInt('random_seed', number % 2 ** 31)
    self._ale.loadROM(self._rom)  # Only this applies the seed.

  def reset(self):
    self._ale.reset_game()
    for _ in range(self._random.integers(self._noops + 1)):
      self._ale.act(0)
      if self._ale.game_over():
        self._ale.reset_game()
    self._lives = self._ale.lives()
    return self._obs([self._frame()], envs.flags(is_first=True))

  def step(self, action):
    reward, frames = 0.0, []
    for index in range(self._repeat):
      reward += self._ale.act(self._actions[action['action']])
      if index >= self._repeat - 2:
        frames.append(self._frame())
      done = self._ale.game_over() or (
          self._life_done and self._ale.lives() < self._lives)
      if done:
        break
    self._lives = self._ale.lives()
    return self._obs(
        frames or [self._frame()], envs.flags(reward, False, done, done))

  def close(self):
    pass

  def _frame(self):
    if self._gray:
      return self._ale.getScreenGrayscale()[..., None]
    return self._ale.getScreenRGB()

  def _obs(self, frames, ends):
    return {
        'image': envs.resize(np.max(frames, 0), self._size), **ends}


def _canonical(task):
  return task.replace('james_bond', 'jamesbond')  # DreamerV2's name.


def _root():
  return loading.folder('ale_py', (
      "ALE is not installed; run pip install 'dreamingv2[atari]', or pip "
      'install ale-py==0.12.1'))
