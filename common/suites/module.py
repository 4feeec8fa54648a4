"""The user's own code: `--task my_module:make_env`.

The function or class returns an environment of Gymnasium or gym, of dm_control
(a domain's task or a composer environment), or with the interface of
common.envs. It is called in the environment's own process. Of `seed`,
`random`, `size` and `action_repeat` it gets what its signature names, and the
arguments of `--env_args`. From Python, a task may be the function itself.
"""

from .. import envs
from .. import identity
from .. import loading
from .. import own
from .. import wrappers
from ..renderers import distractors
from . import dmc

OPTIONS = {
    'camera': '-1',
    'render': 'full',
    'renderer': 'mujoco',
    'distractors': distractors.OPTIONS,
    'env_args': {},
}


def tasks():
  return []  # Any name is possible.


def validate(task, options):
  if not callable(task):
    loading.find(_split(task)[0])


def limit(task, options):
  return None


def make(task, seed=0, size=(64, 64), action_repeat=1, **options):
  options = {**OPTIONS, **options}
  name, factory = f'--task {task}', task
  if callable(task):
    name = f'The constructor {identity.class_name(task)}'
  else:
    factory = loading.resolve(*_split(task))
  env, repeat = build(
      factory, name, seed, size, action_repeat, options['env_args'])
  ours = hasattr(env, 'obs_space') and hasattr(env, 'act_space')
  draws = ours or hasattr(env, 'observation_space')
  if draws and options['distractors'] != OPTIONS['distractors']:
    raise ValueError(
        f'distractors are {options["distractors"]}, but {name} is no '
        f'environment of dm_control and draws its own images; leave out '
        f'--distractors.*')
  if ours:
    return wrappers.ActionRepeat(env, repeat) if repeat > 1 else env
  if hasattr(env, 'observation_space'):
    return own.convert(env, size, repeat, seed=seed)
  if hasattr(env, 'observation_spec') and hasattr(env, 'physics'):
    chosen = {k: options[k] for k in dmc.OPTIONS}
    return dmc.DMC(env, seed, size, repeat, ends=envs.FLAGS, **chosen)
  raise ValueError(
      f'{name} returned {type(env).__name__}, which is no environment; '
      f'known are those of Gymnasium, gym and dm_control, and the interface '
      f'of dreamingv2.common.envs')


def build(factory, name, seed, size, action_repeat, args):
  """Calls the user's function; see the module's docstring.

  Args:
    factory: Function or class.
    name: What messages call it.
    seed: Seed of the environment.
    size: Height and width of images.
    action_repeat: Steps for which an action is repeated.
    args: Further arguments.

  Returns:
    What it returned, and how often actions are still to be repeated: once if
    the function took `action_repeat`.

  Raises:
    ValueError: It cannot be called with these arguments, or it raised.
  """
  offered = {
      'seed': seed, 'random': seed, 'size': size,
      'action_repeat': action_repeat}
  env, taken = loading.call(factory, name, offered, args)
  return env, 1 if 'action_repeat' in taken else action_repeat


def _split(task):
  name, colon, attribute = task.partition(':')
  if not (name and colon and attribute):
    raise ValueError(
        f'Task {task!r} must be module:function, such as my_module:make_env')
  return name, attribute
