"""Reads demonstrations from files of robosuite, robomimic and Minari."""

import dataclasses
import functools
import io
import json
import math
import re

import gymnasium
import numpy as np

from ..common import spaces
from ..common.config import check_known


@dataclasses.dataclass
class Demo:
  """Holds one recorded episode of T steps.

  Attributes:
    name: Where it comes from, for messages.
    actions: Actions, [T, ...].
    obs: Observations, an array or a dict of arrays [T + 1, ...], or [T, ...]
      where the last one was not recorded; None without any.
    rewards: Rewards, [T], or None.
    terminal: Whether the episode ended for good.
    spaces: Spaces of observations and actions, if the data have them.
    model: XML of robosuite's model, or ''.
    states: Flattened states of its simulator before each action, or None.
    task: Name of robosuite's environment, or ''.
    controllers: Types of the controllers of each robot's arms, if known.
  """

  name: str
  actions: np.ndarray
  obs: object = None
  rewards: np.ndarray | None = None
  terminal: bool = False
  spaces: tuple | None = None
  model: str = ''
  states: np.ndarray | None = None
  task: str = ''
  controllers: tuple = ()


def read(path):
  """Returns an iterator over the demonstrations at a path.

  Raises:
    ImportError: h5py is not installed.
    ValueError: There is nothing that can be read.
  """
  if not path.exists():
    raise ValueError(f'--data {path} does not exist')
  if path.is_dir():
    return read_minari(path)
  return read_robosuite(path)


def open_hdf5(path):
  """Opens an HDF5 file for reading."""
  try:
    import h5py
  except ImportError:
    raise ImportError(
        "h5py is not installed; run pip install 'dreamingv2[data]'") from None
  try:
    return h5py.File(path, 'r')
  except OSError as error:
    raise ValueError(f'{path} is not an HDF5 file: {error}') from None


def read_robosuite(path):
  """Yields the demonstrations in a file of robosuite or robomimic.

  Raises:
    ValueError: A group or dataset is missing; the message names it.
  """
  with open_hdf5(path) as file:
    data = _get(path, file, 'data', True)
    names = sorted(
        (x for x in data if x.startswith('demo')),
        key=lambda x: int(re.sub(r'\D', '', x) or 0))
    if not names:
      raise ValueError(f"{path} has no group 'data/demo_1' or similar")
    task, controllers = _describe(data.attrs)
    for name in names:
      group = _get(path, data, name, True)
      has_states = 'states' in group and 'model_file' in group.attrs
      yield Demo(
          f'{path}: {name}', _get(path, group, 'actions'),
          _observations(path, group),
          _get(path, group, 'rewards') if 'rewards' in group else None,
          False, None, str(group.attrs['model_file']) if has_states else '',
          _get(path, group, 'states') if has_states else None, task,
          controllers)


def read_minari(folder):
  """Yields the episodes of a Minari dataset that is stored as HDF5.

  Raises:
    ValueError: A file or an entry is missing; the message names it.
  """
  inner = folder / 'data'
  folder = inner if inner.is_dir() else folder
  meta = folder / 'metadata.json'
  if not meta.exists():
    raise ValueError(
        f'{folder} is no Minari dataset: it has no metadata.json')
  try:
    meta = dict(json.loads(meta.read_text()))
    if meta.get('data_format', 'hdf5') != 'hdf5':
      raise ValueError(
          f'it is stored as {meta["data_format"]}; only hdf5 is read')
    observed, action = (
        _to_space(json.loads(meta[x]))
        for x in ('observation_space', 'action_space'))
  except KeyError as error:
    raise ValueError(f'{folder}/metadata.json has no {error}') from None
  except (AssertionError, TypeError, ValueError) as error:
    raise ValueError(
        f'{folder}/metadata.json cannot be read: {error}') from None
  names = observed
  if isinstance(observed, gymnasium.spaces.Dict):
    names = gymnasium.spaces.Dict({
        k: v for k, (_, v) in spaces.leaves(observed).items()})
  path, jpeg = folder / 'main_data.hdf5', meta.get('jpeg_encoding', True)
  with open_hdf5(path) as file:
    for index in range(len(file)):
      group = _get(path, file, f'episode_{index}', True)
      ends = _get(path, group, 'terminations')
      yield Demo(
          f'{path}: episode_{index}', _get(path, group, 'actions'),
          _decode(path, group, 'observations', observed, jpeg),
          _get(path, group, 'rewards'), bool(ends[-1:].any()),
          (names, action))


def whole(demos):
  """Yields the demonstrations with a step, after checking them.

  Raises:
    ValueError: Actions or rewards are no finite numbers, or something has
      another number of rows than there are actions.
  """
  for demo in demos:
    lists = {'actions': demo.actions, 'rewards': demo.rewards}
    for key, values in lists.items():
      if values is not None and not (
          values.ndim and values.dtype.kind in 'biuf'
          and np.isfinite(values).all()):
        raise ValueError(f'{demo.name}: its {key} are no finite numbers')
    steps = len(demo.actions)
    obs = demo.obs if isinstance(demo.obs, dict) else {'': demo.obs}
    lists.update({f'observations {k}'.strip(): v for k, v in obs.items()})
    for key, values in {**lists, 'states': demo.states}.items():
      more = key.startswith('observations')  # The one after the last action.
      if values is not None and not (
          values.ndim and steps <= len(values) <= steps + more):
        raise ValueError(
            f'{demo.name}: its {key} have the shape {values.shape}, but there '
            f'are {steps} actions')
    if steps:
      yield demo


class Tape(gymnasium.Env):
  """Plays a demonstration as an environment of Gymnasium.

  Args:
    demo: Demo with observations.
    names: {key of an observation: key to call it instead}.
  """

  def __init__(self, demo, names=()):
    self._obs, self._names = demo.obs, dict(names)
    self._rewards = demo.rewards
    if self._rewards is None:
      self._rewards = np.zeros(len(demo.actions))
    self._terminal, self._step = demo.terminal, 0
    self._length = len(demo.actions)
    if demo.spaces:
      self.observation_space, self.action_space = demo.spaces
    else:
      self.observation_space = gymnasium.spaces.Dict({
          self._names.get(k, k): _guess_space(v)
          for k, v in demo.obs.items()})
      self.action_space = gymnasium.spaces.Box(
          -1, 1, demo.actions.shape[1:], np.float32)

  def reset(self, *, seed=None, options=None):
    self._step = 0
    return self._at(0), {}

  def step(self, action):
    self._step += 1
    last = self._step >= self._length
    return (
        self._at(self._step), float(self._rewards[self._step - 1]),
        last and self._terminal, last and not self._terminal, {})

  def _at(self, index):
    if isinstance(self._obs, dict):
      return {
          self._names.get(k, k): v[min(index, len(v) - 1)]
          for k, v in self._obs.items()}
    return self._obs[min(index, len(self._obs) - 1)]


def encode(space, actions, bound=0.0):
  """Returns the agent's action for recorded ones of the same agent step.

  Continuous actions are averaged.

  Args:
    space: Space of the recorded actions.
    actions: Array [repeat, ...].
    bound: See spaces.bounds.

  Raises:
    ValueError: Discrete actions differ, or continuous ones leave the space.
  """
  counts = spaces.choices(space)
  if counts:
    if (actions != actions[0]).any():
      raise ValueError(
          f'Discrete actions {actions.tolist()} cannot be one agent step; '
          f'set --action_repeat 1')
    return np.eye(math.prod(counts), dtype=np.float32)[
        spaces.index(space, actions[0])]
  low, high = spaces.bounds('action', space, bound)
  half = (high - low) / 2  # It is 0 where only one value is allowed.
  value = (np.mean(actions, 0) - low - half) / np.where(half, half, 1)
  if (abs(value) > 1.001).any():
    raise ValueError(
        f'An action {np.mean(actions, 0)} lies outside of {low}..{high}')
  return np.clip(value, -1, 1).astype(np.float32).ravel()


def check_same(demo, known):
  """Checks that an environment is the one that a demonstration is of.

  Args:
    demo: Demo.
    known: What Robosuite.describe returned.

  Raises:
    ValueError: It is another one, or the states are missing.
  """
  if demo.states is None:
    raise ValueError(
        f"{demo.name} has no 'states' with a 'model_file', so that it cannot "
        f'be drawn; leave --task out to take stored observations')
  if demo.task and demo.task != known['env_name']:
    check_known('task of the data', known['env_name'], [demo.task])
  if demo.controllers and demo.controllers != known['controllers']:
    raise ValueError(
        f'{demo.name} was recorded with {_words(demo.controllers)}, but the '
        f'run has {_words(known["controllers"])}; set --robosuite.controller')
  for key, values in (('action', demo.actions), ('state', demo.states)):
    if values.ndim != 2 or values.shape[1] != known[key]:
      raise ValueError(
          f'{demo.name} has {key}s of {values.shape[1:]} entries, but the run '
          f'has {known[key]}; set --robosuite.robots and '
          f'--robosuite.controller as they were')


def _describe(attrs):
  """Returns task and controllers that the attributes of a file state."""
  try:
    info = dict(json.loads(
        attrs.get('env_args') or attrs.get('env_info') or '{}'))
  except (TypeError, ValueError):
    info = {}
  task = info.get('env_name') or str(attrs.get('env', ''))
  try:
    configs = {**info, **(info.get('env_kwargs') or {})}.get(
        'controller_configs')
    configs = configs if isinstance(configs, list) else [configs]
    kinds = tuple(_arms(x) for x in configs if x)
  except (AttributeError, KeyError, TypeError):  # Of a form that we know not.
    kinds = ()
  return task, kinds if all(kinds) else ()


def _arms(config):
  """Returns {arm: type of its controller}, {} if that is not stated."""
  parts = config.get('body_parts', {})
  parts = {**parts, **parts.get('arms', {})}
  return {
      k: v['type'] for k, v in parts.items() if k in ('left', 'right')}


def _words(controllers):
  return ' and '.join(
      '/'.join(sorted(set(x.values()))) for x in controllers)


def _get(path, group, key, is_group=False):
  """Returns the array of a dataset, or a group."""
  if key not in group:
    raise ValueError(f'{path}: {group.name} has no {key!r}')
  found, kinds = group[key], ('dataset', 'group')
  if hasattr(found, 'keys') != is_group:
    raise ValueError(
        f'{path}: {found.name} must be a {kinds[is_group]}, but is a '
        f'{kinds[not is_group]}')
  return found if is_group else found[()]


def _observations(path, group):
  """Returns arrays [T + 1, ...] if the last observation was recorded."""
  if 'obs' not in group:
    return None
  obs, after = _get(path, group, 'obs', True), group.get('next_obs', {})
  obs = {k: _get(path, obs, k) for k in obs}
  return {
      k: np.concatenate([v, after[k][-1:]]) if k in after else v
      for k, v in obs.items()}


def _guess_space(values):
  if values.dtype.kind not in 'biuf':
    return gymnasium.spaces.Text(2 ** 20)
  if values.dtype == np.uint8 and values.ndim == 4:
    return gymnasium.spaces.Box(0, 255, values.shape[1:], np.uint8)
  return gymnasium.spaces.Box(-np.inf, np.inf, values.shape[1:], np.float32)


def _to_space(data):
  """Returns the space that Minari wrote as JSON."""
  theirs, kind = gymnasium.spaces, data['type']
  if kind == 'Dict':
    return theirs.Dict({
        k: _to_space(v) for k, v in data['subspaces'].items()})
  if kind == 'Box':
    dtype = np.dtype(data['dtype'])
    low, high = (np.array(data[x], dtype) for x in ('low', 'high'))
    return theirs.Box(low, high, tuple(data['shape']), dtype)
  makers = {
      'Discrete': lambda: theirs.Discrete(data['n'], start=data['start']),
      'MultiDiscrete': lambda: theirs.MultiDiscrete(data['nvec']),
      'MultiBinary': lambda: theirs.MultiBinary(data['n']),
      'Text': lambda: theirs.Text(data['max_length'])}
  check_known('space of Minari', kind, ['Box', 'Dict', *makers])
  return makers[kind]()


def _decode(path, group, key, space, jpeg):
  """Returns observations as arrays; Minari may store images as JPEG.

  Those of a Dict have names as in `spaces.leaves`; the parts that a run cannot
  observe are left out.
  """
  if isinstance(space, gymnasium.spaces.Dict):
    inner = _get(path, group, key, True)
    enter = lambda group, key: _get(path, group, key, True)
    return {
        name: _decode(
            path, functools.reduce(enter, way[:-1], inner), way[-1], x, jpeg)
        for name, (way, x) in spaces.leaves(space).items()
        if spaces.kind(x) in spaces.NUMBERS}
  values = _get(path, group, key)
  if jpeg and space.dtype == np.uint8 and values.shape[1:] != space.shape:
    from PIL import Image
    values = np.stack([
        np.asarray(Image.open(io.BytesIO(x.tobytes()))) for x in values])
  return values
