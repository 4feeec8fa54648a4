"""Spaces of observations and actions: checked, and as ours.

A codec converts what a user's environment observes into what the agent reads:
uint8 images [H, W, C] and float32 vectors.
"""

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable

import gymnasium
import numpy as np

Box = gymnasium.spaces.Box
SIDE = 16  # Least height and width of an image of floats without channels.
MOST_CHOICES = 4096  # Of a joint action, and of a Discrete observation.
# What is as large is no bound. It is MuJoCo's largest value, and dm_control's
# for actuators without limits; other environments declare the largest float.
UNBOUNDED = 1e10
SLACK = 1e-3  # By this share of its width a value may leave its range.
FLAGS = ('reward', 'is_first', 'is_last', 'is_terminal')
HELP = 'correct one of them; dreamingv2.api.check(env) lists all faults'
KINDS = (
    'Box', 'Dict', 'Discrete', 'MultiBinary', 'MultiDiscrete', 'Text',
    'Tuple')
NUMBERS = ('Box', 'Discrete', 'MultiBinary', 'MultiDiscrete')


class BadReturn(ValueError):
  """An environment returned what its spaces do not declare."""


class NotSupported(ValueError):
  """A space that cannot be used."""


def kind(space) -> str:
  """Returns one of KINDS, also for subclasses and spaces of the older gym.

  Other spaces get the name of their class.
  """
  names = [x.__name__ for x in type(space).__mro__]
  return next((x for x in names if x in KINDS), names[0])


def leaves(space):
  """Returns {name: (path, space)} of the parts of a Dict, however deep.

  The names of a path are joined by '/', as in pixels/top.

  Raises:
    ValueError: Two parts have the same name.
  """
  parts = {}
  for key, part in space.spaces.items():
    inner = {key: ((key,), part)}
    if kind(part) == 'Dict':
      inner = {
          f'{key}/{name}': ((key, *path), leaf)
          for name, (path, leaf) in leaves(part).items()}
    for name in inner.keys() & parts.keys():
      raise ValueError(
          f'Two observations are called {name!r}; rename one in the '
          f'environment')
    parts.update(inner)
  return parts


def pick(obs, paths):
  """Returns {name: part} of an observation, or what it is if one is missing.

  Args:
    obs: What an environment observed.
    paths: {name: path}, see `leaves`; an empty path is the whole observation.
  """
  try:
    return {k: functools.reduce(operator.getitem, path, obs)
            for k, path in paths.items()}
  except (IndexError, KeyError, TypeError):
    return obs


def match(part, shapes, cnn_keys, mlp_keys):
  """Splits observation keys into images and vectors by patterns.

  Raises:
    ValueError: No observation matches.
  """
  shapes = {k: s for k, s in shapes.items() if not k.startswith('log_')}
  cnn = [k for k, s in shapes.items() if re.fullmatch(cnn_keys, k)
         and len(s) == 3]
  mlp = [k for k, s in shapes.items() if re.fullmatch(mlp_keys, k)
         and len(s) <= 1]
  if not cnn and not mlp:
    known = ', '.join(f'{k} {tuple(s)}' for k, s in shapes.items())
    raise ValueError(
        f"{part}.cnn_keys '{cnn_keys}' and {part}.mlp_keys '{mlp_keys}' "
        f'match no observation; the environment gives {known}')
  return sorted(cnn), sorted(mlp)


@dataclasses.dataclass(frozen=True)
class Codec:
  """Checks the values of an observation and converts them for the agent.

  Attributes:
    key: Name of the observation.
    given: The space that the environment declares.
    space: The space that the agent gets.
    convert: Function from an array in `given` to one in `space`.
  """

  key: str
  given: gymnasium.Space
  space: gymnasium.spaces.Box
  convert: Callable

  def __call__(self, value, thorough=False):
    """Converts a value.

    Args:
      value: What the environment returned.
      thorough: Whether to check range and type as well, not only the shape.

    Raises:
      BadReturn: The value is not of the declared space.
    """
    return self.convert(check(self.key, self.given, value, thorough))


class Reader:
  """Checks and converts observations by their codecs.

  Range and type are checked at the first reset and in the first step of every
  episode, or `always`; the shape is always checked.
  """

  def __init__(self, codecs, always=False):
    self._codecs = codecs
    self._always = always
    self._due = {'reset', 'step'}

  def __call__(self, obs, method):
    """Converts what `method`, 'reset' or 'step', returned.

    Raises:
      BadReturn: It is not what the spaces declare.
    """
    if not hasattr(obs, 'keys') or not self._codecs.keys() <= obs.keys():
      raise BadReturn(
          f'{method}() observed {_shown(obs)}, not a dict with '
          f'{", ".join(self._codecs)}')
    thorough = self._always or method in self._due
    values = {
        k: codec(obs[k], thorough) for k, codec in self._codecs.items()}
    self._due = {'step'} if method == 'reset' else set()
    return values


def check_reserved(names):
  """Refuses names of observations that are no text or mean something else.

  Raises:
    ValueError: There is one.
  """
  for name in names:
    if not isinstance(name, str):
      raise ValueError(
          f'The name of observation {name!r} is {type(name).__name__}, not '
          f'text; rename it in the environment')
  for name in sorted({*names} & {*FLAGS, 'action', 'discount'}):
    raise ValueError(
        f'Observation {name!r} has a reserved name; rename it in the '
        f'environment')


def step_values(result):
  """Checks what the step of an environment of Gymnasium or gym returned.

  Returns:
    Observation, reward, terminated, truncated (not in gym before 0.26), and
    info, which is {} where it is no dict.

  Raises:
    BadReturn: It is something else.
  """
  if not isinstance(result, (list, tuple)) or len(result) not in (4, 5):
    raise BadReturn(
        f'step() returned {_shown(result)}, not observation, reward, '
        f'terminated, truncated and info')
  obs, *values, info = result
  names = 'reward', 'terminated', 'truncated'
  for index, value in enumerate(values):
    array = np.asarray(value if np.isscalar(value) or hasattr(
        value, 'dtype') else None)
    if array.dtype.kind not in 'biuf' or array.size != 1:
      raise BadReturn(
          f'step() returned as {names[index]} {_shown(value)}, not one number')
    values[index] = array.item()
  return obs, *values, info if isinstance(info, dict) else {}


def _shown(value):
  keys = f' with {", ".join(map(str, value))}' if hasattr(
      value, 'keys') else ''
  return f'{type(value).__name__}{keys}'


def check(key, space, value, thorough=True):
  """Returns a value as an array after comparing it with its space.

  Raises:
    BadReturn: Its shape differs or it is no number; if `thorough`, also if its
      type cannot be converted, or if it is not finite or out of range.
  """
  low, high, shape, dtype = _limits(space)
  try:
    array = np.asarray(value)
  except (TypeError, ValueError):  # A list of lists of several lengths.
    array = np.asarray(None)
  if array.dtype.kind not in 'biuf' or array.shape != shape:
    fault = ''
  elif not thorough:
    return array
  elif not (np.can_cast(array.dtype, dtype, 'same_kind')
            or {array.dtype.kind, dtype.kind} <= {*'biu'}):
    fault = ''
  else:
    fault = _misfit(key, array, low, high)
    if not fault:
      return array
  raise BadReturn(
      f'Observation {key!r}: declared {_words(dtype, shape)} in '
      f'{_span(low, high)}, came {_describe(value, array)}{fault}; {HELP}')


def _misfit(key, array, low, high):
  """Says in words why an array is out of range, '' if it is not."""
  if key.startswith('log_'):  # NaN means 'none' there.
    return ''
  with np.errstate(over='ignore'):
    if not np.isfinite(array.astype(np.float32, copy=False)).all():
      return ', which is not finite in float32'
  width = np.where(np.isfinite(high - low), high - low, 1) * SLACK
  if ((array < low - width) | (array > high + width)).any():
    return f' from {array.min():g} to {array.max():g}'
  return ''


def _limits(space):
  """Returns low, high, shape and dtype of the values of a space."""
  name = kind(space)
  if name == 'Box':
    to_float = lambda x: np.asarray(x, np.float64)
    return (to_float(space.low), to_float(space.high), tuple(space.shape),
            np.dtype(space.dtype))
  if name == 'Discrete':
    start = int(getattr(space, 'start', 0))
    return start, start + int(space.n) - 1, (), np.dtype(int)
  if name == 'MultiDiscrete':
    nvec = np.asarray(space.nvec)
    start = np.asarray(getattr(space, 'start', 0))
    return start, start + nvec - 1, nvec.shape, np.dtype(int)
  return 0, 1, tuple(space.shape), np.dtype(np.int8)


def _words(dtype, shape):
  return f'{dtype.name} {list(shape)}'


def _span(low, high):
  return f'{np.min(low):g}..{np.max(high):g}'


def _describe(value, array):
  if array.dtype.kind in 'biuf':
    return _words(array.dtype, array.shape)
  return _shown(value)


def observation(key, space) -> Codec:
  """Returns the codec of an observation.

  Images get the shape [H, W, C]: height and width are the two neighbouring
  axes of which the smaller is largest; all others become channels. Other
  bounds than 0..255 are mapped to these.

  Raises:
    NotSupported: The space cannot be used.
  """
  name = kind(space)
  picture = is_image(space) and space.dtype == np.uint8
  if key.startswith('log_') and name in NUMBERS and not picture:
    return Codec(key, space, Box(-np.inf, np.inf, space.shape, np.float32),
                 lambda x: x.astype(np.float32))
  if is_image(space):
    return _image(key, space)
  if name == 'Discrete' and space.n <= MOST_CHOICES:
    start = int(getattr(space, 'start', 0))
    eye = np.eye(int(space.n), dtype=np.float32)

    def choose(x):
      if not 0 <= int(x) - start < len(eye):  # -1 would be the last choice.
        raise BadReturn(
            f'Observation {key!r}: declared {space}, came {int(x)}; {HELP}')
      return eye[int(x) - start]

    return Codec(key, space, Box(0, 1, (len(eye),), np.float32), choose)
  if name in NUMBERS and name != 'Discrete' and len(space.shape) < 3:
    shape = space.shape
    low = np.broadcast_to(getattr(space, 'low', -np.inf), shape).ravel()
    high = np.broadcast_to(getattr(space, 'high', np.inf), shape).ravel()
    box = Box(low.astype(np.float32), high.astype(np.float32))
    return Codec(key, space, box, lambda x: x.astype(np.float32).ravel())
  raise NotSupported(
      f'Observation {key!r} has the space {space}, which is not supported; '
      f'supported are Box (images of uint8 or with one finite lowest and one '
      f'highest value, or vectors), Discrete of at most {MOST_CHOICES} '
      f'values, MultiDiscrete, MultiBinary and Dicts of these')


def is_image(space) -> bool:
  """Says whether an observation is an image: many neighbouring pixels.

  These are bytes with two or more axes, and other numbers with three or more,
  or with two long ones, if all have the same finite bounds.
  """
  if kind(space) != 'Box' or len(space.shape) < 2 or 0 in space.shape:
    return False
  long = len(space.shape) > 2 or min(space.shape) >= SIDE
  return space.dtype == np.uint8 or bool(long and _range(space))


def _range(space):
  """Returns the bounds of all pixels, None if there are no such."""
  low, high = _ends(space)
  if space.dtype == bool:
    return 0.0, 1.0
  same = (low == low.flat[0]).all() and (high == high.flat[0]).all()
  low, high = float(low.flat[0]), float(high.flat[0])
  return (low, high) if same and -np.inf < low < high < np.inf else None


def _ends(space):
  """Returns least and greatest values, infinite where there is no bound."""
  low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
  return (np.where(low <= -UNBOUNDED, -np.inf, low),
          np.where(high >= UNBOUNDED, np.inf, high))


def _image(key, space):
  shape = space.shape
  first = max(
      range(len(shape) - 1), key=lambda i: min(shape[i], shape[i + 1]))
  others = [i for i in range(len(shape)) if i not in (first, first + 1)]
  order = (first, first + 1, *others)
  size = (*(shape[i] for i in order[:2]), math.prod(shape[i] for i in others))
  low, high = _range(space) or (0.0, 255.0)

  def convert(x):
    if x.dtype.kind == 'f' and not np.isfinite(x).all():
      raise BadReturn(
          f'Observation {key!r} is an image with a pixel that is not finite, '
          f'such as NaN; replace these in the environment')
    if (low, high) != (0, 255):
      x = (x.astype(np.float64) - low) * (255 / (high - low))
    if x.dtype != np.uint8:
      x = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    return x.transpose(order).reshape(size)

  return Codec(key, space, Box(0, 255, size, np.uint8), convert)


def bounds(key, space, bound=0.0):
  """Returns least and greatest action, finite float32.

  Args:
    key: Name of the action.
    space: Box.
    bound: Largest absolute value of entries that lack a bound; an entry with
      one bound gets a range of the same width there.

  Raises:
    ValueError: An entry lacks a bound, and `bound` is 0.
  """
  low, high = _ends(space)
  if not bound and not (np.isfinite(low) & np.isfinite(high)).all():
    raise ValueError(
        f'Action {key!r} has the space {space}, and the agent needs bounds; '
        f'declare them, or set --action_bound to the largest value to use')
  lows = np.where(np.isfinite(high), high - 2 * bound, -bound)
  highs = np.where(np.isfinite(low), low + 2 * bound, bound)
  return (
      np.where(np.isfinite(low), low, lows).astype(np.float32),
      np.where(np.isfinite(high), high, highs).astype(np.float32))


def choices(space):
  """Returns the numbers of choices in each entry of an action, [] if none."""
  name = kind(space)
  if name in ('Discrete', 'MultiBinary', 'MultiDiscrete') or (
      name == 'Box' and space.dtype.kind in 'iu'):
    low, high, shape, _ = _limits(space)
    counts = np.broadcast_to(high - low + 1.0, shape).ravel()
    if counts.size and np.prod(counts) <= MOST_CHOICES:
      return counts.astype(int).tolist()
  return []


def index(space, value):
  """Returns the number of a joint choice; see `choices`.

  Raises:
    ValueError: The space has no such choice.
  """
  low, _, shape, _ = _limits(space)
  entries = (np.reshape(value, shape) - low).astype(int).ravel()
  counts = choices(space)
  if ((entries < 0) | (entries >= counts)).any():
    raise ValueError(f'{space} has no choice {np.asarray(value).tolist()}')
  return int(np.ravel_multi_index(entries, counts))


def action(key, space):
  """Returns our space for an action's, and the function out of it.

  Several choices at once become one joint choice.

  Raises:
    NotSupported: The space cannot be used.
  """
  counts = choices(space)
  if counts:
    low, _, shape, dtype = _limits(space)
    return gymnasium.spaces.Discrete(math.prod(counts)), lambda x: (
        np.reshape(np.unravel_index(int(x), counts), shape)
        + low).astype(space.dtype or dtype)[()]
  if kind(space) == 'Box' and space.dtype.kind == 'f' and math.prod(
      space.shape):
    low, high = (np.asarray(x, np.float32) for x in (space.low, space.high))
    return Box(low.ravel(), high.ravel()), lambda x: np.clip(
        np.reshape(x, space.shape).astype(space.dtype), space.low, space.high)
  raise NotSupported(
      f'Action {key!r} has the space {space}, which is not supported; '
      f'supported are Box of floats, Discrete, and MultiDiscrete, MultiBinary '
      f'or Box of integers with at most {MOST_CHOICES} joint choices')
