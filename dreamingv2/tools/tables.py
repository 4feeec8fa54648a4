"""Prints Tables I, II and III of the paper, with its numbers and our own.

dreamingv2 tables --indir logdir
dreamingv2 tables scores/small.json --steps common --format latex
dreamingv2 tables scores/cpu.json --steps common --tasks Lift --success

Reads logdirs, and score files of this project, DreamerV2, DreamerPro and
others. Notes below the tables list the runs that are missing, unfinished,
damaged or not comparable.
"""

import argparse
import csv
import dataclasses
import io
import math
import re

from ..common import command
from ..common import files
from ..common import guards
from . import results
from . import scores
from . import text as texts

MOST_COLUMNS = 40  # For methods that the paper does not have.
STATISTICS = {
    'mean': results.mean, 'median': results.median, 'IQM': results.iqm}


@dataclasses.dataclass
class Entry:
  """One number of a table; NaN where there is none."""

  mean: float = math.nan
  std: float = math.nan
  runs: int = 0
  low: float = math.nan  # Ends of the interval of an aggregate.
  high: float = math.nan
  mark: str = ''  # best or second
  note: int = 0  # Number of its footnote.
  text: str = ''  # Shown instead of the numbers.


@dataclasses.dataclass
class Table:
  """Rows are (task, where the numbers come from, steps, entries)."""

  name: str
  title: str
  columns: list
  rows: list
  caption: str


@command.entry()
def main(argv=None):
  """Prints the tables that the command line asks for; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    if args.out:
      files.check_writable(args.out)
    curves, notes = results.read(args.indir, args.scores)
    curves = results.choose(curves, args.methods, args.tasks)
    if args.success:
      curves = results.of_success(curves)
    text = FORMATS[args.format](*build(
        curves, args.steps, notes, args.tasks))
    if args.out:
      files.write_text(args.out, text)
  print(text, end='')


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser('dreamingv2 tables', __doc__)
  parser.add_argument(
      'scores', nargs='*', type=command.path, metavar='FILE',
      help='JSON files with curves, written by dreamingv2 scores')
  parser.add_argument(
      '--indir', nargs='*', default=[], type=command.path, metavar='FOLDER',
      help='folders in which to look for runs, at any depth')
  parser.add_argument(
      '--methods', nargs='*', default=[], metavar='METHOD',
      help='methods to show, as the runs name them (default: all)')
  parser.add_argument(
      '--tasks', nargs='*', default=[], metavar='TASK',
      help='tasks to show, as the tables name them (default: all)')
  parser.add_argument(
      '--success', action='store_true',
      help='compare the success rates of the evaluations, not the returns; '
      'the published numbers, which are returns, are left out')
  parser.add_argument(
      '--steps', default=str(results.PAPER_STEPS), type=parse_steps,
      help='environment step at which runs are compared, or "common": the '
      'last one that all runs of a task have reached')
  parser.add_argument(
      '--format', default='markdown', choices=sorted(FORMATS),
      help='format of the tables')
  parser.add_argument(
      '--out', type=command.path, metavar='FILE',
      help='file to write (default: only print)')
  return parser


def parse_steps(text):
  """Returns a number of steps, or None for 'common'."""
  if text == 'common':
    return None
  try:
    return parse_number(text)
  except argparse.ArgumentTypeError:
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a number of environment steps nor 'common'"
    ) from None


def parse_number(text):
  """Returns a number of environment steps."""
  try:
    steps = float(text)
  except ValueError:
    steps = 0
  if not steps >= 1 or steps == math.inf:
    raise argparse.ArgumentTypeError(
        f'{text!r} is no number of environment steps')
  return int(steps)


def build(curves, steps, notes=(), tasks=()):
  """Makes all tables.

  Args:
    curves: Curves that `results.read` returned, or those of success rates
      that `results.of_success` made of them.
    steps: Environment step; None: the last that all runs of a task reached.
    notes: Warnings about the runs, as text.
    tasks: Tasks whose published numbers are shown; all by default.

  Returns:
    Tables, footnotes to their entries, and general notes.
  """
  cells, footnotes, notes = {}, [], list(notes)
  common = scores.shortest(curves)
  at = lambda task: common.get(task, 0) if steps is None else steps
  tables, success = [], any('of' in c for c in curves)
  shown = {results.base(x) for x in tasks}
  for name, spec in results.published()['tables'].items():
    spec = {**spec, 'rows': {
        k: v for k, v in spec['rows'].items() if not shown or k in shown}}
    columns = dict(spec['columns'])
    if name == 'I':
      columns.update(_others(curves, notes))
    cells[name] = {
        (task, label): results.cell(group, task, label, at(task))
        for label, column in columns.items()
        for task, group in _by_task(curves, column).items()}
    tables.append(_table(
        name, spec, columns, cells[name], footnotes, steps, success))
    notes += _missing(name, spec, cells[name])
  samples, left_out = results.shares(cells['I'], curves)
  notes += [*left_out, *_unplaced(curves)]
  tables.append(_aggregates(samples, steps, success))
  return tables, footnotes, notes + _commands(curves)


def _others(curves, notes):
  """Returns columns for the methods that the paper's tables do not have."""
  known = {
      x['method'] for x in results.published()['tables']['I'][
          'columns'].values()}
  names = sorted(
      {c['method'] for c in curves} - known, key=lambda x: (x == 'random', x))
  if len(names) > MOST_COLUMNS:
    notes.append(
        f'{len(names) - MOST_COLUMNS} of {len(names)} methods that the paper '
        f'does not have are left out; choose some with --methods')
  return {x: {'method': x} for x in names[:MOST_COLUMNS]}


def _by_task(curves, column):
  """Returns {task: list of curves} for a column."""
  groups = {}
  for curve in curves:
    if results.belongs(curve, column):
      groups.setdefault(curve['task'], []).append(curve)
  return groups


def _table(name, spec, columns, cells, footnotes, steps, success):
  rows, sources = [], {}
  if not success:  # The published numbers are returns.
    sources['paper'] = spec
    if name == 'I':
      sources.update(results.published()['others'])
  # Tables II and III have no other tasks than the paper's, but may have
  # labelled rows of these, such as 'Lift (200 steps)'.
  tasks = [*spec['rows'], *sorted({
      task for task, _ in cells
      if name == 'I' or results.base(task) in spec['rows']} - {*spec['rows']})]
  for task in tasks:
    mine = [cells.get((task, label)) for label in columns]
    if any(mine):
      entries = [_entry(x, footnotes) for x in mine]
      _rank(entries, [x != 'random' for x in columns])
      reached = next(x.steps for x in mine if x)
      rows.append((task, 'these runs', reached, entries))
    for source, other in sources.items():
      if values := other['rows'].get(task):
        entries = [Entry(*(x or ())) for x in values]
        if source == 'paper':
          _rank(entries)
        entries += [Entry()] * (len(columns) - len(entries))
        rows.append((task, source, results.PAPER_STEPS, entries))
  title = f"{spec['title']}, as success rates" if success else spec['title']
  return Table(
      f'Table {name}', title, list(columns), rows,
      _caption(sources, steps, success))


def _entry(cell, footnotes):
  if cell is None:
    return Entry()
  notes = list(cell.notes)
  entry = Entry(cell.mean, cell.std, len(cell.values))
  if len(cell.groups) > 1:
    entry.text = 'not averaged'
    notes += [
        f'setup {i}: ' + ', '.join(
            f'{_number(x)} (seed {seed})' for seed, x in group)
        for i, group in enumerate(cell.groups, 1)]
  if notes:
    footnotes.append(f'{cell.task}, {cell.method}: ' + '; '.join(notes) + '.')
    entry.note = len(footnotes)
  return entry


def _rank(entries, allowed=None):
  """Marks the best and the second-best mean of a row."""
  ranked = [
      x for i, x in enumerate(entries)
      if math.isfinite(x.mean) and (allowed is None or allowed[i])]
  ranked.sort(key=lambda x: -x.mean)
  if len(ranked) > 1:
    for entry, mark in zip(ranked, ('best', 'second'), strict=False):
      entry.mark = mark


def _caption(sources, steps, success):
  where = 'the last step that all runs of the task have reached' if (
      steps is None) else f'{steps:,} environment steps'
  what = 'share of its episodes that solve the task at any step' if (
      success) else 'mean return of its episodes'
  lines = [
      f'These runs: the score of a run is the mean of its evaluations within '
      f'{results.WINDOW:.1%} of {where}, never a maximum over training. Each '
      f'evaluation is the {what}; the policy acts by its mode. An entry is '
      f'the mean ± standard deviation (n - 1) over runs, with the number of '
      f'runs in parentheses; random actions count all episodes before '
      f'training. The best and the second-best mean of a row are marked, '
      f'whether the difference is significant or not.']
  for source, other in sources.items():
    lines.append(f"{source}: {other['from']}." if source != 'paper' else (
        f"paper: {other['from']}, mean ± standard deviation at "
        f'{results.PAPER_STEPS:,} steps.'))
  return ' '.join(lines)


def _missing(name, spec, cells):
  """Yields notes on the runs that a table lacks."""
  own = list(spec['columns'])
  tasks = sorted({task for task, _ in cells})
  none = [x for x in spec['rows'] if x not in tasks]
  if len(none) == len(spec['rows']) > 1:
    yield f'Table {name}: no run on any of its tasks.'
  elif none:
    yield f'Table {name}: no run on {", ".join(none)}.'
  for task in tasks:
    have = {x: cells[task, x] for x in own if (task, x) in cells}
    seeds = {
        x: {seed for group in cell.groups for seed, _ in group}
        for x, cell in have.items()}
    wanted = set().union(*seeds.values()) if seeds else set()
    gone = [x for x in own if x not in have]
    if have and gone and task in spec['rows']:
      yield f'Table {name}, {task}: no run of {", ".join(gone)}.'
    for label, own_seeds in seeds.items():
      if missing := sorted(wanted - own_seeds):
        yield (
            f'Table {name}, {task}, {label}: no run with seed '
            f'{", ".join(missing)}, which other methods have.')


def _unplaced(curves):
  """Yields notes on the runs whose settings fit no column."""
  specs = results.published()['tables'].values()
  columns = [x for spec in specs for x in spec['columns'].values()]
  known = {x['method'] for x in columns}
  for curve in curves:
    if curve['method'] in known and not any(
        results.belongs(curve, x) for x in columns):
      yield (
          f"{curve['task']}, {curve['method']}, seed {curve['seed']}: its "
          f'settings fit no column of the tables')


def _commands(curves):
  """Lists the distinct commands behind the runs."""
  lines = {}
  for curve in curves:
    if curve['method'] != 'random' and 'command' in curve:
      key = (
          re.sub(r' --(seed|steps) \S+', '', curve['command']),
          curve.get('commit', 'unknown')[:7])
      lines.setdefault(key, []).append(
          f"seed {curve['seed']}: {curve['xs'][-1]:,}")
  return [
      f'Run: {command} (commit {commit}; last evaluation of '
      f'{", ".join(sorted(ends))})'
      for (command, commit), ends in sorted(lines.items())]


def _aggregates(samples, steps, success):
  """Makes the table of statistics of normalised scores over all tasks."""
  own = [
      x for x in results.published()['tables']['I']['columns'] if x in samples]
  sets = [set(samples[x]) for x in own or samples]
  tasks = sorted(set.intersection(*sets)) if sets else []
  rows = []
  for label, by_task in samples.items():
    if tasks and set(tasks) <= set(by_task):
      values = [by_task[x] for x in tasks]
      entries = [
          Entry(float(fn(*values)), math.nan, sum(map(len, values)),
                *(results.interval(values, fn) or (math.nan, math.nan)))
          for fn in STATISTICS.values()]
      rows.append((label, 'these runs', 0, entries))
  for column in zip(*(row[-1] for row in rows), strict=True):
    _rank(column)
  where = 'their common steps' if steps is None else f'{steps:,} steps'
  title = 'Success rates over tasks' if success else (
      'Scores over tasks, as shares of the upper limit')
  unit = '' if success else (
      'A score is divided by the maximum return of its task. ')
  return Table(
      'Aggregates', title, list(STATISTICS), rows,
      f"Tasks that all of the paper's methods with runs share: "
      f"{', '.join(tasks) or 'none'}; at {where}. {unit}The columns "
      f"are the mean and median of the tasks' means and the interquartile "
      f'mean (IQM) of all runs, with the number of runs in parentheses. The '
      f'95% intervals come from {results.RESAMPLES} stratified bootstrap '
      f'resamples (runs within each task); there is none if a task has only '
      f'one run. Published numbers are not per-run and cannot be aggregated '
      f'like this.')


def _number(value, mean=None):
  """Formats a number; a deviation gets no more digits than its mean."""
  if isinstance(value, int):  # Published numbers stay as they are.
    return str(value)
  mean = value if mean is None else mean
  digits = 0 if abs(value) >= 10 else 1 if abs(mean) >= 1 else 3
  return f'{value:.{digits}f}'


def _text(entry):
  """Formats an entry without its marks; an empty one is '–'."""
  if entry.text or not math.isfinite(entry.mean):
    return entry.text or '–'
  text = _number(entry.mean)
  if math.isfinite(entry.std):
    text += f' ± {_number(entry.std, entry.mean)}'
  if math.isfinite(entry.low):
    text += f' [{_number(entry.low)}, {_number(entry.high)}]'
  return text


def markdown(tables, footnotes, notes):
  """Formats Markdown; the best mean is bold, the second-best italic."""
  marks = {'best': '**{}**', 'second': '_{}_', '': '{}'}
  lines = []
  for table in tables:
    lines += [f'### {table.name}: {table.title}', '']
    heads = ['', 'from', 'steps', *map(texts.markdown, table.columns)]
    lines += ['| ' + ' | '.join(heads) + ' |', '|---' * len(heads) + '|']
    before = None
    for name, source, steps, entries in table.rows:
      cells = [
          marks[x.mark].format(_text(x)) + f' ({x.runs})' * bool(x.runs)
          + f' [{x.note}]' * bool(x.note) for x in entries]
      lines.append('| ' + ' | '.join([
          texts.markdown(name) if name != before else '', source,
          f'{steps:,}' if steps else '', *cells]) + ' |')
      before = name
    lines += ['', table.caption, '']
  lines += [f'[{i}] {texts.markdown(x)}  ' for i, x in enumerate(footnotes, 1)]
  lines += [''] * bool(footnotes) + [
      f'- {texts.markdown(x)}' for x in notes]
  return '\n'.join(lines).rstrip() + '\n'


def latex(tables, footnotes, notes):
  """Formats LaTeX for booktabs; marks the best means as the paper does."""
  marks = {
      'best': r'\textbf{{\underline{{{}}}}}', 'second': r'\underline{{{}}}',
      '': '{}'}
  lines = [r'% \usepackage{booktabs}']
  for table in tables:
    lines += [
        r'\begin{table*}', r'\centering',
        rf"\caption{{{texts.latex(f'{table.title}. {table.caption}')}}}",
        rf"\begin{{tabular}}{{ll{'r' * (1 + len(table.columns))}}}",
        r'\toprule',
        ' & '.join(['', 'from', 'steps', *map(
            texts.latex, table.columns)]) + r' \\',
        r'\midrule']
    before = None
    for name, source, steps, entries in table.rows:
      cells = [
          marks[x.mark].format(texts.latex(_text(x)))
          + f' ({x.runs})' * bool(x.runs)
          + rf'$^{{{x.note}}}$' * bool(x.note) for x in entries]
      lines.append(' & '.join([
          texts.latex(name) if name != before else '', texts.latex(source),
          f'{steps:,}' if steps else '', *cells]) + r' \\')
      before = name
    lines += [r'\bottomrule', r'\end{tabular}', r'\end{table*}', '']
  lines += [
      rf'$^{{{i}}}${texts.latex(x)}\\' for i, x in enumerate(footnotes, 1)]
  lines += [rf'{texts.latex(x)}\\' for x in notes]
  return '\n'.join(lines) + '\n'


def to_csv(tables, footnotes, notes):
  """Formats CSV with one line per number and one per note."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  write = lambda row: writer.writerow([texts.cell(x) for x in row])
  write([
      'table', 'row', 'from', 'steps', 'column', 'mean', 'std', 'runs', 'low',
      'high', 'mark', 'note'])
  for table in tables:
    for name, source, steps, entries in table.rows:
      for column, x in zip(table.columns, entries, strict=True):
        if math.isfinite(x.mean) or x.note:
          numbers = [
              y if math.isfinite(y) else ''
              for y in (x.mean, x.std, x.runs, x.low, x.high)]
          write([
              table.name, name, source, steps or '', column, *numbers, x.mark,
              footnotes[x.note - 1] if x.note else ''])
    write([table.name, 'caption', *[''] * 9, table.caption])
  for note in notes:
    write(['', 'note', *[''] * 9, note])
  return buffer.getvalue()


FORMATS = {'csv': to_csv, 'latex': latex, 'markdown': markdown}


if __name__ == '__main__':
  main()
