"""Trains methods x tasks x seeds, each as a run of train.py of its own.

dreamingv2 sweep --methods dreamingv2 dreamerv2 --tasks Lift Door \\
    --seeds 8 --indir logdir -- --configs small

What follows `--` goes to every run. A run is what train.py makes of it in
INDIR/<suite>_<task>/<method>/<seed>, so that the same command again takes up
whatever is not at its last step. Ray distributes the runs over the cores and
GPUs of this machine, or with --address over those of a cluster; --slurm hands
them to Slurm as an array. All machines must see INDIR under the same path.
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

from . import engines
from .. import settings
from ..common import checkpoint
from ..common import command
from ..common import config as configs
from ..common import flags as flaglib
from ..common import guards
from ..common import logdir as logdirs
from ..common import suites

OURS = {  # Flags of train.py that the sweep sets.
    '--help': '--help before the --', '--list': 'python train.py --list',
    '--logdir': '--indir', '--seed': '--seeds', '--task': '--tasks'}
TO_MEND = 2  # Exit code of train.py for what another attempt cannot change.
PATIENCE = 120  # Seconds that a run of a lost worker has to save and end.
TAIL = 2 ** 16  # Bytes read from the end of a log.
GIB = 2 ** 30


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
      help='as --task of train')
  add('--seeds', type=int, default=1, metavar='N',
      help='runs of each, from seed 0 on')
  add('--indir', type=pathlib.Path, default='logdir', metavar='FOLDER',
      help='folder of all runs')
  add('--cpus', type=float, default=1, metavar='N',
      help='cores that a run gets')
  add('--gpus', type=float, metavar='N',
      help='GPUs that a run gets, may be a part (default: 1 where Ray finds '
      'one, else 0)')
  add('--retries', type=int, default=2, metavar='N',
      help='further attempts of a run that fails')
  add('--address', default='',
      help='address of a Ray cluster (default: this machine)')
  add('--slurm', nargs='*', metavar='KEY=VALUE',
      help='use Slurm, with options as submitit names them: partition=gpu '
      'time=1440 (minutes) mem=16GB array_parallelism=32')
  add('--dry', action='store_true',
      help='only print the plan, its hours and its disk')
  add('--fps', type=float, default=0, metavar='N',
      help='with --dry: environment steps per second where none was measured')
  add('flags', nargs='*', help=argparse.SUPPRESS)
  return parser


def _check(args):
  if args.indir.exists() and not args.indir.is_dir():
    raise ValueError(f'--indir {args.indir} is no folder')
  for name, least in {
      'seeds': 1, 'cpus': 1e-3, 'gpus': 0, 'retries': 0, 'fps': 0}.items():
    value = getattr(args, name)
    if value is not None and not value >= least:
      raise ValueError(f'--{name} is {value}; it must be >= {least}')


@dataclasses.dataclass(eq=False)
class Job:
  """One run; called where the engine puts it.

  Args:
    words: Of the command line of train.py.
    config: Config that they select.
    logdir: Absolute path.
    cpus: Threads that TensorFlow gets where there is no GPU.
  """

  words: list
  config: configs.Config
  logdir: pathlib.Path
  cpus: float = 1

  _process = None

  @property
  def name(self):
    """Returns suite and task, method and seed."""
    return '/'.join(self.logdir.parts[-3:])

  def __call__(self):
    """Trains in a process of its own.

    Returns:
      Exit code of train.py, and the last line of what it said.
    """
    self.logdir.mkdir(parents=True, exist_ok=True)
    _wait_for_lock(self.logdir)
    # Both streams go to one file, whose last line says how it ended.
    env = {**os.environ, 'PYTHONUNBUFFERED': '1'}
    if not env.get('CUDA_VISIBLE_DEVICES'):
      env.setdefault('TF_NUM_INTRAOP_THREADS', str(max(1, int(self.cpus))))
    path = self.logdir / 'train.log'
    with path.open('ab') as log:
      self._process = subprocess.Popen(
          [sys.executable, str(settings.ROOT / 'train.py'), *self.words],
          stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
          start_new_session=True, preexec_fn=_end_with_parent)
    try:
      code = self._process.wait()
    except BaseException:  # The engine cancels: the run saves and ends.
      self._process.terminate()
      self._process.wait()
      raise
    return code, (_tail(path) or [''])[-1]

  def checkpoint(self):
    """Saves, as Slurm is about to end the job; submitit queues it again."""
    with contextlib.suppress(AttributeError, ChildProcessError):
      os.kill(self._process.pid, signal.SIGUSR1)
      # This runs inside of wait(), whose lock nothing else may ask for.
      os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
    return engines.need('submitit').helpers.DelayedSubmission(
        dataclasses.replace(self))


def _end_with_parent():
  """Lets the kernel send SIGTERM to this process when its parent is gone."""
  PR_SET_PDEATHSIG = 1
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for_lock(logdir):
  """Waits until a run whose worker was lost has saved and ended."""
  until = time.monotonic() + PATIENCE
  while time.monotonic() < until:
    with contextlib.suppress(ValueError):
      guards.Lock(logdir).release()
      return
    time.sleep(1)  # In vain: train.py will say who holds it.


def plan(methods, tasks, seeds, indir, extra=(), cpus=1):
  """Returns the jobs: first the first seed of everything, and so on.

  Args:
    extra: Flags of train.py for every run.

  Raises:
    ValueError: Something in it is unknown or does not fit, or the folder
      holds runs of another config under the same name.
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
  """Returns the blocks that flags name, and the other flags."""
  for word in words:
    flag = word.partition('=')[0]
    if flag in OURS:
      raise ValueError(f'{flag} after -- cannot be; use {OURS[flag]}')
  chosen, others = flaglib.Flags(configs=['defaults']).parse(
      words, known_only=True)
  return [x for x in chosen.configs if x != 'defaults'], others


def _load(argv):
  """Returns the config of flags, the suite and the task, which exist."""
  config = settings.load_config(argv)
  return config, *suites.check(config)


def _check_folders(jobs):
  """Checks that runs of one name have one config, but for their seeds."""
  twice = [k for k, n in collections.Counter(
      job.logdir for job in jobs).items() if n > 1]
  if twice:
    raise ValueError(f'several runs would share {twice[0]}: a method or a '
                     'task is named twice, or --method is set')
  counts = lambda key: key not in (*logdirs.RESUMABLE, 'seed')
  for folder, job in {job.logdir.parent: job for job in jobs}.items():
    for logdir in sorted(folder.glob('*')):
      logdirs.check(job.config, logdir, counts, '--indir')


@dataclasses.dataclass
class Progress:
  """Says how far a run is: environment steps, seconds until `timed`."""

  step: int = 0
  finished: bool = False
  seconds: float = 0.0
  timed: int = 0
  fps: float = 0.0
  result: float = float('nan')


def read(job, logdir=None):
  """Returns the Progress of a job, or of another seed of it in `logdir`."""
  logdir = logdir or job.logdir
  found = Progress()
  step, meta = checkpoint.peek(logdir / 'checkpoints') or (0, {})
  found.finished = step >= int(job.config.steps) and not meta.get('due')
  for line in _tail(logdir / 'metrics.jsonl'):
    try:
      values = json.loads(line)
      found.step = values['step']
    except (KeyError, TypeError, ValueError):
      continue  # The first line is cut, others may be damaged.
    if 'seconds' in values:
      found.seconds, found.timed = values['seconds'], found.step
    found.fps = values.get('fps', found.fps)
    found.result = values.get('eval_return_mean', found.result)
  found.step = max(found.step, step)
  return found


def _tail(path):
  """Returns the last lines of a file that are not empty, [] if none."""
  with contextlib.suppress(OSError), path.open('rb') as file:
    file.seek(max(0, path.stat().st_size - TAIL))
    lines = file.read().decode(errors='replace').splitlines()
    return [x for x in lines if x.strip()]
  return []


def show_plan(jobs, fps=0):
  """Prints what there is to do, how long it takes, and what of the disk."""
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
  _print(f'{least}{hours:.2f} hours of one run after another; {gib:.2f} GiB '
         f'of the disk, where {free:.1f} GiB are free.')
  if unknown:
    _print('?: nothing was measured yet; give --fps, or let a run finish.')


def _measured(job, fps):
  """Returns steps per second, bytes per step, and where they are from."""
  runs = {x: read(job, x) for x in job.logdir.parent.glob('*')}
  best = max(runs, key=lambda x: runs[x].timed, default=None)
  H, W = job.config.render_size
  raw = H * W * 3 / job.config.action_repeat
  if not best or not runs[best].timed:
    return fps, raw, '--fps, raw images' if fps else 'raw images'
  state, size = runs[best], 0
  for path in best.rglob('*'):
    with contextlib.suppress(OSError):  # It goes on.
      size += path.stat().st_size
  share = min(1, state.timed / job.config.steps)
  return (
      state.timed / state.seconds, size / state.step,
      f'seed {best.name} at {share:.0%}')


def _existing(path):
  return path if path.exists() else _existing(path.parent)


def _print(text):
  console = rich.console.Console(soft_wrap=True, highlight=False)
  console.width = max(console.width, 120)  # Rather wrapped than cut.
  console.print(text)


class Sweep:
  """Sees jobs through, with a budget of further attempts for each.

  Args:
    jobs: Objects with `name`; see Job.
    retries: Attempts of a job after its first.

  Attributes:
    failed: Job to what it ended with, for those given up.
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
    """Trains what is not finished.

    Raises:
      Stopped: A signal asked for it; all runs were stopped, after saving.
    """
    with guards.Signals() as signals, rich.live.Live(
        console=self._console, refresh_per_second=2) as live:
      self._submit(engine, self.missing)
      while self._handles:
        try:
          signals.check()
        except guards.Stopped as stop:
          self._console.print(f'{stop}: runs save and end.')
          engine.stop()
          self._wait()
          raise
        self._step(engine)
        live.update(self.table())
        time.sleep(self._interval)

  def table(self):
    """Returns how far the running and the failed ones are."""
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
    """Says what became of the jobs, with the reason of every failure."""
    self._console.print(f'{self._done} runs are done.')
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
      if ended or (job.logdir / 'lock').exists():  # Of many, few run.
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
      self._say(f'again: {job.name}: {why}')
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
  """Returns exit code and last line of a job; None if its worker was lost."""
  try:
    return handle.result()
  except Exception as error:  # Engines raise whatever they like.
    lines = str(error).splitlines() or ['']
    return None, f'worker lost: {type(error).__name__}: {lines[0]}'


if __name__ == '__main__':
  main()
