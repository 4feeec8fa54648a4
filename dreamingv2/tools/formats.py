"""Reads the folders of runs: ours, and those of DreamerV2 and DreamerV3.

The files of a folder and their keys tell its format, see FORMATS. Nothing in
a folder is trusted: the kind and size of a file are checked before it is read,
and every value is checked before it is used. A problem with a run raises a
ValueError or an OSError, or becomes a note; other runs are still read.
"""

import collections
import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import shlex
import typing

import numpy as np

from ..common import config as configs
from ..common import files
from ..common import logdir as logdirs
from ..common import logger as loggers
from ..common import suites
from . import text as texts

# A folder with one of these files is taken for a run.
FILES = ('config.yaml', 'metrics.jsonl', 'scores.jsonl')
FILE_BYTES = 2 ** 27  # Largest metrics file; a long run has far less.
LINE_BYTES = 2 ** 20
NAME_LENGTH = 200  # characters of a task or method
BAR_NAME = 30  # characters of the run that a progress bar shows
GAPS = 5  # Most notes on the evaluations of a run; others are counted.
LARGEST = 1e30  # Largest number; a larger one could overflow in statistics.
MOST_STEPS = 10 ** 15
RETURNS = re.compile(r'(return|return_mean|score)$')  # Names of metrics.
# Maps patterns of the metric names in older runs to their present names.
RENAMED = {
    r'episodes': 'train_total_episodes',
    r'train_(?!return$|length$|total_|loaded_|damaged_|bytes$)(\w+)': r'\1',
}
# Keys that change no result, or that a curve holds outside of its settings.
IGNORED = (
    *logdirs.RESUMABLE, 'method', 'probe', 'seed', 'suite', 'task')
# The same for DreamerV2 and DreamerV3, as a pattern.
IGNORED_UPSTREAM = (
    r'clock_.*|envs_parallel|errfile|ipv6|jax\..*|log_keys_.*|logger\..*|'
    r'replicas?|run\.(.*_addr|debug|duration|from_.*|log_every|report_every|'
    r'save_every|steps|usage\..*)|script')


@dataclasses.dataclass
class Run:
  """The folder of a run; `lines` and `curves` read its metrics.

  Attributes:
    logdir: Path.
    format: Key of FORMATS.
    config: {dotted key: value} from the run's config.yaml.
    task, method, seed: Names of the run; the method of a run of another
      project ends in '(upstream)'.
    budget: Environment steps wanted, None if unknown.
  """

  logdir: pathlib.Path
  format: str
  config: dict
  task: str
  method: str
  seed: int | str
  budget: float | None

  def lines(self, notes=None):
    """Yields {name: number} for each line of its metrics."""
    for values in read_lines(self._file(), self.logdir, notes):
      yield {rename(k, self.format): v for k, v in values.items()}

  def curves(self, notes):
    """Returns its curves, see scores.py; problems become notes."""
    try:
      return FORMATS[self.format].curves(self, notes)
    except (OSError, ValueError) as error:
      notes.append(_unreadable(self.logdir, error))
      return []

  def _file(self):
    names = [x for x in FORMATS[self.format].files
             if os.path.lexists(self.logdir / x)]
    return self.logdir / (names or ['metrics.jsonl'])[0]


@dataclasses.dataclass(frozen=True)
class Format:
  """How a kind of folder is recognised and read.

  Attributes:
    marks: A folder with any of these has the format: dotted keys of its
      config.yaml, file names or, if it has no config, names of metrics.
    files: Names of metrics files; the first one that exists is read.
    budget: Config key of the environment steps wanted.
    curves: Function of a Run and a list of notes that returns its curves.
    method: Name for runs without one; '' for our runs, which must have one.
    renamed: {pattern of an older metric name: present name}.
  """

  marks: frozenset
  files: tuple
  budget: str
  curves: typing.Callable
  method: str = ''
  renamed: typing.Mapping = dataclasses.field(default_factory=dict)


@functools.lru_cache(1000)
def rename(name, kind):
  """Returns the present name of a metric; see RENAMED."""
  for pattern, present in FORMATS[kind].renamed.items():
    if match := re.fullmatch(pattern, name):
      return match.expand(present)
  return name


def find(folder, notes):
  """Yields a folder and the folders in it that look like runs.

  Links are not followed. A folder that cannot be entered becomes a note.
  """
  todo = [pathlib.Path(folder)]
  while todo:
    current = todo.pop()
    try:
      with os.scandir(current) as scanned:
        entries = sorted(scanned, key=lambda x: x.name, reverse=True)
      todo += [
          current / x.name for x in entries if x.is_dir(follow_symlinks=False)]
    except OSError as error:
      notes.append(texts.line(f'{current} cannot be entered: {error}'))
      continue
    if any(x.name in FILES for x in entries):
      yield current


def open_runs(folder, notes):
  """Yields the runs in a folder; an unreadable run becomes a note."""
  if not os.path.isdir(folder):
    notes.append(texts.line(f'there is no folder {folder}'))
    return
  paths = list(find(folder, notes))
  with loggers.Progress(len(paths), 0, 'reading', 'runs') as bar:
    for logdir in paths:
      bar.describe(reading(logdir))
      try:
        yield open_run(logdir, folder)
      except (OSError, ValueError) as error:
        notes.append(_unreadable(logdir, error))
      bar.update(1)
    bar.describe('read')


def reading(logdir):
  """Returns the text of a progress bar while a run is read."""
  return f'reading {texts.line(logdir)[-BAR_NAME:]}'


def open_run(logdir, root=None):
  """Returns the Run of a folder.

  Args:
    logdir: Path.
    root: Folder in which the run was found; the path from there may be
      TASK/METHOD/SEED and name the run.

  Raises:
    OSError, ValueError: The run cannot be read.
  """
  path = logdir / 'config.yaml'
  config = {}
  if os.path.lexists(path):
    config = flatten(configs.read_yaml(path, logdir))
  marks = {*config, *(x for x in FILES if os.path.lexists(logdir / x))}
  if marks == {'config.yaml', *config}:
    raise ValueError('it has no metrics yet')
  if not config and 'metrics.jsonl' in marks:
    marks |= {
        k for x in read_lines(logdir / 'metrics.jsonl', logdir) for k in x}
  kind = next((k for k, v in FORMATS.items() if v.marks & marks), None)
  if not kind:
    raise ValueError(
        f'its config.yaml and metrics are not those of a run of '
        f'{", ".join(FORMATS)}')
  names = _names(kind, config, logdir, root)
  budget = config.get(FORMATS[kind].budget)
  return Run(
      logdir, kind, config, *names, budget if is_number(budget) else None)


def flatten(mapping, prefix=''):
  """Returns {dotted key: value}; values are numbers, strings or lists.

  Raises:
    ValueError: A number is too large.
  """
  flat = {}
  for key, value in mapping.items():
    name = f'{prefix}{texts.printable(key)}'
    if isinstance(value, dict):
      flat.update(flatten(value, f'{name}.'))
    elif isinstance(value, (list, tuple)):
      flat[name] = [_plain(x) for x in value]
    else:
      flat[name] = _plain(value)
  return flat


def _plain(value):
  if isinstance(value, bool) or value is None:
    return value
  if isinstance(value, int) and abs(value) > LARGEST:
    raise ValueError(f'a number has {value.bit_length()} bits')
  if isinstance(value, (float, int)):
    return value
  return texts.printable(str(value)[:10 ** 4])


def is_number(value, most=LARGEST):
  """Says whether a value is a finite number that is not too large."""
  return (
      isinstance(value, (float, int)) and not isinstance(value, bool)
      and abs(value) <= most)


def check_names(task, method, seed):
  """Raises ValueError for a task, method or seed that no curve can have."""
  for key, value in {'task': task, 'method': method}.items():
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LENGTH:
      raise ValueError(
          f'{key} is {str(value)[:40]!r}; it must be a name of at most '
          f'{NAME_LENGTH} characters')
  if not (is_number(seed, MOST_STEPS) or isinstance(seed, str)
          and len(seed) <= NAME_LENGTH):
    raise ValueError(f'seed is {str(seed)[:40]!r}; it must be a number')


def _names(kind, config, logdir, root):
  """Returns task, method and seed of a run.

  They come from the config or else from a path TASK/METHOD/SEED. SEED must be
  a number, and TASK must equal the task of the config or lie below the root.
  """
  default = FORMATS[kind].method
  task, method, seed = (config.get(k) for k in ('task', 'method', 'seed'))
  if default:
    path = pathlib.Path(os.path.abspath(logdir))
    below = os.path.relpath(path, root or path).split(os.sep)
    parts = path.parts[-3:]
    if len(parts) == 3 and re.fullmatch(r'\d{1,9}', parts[2]) and (
        parts[0] == task or task is None and len(below) >= 3):
      task, seed = task or parts[0], int(parts[2]) if seed is None else seed
      # DreamerV3 has the key method, with the default value 'name'.
      method = parts[1] if method in (None, 'name') else method
    elif method == 'name':
      method = None
    method = f'{method or default} (upstream)'
    seed = 0 if seed is None else seed
  if task is None:
    raise ValueError(
        'its task is unknown: there is no key task in a config.yaml, and its '
        'path does not end in TASK/METHOD/SEED')
  task, method = (
      texts.printable(x) if isinstance(x, str) else x for x in (task, method))
  check_names(task, method, seed)
  return task, method, seed


def read_lines(path, within=None, notes=None):
  """Yields the lines of a file of metrics as {name: number}, with 'step'.

  Args:
    path: JSON lines.
    within: Folder that a link must not lead out of.
    notes: List that collects a warning if damaged lines are left out.

  Raises:
    OSError, ValueError: The file cannot be read at all.
  """
  damaged = first = number = 0
  with files.open_regular(path, FILE_BYTES, within) as file:
    while line := file.readline(LINE_BYTES):
      number += 1
      part = line
      while len(part) == LINE_BYTES and not part.endswith(b'\n'):
        part = file.readline(LINE_BYTES)
      values = _parse(line) if part is line else None
      if values:
        yield values
      else:
        damaged, first = damaged + 1, first or number
  if damaged and notes is not None:
    notes.append(texts.line(
        f'{path}: {damaged} damaged line{"s"[:damaged > 1]} left out, the '
        f'first at {first}'))


def _parse(line):
  """Returns {name: number} of a line, None if it is damaged."""
  try:
    values = json.loads(line)
  except (RecursionError, ValueError):
    return None
  if not isinstance(values, dict) or not is_number(
      values.get('step'), MOST_STEPS) or values['step'] < 0:
    return None
  numbers = {
      texts.printable(k): v if is_number(v) else math.nan
      for k, v in values.items() if is_number(v) or isinstance(v, float)}
  if any(k not in numbers for k in values if RETURNS.search(k)):
    return None  # Other metrics may be text, but a return must be a number.
  return {**numbers, 'step': int(values['step'])}


def _curve(run, xs, ys, **more):
  return {
      'task': run.task, 'method': run.method, 'seed': run.seed, 'xs': xs,
      'ys': ys, **more}


def _read_ours(run, notes):
  """Returns the curves of one of our runs: evaluations, and random actions.

  If a step was run twice, after a resume, its last values count. A y is the
  mean that the run has logged; an evaluation with a damaged line still counts
  if the line of its mean is intact.
  """
  origin = _origin(run.logdir)
  evals, means, randoms, last = collections.defaultdict(list), {}, {}, {}
  rates = {}
  mine = []
  for values in run.lines(mine):
    step = last['at'] = values['step']
    if 'random_return' in values:
      randoms[step] = values['random_return']
    if 'eval_return' in values:
      evals[step] = [] if step in means else evals[step]
      means.pop(step, None)
      evals[step].append(values['eval_return'])
    if 'eval_return_mean' in values:
      means[step] = float(values['eval_return_mean'])
      rates[step] = float(values.get('eval_success_rate', math.nan))
    last.update({
        k: values[k] for k in ('updates', 'seconds', 'cpu_seconds')
        if k in values})
  notes += mine
  gaps = list(_gaps(evals, means, run, last))
  more = [f'{len(gaps) - GAPS:,} more notes like this'] * (len(gaps) > GAPS)
  notes += [texts.line(f'{run.logdir}: {x}') for x in gaps[:GAPS] + more]
  others = {*suites.SUITES} - {
      run.config.get('suite'), *run.task.split('_')}
  settings = {
      k: v for k, v in run.config.items()
      if k not in IGNORED and k.split('.')[0] not in others}
  random = dataclasses.replace(run, method='random')
  found = [rates[x] for x in sorted(means)]
  success = {} if np.isnan(found).all() else {'successes': found}
  curves = [
      _curve(run, sorted(means), [means[x] for x in sorted(means)], **origin,
             returns=[evals[x] for x in sorted(means)], **success, **last,
             budget=run.budget, settings=settings),
      _curve(random, sorted(randoms), [randoms[x] for x in sorted(randoms)],
             **origin, settings={  # Only those of the task matter here.
                 k: v for k, v in settings.items()
                 if k.split('.')[0] in logdirs.DATA})]
  return [c for c in curves if c['xs']]


def _gaps(evals, means, run, last):
  """Yields notes on what is missing from a run's evaluations."""
  for step in sorted({*evals, *means}):
    if step not in means:
      yield f'the evaluation at {step:,} has no mean and was left out'
    elif not math.isfinite(means[step]):
      yield f'the evaluation at {step:,} is not finite'
    elif evals[step] and not np.isclose(
        np.mean(evals[step]), means[step], 1e-4, 1e-4):
      yield (
          f'the returns of the evaluation at {step:,} do not match its mean, '
          f'which is used')
  if not means:
    yield (
        f"no evaluation yet, after {last.get('at', 0):,} of "
        f'{run.budget or 0:,.0f} steps')


def _origin(logdir):
  """Returns command, commit and machine, from the comments by train.py."""
  path = logdir / 'config.yaml'
  data = files.read_bytes(path, FILE_BYTES, logdir).decode(errors='replace')
  heads = [x[2:] for x in data.splitlines() if x[:2] == '# ']
  match = re.search(
      r'commit (.+?), (.+?), python', heads[-2] if len(heads) > 1 else '')
  if not match or not heads[-1].strip():
    raise ValueError(f'{path} does not say by which commit it was run')
  commit, machine, words = map(
      texts.printable, (match[1], match[2], command(heads[-1])))
  return {'command': words, 'commit': commit, 'machine': machine}


def command(line):
  """Returns the command that a run wrote down, without its --logdir."""
  program, *words = shlex.split(line)
  while '--logdir' in words:
    index = words.index('--logdir')
    del words[index: index + 2]
  words = [x for x in words if not x.startswith('--logdir=')]
  if program == '__main__.py':
    return shlex.join(['python', '-m', 'dreamingv2', *words])
  return shlex.join(['python'] * program.endswith('.py') + [program, *words])


def _read_upstream(*keys):
  """Returns a function that reads the curves of runs of other projects.

  Args:
    keys: Metrics that hold the return of an episode; the first one that a run
      has is read. Episodes of the same step are averaged.
  """

  def read(run, notes):
    mine, last = [], {}
    returns = {key: collections.defaultdict(list) for key in keys}
    for values in run.lines(mine):
      last['at'] = max(values['step'], last.get('at', 0))
      for key in set(keys) & set(values):
        returns[key][values['step']].append(float(values[key]))
    notes += mine
    key = next((x for x in keys if returns[x]), None)
    if not key:
      notes.append(texts.line(
          f'{run.logdir}: none of its lines has {" or ".join(keys)}'))
      return []
    if key != keys[0]:
      notes.append(texts.line(
          f'{run.logdir}: it has no {keys[0]}; the curve shows {key}, which '
          f'is of training episodes'))
    xs = sorted(returns[key])
    settings = {
        k: v for k, v in run.config.items()
        if k not in IGNORED and not re.fullmatch(IGNORED_UPSTREAM, k)}
    return [_curve(
        run, xs, [float(np.mean(returns[key][x])) for x in xs],
        returns=[returns[key][x] for x in xs], **last, budget=run.budget,
        format=run.format, settings=settings)]

  return read


def _unreadable(logdir, error):
  reason = getattr(error, 'strerror', None) or str(error)
  return texts.line(
      f"{logdir} cannot be read: {reason.removeprefix(f'{logdir}/')}")


# Name to Format; the first one of which a folder has a mark is used.
FORMATS = {
    'DreamerV3': Format(
        marks=frozenset({'episode/score', 'run.steps', 'scores.jsonl'}),
        files=('scores.jsonl', 'metrics.jsonl'), budget='run.steps',
        curves=_read_upstream('eval_episode/score', 'episode/score'),
        method='dreamerv3'),
    'DreamingV2': Format(
        marks=frozenset({'eval_return_mean', 'method'}),
        files=('metrics.jsonl',), budget='steps', curves=_read_ours,
        renamed=RENAMED),
    'DreamerV2': Format(
        marks=frozenset({'action_repeat', 'eval_return', 'train_return'}),
        files=('metrics.jsonl',), budget='steps',
        curves=_read_upstream('eval_return', 'train_return'),
        method='dreamerv2'),
}
