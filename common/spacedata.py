"""Spaces of Gymnasium as plain data, for environment.json and checkpoints."""

import gymnasium
import numpy as np

from . import spaces

Box = gymnasium.spaces.Box


def to_data(space):
  """Returns a space as plain data that JSON can hold; see `from_data`."""
  name = spaces.kind(space)
  data = {'kind': name}
  if name == 'Box':
    data.update(
        shape=list(space.shape), dtype=np.dtype(space.dtype).name,
        low=_bounds(space.low), high=_bounds(space.high))
  elif name == 'Discrete':
    data.update(n=int(space.n), start=int(getattr(space, 'start', 0)))
  elif name == 'MultiDiscrete':
    data.update(
        nvec=np.asarray(space.nvec).tolist(),
        start=np.asarray(getattr(space, 'start', 0)).tolist())
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
  return Box(low, high, shape, dtype)


_LOADERS = {
    'Box': _box,
    'Dict': lambda x: gymnasium.spaces.Dict(
        {k: from_data(v) for k, v in x['spaces'].items()}),
    'Discrete': lambda x: gymnasium.spaces.Discrete(x['n'], start=x['start']),
    'MultiBinary': lambda x: gymnasium.spaces.MultiBinary(
        x['shape'] if len(x['shape']) > 1 else x['shape'][0]),
    'MultiDiscrete': lambda x: gymnasium.spaces.MultiDiscrete(
        x['nvec'], start=np.broadcast_to(
            x.get('start', 0), np.shape(x['nvec']))),
    'Text': lambda x: gymnasium.spaces.Text(2 ** 20),
}
