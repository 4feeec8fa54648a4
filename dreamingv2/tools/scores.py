"""Collects the learning curves of runs, as JSON.

dreamingv2 scores --indir logdir --out scores/small.json
dreamingv2 scores --scores a.json b.json --indir logdir --out all.json

A curve is what DreamerV2 and its peers ship: a dict with `task`, `method`,
`seed`, `xs` (environment steps) and `ys` (mean return of an evaluation). Ours
also tell `returns` (of each episode behind a y), `command`, `commit`,
`machine`, `updates` and `seconds` (wall time), `budget` (steps wanted), `at`
(steps done) and `settings` (those that make a result). A run's random steps
before training make a curve of their own, whose method is 'random'.
"""

import collections
import functools
import json
import pathlib
import re
import shlex

import numpy as np

from ..common import command as commands
from ..common import config as configs
from ..common import files
from ..common import guards
from ..common import logdir as logdirs
from ..common import suites

# Names of metrics in older runs, as patterns, and what they are called now.
RENAMED = {
    r'episodes': 'train_total_episodes',
    r'train_(?!return$|length$|total_|loaded_|damaged_|bytes$)(\w+)': r'\1',
}
# Keys that change no result, or that a curve tells elsewhere.
IGNORED = (
    *logdirs.RESUMABLE, 'method', 'probe', 'seed', 'suite', 'task')


@commands.entry()
def main(argv=None):
  """Collects and saves as the command line says; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    curves = [c for path in args.scores for c in load(path)]
    curves += [c for path in args.indir for c in collect(path)]
    if not curves:
      raise ValueError('no curve found; name a folder of runs by --indir, or '
                       'a JSON file by --scores')
    if args.out:
      save(curves, args.out)
  print(table(curves))


def make_parser():
  """Returns the parser of the command line."""
  parser = commands.Parser('dreamingv2 scores', __doc__)
  parser.add_argument(
      '--indir', nargs='*', default=[], type=pathlib.Path, metavar='FOLDER',
      help='folders in which to look for runs, at any depth')
  parser.add_argument(
      '--scores', nargs='*', default=[], type=pathlib.Path, metavar='FILE',
      help='JSON files with curves to add')
  parser.add_argument(
      '--out', type=pathlib.Path, metavar='FILE',
      help='JSON file to write (default: only print a table)')
  return parser


def collect(folder, notes=None):
  """Returns the curves of all runs below a folder.

  Args:
    folder: Path.
    notes: List to which is added, in words, what is wrong with a run, which
      is then read as far as that goes. Without it that raises.

  Raises:
    ValueError: There is no such folder, or a run in it that cannot be read.
  """
  if not folder.is_dir():
    raise ValueError(f'there is no folder {folder}')
  curves = []
  for path in sorted(folder.rglob('metrics.jsonl')):
    try:
      curves += read_run(path.parent, notes)
    except (KeyError, OSError, ValueError) as error:
      if notes is None:
        raise
      notes.append(f'{path.parent} cannot be read: {error}')
  if notes is not None:
    notes += [
        f'{x.parent} has no metrics yet' for x in folder.rglob('config.yaml')
        if not (x.parent / 'metrics.jsonl').exists()]
  return curves


def read_run(logdir, notes=None):
  """Returns the curves of one run: evaluations, and random actions.

  Steps that were run twice, after a resume, count as they were last. A y is
  the mean that the run logged; with `notes`, an evaluation with a damaged
  line is still counted if that mean is whole.

  Args:
    logdir: Path.
    notes: As of `collect`.

  Raises:
    ValueError: A line is no JSON, or the config names no commit.
  """
  config = configs.Config(configs.read_yaml(logdir / 'config.yaml')).flat
  evals, means, randoms, last = collections.defaultdict(list), {}, {}, {}
  for values in lines(logdir / 'metrics.jsonl', notes):
    step = last['at'] = values['step']
    if 'random_return' in values:
      randoms[step] = values['random_return']
    if 'eval_return' in values:
      evals[step] = [] if step in means else evals[step]
      means.pop(step, None)
      evals[step].append(values['eval_return'])
    if 'eval_return_mean' in values:
      means[step] = float(values['eval_return_mean'])
    last.update({k: values[k] for k in ('updates', 'seconds') if k in values})
  if notes is not None:
    notes += [f'{logdir}: {x}' for x in _gaps(evals, means, config, last)]
  others = {*suites.SUITES} - {config.get('suite'), *config['task'].split('_')}
  settings = {
      k: list(v) if isinstance(v, tuple) else v
      for k, v in config.items()
      if k not in IGNORED and k.split('.')[0] not in others}
  common = {'task': config['task'], 'seed': config['seed'], **_origin(logdir)}
  curves = [{
      **common, 'method': config['method'], 'xs': sorted(means),
      'ys': [means[x] for x in sorted(means)],
      'returns': [evals[x] for x in sorted(means)], **last,
      'budget': config.get('steps'), 'settings': settings}, {
      **common, 'method': 'random', 'xs': sorted(randoms),
      'ys': [randoms[x] for x in sorted(randoms)],
      'settings': {  # Of the task; random actions know no others.
          k: v for k, v in settings.items()
          if k.split('.')[0] in logdirs.DATA}}]
  return [c for c in curves if c['xs']]


def lines(path, notes=None):
  """Yields the lines of a metrics.jsonl as dicts, by present names.

  Args:
    path: File.
    notes: As of `collect`.
  """
  damaged = []
  text = path.read_text(errors='replace')
  for number, line in enumerate(text.splitlines(), 1):
    try:
      values = json.loads(line)
      if not isinstance(values, dict) or not isinstance(
          values.get('step'), int):
        raise ValueError(f'no step in {line[:40]!r}')
    except ValueError as error:
      if notes is None:
        raise ValueError(f'{path}:{number} is no JSON: {error}') from error
      damaged.append(number)
    else:
      yield {rename(name): value for name, value in values.items()}
  if damaged:
    notes.append(
        f'{path}: {len(damaged)} damaged line{"s"[:len(damaged) > 1]} left '
        f'out, the first at {damaged[0]}')


@functools.lru_cache(None)
def rename(name):
  """Returns the present name of a metric, see RENAMED."""
  for pattern, present in RENAMED.items():
    if match := re.fullmatch(pattern, name):
      return match.expand(present)
  return name


def _gaps(evals, means, config, last):
  """Yields in words what a run's evaluations lack."""
  for step in sorted({*evals, *means}):
    if step not in means:
      yield f'the evaluation at {step:,} has no mean and was left out'
    elif not np.isfinite(means[step]):
      yield f'the evaluation at {step:,} is not finite'
    elif evals[step] and not np.isclose(
        np.mean(evals[step]), means[step], 1e-4, 1e-4):
      yield (
          f'the returns of the evaluation at {step:,} are not those of its '
          f'mean, which counts')
  if not means:
    yield (
        f"no evaluation yet, after {last.get('at', 0):,} of "
        f"{config.get('steps', 0):,.0f} steps")


def _origin(logdir):
  """Returns who ran it and how, from the comments that train.py writes."""
  path = logdir / 'config.yaml'
  heads = [x[2:] for x in path.read_text().splitlines() if x[:2] == '# ']
  found = re.search(
      r'commit (.+?), (.+?), python', heads[-2] if len(heads) > 1 else '')
  if not found:
    raise ValueError(f'{path} does not say by which commit it was run')
  return {
      'command': command(heads[-1]), 'commit': found[1], 'machine': found[2]}


def command(line):
  """Returns a command line without the folder it wrote to."""
  words = shlex.split(line)
  while '--logdir' in words:
    index = words.index('--logdir')
    del words[index: index + 2]
  return shlex.join(['python', *words])


def load(path):
  """Reads curves from a JSON file.

  Raises:
    ValueError: It is none, or a curve lacks a key.
  """
  try:
    curves = json.loads(path.read_text())
    for curve in curves:
      for key in ('task', 'method', 'seed'):
        curve[key]
      curve['xs'] = [int(x) for x in curve['xs']]  # Others write 30000.0.
      curve['ys'] = [float(y) for y in curve['ys']]
      if len(curve['xs']) != len(curve['ys']) or not curve['xs']:
        raise ValueError(f"{len(curve['xs'])} xs, {len(curve['ys'])} ys")
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} holds no list of curves: {error!r}') from error
  return curves


def save(curves, path):
  """Writes curves to a JSON file, one per line."""
  lines = ',\n'.join(json.dumps(curve) for curve in curves)
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, f'[\n{lines}\n]\n')


def table(curves):
  """Returns a Markdown table: last evaluation of every seed, by task.

  All runs of a task are compared after the same steps: those of its shortest
  run.
  """
  rows = [
      '| task | method | seeds | steps | return | each seed |',
      '|---|---|---|---|---|---|']
  budgets = shortest(curves)
  for (task, method), group in grouped(curves).items():
    steps = '' if method == 'random' else budgets[task]
    ends = [
        np.mean(c['ys']) if method == 'random' else
        ([y for x, y in zip(c['xs'], c['ys'], strict=True) if x <= steps]
         or [np.nan])[-1]
        for c in group]
    spread = f' +- {np.std(ends):.1f}' if len(ends) > 1 else ''
    rows.append(
        f'| {task} | {method} | {len(group)} | {steps} | '
        f'{np.mean(ends):.1f}{spread} | '
        f'{" ".join(f"{x:.1f}" for x in ends)} |')
  return '\n'.join(rows)


def shortest(curves):
  """Returns the last step of each task's shortest run."""
  budgets = {}
  for curve in curves:
    if curve['method'] != 'random':
      task, last = curve['task'], curve['xs'][-1]
      budgets[task] = min(last, budgets.get(task, last))
  return budgets


def grouped(curves):
  """Returns lists of curves by (task, method), both sorted."""
  groups = collections.defaultdict(list)
  for curve in curves:
    groups[curve['task'], curve['method']].append(curve)
  return dict(sorted(groups.items()))


if __name__ == '__main__':
  main()
