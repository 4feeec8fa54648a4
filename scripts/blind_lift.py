"""Compares a policy on Lift with scripts that do not see the cube.

    python scripts/blind_lift.py --policy policies/lift --episodes 20

The cube lies within 3 cm of the middle and the gripper opens 8 cm, so that an
arm that always grasps at the same place often lifts it. A blind script gets
the true place of the hand, but never that of the cube. All policies play the
same episodes.
"""

import argparse
import functools

import numpy as np

from dreamingv2 import api
from dreamingv2.common import command
from dreamingv2.common import envs
from dreamingv2.common import suites
from dreamingv2.common.suites import scripted
from dreamingv2.tools import evaluate

FIRST = 1000  # Seed of the first episode.


def main(argv=None):
  """Plays as many episodes as the command line says."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--policy', type=command.path, required=True,
                      help='logdir of a run on Lift, or exported policy')
  parser.add_argument('--episodes', type=int, default=20)
  args = parser.parse_args(argv)
  policy = api.restore(args.policy)
  env = start(args.policy)
  print('seed, place of the cube in mm: returns, * where it is lifted')
  for seed in range(FIRST, FIRST + args.episodes):
    place, *blind = play(env, seed, Blind())
    told = [play(env, seed, See())[1:], blind, play(env, seed, policy)[1:]]
    print(seed, np.round(1000 * place).astype(int), ', '.join(
        f'{name} {total:.0f}{"*" * lifted}' for name, (lifted, total) in zip(
            ('script', 'blind script', 'policy'), told, strict=True)))
  env.close()


def start(folder):
  """Starts the environment of a run or of an exported policy."""
  make, environ = suites.constructor(evaluate.load_config(folder))
  return envs.Async(
      functools.partial(make, seed=0, truth=True), environ=environ)


class See:
  """The script that lifts the cube, by the simulator's state."""

  def __init__(self):
    self._script = scripted.Lift(4)

  def act(self, image, state, truth):
    return self._script({**truth, 'cube_m': self.cube(truth)}), state

  def cube(self, truth):
    """Returns the place that the script takes for the cube's, [3] in m."""
    return truth['cube_m']


class Blind(See):
  """The same script, which always grasps at one place.

  Args:
    y: Place on the axis on which the gripper opens, m from the middle.
  """

  HEIGHT = 0.832  # Of a cube on the table, m.

  def __init__(self, y=0.0):
    super().__init__()
    self._place = np.array([0, y, self.HEIGHT], np.float32)

  def cube(self, truth):
    return self._place


def play(env, seed, policy):
  """Plays one episode.

  Args:
    env: Environment that `start` made.
    seed: Seed of the episode.
    policy: Restored, which acts on images, or See.

  Returns:
    Place of the cube at the start, x and y in m; whether it was lifted; the
    return.
  """
  env.seed(seed)()
  obs, truth, state = env.reset()(), env.truth()(), None
  place, lifted, total = truth['cube_m'][:2], False, 0.0
  while not obs['is_last']:
    more = [env.truth()()] if isinstance(policy, See) else []
    action, state = policy.act(obs['image'], state, *more)
    action = np.clip(action, -1, 1).astype(np.float32)
    obs = env.step({'action': action})()
    lifted |= bool(env.success()())
    total += float(obs['reward'])
  return place, lifted, total


if __name__ == '__main__':
  main()
