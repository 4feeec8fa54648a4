"""Collects the learning curves of runs, as JSON and as a picture.

python -m dreamingv2.scores --indir logdir --out scores/small.json
python -m dreamingv2.scores --scores scores/small.json --plot curves.png

A curve is what DreamerV2 and its peers ship: a dict with `task`, `method`,
`seed`, `xs` (environment steps) and `ys` (mean return of an evaluation). Ours
also tell `returns` (of each episode behind a y), `command`, `commit`,
`machine`, `updates` and `seconds` (wall time). A run's random steps before
training make a curve of their own, whose method is 'random'.
"""

import argparse
import collections
import json
import pathlib
import re
import shlex
import sys

import numpy as np

from .common import checkpoint
from .common import config as configs

# Wong 2011, Nature Methods 8:441: told apart by all kinds of colour vision.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')


def main(argv=None):
  """Collects, saves and draws as the command line says; see --help."""
  parser = argparse.ArgumentParser(
      prog='python -m dreamingv2.scores',
      description='Collects the learning curves of runs.')
  parser.add_argument(
      '--indir', nargs='*', default=[], type=pathlib.Path,
      help='folders in which to look for runs, at any depth')
  parser.add_argument(
      '--scores', nargs='*', default=[], type=pathlib.Path,
      help='JSON files with curves to add')
  parser.add_argument('--out', type=pathlib.Path, help='JSON file to write')
  parser.add_argument('--plot', type=pathlib.Path, help='picture to write')
  args = parser.parse_args(argv)
  try:
    curves = [c for path in args.scores for c in load(path)]
    curves += [c for path in args.indir for c in collect(path)]
    if not curves:
      raise ValueError('no curve found; name a folder of runs by --indir, or '
                       'a JSON file by --scores')
    if args.out:
      save(curves, args.out)
    if args.plot:
      plot(curves, args.plot)
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
  print(table(curves))


def collect(folder):
  """Returns the curves of all runs below a folder.

  Raises:
    ValueError: There is no such folder, or a run in it that cannot be read.
  """
  if not folder.is_dir():
    raise ValueError(f'there is no folder {folder}')
  curves = []
  for path in sorted(folder.rglob('metrics.jsonl')):
    curves += read_run(path.parent)
  return curves


def read_run(logdir):
  """Returns the curves of one run: evaluations, and random actions.

  Steps that were run twice, after a resume, count as they were last.

  Raises:
    ValueError: A line is no JSON, or the config names no commit.
  """
  config = configs.read_yaml(logdir / 'config.yaml')
  evals, randoms, last, pending = {}, {}, {}, []
  for values in _lines(logdir / 'metrics.jsonl'):
    step = values['step']
    if 'random_return' in values:
      randoms[step] = values['random_return']
    if 'eval_return' in values:
      pending.append(values['eval_return'])
    if 'eval_return_mean' in values:
      evals[step], pending = pending, []
    last.update({k: values[k] for k in ('updates', 'seconds') if k in values})
  common = {
      'task': config['task'], 'seed': config['seed'], **_origin(logdir)}
  curves = [{
      **common, 'method': config['method'], 'xs': sorted(evals),
      'ys': [float(np.mean(evals[x])) for x in sorted(evals)],
      'returns': [evals[x] for x in sorted(evals)], **last}, {
      **common, 'method': 'random', 'xs': sorted(randoms),
      'ys': [randoms[x] for x in sorted(randoms)]}]
  return [c for c in curves if c['xs']]


def _lines(path):
  for number, line in enumerate(path.read_text().splitlines(), 1):
    try:
      yield json.loads(line)
    except ValueError as error:
      raise ValueError(f'{path}:{number} is no JSON: {error}') from error


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
      for key in ('task', 'method', 'seed', 'xs', 'ys'):
        curve[key]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} holds no list of curves: {error!r}') from error
  return curves


def save(curves, path):
  """Writes curves to a JSON file, one per line."""
  lines = ',\n'.join(json.dumps(curve) for curve in curves)
  path.parent.mkdir(parents=True, exist_ok=True)
  checkpoint.write_atomic(
      path, lambda file: file.write(f'[\n{lines}\n]\n'.encode()))


def table(curves):
  """Returns a Markdown table: last evaluation of every seed, by task.

  All runs of a task are compared after the same steps: those of its shortest
  run.
  """
  rows = [
      '| task | method | seeds | steps | return | each seed |',
      '|---|---|---|---|---|---|']
  budgets = {}
  for curve in curves:
    if curve['method'] != 'random':
      task, last = curve['task'], curve['xs'][-1]
      budgets[task] = min(last, budgets.get(task, last))
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


def grouped(curves):
  """Returns lists of curves by (task, method), both sorted."""
  groups = collections.defaultdict(list)
  for curve in curves:
    groups[curve['task'], curve['method']].append(curve)
  return dict(sorted(groups.items()))


def plot(curves, path):
  """Draws one panel per task: a line per seed, and what random actions get.

  Raises:
    ValueError: Matplotlib is not installed.
  """
  try:
    from matplotlib import figure
  except ImportError as error:
    raise ValueError(
        "pictures need Matplotlib: pip install 'dreamingv2[plot]'") from error
  tasks = sorted({c['task'] for c in curves})
  methods = sorted({c['method'] for c in curves} - {'random'})
  colors = {m: COLORS[i % len(COLORS)] for i, m in enumerate(methods)}
  fig = figure.Figure((3.2 * len(tasks) + 2, 2.8), layout='constrained')
  for ax, task in zip(
      fig.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
    _panel(ax, task, curves, colors)
  handles = {}
  for ax in fig.axes:
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
      handles.setdefault(label, handle)
  fig.legend(
      handles.values(), handles.keys(), loc='outside right upper',
      frameon=False)
  fig.savefig(path, dpi=150)


def _panel(ax, task, curves, colors):
  ax.set(title=task, xlabel='environment steps', ylabel='return')
  ax.spines[['top', 'right']].set_visible(False)
  for method, color in colors.items():
    for curve in curves:
      if (curve['task'], curve['method']) == (task, method):
        ax.plot(
            curve['xs'], curve['ys'], color=color, label=method, marker='.')
  returns = [y for c in curves for y in c['ys']
             if (c['task'], c['method']) == (task, 'random')]
  if returns:
    ax.axhspan(
        *np.percentile(returns, [5, 95]), color='0.85', lw=0,
        label='random, 5 to 95%')
    ax.axhline(np.mean(returns), color='0.5', lw=1, ls='--')


if __name__ == '__main__':
  main()
