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
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import rich.console
import rich.live
import rich.table

from .. import settings
from ..common import checkpoint as checkpoints
from ..common import command
from ..common import config as configs
from ..common import files
from ..common import flags as flaglib
from ..common import guards
from ..common import logdir as logdirs
from ..common import suites
from . import engines

OURS = {  # Flag to the reason why it cannot follow `--`.
    '--help': 'must stand before the --',
    '--list': 'trains nothing; use python train.py --list instead',
    '--logdir': 'is set by the sweep; use --indir instead',
    '--seed': 'is set by the sweep; use --seeds instead',
    '--task': 'is set by the sweep; use --tasks instead'}
TO_MEND = 2  # Exit code of train.py for errors that a retry cannot change.
PATIENCE = 120  # Seconds that a run may take to save after its worker is lost.
TAIL = 2 ** 16  # Bytes read from the end of a log.
GIB = 2 ** 30
MOST = 2.0 ** 53  # Of a number in a log.


@command.entry()
def main(argv=None):
  """Trains what the command line names; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    _check(args)
    jobs = plan(
        args.methods, args.tasks, args.seeds, args.indir, args.flags,
        args.cpus)
    if args.dry:
      return show_plan(jobs, args.fps)
    args.indir.expanduser().mkdir(parents=True, exist_ok=True)
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
      help='seeds of each method and task, from 0 to N - 1')
  add('--indir', type=pathlib.Path, default='logdir', metavar='FOLDER',
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
      'seeds': 1, 'cpus': 1e-3, 'gpus': 0, 'retries': 0, 'fps': 0}.items():
    value = getattr(args, name)
    if value is not None and not value >= least:
      raise ValueError(f'--{name} is {value}; it must be >= {least}')


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
    return code, (_tail(path) or [''])[-1]

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


def plan(methods, tasks, seeds, indir, extra=(), cpus=1):
  """Returns the jobs in the order of their seeds, seed 0 of all runs first.

  Args:
    extra: Flags of train.py for every run.

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
  for seed in range(seeds):
    for argv, config, suite, task in groups:
      config = config.update({'seed': seed})
      logdir = indir.expanduser().absolute() / logdirs.name(
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
              and settings.reads(config.objective, key)), '--indir',
          settings.defaults())


@dataclasses.dataclass
class Progress:
  """How far a run is: its environment step, and seconds up to `timed`."""

  step: int = 0
  finished: bool = False
  seconds: float = 0.0
  timed: int = 0
  fps: float = 0.0
  result: float = float('nan')


def read(job, logdir=None):
  """Returns the Progress of a job, or of another seed of it in `logdir`."""
  logdir = logdir or job.logdir
  state = Progress()
  step, meta = checkpoints.peek(logdir / 'checkpoints') or (0, {})
  state.finished = step >= int(job.config.steps) and not meta.get('due')
  for line in _tail(logdir / 'metrics.jsonl'):
    try:
      values = json.loads(line)
      values = {
          k: v for k, v in values.items() if type(v) in (int, float)
          and abs(v) < MOST}
      state.step = int(values['step'])
    except (AttributeError, KeyError, RecursionError, ValueError):
      continue  # The first line may be cut off; others may be damaged.
    if values.get('seconds', 0) > 0:
      state.seconds, state.timed = values['seconds'], state.step
    state.fps = values.get('fps', state.fps)
    state.result = values.get('eval_return_mean', state.result)
  state.step = max(state.step, step)
  return state


def _tail(path):
  """Returns the last lines of a file that are not empty."""
  with contextlib.suppress(OSError, ValueError):
    with files.open_regular(path, sys.maxsize, path.parent) as file:
      file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
      lines = file.read(TAIL).decode(errors='replace').splitlines()
    return [x for x in lines if x.strip()]
  return []


def show_plan(jobs, fps=0):
  """Prints the steps left, the hours they take and the disk they need."""
  table = rich.table.Table(box=None)
  for name in ('run', 'done', 'steps left', 'steps/s', 'hours', 'GiB', 'from'):
    table.add_column(
        name, justify='left' if name in ('run', 'from') else 'right',
        no_wrap=True)
  hours, gib, unknown = 0, 0, 0
  groups = collections.defaultdict(list)
  for job in jobs:
    groups[job.logdir.parent].append(job)
  for folder, group in groups.items():
    states = [read(job) for job in group]
    left = sum(
        max(0, int(j.config.steps) - s.step) * (not s.finished)
        for j, s in zip(group, states, strict=True))
    speed, size, source = _measured(group[0], fps)
    hours += left / speed / 3600 if speed else 0
    gib += left * size / GIB
    unknown += bool(left and not speed)
    table.add_row(
        '/'.join(folder.parts[-2:]),
        f'{sum(s.finished for s in states)} of {len(group)}', f'{left:,}',
        f'{speed:.1f}' if speed else '?',
        f'{left / speed / 3600:.2f}' if speed else '?',
        f'{left * size / GIB:.2f}', source)
  _print(table)
  least = 'at least ' * bool(unknown)
  free = shutil.disk_usage(_existing(jobs[0].logdir)).free / GIB
  _print(f'{least}{hours:.2f} hours if the runs go one after another; '
         f'{gib:.2f} GiB of disk space, {free:.1f} GiB are free')
  if unknown:
    _print('?: not measured yet; give --fps, or let a run finish')


def _measured(job, fps):
  """Returns steps per second, bytes per step, and the source of both."""
  runs = {x: read(job, x) for x in job.logdir.parent.glob('*')}
  best = max(runs, key=lambda x: runs[x].timed, default=None)
  H, W = job.config.render_size
  raw = H * W * 3 / job.config.action_repeat
  if not best or not runs[best].timed:
    return fps, raw, '--fps, raw images' if fps else 'raw images'
  state, size = runs[best], 0
  for path in best.rglob('*'):
    with contextlib.suppress(OSError):  # A live run may delete files.
      size += path.stat().st_size
  share = min(1, state.timed / job.config.steps)
  return (
      state.timed / state.seconds, size / state.step,
      f'seed {best.name} at {share:.0%}')


def _existing(path):
  return path if path.exists() else _existing(path.parent)


def _print(text):
  console = rich.console.Console(soft_wrap=True, highlight=False)
  # Wrap long lines instead of truncating them.
  console.width = max(console.width, 120)
  console.print(text)


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
    self._states = {job: read(job) for job in jobs}
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
        self._states[job] = read(job)
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
