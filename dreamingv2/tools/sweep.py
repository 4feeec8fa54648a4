"""Trains every method on every task with several seeds.

dreamingv2 sweep --methods dreamingv2 dreamerv2 --tasks Lift Door \\
    --seeds 8 --indir logdir -- --configs small

Each run is a separate process of train.py, with the logdir
INDIR/<suite>_<task>/<method>/<seed>. Flags after `--` go to every run. Rerun
the same command to continue the runs that are not finished. Ray distributes
the runs over the cores and GPUs of this machine or, with --address, of a
cluster; --slurm submits them to Slurm as an array. All machines must see INDIR
under the same path.
"""

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import rich.console
import rich.live
import rich.table

from .. import ranges
from .. import settings
from ..common import command
from ..common import config as configs
from ..common import files
from ..common import flags as flaglib
from ..common import guards
from ..common import logdir as logdirs
from ..common import suites
from . import engines
from . import progress

OURS = {  # Flag to the reason why it cannot follow `--`.
    '--help': 'must stand before the --',
    '--list': 'trains nothing; use python train.py --list instead',
    '--logdir': 'is set by the sweep; use --indir instead',
    '--seed': 'is set by the sweep; use --seeds instead',
    '--task': 'is set by the sweep; use --tasks instead'}
TO_MEND = 2  # Exit code of train.py for errors that a retry cannot change.
PATIENCE = 120  # Seconds that a run may take to save after its worker is lost.


@command.entry()
def main(argv=None):
  """Trains what the command line names; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    _check(args)
    jobs = plan(
        args.methods, args.tasks, args.seeds, args.indir, args.flags,
        args.cpus, args.first_seed)
    if args.dry:
      return progress.show_plan(jobs, args.fps)
    args.indir.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(jobs, args.retries)
    engine = engines.make(args) if sweep.missing else None
  try:
    if engine:
      sweep.run(engine)
  except guards.Stopped as stop:
    sys.exit(128 + stop.number)
  finally:
    if engine:
      engine.close()
    sweep.summarize()
  sys.exit(1 if sweep.failed else 0)


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser(
      'dreamingv2 sweep', __doc__, usage='dreamingv2 sweep --methods METHOD '
      '... --tasks TASK ... [...] [-- FLAGS]')
  add = parser.add_argument
  add('--methods', nargs='+', required=True, metavar='METHOD',
      help='blocks of configs.yaml; dreamingv2 train --help lists them')
  add('--tasks', nargs='+', required=True, metavar='TASK',
      help='tasks, as in dreamingv2 train --task')
  add('--seeds', type=int, default=1, metavar='N',
      help='seeds of each method and task')
  add('--first_seed', type=int, default=0, metavar='N',
      help='the first of these seeds; the others follow it')
  add('--indir', type=command.path, default='logdir', metavar='FOLDER',
      help='folder that holds all runs')
  add('--cpus', type=float, default=1, metavar='N',
      help='CPU cores for each run')
  add('--gpus', type=float, metavar='N',
      help='GPUs for each run, also a fraction such as 0.5 (default: 1 if '
      'Ray finds a GPU, else 0)')
  add('--retries', type=int, default=2, metavar='N',
      help='how often a failed run is tried again')
  add('--address', default='',
      help='address of a Ray cluster (default: this machine)')
  add('--slurm', nargs='*', metavar='KEY=VALUE',
      help='use Slurm, with options of submitit such as partition=gpu '
      'time=1440 (minutes) mem=16GB array_parallelism=32')
  add('--dry', action='store_true',
      help='only print the plan, with the hours and disk space it needs')
  add('--fps', type=float, default=0, metavar='N',
      help='with --dry: environment steps per second if none was measured')
  add('flags', nargs='*', help=argparse.SUPPRESS)
  return parser


def _check(args):
  if args.indir.exists() and not args.indir.is_dir():
    raise ValueError(f'--indir {args.indir} is not a folder')
  for name, least in {
      'seeds': 1, 'first_seed': 0, 'cpus': 1e-3, 'gpus': 0, 'retries': 0,
      'fps': 0}.items():
    value = getattr(args, name)
    if value is not None and not value >= least:
      raise ValueError(f'--{name} is {value}; it must be >= {least}')
  last, most = args.first_seed + args.seeds - 1, ranges.RANGES['seed'][1]
  if last > most:
    raise ValueError(
        f'the last seed is {last} (--first_seed and --seeds); it must be <= '
        f'{most}')


@dataclasses.dataclass(eq=False)
class Job:
  """One run of train.py; the engine calls it on the machine it chooses.

  Args:
    words: Words of the command line of train.py.
    config: Config that these words select.
    logdir: Absolute path.
    cpus: Number of TensorFlow threads if there is no GPU.
  """

  words: list
  config: configs.Config
  logdir: pathlib.Path
  cpus: float = 1

  _process = None

  @property
  def name(self):
    """Returns <suite>_<task>/<method>/<seed>."""
    return '/'.join(self.logdir.parts[-3:])

  def __call__(self):
    """Trains in a separate process.

    Returns:
      Exit code of train.py, and the last line of its output.
    """
    self.logdir.mkdir(parents=True, exist_ok=True)
    _wait_for_lock(self.logdir)
    # Both streams go to one file; its last line says how the run ended.
    env = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    if not env.get('CUDA_VISIBLE_DEVICES'):
      env.setdefault('TF_NUM_INTRAOP_THREADS', str(max(1, int(self.cpus))))
    path = self.logdir / 'train.log'
    files.check(path)
    with path.open('ab') as log:
      self._process = subprocess.Popen(
          [sys.executable, str(settings.ROOT / 'train.py'), *self.words],
          stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
          start_new_session=True, preexec_fn=_end_with_parent)
    try:
      # Ray's interrupt does not end a wait(): it acts between two lines.
      while (code := self._process.poll()) is None:
        time.sleep(0.2)
    except BaseException:  # The engine cancels: the run saves and ends.
      self._process.terminate()
      self._process.wait()
      raise
    return code, (progress.tail(path) or [''])[-1]

  def checkpoint(self):
    """Saves the run before Slurm ends the job; submitit queues it again."""
    with contextlib.suppress(AttributeError, ChildProcessError):
      os.kill(self._process.pid, signal.SIGUSR1)
      # This may run inside poll() and its lock; wait() could deadlock.
      os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
    return engines.need('submitit').helpers.DelayedSubmission(
        dataclasses.replace(self))


def _end_with_parent():
  """Asks the kernel to send SIGTERM to this process when its parent ends."""
  PR_SET_PDEATHSIG = 1
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for_lock(logdir):
  """Waits until a run whose worker was lost has saved and ended.

  If the lock is still held after PATIENCE, train.py will say by whom.
  """
  until = time.monotonic() + PATIENCE
  while time.monotonic() < until:
    with contextlib.suppress(ValueError):
      guards.Lock(logdir).release()
      return
    time.sleep(1)


def plan(methods, tasks, seeds, indir, extra=(), cpus=1, first=0):
  """Returns the jobs in the order of their seeds, the first of all runs first.

  Args:
    seeds: Number of seeds.
    extra: Flags of train.py for every run.
    first: The first seed.

  Raises:
    ValueError: A method, task or flag is unknown or has a bad value, or the
      folder holds runs of another config under the same name.
  """
  blocks, extra = _split(extra)
  for name in methods:
    configs.check_known('method', name, settings.methods())
  groups = []
  for task in tasks:
    for method in methods:
      argv = ['--configs', *blocks, method, '--task', task, *extra]
      groups.append((argv, *_load(argv)))
  jobs = []
  for seed in range(first, first + seeds):
    for argv, config, suite, task in groups:
      config = config.update({'seed': seed})
      logdir = indir.absolute() / logdirs.name(
          config, suite, task)
      argv = [*argv, '--seed', str(seed), '--logdir', str(logdir)]
      jobs.append(Job(argv, config, logdir, cpus))
  _check_folders(jobs)
  return jobs


def _split(words):
  """Splits flags into the names of config blocks and all other flags."""
  for word in words:
    flag = word.partition('=')[0]
    if flag in OURS:
      raise ValueError(f'{flag} {OURS[flag]}')
  chosen, others = flaglib.Flags(configs=['defaults']).parse(
      words, known_only=True)
  return [x for x in chosen.configs if x != 'defaults'], others


def _load(argv):
  """Returns the config that flags select, and its suite and task."""
  config = settings.load_config(argv)
  return config, *suites.check(config)


def _check_folders(jobs):
  """Checks that runs of one name differ in nothing but their seeds."""
  twice = [k for k, n in collections.Counter(
      job.logdir for job in jobs).items() if n > 1]
  if twice:
    raise ValueError(f'several runs would share {twice[0]}: a method or a '
                     'task is named twice, or --method is set')
  for folder, job in {job.logdir.parent: job for job in jobs}.items():
    for logdir in sorted(folder.glob('*')):
      logdirs.check(
          job.config, logdir, lambda key, config=job.config: (
              key not in (*logdirs.RESUMABLE, 'seed')
              and settings.reads(config, key)), '--indir',
          settings.defaults())


class Sweep:
  """Runs all jobs to their end, and tries those that fail again.

  Args:
    jobs: Jobs; see Job.
    retries: How often a failed job is tried again.

  Attributes:
    failed: Maps each job that was given up to its last error.
  """

  def __init__(self, jobs, retries, interval=1.0):
    self._retries = retries
    self._interval = interval
    self._attempts = collections.Counter()
    self._handles = {}
    self._states = {job: progress.read(job) for job in jobs}
    self.failed = {}
    self._console = rich.console.Console(stderr=True, highlight=False)

  def run(self, engine):
    """Trains the jobs that are not finished.

    Raises:
      Stopped: A signal arrived; all runs have saved and ended.
    """
    with guards.Signals() as signals, rich.live.Live(
        console=self._console, refresh_per_second=2) as live:
      self._submit(engine, self.missing)
      while self._handles:
        try:
          signals.check()
        except guards.Stopped as stop:
          self._console.print(f'{stop} received; all runs save and end')
          engine.stop()
          self._wait()
          raise
        self._step(engine)
        live.update(self.table())
        time.sleep(self._interval)

  def table(self):
    """Returns a table of the running and the failed jobs."""
    table = rich.table.Table(
        box=None, title=f'{self._done} done, {len(self.failed)} failed')
    for name in ('run', '', 'step', '', 'steps/s', 'return', 'attempt'):
      table.add_column(name, justify='left' if name == 'run' else 'right')
    for job, state in self._states.items():
      running = job in self._handles and (job.logdir / 'lock').exists()
      if running or job in self.failed:
        share = state.step / job.config.steps
        table.add_row(
            job.name, 'failed' if job in self.failed else 'running',
            f'{state.step:,}', f'{share:.0%}', f'{state.fps:.1f}',
            f'{state.result:.1f}', str(self._attempts[job]))
    return table

  def summarize(self):
    """Prints how many jobs are done, and why each failed job failed."""
    self._console.print(f'{self._done} runs are done')
    for job, why in self.failed.items():
      self._console.print(
          f'failed: {job.name}: {why}; see {job.logdir / "train.log"}',
          markup=False, soft_wrap=True)

  @property
  def missing(self):
    """The jobs that are not finished."""
    return [job for job, state in self._states.items() if not state.finished]

  @property
  def _done(self):
    total = len(self._states)
    return f'{total - len(self.missing)} of {total}'

  def _submit(self, engine, jobs):
    self._attempts.update(jobs)
    self._handles.update(zip(jobs, engine.submit(jobs), strict=True))

  def _step(self, engine):
    for job, handle in list(self._handles.items()):
      ended = handle.done()
      # Read only running or ended jobs: most are waiting.
      if ended or (job.logdir / 'lock').exists():
        self._states[job] = progress.read(job)
      if ended:
        del self._handles[job]
        self._judge(engine, job, *_outcome(handle))

  def _judge(self, engine, job, code, text):
    if self._states[job].finished:
      self._say(f'done: {job.name}')
      return
    why = text if code is None else f'exit code {code}: {text}' if code else (
        'it ended, but there is no checkpoint of its last step')
    if code != TO_MEND and self._attempts[job] <= self._retries:
      self._say(f'trying again: {job.name}: {why}')
      self._submit(engine, [job])
    else:
      self._say(f'failed: {job.name}: {why}')
      self.failed[job] = why

  def _wait(self):
    while not all(handle.done() for handle in self._handles.values()):
      time.sleep(self._interval)

  def _say(self, text):
    self._console.print(text, markup=False, soft_wrap=True)


def _outcome(handle):
  """Returns a job's exit code (None if its worker was lost) and last line."""
  try:
    return handle.result()
  except Exception as error:  # Engines raise errors of any type.
    lines = str(error).splitlines() or ['']
    return None, f'worker lost: {type(error).__name__}: {lines[0]}'


if __name__ == '__main__':
  main()
