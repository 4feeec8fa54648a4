"""Suites: one file per simulator, imported when one of its tasks is made.

A suite module has `OPTIONS` (its config keys and their defaults, and
'renderer' and 'distractors', which all suites that draw MuJoCo models share),
`tasks()` (the names it offers), `make(task, seed, size, action_repeat,
**options)`, `validate(task, options)` and `limit(task, options)` (the largest
return of a whole episode, None if unknown). If an environment has a camera,
its method `images()` draws the current state again.

A package can bring a suite: a module with this interface, under the entry
point group `dreamingv2.suites`.

`constructor` is the one way from a config to an environment; `start` runs
several, each in a process of its own.
"""

import functools
import importlib
import importlib.metadata
import typing
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from .. import envs
from .. import own
from .. import renderers
from .. import truth as truths
from ..config import Config
from ..config import check_known
from ..config import read_mapping
from ..renderers import distractors as distractorlib

SUITES = {
    'atari': '.atari',
    'dmc': '.dmc',
    'gym': '.gym',
    'module': '.module',
    'robosuite': '.robosuite',
    'toy': '.toy',
    'ur5': '.ur5',
}
GROUP = 'dreamingv2.suites'  # Entry points of suites in other packages.


def known() -> dict[str, Callable]:
  """Returns {name: function that imports the suite's module}.

  A name of this package cannot be taken by another one.
  """
  others = {
      x.name: x.load for x in importlib.metadata.entry_points(group=GROUP)}
  ours = {
      k: functools.partial(importlib.import_module, v, __package__)
      for k, v in SUITES.items()}
  return {**others, **ours}


def parse(suite: str, task: str) -> tuple[str, str]:
  """Splits a task name such as `dmc_walker_walk`, as DreamerV2 does.

  A prefix that is a suite overrides `suite`, which may be empty. A name such
  as `my_module:make_env` is the user's own code.

  Returns:
    The suite and the task without its prefix.

  Raises:
    ValueError: `suite` is unknown, or neither argument names a suite.
  """
  names = known()
  if suite:
    check_known('suite', suite, names)
  prefix, _, rest = task.partition('_')
  # Their tasks may have a colon.
  others = {*names} - {*SUITES} | {'gym'}
  if ':' in task and (suite == 'module' or prefix not in others):
    return 'module', task
  if rest and prefix in names:
    return prefix, rest
  if suite:
    return suite, task
  raise ValueError(
      f'Task {task!r} is none of the paper\'s (dreamingv2 train --list) and '
      f'does not begin with a suite; use SUITE_TASK, MODULE:FUNCTION, or set '
      f'--suite to one of: {", ".join(sorted(names))}')


def check(config: Config) -> tuple[str, str]:
  """Checks that a config names a task and options that exist.

  No simulator is started. A run from stored episodes alone may have a task of
  its own, `data_NAME`, which no environment can be made for.

  Returns:
    The suite, and the task without the suite's prefix.

  Raises:
    ValueError: A suite, task, option or value of an option is unknown.
    ImportError: The simulator is not installed.
  """
  if config['offline'] and config['task'].startswith('data_'):
    return tuple(config['task'].split('_', 1))
  suite, task = parse(config['suite'], config['task'])
  validate(suite, task, options(suite, config))
  return suite, task


def constructor(
    config: Config, factory: Callable | None = None,
) -> tuple[Callable, dict[str, str | None]]:
  """Prepares making the environments of a config, in any process.

  Prints one line that says which device renders.

  Args:
    config: Config of the run.
    factory: User's function or class that makes the environment, instead of
      the task in the config.

  Returns:
    Function that makes an environment and can be sent to another process; its
    keywords are those of `make`, such as seed and size. Also the environment
    variables that this process needs; None removes a variable.

  Raises:
    RuntimeError: This machine cannot render.
    ValueError, ImportError: See `check`.
  """
  suite, task = ('module', factory) if factory else check(config)
  chosen = options(suite, config)
  try:
    environ = prepare(suite, **chosen)
  except RuntimeError:
    if not factory:  # It may need no images.
      raise
    environ = {}
  return functools.partial(
      make, suite, task, size=config['render_size'],
      action_repeat=config['action_repeat'], time_limit=config['time_limit'],
      action_bound=config['action_bound'], truth=config['probe'],
      reader=config if factory or has_foreign_code(config) else None,
      **chosen), environ


def start(
    config: Config, seeds: Iterable[int],
    factory: Callable | None = None) -> list[envs.Async]:
  """Starts environments, each in a process of its own.

  Args:
    config: Config of the run.
    seeds: One seed for each environment.
    factory: See `constructor`.

  Returns:
    List of envs.Async.

  Raises:
    RuntimeError, ValueError, ImportError: See `constructor`.
  """
  make_env, environ = constructor(config, factory)
  seeds = list(seeds)
  made = [
      envs.Async(
          functools.partial(make_env, seed=seed), environ=environ,
          restarts=config['env_restarts'], timeout=config['env_timeout'])
      for seed in seeds]
  if factory or has_foreign_code(config):
    try:
      # Raises what the user's code does wrong.
      for env, seed in zip(made, seeds, strict=True):
        own.try_out(env, seed)
    except BaseException:
      for env in made:
        env.close()
      raise
  return made


def has_foreign_code(config: Config) -> bool:
  """Says whether the environments run code that is not part of a simulator."""
  suite, _ = parse(config['suite'], config['task'])
  return suite not in SUITES or suite in ('gym', 'module') or bool(
      suite in config and dict(config[suite]).get('import'))


def options(suite: str, config: Config) -> dict[str, typing.Any]:
  """Returns the options of `suite` that a config holds.

  Shared options are left out at their defaults, which all suites support.
  """
  result = dict(config[suite]) if suite in config else {}
  args = parse_args(config['env_args'])
  if args and suite in SUITES:
    result['env_args'] = args
  elif args:  # The options of another package have no keys of their own.
    result.update(args)
  if config['renderer'] != 'mujoco':
    result['renderer'] = config['renderer']
  distractors = dict(config['distractors'])
  if distractors != distractorlib.OPTIONS:
    result['distractors'] = distractors
  return result


def parse_args(text: str) -> dict[str, typing.Any]:
  """Returns what the key env_args says, such as `{lap: 3, wind: False}`.

  Raises:
    ValueError: It is no mapping in YAML.
  """
  try:
    args = read_mapping(text) if text.strip() else {}
  except ValueError as error:
    raise ValueError(
        f"env_args is {text!r}, but must be YAML such as '{{name: value}}' "
        f'({error}); set --env_args') from None
  return args


def validate(suite: str, task: str, options: dict) -> None:
  """Checks the names of a task and of its options without a simulator.

  Raises:
    ValueError: A suite, task, option or value of an option is unknown.
    ImportError: The simulator is not installed.
  """
  module = _module(suite)
  if 'env_args' in options and 'env_args' not in module.OPTIONS:
    raise ValueError(
        f'Suite {suite} takes no --env_args; leave it out, and use the keys '
        f'that begin with {suite}.')
  for key in options:
    check_known(f'option of suite {suite}', key, module.OPTIONS)
  distractorlib.validate(
      options.get('distractors', distractorlib.OPTIONS))
  options = {**module.OPTIONS, **options}
  if 'renderer' in options:
    renderers.validate(
        options['renderer'], f'{suite}.render', options['render'],
        options['distractors'])
  module.validate(task, options)


def prepare(suite: str, **options) -> dict[str, str | None]:
  """Returns the environment variables for the processes of `suite`.

  Prints one line that says which device renders.

  Raises:
    RuntimeError: This machine cannot render.
  """
  options = {**_module(suite).OPTIONS, **options}
  return (
      renderers.prepare(options['renderer']) if 'renderer' in options else {})


def make(
    suite: str, task: str, seed: int = 0, size: Sequence[int] = (64, 64),
    action_repeat: int = 1, time_limit: int = 0, action_bound: float = 0.0,
    truth: bool = False, reader: Config | None = None, **options):
  """Makes an environment that is ready for the driver.

  Args:
    size: Height and width of the image in pixels.
    action_repeat: Simulator steps per agent step; their rewards add up.
    time_limit: Agent steps after which an episode is cut; 0 leaves that to the
      simulator.
    action_bound: See envs.ready.
    truth: Add the simulator's state to observations, see truth.Telling.
    reader: Config; observations that nothing in it reads are left out, see
      own.leave_out.
    options: Config keys of the suite's block.

  Raises:
    ValueError: See `validate`.
  """
  validate(suite, task, options)
  env = _module(suite).make(
      task, seed=seed, size=tuple(size), action_repeat=action_repeat,
      **options)
  if not isinstance(env, envs.CheckAction):
    env = envs.ready(env, time_limit, action_bound)
  elif time_limit:  # The user's function made it ready.
    env = envs.TimeLimit(env, time_limit)
  if reader:
    env = own.leave_out(env, reader)
  return truths.Telling(env) if truth else env


def limit(suite: str, task: str, **options) -> float | None:
  """Returns the largest return of a whole episode, None if unknown.

  Args:
    suite: Name of a suite.
    task: Name without the suite's prefix.
    options: Options of the suite that are not at their defaults.
  """
  module = _module(suite)
  return module.limit(task, {**module.OPTIONS, **options})


def _module(suite):
  names = known()
  check_known('suite', suite, names)
  return names[suite]()
