"""Suites: one file per simulator, imported when one of its tasks is made.

A suite module has `OPTIONS` (its config keys and their defaults, and those
that all suites share which draw MuJoCo models: 'renderer', 'distractors'),
`tasks()` (the names it offers), `make(task, seed, size, action_repeat,
**options)` and `validate(task, options)`. What `make` returns draws anew with
`images()` where it has a camera.
"""

import importlib

from .. import envs
from .. import renderers
from ..config import known
from ..renderers import distractors as distractorlib

SUITES = {
    'dmc': '.dmc',
    'robosuite': '.robosuite',
    'toy': '.toy',
    'ur5': '.ur5',
}


def parse(suite, task):
  """Splits a task name in DreamerV2's manner: `dmc_walker_walk`.

  A prefix that names a suite wins over `suite`, which may be empty.

  Returns:
    The suite and the task without its prefix.

  Raises:
    ValueError: neither says a known suite.
  """
  prefix, _, rest = task.partition('_')
  if rest and prefix in SUITES:
    return prefix, rest
  if suite:
    known('suite', suite, SUITES)
    return suite, task
  raise ValueError(
      f'Task {task!r} does not begin with a suite; use SUITE_TASK or set '
      f'--suite to one of: {", ".join(SUITES)}.')


def options(suite, config):
  """Returns the options of `suite` that a config holds.

  The shared ones are left out at their defaults, which all suites can do.
  """
  found = dict(config[suite]) if suite in config else {}
  if config['renderer'] != 'mujoco':
    found['renderer'] = config['renderer']
  distractors = dict(config['distractors'])
  if distractors != distractorlib.OPTIONS:
    found['distractors'] = distractors
  return found


def validate(suite, task, options):
  """Checks the names of a task and of its options without a simulator.

  Raises:
    ValueError: an unknown suite, task, option or value of an option.
    ImportError: the simulator is not installed.
  """
  module = _module(suite)
  for key in options:
    known(f'option of suite {suite}', key, module.OPTIONS)
  distractorlib.validate(
      options.get('distractors', distractorlib.OPTIONS))
  options = {**module.OPTIONS, **options}
  if 'renderer' in options:
    renderers.validate(
        options['renderer'], f'{suite}.render', options['render'],
        options['distractors'])
  module.validate(task, options)


def prepare(suite, **options):
  """Returns the environment variables for the processes of `suite`.

  Prints one line that says what renders.

  Raises:
    RuntimeError: this machine cannot render.
  """
  options = {**_module(suite).OPTIONS, **options}
  return (
      renderers.prepare(options['renderer']) if 'renderer' in options else {})


def make(
    suite, task, seed=0, size=(64, 64), action_repeat=1, time_limit=0,
    **options):
  """Makes an environment that is ready for the driver.

  Args:
    size: height and width of the image in pixels.
    action_repeat: simulator steps per agent step; their rewards add up.
    time_limit: agent steps after which an episode is cut; 0 leaves that to
      the simulator.
    options: config keys of the suite's block.

  Raises:
    ValueError: see `validate`.
  """
  validate(suite, task, options)
  if action_repeat < 1:
    raise ValueError(f'action_repeat is {action_repeat}; it must be >= 1.')
  env = _module(suite).make(
      task, seed=seed, size=tuple(size), action_repeat=action_repeat,
      **options)
  return envs.ready(env, time_limit)


def _module(suite):
  known('suite', suite, SUITES)
  return importlib.import_module(SUITES[suite], __package__)
