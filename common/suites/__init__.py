"""Suites: one file per simulator, imported when one of its tasks is made.

A suite module has `OPTIONS` (its config keys and their defaults, and
'renderer' and 'distractors', which all suites that draw MuJoCo models share),
`tasks()` (the names it offers), `make(task, seed, size, action_repeat,
**options)`, `validate(task, options)` and `limit(task, options)` (the largest
return of a whole episode, None if unknown). If an environment has a camera,
its method `images()` draws the current state again.

`start` is the one way from a config to running environments.
"""

import functools
import importlib
import typing
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence

from .. import envs
from .. import renderers
from ..config import Config
from ..config import check_known
from ..renderers import distractors as distractorlib

SUITES = {
    'dmc': '.dmc',
    'robosuite': '.robosuite',
    'toy': '.toy',
    'ur5': '.ur5',
}


def parse(suite: str, task: str) -> tuple[str, str]:
  """Splits a task name such as `dmc_walker_walk`, as DreamerV2 does.

  A prefix that is a suite overrides `suite`, which may be empty.

  Returns:
    The suite and the task without its prefix.

  Raises:
    ValueError: `suite` is unknown, or neither argument names a suite.
  """
  if suite:
    check_known('suite', suite, SUITES)
  prefix, _, rest = task.partition('_')
  if rest and prefix in SUITES:
    return prefix, rest
  if suite:
    return suite, task
  raise ValueError(
      f'Task {task!r} does not begin with a suite; use SUITE_TASK or set '
      f'--suite to one of: {", ".join(SUITES)}')


def check(config: Config) -> tuple[str, str]:
  """Checks that a config names a task and options that exist.

  No simulator is started.

  Returns:
    The suite, and the task without the suite's prefix.

  Raises:
    ValueError: A suite, task, option or value of an option is unknown.
    ImportError: The simulator is not installed.
  """
  suite, task = parse(config['suite'], config['task'])
  validate(suite, task, options(suite, config))
  return suite, task


def constructor(config: Config) -> tuple[Callable, dict[str, str | None]]:
  """Prepares making the environments of a config, in any process.

  Prints one line that says which device renders.

  Returns:
    Function that makes an environment and can be sent to another process; its
    keywords are those of `make`, such as seed and size. Also the environment
    variables that this process needs; None removes a variable.

  Raises:
    RuntimeError: This machine cannot render.
    ValueError, ImportError: See `check`.
  """
  suite, task = check(config)
  chosen = options(suite, config)
  environ = prepare(suite, **chosen)
  return functools.partial(
      make, suite, task, size=config['render_size'],
      action_repeat=config['action_repeat'], time_limit=config['time_limit'],
      **chosen), environ


def start(config: Config, seeds: Iterable[int]) -> list[envs.Async]:
  """Starts environments, each in a process of its own.

  Args:
    config: Config of the run.
    seeds: One seed for each environment.

  Returns:
    List of envs.Async.

  Raises:
    RuntimeError, ValueError, ImportError: See `constructor`.
  """
  make_env, environ = constructor(config)
  return [
      envs.Async(
          functools.partial(make_env, seed=seed), environ=environ,
          restarts=config['env_restarts'], timeout=config['env_timeout'])
      for seed in seeds]


def options(suite: str, config: Config) -> dict[str, typing.Any]:
  """Returns the options of `suite` that a config holds.

  Shared options are left out at their defaults, which all suites support.
  """
  result = dict(config[suite]) if suite in config else {}
  if config['renderer'] != 'mujoco':
    result['renderer'] = config['renderer']
  distractors = dict(config['distractors'])
  if distractors != distractorlib.OPTIONS:
    result['distractors'] = distractors
  return result


def validate(suite: str, task: str, options: dict) -> None:
  """Checks the names of a task and of its options without a simulator.

  Raises:
    ValueError: A suite, task, option or value of an option is unknown.
    ImportError: The simulator is not installed.
  """
  module = _module(suite)
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
    action_repeat: int = 1, time_limit: int = 0, **options):
  """Makes an environment that is ready for the driver.

  Args:
    size: Height and width of the image in pixels.
    action_repeat: Simulator steps per agent step; their rewards add up.
    time_limit: Agent steps after which an episode is cut; 0 leaves that to the
      simulator.
    options: Config keys of the suite's block.

  Raises:
    ValueError: See `validate`.
  """
  validate(suite, task, options)
  if action_repeat < 1:
    raise ValueError(f'action_repeat is {action_repeat}; it must be >= 1')
  env = _module(suite).make(
      task, seed=seed, size=tuple(size), action_repeat=action_repeat,
      **options)
  return envs.ready(env, time_limit)


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
  check_known('suite', suite, SUITES)
  return importlib.import_module(SUITES[suite], __package__)
