"""Measures what world models know of the simulator's state.

dreamingv2 features --tasks Lift --methods dreamerv2 dreamingv2 --seeds 5
dreamingv2 features --distractors none colors=0.5+camera=0.02
dreamingv2 features --methods dreamingv2 dreamingv2+contrastive.pad=1

Episodes of each task are recorded once, with the simulator's state beside the
frames: random actions, and a script that solves the task. Each system's world
model is trained on them for the same number of updates, without actor and
critic. On held-out episodes, linear regressions then read the simulator's
state out of its embeddings and features, now and several steps ahead without
frames. Rows that --out holds already are not measured again.
"""

import functools
import itertools
import json
import pathlib
import re

import dreamingv2

from .. import settings
from ..common import command
from ..common import files
from ..common import guards
from ..common import logger as loggers
from ..common import machine
from ..common import plot as plots
from ..common import suites
from ..common import worker
from . import benchmark
from . import readings
from . import recordings

# Flags that a task has here, besides those of --configs.
FLAGS = {'Lift': ('--action_repeat', '2')}
PLAIN = 'none'
# What makes one row differ from another.
IDENTITY = ('task', 'distractors', 'system', 'seed', 'updates', 'recording')
# Settings of the loop and of the behaviour. No world model depends on them, so
# that rows stay known when they change in a block.
ELSEWHERE = re.compile(
    r'(actor|critic|reward_norm)\..*|discount_lambda|prefill|pretrain|steps'
    r'|(actor|critic|disag|eval|expl|imag|log|return|save|slow|train)_.*')
# Settings of the whole measurement, and the flags that make them.
OURS = {'distractors': '--distractors', 'seed': '--seeds', 'task': '--tasks',
        'time_limit': '--length'}
# Suites whose episodes never end, so that no head learns the discount.
ENDLESS = ('dmc', 'robosuite', 'toy', 'ur5')


@command.entry()
def main(argv=None):
  """Measures what the command line names; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    _check(args)
    jobs = plan(args)
    rows = read_rows(args.out)
    for job in jobs:
      job.recording = recordings.locate(
          job.config, args.size, args.recordings)
    todo = [x for x in jobs if x.find(rows) is None]
    if len(todo) < len(jobs):
      loggers.say(f'{len(jobs) - len(todo)} of {len(jobs)} rows are known.')
    missing = {
        x.recording: x.config for x in todo if not x.recording.exists()}
    for config in missing.values():  # All of them before any work.
      recordings.check(config)
    for config in missing.values():
      recordings.load(config, args.size, args.recordings)
    for index, job in enumerate(todo, 1):
      loggers.say(f'{index} of {len(todo)}: {job}')
      rows.append(job.run())
      write_rows(args.out, rows)
    chosen = [x.find(rows) for x in jobs]
    print(readings.table(chosen))
    if args.figure:
      plots.save(readings.draw(chosen), args.figure)


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser('dreamingv2 features', __doc__)
  add = parser.add_argument
  add('--configs', nargs='*', default=['small'], metavar='BLOCK',
      help='blocks of configs.yaml, besides those of method and task')
  add('--methods', nargs='+', default=['dreamerv2', 'dreamingv2'],
      metavar='METHOD', help='blocks, also with settings such as '
      'dreamingv2+contrastive.pad=1')
  add('--tasks', nargs='+', default=['Lift', 'Reacher-easy', 'toy_torus'],
      metavar='TASK', help='tasks whose simulator tells its state')
  add('--distractors', nargs='+', default=[PLAIN], metavar='KIND',
      help='none, or settings such as colors=0.5+camera=0.02')
  add('--seeds', type=int, default=1, metavar='N', help='seeds of each system')
  add('--updates', type=int, default=1500, metavar='N',
      help='gradient steps of each world model')
  add('--length', type=int, default=100, metavar='N',
      help='most agent steps of an episode')
  add('--episodes', type=int, default=recordings.Size.train, metavar='N',
      help='episodes to train on; a third as many are held out')
  add('--recordings', type=command.path, metavar='DIR',
      default=pathlib.Path('logdir/recordings'),
      help='folder of the recorded episodes')
  add('--out', type=command.path, default=pathlib.Path('features.json'),
      metavar='FILE', help='JSON file of all rows')
  add('--figure', type=command.path, metavar='FILE',
      help='picture to draw as well')
  return parser


def _check(args):
  for name in ('seeds', 'updates', 'length'):
    if getattr(args, name) < 1:
      raise ValueError(
          f'--{name} is {getattr(args, name)}; it must be >= 1')
  if args.episodes < 6:
    raise ValueError(f'--episodes is {args.episodes}; it must be >= 6')
  if args.figure:
    plots.check(args.figure)
  files.check_writable(args.out)
  args.size = recordings.Size(
      train=args.episodes, test=args.episodes // 3,
      rest=4 * args.episodes, rest_test=args.episodes)


def plan(args):
  """Returns the Jobs of a command line.

  Raises:
    ValueError, ImportError: A method, task or setting is unknown or does not
      fit.
  """
  for method in args.methods:
    for key in (x.partition('=')[0] for x in method.split('+')[1:]):
      if ours := OURS.get(key.partition('.')[0]):
        raise ValueError(
            f'{method} sets {key}, which is the same for all systems; use '
            f'{ours}')
  jobs = []
  for task, kind, seed, method in itertools.product(
      args.tasks, args.distractors, range(args.seeds), args.methods):
    extra = [] if kind == PLAIN else [
        f'distractors.{x}' for x in kind.split('+')]
    flags = ['--task', task, *FLAGS.get(task, ()), '--time_limit',
             str(args.length), '--seed', str(seed),
             *(f'--{x}' for x in extra)]
    config = benchmark.load(method, args.configs, flags=flags)
    suites.check(config)
    jobs.append(Job(config, task, kind, method, args.updates))
  return jobs


class Job:
  """One row: a system, trained from one seed on one recording.

  Args:
    config: Config.
    task, distractors, system: Words of the command line.
    updates: Number of gradient steps.

  Attributes:
    config: Config.
    recording: Path of the recording, once it is known.
  """

  def __init__(self, config, task, distractors, system, updates):
    self.config = config
    self.recording = pathlib.Path()
    self._words = {
        'task': task, 'distractors': distractors, 'system': system,
        'seed': config.seed, 'updates': updates}

  def __str__(self):
    return ', '.join(f'{k} {v}' for k, v in self._words.items())

  @property
  def identity(self):
    """What this row is, as in the file."""
    return {**self._words, 'recording': self.recording.stem}

  def counts(self, key):
    """Says whether the world model depends on a dotted key."""
    if key == 'discount':
      suite, _ = suites.parse(self.config.suite, self.config.task)
      return suite not in ENDLESS
    return not ELSEWHERE.fullmatch(key)

  def find(self, rows):
    """Returns the last row of this job with the same config, or None."""
    read = lambda changed: {k: v for k, v in changed.items() if self.counts(k)}
    wanted = read(changed_settings(self.config))
    same = [
        x for x in rows if all(x[k] == v for k, v in self.identity.items())
        and read(x['settings']) == wanted]
    return same[-1] if same else None

  def run(self):
    """Trains and measures in a process of its own; returns the row."""
    host = worker.Process(
        functools.partial(_Reader, self.config, self.recording), {})
    try:
      measured = host.call('measure', self._words['updates'])()
    finally:
      host.close()
    return {
        **self.identity, **measured, 'settings': changed_settings(self.config),
        'machine': machine.versions(dreamingv2.__version__, settings.ROOT)}


def changed_settings(config):
  """Returns the settings that differ from the defaults, by dotted key."""
  changed = config.diff(settings.defaults())
  return json.loads(json.dumps({k: config[k] for k in sorted(changed)}))


class _Reader:
  """Runs in a worker, where nothing else has loaded TensorFlow."""

  def __init__(self, config, path):
    self._args = config, path

  def measure(self, updates):
    return readings.measure(*self._args, updates)

  def close(self):
    pass


def read_rows(path):
  """Returns the rows of a file, [] if there is none.

  Raises:
    ValueError: The file was not written by this tool.
  """
  if not path.exists():
    return []
  try:
    rows = json.loads(files.read_bytes(path, 2 ** 28))
    assert all(
        {*IDENTITY, 'settings', 'state', 'reward', 'cpu_s'} <= {*x}
        for x in rows)
  except (ValueError, TypeError, AssertionError) as error:
    raise ValueError(
        f'--out {path} holds no rows of this tool '
        f'({type(error).__name__}: {error}); name another file') from None
  return rows


def write_rows(path, rows):
  """Writes rows as JSON, one a line, so that files can be compared."""
  lines = ',\n'.join(json.dumps(x, allow_nan=False) for x in rows)
  files.write_text(path, f'[\n{lines}\n]\n')


if __name__ == '__main__':
  main()
