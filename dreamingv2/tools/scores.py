"""Collects the learning curves of runs, as JSON.

dreamingv2 scores --indir logdir --out scores/small.json
dreamingv2 scores --scores a.json b.json --indir logdir --out all.json

A curve has the form in which DreamerV2 and its peers publish their scores: a
dict with `task`, `method`, `seed`, `xs` (environment steps) and `ys` (mean
return of the evaluation at each step). Our curves also have `returns` (of each
episode of an evaluation), `successes` (the share of these that solved the
task, where it says so), `command`, `commit`, `machine`, `updates`, `seconds`
(wall time), `cpu_seconds` (with the environments' processes), `budget` (steps
wanted), `at` (steps done) and `settings` (the config keys that can change a
result). The random steps before training become a second curve, with the
method 'random'. Runs of DreamerV2 and DreamerV3 are read as well, see
formats.py; their curves have a `format`, and their methods end in
'(upstream)'. Curves of others may name their `source`.
"""

import collections
import gzip
import io
import json
import math
import shlex
import sys
import zlib

import numpy as np

from ..common import command
from ..common import files
from ..common import guards
from . import formats
from . import text as texts

FILE_BYTES = 2 ** 26  # Largest score file, also after unpacking.
MOST_CURVES = 2000  # Most curves in a score file.
GZIP = b'\x1f\x8b'  # First bytes of a gzip file.


@command.entry()
def main(argv=None):
  """Collects and saves the curves that the command line names."""
  args = make_parser().parse_args(argv)
  notes = []
  with guards.user_errors():
    if args.out:
      files.check_writable(args.out)
    curves = [c for path in args.scores for c in load(path, notes)]
    curves += [c for path in args.indir for c in collect(path, notes)]
    if not curves:
      raise ValueError('; '.join(notes) or 'no curve found; give a folder of '
                       'runs with --indir, or a JSON file with --scores')
    curves = without_copies(curves, notes)
    if args.out:
      save(curves, args.out)
  for note in notes:
    print(f'Note: {note}', file=sys.stderr)
  print(table(curves))


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser('dreamingv2 scores', __doc__)
  parser.add_argument(
      '--indir', nargs='*', default=[], type=command.path, metavar='FOLDER',
      help='folders in which to look for runs, at any depth')
  parser.add_argument(
      '--scores', nargs='*', default=[], type=command.path, metavar='FILE',
      help='JSON files with curves to add')
  parser.add_argument(
      '--out', type=command.path, metavar='FILE',
      help='JSON file to write, packed if it ends in .gz (default: only print '
      'a table)')
  return parser


def collect(folder, notes):
  """Returns the curves of all runs below a folder.

  Args:
    folder: Path.
    notes: List that collects warnings as text: one for each run that cannot
      be read, and one for each damaged part that is left out of another run.
  """
  return [
      curve for run in formats.open_runs(folder, notes)
      for curve in run.curves(notes)]


def without_copies(curves, notes):
  """Drops curves that were read twice, as from a logdir and from a file.

  Of a run that went on after it was saved to a file, the longer curve stays.
  """
  kept = collections.defaultdict(list)
  # Longer curves first; of equal ones that which says most.
  for number, curve in sorted(
      enumerate(curves), key=lambda x: (-len(x[1]['xs']), -len(x[1]))):
    task, method, seed = (curve[k] for k in ('task', 'method', 'seed'))
    others = kept[str([task, method, seed])]
    if not any(_begins(other, curve) for _, other in others):
      others.append((number, curve))
    elif method != 'random':
      notes.append(
          f'{task}, {method}, seed {seed}: the same curve was read twice and '
          f'counts once')
  both = sorted(sum(kept.values(), []), key=lambda x: x[0])
  return [curve for _, curve in both]


def _begins(whole, part):
  """Says whether `part` is `whole`, or was `whole` at an earlier step."""
  # A later version may have added keys to a run that it resumed.
  one, two = whole.get('settings', {}), part.get('settings', {})
  if any(str(one[k]) != str(two[k]) for k in one.keys() & two.keys()):
    return False
  # As text, in which NaN equals NaN.
  return all(
      str(whole[k][:len(part[k])]) == str(part[k]) for k in ('xs', 'ys'))


def load(path, notes):
  """Returns the curves of a JSON file, which may be packed with gzip.

  Args:
    path: File.
    notes: List that collects a warning if the file cannot be read; no curve
      is returned then.
  """
  try:
    data = files.read_bytes(path, FILE_BYTES)
    curves = json.loads(_unpack(data) if data[:2] == GZIP else data)
    if not isinstance(curves, list) or len(curves) > MOST_CURVES:
      raise ValueError(f'it must be a list of at most {MOST_CURVES:,} curves')
    return [_check(curve, path, notes) for curve in curves]
  except RecursionError:
    reason = 'it is too deeply nested'
  except (EOFError, KeyError, OSError, TypeError, ValueError,
          zlib.error) as error:
    reason = repr(error) if isinstance(error, KeyError) else error
  notes.append(texts.line(f'{path} holds no list of curves: {reason}'))
  return []


def _unpack(data):
  with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
    unpacked = file.read(FILE_BYTES + 1)
  if len(unpacked) > FILE_BYTES:
    raise ValueError(f'it unpacks to more than {FILE_BYTES:,} bytes')
  return unpacked


def _check(curve, path, notes):
  """Checks the types of a curve's values and returns it, sorted by step.

  What is not needed and has another form is left out, with a note.

  Raises:
    KeyError: A key is missing.
    TypeError, ValueError: A value has a wrong type.
  """
  names = {
      k: texts.printable(curve[k]) if isinstance(curve[k], str) else curve[k]
      for k in ('task', 'method', 'seed')}
  formats.check_names(**names)
  count = len(curve['xs'])
  if count != len(curve['ys']) or not count:
    raise ValueError(f"{count} xs, {len(curve['ys'])} ys")
  columns = {'ys': list(map(_value, curve['ys']))}
  for key, read in OPTIONAL.items():
    if key in curve:
      try:
        columns[key] = [read(x) for x in curve[key]]
        if len(columns[key]) != count:
          raise ValueError(f'{count} xs, {len(columns.pop(key))} {key}')
      except (TypeError, ValueError) as error:
        notes.append(texts.line(f'{path}: {key} left out: {error}'))
  steps = list(map(_step, curve['xs']))
  order = sorted(range(count), key=lambda i: steps[i])
  others = {
      k: curve[k] for k in (
          'at', 'budget', 'cpu_seconds', 'seconds', 'updates')
      if formats.is_number(curve.get(k))}
  for key in ('command', 'commit', 'format', 'machine', 'source'):
    if key in curve:
      others[key] = texts.printable(_word(curve[key]))
  shlex.split(others.get('command', ''))
  if 'settings' in curve:
    others['settings'] = formats.flatten(dict(curve['settings']))
  return {
      **names, 'xs': [steps[i] for i in order],
      **{k: [values[i] for i in order] for k, values in columns.items()},
      **others}


def _step(value):
  if not formats.is_number(value, formats.MOST_STEPS) or value < 0:
    raise ValueError(f'{str(value)[:40]!r} is not a number of steps')
  return int(value)  # Other projects write 30000.0.


def _value(value):
  if formats.is_number(value):
    return float(value)
  if isinstance(value, float) or value is None:
    return math.nan
  raise ValueError(f'{str(value)[:40]!r} is not a return')


OPTIONAL = {  # Key of a curve -> what reads its entry for a step.
    'returns': lambda ys: [_value(y) for y in ys], 'successes': _value}


def _word(value):
  if not isinstance(value, str):
    raise ValueError(f'{str(value)[:40]!r} is not a string')
  return value


def save(curves, path):
  """Writes curves to a JSON file, one per line; packs them for `.gz`."""
  lines = ',\n'.join(json.dumps(curve) for curve in curves)
  data = f'[\n{lines}\n]\n'.encode()
  files.write_bytes(
      path, gzip.compress(data, mtime=0) if path.suffix == '.gz' else data)


def table(curves):
  """Returns a Markdown table with the last evaluation of every seed.

  All runs of a task are compared at the last step of its shortest run. Runs
  whose settings differ have rows of their own. Where any run tells success,
  the last column has the rate of each seed that does.
  """
  solved = any('successes' in c for c in curves)
  rows = [
      '| task | method | seeds | steps | return | each seed |'
      + ' success |' * solved, '|---|---|---|---|---|---|' + '---|' * solved]
  budgets = shortest(curves)
  for (task, method), group in _by_setup(curves):
    random = method == 'random'
    steps = '' if random else budgets[task]
    ends = [
        mean(c['ys']) if random else _last(c, 'ys', steps) for c in group]
    rates = [
        f'{x:.0%}' for c in group if 'successes' in c and not random
        if np.isfinite(x := _last(c, 'successes', steps))]
    known = [x for x in ends if np.isfinite(x)]
    spread = f' +- {np.std(known, ddof=1):.1f}' if len(known) > 1 else ''
    rows.append(
        f'| {texts.markdown(task)} | {texts.markdown(method)} | '
        f'{len(group)} | {steps} | '
        f'{mean(ends):.1f}{spread} | '
        f'{" ".join(f"{x:.1f}" for x in ends)} |'
        + f' {" ".join(rates)} |' * solved)
  return '\n'.join(rows)


def mean(values):
  """Returns the mean of the finite values, NaN if there is none."""
  values = np.array(values, float)
  known = values[np.isfinite(values)]
  return float(known.mean()) if known.size else math.nan


def _last(curve, key, steps):
  """Returns the last value of a curve up to a step, NaN if there is none."""
  return ([
      y for x, y in zip(curve['xs'], curve[key], strict=True) if x <= steps]
      or [np.nan])[-1]


def shortest(curves):
  """Returns the last step of each task's shortest run."""
  budgets = {}
  for curve in curves:
    if curve['method'] != 'random':
      task, last = curve['task'], curve['xs'][-1]
      budgets[task] = min(last, budgets.get(task, last))
  return budgets


def _by_setup(curves):
  """Yields ((task, label), curves that can be averaged), sorted by names."""
  from . import results  # Late, as results imports this module.
  groups = collections.defaultdict(list)
  for curve in curves:
    groups[curve['task'], curve['method']].append(curve)
  for (task, method), group in sorted(groups.items()):
    setups = [group] if method == 'random' else results.setups(group)
    for index, setup in enumerate(setups):
      yield (task, numbered(method, index)), setup


def numbered(method, index):
  """Returns the label of one of a method's setups, which count from 0."""
  return method + f' [{index + 1}]' * bool(index)


if __name__ == '__main__':
  main()
