"""Wrappers that need no other: forwarding, repeated actions, and checks."""

import inspect

import gymnasium
import numpy as np

from . import identity
from . import spaces
from .worker import BadAction


class Wrapper:
  """Forwards everything to the wrapped environment."""

  def __init__(self, env):
    self.env = env

  def __getattr__(self, name: str):
    if name.startswith('_') or name == 'env':
      raise AttributeError(name)
    return getattr(self.env, name)

  @property
  def obs_space(self) -> dict[str, gymnasium.Space]:
    return self.env.obs_space

  @property
  def act_space(self) -> dict[str, gymnasium.Space]:
    return self.env.act_space

  def step(self, action: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return self.env.step(action)

  def reset(self) -> dict[str, np.ndarray]:
    return self.env.reset()

  def close(self) -> None:
    self.env.close()


def success(env):
  """Returns what `success()` of an environment says, None if it has none.

  A `success` of others that wants arguments is no such method.
  """
  own = getattr(env, 'success', None)
  if not callable(own) or not _takes_nothing(own):
    return None
  value = own()
  return as_mark(value() if callable(value) else value)


def _takes_nothing(function):
  try:
    inspect.signature(function).bind()
  except TypeError:
    return False
  except ValueError:  # It tells no signature.
    pass
  return True


def as_mark(value):
  """Returns whether all of a value is true; None if it is no clear answer.

  Args:
    value: Anything, as environments of others may return it.
  """
  try:
    value = np.asarray(value)
  except ValueError:  # Lists of several lengths.
    return None
  clear = value.size and value.dtype.kind in 'biuf' and np.isfinite(
      value).all()
  return bool(value.all()) if clear else None


def any_known(marks):
  """Returns whether any mark is true; None if all of them are None."""
  known = [x for x in marks if x is not None]
  return any(known) if known else None


class ActionRepeat(Wrapper):
  """Repeats actions and sums their rewards, until the episode ends."""

  def __init__(self, env, amount):
    super().__init__(env)
    self._amount = amount
    self._marks = []

  def step(self, action):
    reward, self._marks = 0.0, []
    for _ in range(self._amount):
      obs = self.env.step(action)
      reward += obs['reward']
      self._marks.append(success(self.env))
      if obs['is_last']:
        break
    return {**obs, 'reward': np.float32(reward)}

  def reset(self):
    self._marks = []
    return self.env.reset()

  def success(self):
    return any_known(self._marks)


class CheckSpaces(Wrapper):
  """Compares observations with their spaces, see spaces.Reader.

  Raises:
    BadReturn: An observation is not of its space.
    ValueError: An observation has a reserved name.
  """

  def __init__(self, env, always=False):
    super().__init__(env)
    names = env.obs_space.keys() - spaces.FLAGS
    spaces.check_reserved(names)
    self._read = spaces.Reader({
        k: spaces.Codec(k, env.obs_space[k], env.obs_space[k], lambda x: x)
        for k in env.obs_space}, always)

  def step(self, action):
    obs = self.env.step(action)
    self._read(obs, 'step')
    return obs

  def reset(self):
    obs = self.env.reset()
    self._read(obs, 'reset')
    return obs


class LeaveOut(Wrapper):
  """Leaves out observations.

  Args:
    env: Environment.
    reasons: {key: why the agent does not get it}.
  """

  def __init__(self, env, reasons):
    super().__init__(env)
    self._reasons = dict(reasons)

  @property
  def identity(self):
    return {**identity.of(self.env), 'left_out': dict(self._reasons)}

  @property
  def obs_space(self):
    return self._without(self.env.obs_space)

  def step(self, action):
    return self._without(self.env.step(action))

  def reset(self):
    return self._without(self.env.reset())

  def _without(self, values):
    return {k: v for k, v in values.items() if k not in self._reasons}


class CheckAction(Wrapper):
  """Refuses malformed actions, which may crash the simulator.

  Args:
    env: Environment.
    given: The same without wrappers that encode actions; tells its identity.

  Raises:
    BadAction: An action has another shape than its space, or is not finite.
  """

  def __init__(self, env, given=None):
    super().__init__(env)
    self._given = given or env

  @property
  def identity(self):
    return identity.of(self._given)

  def step(self, action):
    for key, space in self.act_space.items():
      value = np.asarray(action[key])
      if value.shape != space.shape:
        raise BadAction(
            f'Action {key!r} has shape {value.shape}, not {space.shape}')
      if not np.isfinite(value).all():
        raise BadAction(f'Action {key!r} is not finite: {value}')
    return self.env.step(action)
