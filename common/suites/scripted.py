"""Policies that solve tasks by the simulator's state, to record episodes.

A policy is made anew for each episode. It maps what `truth()` of the
environment tells to an action [A] in -1..1.
"""

import numpy as np

from ..config import check_known


def make(suite, task, size):
  """Makes the policy of a task for one episode.

  Args:
    suite: Name of a suite.
    task: Name without the suite's prefix.
    size: A, the number of entries of an action.

  Raises:
    ValueError: There is no policy for this task.
  """
  check_known('task with a scripted policy', f'{suite}_{task}', POLICIES)
  return POLICIES[f'{suite}_{task}'](size)


class ToySquare:
  """Moves the dot straight to the target, at most at full speed."""

  SPEED = 0.1  # Sides of the square per step.

  def __init__(self, size):
    del size

  def __call__(self, truth):
    gap = self.gap(truth['target'], truth['dot'])
    return np.clip(gap / self.SPEED, -1, 1)

  def gap(self, target, dot):
    """Returns the way from dot to target, [2] in sides of the square."""
    return target - dot


class ToyTorus(ToySquare):
  """The same where opposite edges are joined."""

  def gap(self, target, dot):
    # [cos x, cos y, sin x, sin y] -> angles of both axes.
    angle = lambda x: np.arctan2(x[2:], x[:2])
    turns = (angle(target) - angle(dot)) / (2 * np.pi)
    return (turns + 0.5) % 1 - 0.5


class Reacher:
  """Pulls the finger to the target by torques on both joints.

  The torques are those of a spring between finger and target, J' f, and of a
  damper that slows the finger down.
  """

  LINK = 0.12  # Length of the first link, m.
  SPRING = 8.0  # Torque, as a share of the largest, per m of distance and m.
  DAMPER = 3.0  # Agent steps over which the finger's speed counts.

  def __init__(self, size):
    del size
    self._before = None

  def __call__(self, truth):
    finger, target = truth['finger_m'][:2], truth['target_m'][:2]
    speed = finger - (finger if self._before is None else self._before)
    self._before = finger
    force = target - finger - self.DAMPER * speed
    elbow = self.LINK * truth['joints'][:2]  # cos and sin of the shoulder.
    arms = np.stack([finger, finger - elbow])  # From both joints, m.
    torque = arms[:, 0] * force[1] - arms[:, 1] * force[0]
    return np.clip(self.SPRING * torque / self.LINK ** 2, -1, 1)


class Lift:
  """Moves the gripper over the cube and down, closes it and lifts.

  It is meant for controllers whose first three entries move the hand, such as
  OSC_POSITION, and whose last one closes the gripper.
  """

  REACH = 0.05  # How far an entry of 1 moves the hand's goal, m.
  ABOVE = 0.08  # Height over the cube from which the hand goes down, m.
  ASIDE = 0.015  # Largest distance to the side on the way down, m.
  NEAR = 0.012  # Largest difference in height to grasp, m.
  WAIT = 4  # Steps that the gripper needs to close.
  RAISE = 0.15  # Height to lift the cube by, m.

  def __init__(self, size):
    self._size = size
    self._closed = 0  # Steps since the gripper began to close.
    self._goal = 0.0  # Height to lift to, m.

  def __call__(self, truth):
    hand, cube = truth['gripper_m'], truth['cube_m']
    aside = np.linalg.norm(hand[:2] - cube[:2])
    if self._closed or (
        aside < self.ASIDE and abs(hand[2] - cube[2]) < self.NEAR):
      self._closed += 1
    if self._closed == 1:
      self._goal = cube[2] + self.RAISE
    if self._closed > self.WAIT:
      move = np.array([0, 0, self._goal - hand[2]])
    elif self._closed:
      move = np.zeros(3)
    else:
      high = aside > self.ASIDE and hand[2] > cube[2] + self.ABOVE / 2
      move = cube + np.array([0, 0, self.ABOVE * high]) - hand
    action = np.zeros(self._size)
    action[:3] = np.clip(move / self.REACH, -1, 1)
    action[-1] = 1 if self._closed else -1
    return action


POLICIES = {
    'dmc_reacher_easy': Reacher,
    'dmc_reacher_hard': Reacher,
    'robosuite_Lift': Lift,
    'toy_reach': ToySquare,
    'toy_torus': ToyTorus,
}
