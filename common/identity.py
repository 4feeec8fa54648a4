"""What an environment is: its name, its class, its spaces, how to make it.

A task of a suite is SUITE_TASK. Any other environment has the name
`gym_ID` if it is registered with Gymnasium, else `module:Class`. Every run
writes what its environment is to environment.json, so that it can be
evaluated, restored and tabled under its own name.
"""

import functools
import json
import os
import pathlib

import gymnasium

from . import files
from . import spacedata

FILE = 'environment.json'
FILE_BYTES = 2 ** 24
PREFIX = 'gym_'


def innermost(env):
  """Returns an environment without its wrappers."""
  while _is_environment(getattr(env, '__dict__', {}).get('env')):
    env = env.env
  return env


def _is_environment(thing):
  return hasattr(thing, 'observation_space') or hasattr(thing, 'obs_space')


def class_name(thing) -> str:
  """Returns `module:name` of a class or a function, also of a partial one."""
  while isinstance(thing, functools.partial):
    thing = thing.func
  thing = thing if hasattr(thing, '__qualname__') else type(thing)
  name = thing.__qualname__.replace('<locals>.', '')
  return f'{thing.__module__}:{name}'


def of(env) -> dict:
  """Returns what `describe` says of an environment below its wrappers."""
  known = getattr(env, 'identity', None)
  return known if isinstance(known, dict) else describe(env)


def describe(env) -> dict:
  """Describes an environment of Gymnasium or gym, or one with our interface.

  Returns:
    Dict: 'task', its name; 'class'; 'make', from which `settings` follow, ''
    if only Python can, with 'arguments' and 'imports'; 'observations' and
    'action', its spaces before any conversion; 'left_out', {key: reason} of
    observations that the agent does not get.
  """
  spec = getattr(env, 'spec', None)
  known = class_name(type(innermost(env)))
  name = getattr(spec, 'id', None)
  if hasattr(env, 'obs_space'):
    observed, action = gymnasium.spaces.Dict(env.obs_space), env.act_space[
        'action']
  else:
    observed, action = env.observation_space, env.action_space
  return {
      'task': f'{PREFIX}{name}' if name else known, 'class': known,
      **_recipe(env, spec), 'left_out': {},
      'observations': spacedata.to_data(observed),
      'action': spacedata.to_data(action)}


def _recipe(env, spec):
  """Returns how Gymnasium made an environment, if it can do so again."""
  nothing = {'make': '', 'arguments': {}, 'imports': ''}
  if not isinstance(env, gymnasium.Env) or not isinstance(
      getattr(spec, 'entry_point', None), str) or spec.additional_wrappers:
    return nothing
  usual = gymnasium.registry.get(spec.id)
  arguments = dict(spec.kwargs)
  if usual:
    arguments = {
        k: v for k, v in arguments.items()
        if k not in usual.kwargs or usual.kwargs[k] is not v}
  if not usual or spec.max_episode_steps != usual.max_episode_steps:
    arguments['max_episode_steps'] = spec.max_episode_steps
  if not _is_plain(arguments):
    return nothing
  package = spec.entry_point.partition(':')[0].partition('.')[0]
  return {
      'make': f'{PREFIX}{spec.id}', 'arguments': arguments,
      'imports': '' if package == 'gymnasium' else package}


def recipe(constructor) -> dict:
  """Returns how a function or class can be called again, if it has a name.

  What Gymnasium makes has a better one, see `describe`.
  """
  arguments = {}
  if isinstance(constructor, functools.partial) and not constructor.args:
    constructor, arguments = constructor.func, constructor.keywords
  module = getattr(constructor, '__module__', None) or '__main__'
  name = getattr(constructor, '__qualname__', '<')
  able = module != '__main__' and '<' not in name and _is_plain(
      arguments) and constructor is not gymnasium.make
  return {
      'make': f'{module}:{name}' if able else '', 'imports': '',
      'arguments': arguments if able else {}}


def _is_plain(value):
  try:
    return json.loads(json.dumps(value)) == value
  except (RecursionError, TypeError, ValueError):
    return False


def settings(made: dict) -> dict:
  """Returns the config keys that select the environment that 'make' names."""
  name = made['make']
  # The module of the user's own function may begin like this, too.
  suite = 'gym' if name.startswith(PREFIX) and ':' not in name else 'module'
  if suite == 'gym':
    name = PREFIX + ':'.join(
        x for x in (made['imports'], name.removeprefix(PREFIX)) if x)
  args = json.dumps(made['arguments']) if made['arguments'] else ''
  return {'suite': suite, 'task': name, 'env_args': args}


def write(folder, made: dict, obs_space: dict, act_space: dict) -> None:
  """Writes what the environment of a run is.

  Args:
    folder: The run's folder.
    made: See `describe`, with the key 'source': 'api' or 'suite'.
    obs_space, act_space: Spaces that the agent sees.
  """
  data = {**made, 'agent': {
      'observations': {k: spacedata.to_data(v) for k, v in obs_space.items()},
      'action': spacedata.to_data(act_space['action'])}}
  files.write_text(
      pathlib.Path(folder) / FILE, json.dumps(data, indent=1) + '\n')


def read(folder) -> dict:
  """Returns what `write` wrote, or {} for a run of an older version.

  Raises:
    OSError, ValueError: The file cannot be read.
  """
  path = pathlib.Path(folder) / FILE
  if not os.path.lexists(path):
    return {}
  try:
    data = json.loads(files.read_bytes(path, FILE_BYTES, folder))
    missing = {
        'source', 'task', 'class', 'make', 'arguments', 'imports',
        'observations', 'action', 'agent'} - data.keys()
  except (AttributeError, RecursionError, ValueError) as error:
    raise ValueError(f'{path} is damaged: {error}') from None
  if missing:
    raise ValueError(f'{path} lacks {", ".join(sorted(missing))}')
  return data


def agent_spaces(data: dict) -> tuple[dict, dict]:
  """Returns the spaces of what `read` returned, as the agent sees them.

  Raises:
    ValueError: The data describe no spaces.
  """
  agent = data['agent']
  return (
      {k: spacedata.from_data(v) for k, v in agent['observations'].items()},
      {'action': spacedata.from_data(agent['action'])})
