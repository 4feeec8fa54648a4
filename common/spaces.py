"""Spaces of observations and actions, as plain data and as ours."""

import re
import warnings

import gymnasium
import numpy as np

KINDS = (
    'Box', 'Dict', 'Discrete', 'MultiBinary', 'MultiDiscrete', 'Text',
    'Tuple')


def kind(space) -> str:
  """Returns one of KINDS, also for subclasses and spaces of the older gym.

  Other spaces get the name of their class.
  """
  names = [x.__name__ for x in type(space).__mro__]
  return next((x for x in names if x in KINDS), names[0])


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


def to_data(space):
  """Returns a space as plain data that JSON can hold; see `from_data`."""
  name = kind(space)
  data = {'kind': name}
  if name == 'Box':
    data.update(
        shape=list(space.shape), dtype=np.dtype(space.dtype).name,
        low=_bounds(space.low), high=_bounds(space.high))
  elif name == 'Discrete':
    data.update(n=int(space.n), start=int(getattr(space, 'start', 0)))
  elif name == 'MultiDiscrete':
    data.update(nvec=np.asarray(space.nvec).tolist())
  elif name == 'MultiBinary':
    data.update(shape=list(space.shape))
  elif name == 'Dict':
    data.update(spaces={k: to_data(v) for k, v in space.spaces.items()})
  for key in ('discrete', 'sizes'):  # Of encoded actions, see envs.
    if hasattr(space, key):
      data[key] = getattr(space, key)
  return data


def from_data(data) -> gymnasium.Space:
  """Returns the space that `to_data` was given.

  Text becomes a space of any text; what a run cannot use is refused.

  Raises:
    ValueError: The data describe no space.
  """
  try:
    space = _LOADERS[data['kind']](data)
  except (KeyError, TypeError, ValueError, AssertionError) as error:
    raise ValueError(
        f'{str(data)[:80]!r} describes no space: {error!r}') from None
  for key in ('discrete', 'sizes'):
    if key in data:
      setattr(space, key, data[key])
  return space


def _bounds(values):
  """Returns equal bounds as one number, others as a list."""
  values = np.asarray(values)
  if values.size and (values == values.flat[0]).all():
    return values.flat[0].item()
  return values.tolist()


def _box(data):
  shape, dtype = tuple(data['shape']), np.dtype(data['dtype'])
  low, high = (
      np.broadcast_to(np.asarray(data[x], dtype), shape)
      for x in ('low', 'high'))
  return gymnasium.spaces.Box(low, high, shape, dtype)


_LOADERS = {
    'Box': _box,
    'Dict': lambda x: gymnasium.spaces.Dict(
        {k: from_data(v) for k, v in x['spaces'].items()}),
    'Discrete': lambda x: gymnasium.spaces.Discrete(x['n'], start=x['start']),
    'MultiBinary': lambda x: gymnasium.spaces.MultiBinary(
        x['shape'] if len(x['shape']) > 1 else x['shape'][0]),
    'MultiDiscrete': lambda x: gymnasium.spaces.MultiDiscrete(x['nvec']),
    'Text': lambda x: gymnasium.spaces.Text(2 ** 20),
}


def without_text(parts):
  """Returns the spaces without text, and warns about those with text."""
  text = [k for k, v in parts.items() if v.dtype == str]
  if text:
    warnings.warn(
        f'Ignored observations that are text: {", ".join(text)}', stacklevel=5)
  return {k: v for k, v in parts.items() if k not in text}


def observation(key, space):
  """Returns our space for `space` and the function that converts into it."""
  name, Box = kind(space), gymnasium.spaces.Box
  shape = getattr(space, 'shape', None)
  if name == 'Discrete':
    start = int(getattr(space, 'start', 0))
    eye = np.eye(int(space.n), dtype=np.float32)
    return Box(0, 1, (len(eye),), np.float32), lambda x: eye[int(x) - start]
  if name == 'Box' and space.dtype == np.uint8 and len(shape) in (2, 3):
    shape = (*shape, 1)[:3]
    return Box(0, 255, shape, np.uint8), lambda x: np.reshape(x, shape)
  if name in ('Box', 'MultiBinary', 'MultiDiscrete') and len(shape) < 3:
    low = np.broadcast_to(getattr(space, 'low', -np.inf), shape).ravel()
    high = np.broadcast_to(getattr(space, 'high', np.inf), shape).ravel()
    box = Box(low.astype(np.float32), high.astype(np.float32))
    return box, lambda x: np.asarray(x, np.float32).ravel()
  raise ValueError(
      f'Observation {key!r} has the space {space}, which is not supported; '
      f'supported are Box (uint8 images, or vectors of any dtype), Discrete, '
      f'MultiDiscrete, MultiBinary and one Dict of these')


def action(key, space):
  """Returns our space for `space` and the function that converts out of it."""
  name = kind(space)
  if name == 'Discrete':
    start = int(getattr(space, 'start', 0))
    return gymnasium.spaces.Discrete(int(space.n)), lambda x: int(x) + start
  if name == 'Box' and len(space.shape) == 1 and space.dtype.kind == 'f':
    low, high = (np.asarray(x, np.float32) for x in (space.low, space.high))
    return (
        gymnasium.spaces.Box(low, high), lambda x: np.asarray(x, space.dtype))
  raise ValueError(
      f'Action {key!r} has the space {space}, which is not supported; '
      f'supported are Box with one axis of floats, and Discrete')
