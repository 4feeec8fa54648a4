"""Collects the learning curves of runs, as JSON.

dreamingv2 scores --indir logdir --out scores/small.json
dreamingv2 scores --scores a.json b.json --indir logdir --out all.json

A curve is what DreamerV2 and its peers ship: a dict with `task`, `method`,
`seed`, `xs` (environment steps) and `ys` (mean return of an evaluation). Ours
also tell `returns` (of each episode behind a y), `command`, `commit`,
`machine`, `updates` and `seconds` (wall time), `budget` (steps wanted), `at`
(steps done) and `settings` (those that make a result). A run's random steps
before training make a curve of their own, whose method is 'random'. Runs of
DreamerV2 and DreamerV3 are read as well, see formats.py; their curves tell
their `format`, and their methods end in '(upstream)'.
"""

import collections
import gzip
import io
import json
import math
import pathlib
import shlex
import sys
import zlib

import numpy as np

from . import formats
from . import text
from ..common import command as commands
from ..common import files
from ..common import guards

FILE_BYTES = 2 ** 26  # Of a score file, also when unpacked.
MOST_CURVES = 2000  # Of a score file.
GZIP = b'\x1f\x8b'  # First bytes.


@commands.entry()
def main(argv=None):
  """Collects and saves as the command line says; see --help."""
  args = make_parser().parse_args(argv)
  notes = []
  with guards.user_errors():
    if args.out:
      files.check(args.out)
    curves = [c for path in args.scores for c in load(path, notes)]
    curves += [c for path in args.indir for c in collect(path, notes)]
    if not curves:
      raise ValueError('; '.join(notes) or 'no curve found; name a folder of '
                       'runs by --indir, or a JSON file by --scores')
    if args.out:
      save(curves, args.out)
  for note in notes:
    print(f'Note: {note}', file=sys.stderr)
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


def collect(folder, notes):
  """Returns the curves of all runs below a folder.

  Args:
    folder: Path.
    notes: List of lines in words; gets one for each run that cannot be read,
      and for what is wrong with others, which are read as far as they go.
  """
  return [
      curve for run in formats.open_runs(folder, notes)
      for curve in run.curves(notes)]


def load(path, notes):
  """Returns the curves of a JSON file, which may be packed by gzip.

  Args:
    path: File.
    notes: List of lines in words; gets one if the file cannot be read, which
      then has no curves.
  """
  try:
    data = files.read_bytes(path, FILE_BYTES)
    curves = json.loads(_unpack(data) if data[:2] == GZIP else data)
    if not isinstance(curves, list) or len(curves) > MOST_CURVES:
      raise ValueError(f'it has no list of up to {MOST_CURVES:,} curves')
    return [_check(curve) for curve in curves]
  except RecursionError:
    reason = 'it is too deeply nested'
  except (EOFError, KeyError, OSError, TypeError, ValueError,
          zlib.error) as error:
    reason = repr(error) if isinstance(error, KeyError) else error
  notes.append(text.line(f'{path} holds no list of curves: {reason}'))
  return []


def _unpack(data):
  with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
    found = file.read(FILE_BYTES + 1)
  if len(found) > FILE_BYTES:
    raise ValueError(f'it unpacks to more than {FILE_BYTES:,} bytes')
  return found


def _check(curve):
  """Returns a curve whose parts all have the kinds that they should have.

  Raises:
    KeyError, TypeError, ValueError: One has not, or is missing.
  """
  names = {
      k: text.printable(curve[k]) if isinstance(curve[k], str) else curve[k]
      for k in ('task', 'method', 'seed')}
  formats.check_names(**names)
  if len(curve['xs']) != len(curve['ys']) or not curve['xs']:
    raise ValueError(f"{len(curve['xs'])} xs, {len(curve['ys'])} ys")
  points = sorted(
      ((_step(x), _value(y)) for x, y in zip(
          curve['xs'], curve['ys'], strict=True)), key=lambda point: point[0])
  found = {k: curve[k] for k in ('at', 'budget', 'seconds', 'updates')
           if formats.is_number(curve.get(k))}
  for key in ('command', 'commit', 'format', 'machine'):
    if key in curve:
      found[key] = text.printable(_word(curve[key]))
  shlex.split(found.get('command', ''))
  if 'settings' in curve:
    found['settings'] = formats.flatten(dict(curve['settings']))
  if 'returns' in curve:
    found['returns'] = [[_value(y) for y in ys] for ys in curve['returns']]
  return {**names, 'xs': [x for x, _ in points], 'ys': [
      y for _, y in points], **found}


def _step(value):
  if not formats.is_number(value, formats.MOST_STEPS) or value < 0:
    raise ValueError(f'{str(value)[:40]!r} is no number of steps')
  return int(value)  # Others write 30000.0.


def _value(value):
  if formats.is_number(value):
    return float(value)
  if isinstance(value, float) or value is None:
    return math.nan
  raise ValueError(f'{str(value)[:40]!r} is no return')


def _word(value):
  if not isinstance(value, str):
    raise ValueError(f'{str(value)[:40]!r} is no text')
  return value


def save(curves, path):
  """Writes curves to a JSON file, one per line."""
  lines = ',\n'.join(json.dumps(curve) for curve in curves)
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
        f'| {text.markdown(task)} | {text.markdown(method)} | '
        f'{len(group)} | {steps} | '
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
