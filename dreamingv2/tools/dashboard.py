"""Writes an overview of runs as one HTML file that needs nothing else."""

import base64
import html
import io
import re

import numpy as np

from . import results
from . import scores
from ..common import config as configs
from ..common import files
from ..common import plot as plots

POINTS = 400  # Most of a line; more would not be seen.
GROUPS = {  # Title of a panel: names of its metrics.
    'returns': r'(train|random)_return|eval_return_mean',
    'model losses': r'(?!(expl_)?(actor|critic)_)\w+_loss',
    'behaviour losses': r'(expl_)?(actor|critic)_loss',
    'entropy (nats)': r'(prior|post|actor)_ent',
    'gradient norms': r'\w+_grad_norm',
    'updates skipped': r'\w+_skipped',
    'share of the time': r'share_.*',
    'environment steps per second': r'fps',
}
SCALES = {'gradient norms': 'log', 'model losses': 'symlog'}
VIDEOS = 2  # Newest of each run, by name.
SCALE = 2  # Of their pixels.
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; padding: 0 1em;
  max-width: 68em; color: #222; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } th, td { padding: .25em .6em;
  text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; } pre { overflow-x: auto; background: #f5f5f5;
  padding: .6em; } .video { image-rendering: pixelated; }
.note { color: #a33; } summary { cursor: pointer; }
"""


def write(folders, path, draw):
  """Writes the overview of all runs below some folders.

  Args:
    folders: Paths.
    path: HTML file to write.
    draw: Function from curves and a list of notes to a figure of them all.

  Returns:
    Notes on what is wrong with runs; they stand in the file, too.

  Raises:
    ValueError: There is no such folder, or no run in it.
  """
  runs, notes = [], []
  curves = []
  for folder in folders:
    curves += [
        {**c, 'task': results.canonical(c['task'])}
        for c in scores.collect(folder, notes)]
    for metrics in sorted(folder.rglob('metrics.jsonl')):
      try:
        runs.append(_read(metrics.parent))
      except (KeyError, OSError, ValueError):
        continue  # Noted by collect.
  if not runs:
    raise ValueError('; '.join(notes) or 'no run found; name a folder of '
                     'runs by --indir')
  parts = [
      '<h1>Runs</h1>', _table(runs),
      _inline(draw(curves, notes)) if curves else '',
      *(f'<p class="note">{html.escape(x)}</p>' for x in notes),
      *(_section(i, run) for i, run in enumerate(runs))]
  text = (
      f'<!doctype html><html lang="en"><meta charset="utf-8">'
      f'<title>Runs</title><style>{STYLE}</style>{"".join(parts)}</html>\n')
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, text)
  return notes


def _read(logdir):
  """Returns what the overview shows of a run."""
  config = configs.Config(configs.read_yaml(logdir / 'config.yaml')).flat
  series = {}
  for values in scores.lines(logdir / 'metrics.jsonl', []):
    for key, value in values.items():
      if key != 'step' and isinstance(value, (int, float)):
        series.setdefault(key, []).append((values['step'], value))
  return {
      'logdir': logdir, 'config': config, 'series': series,
      'step': max((x[-1][0] for x in series.values()), default=0)}


def _last(run, key, text='{:.1f}'):
  found = run['series'].get(key)
  return text.format(found[-1][1]) if found else '–'


def _table(runs):
  heads = (
      'run', 'task', 'method', 'seed', 'steps', 'of', 'updates', 'hours',
      'steps per s', 'last evaluation')
  rows = []
  for index, run in enumerate(runs):
    config = run['config']
    seconds = run['series'].get('seconds')
    cells = [
        f'<a href="#run{index}">{html.escape(str(run["logdir"]))}</a>',
        *(html.escape(str(config.get(k, '–')))
          for k in ('task', 'method', 'seed')),
        f'{run["step"]:,}', f'{config.get("steps", 0):,.0f}',
        _last(run, 'updates', '{:,.0f}'),
        f'{seconds[-1][1] / 3600:.2f}' if seconds else '–',
        _last(run, 'fps'), _last(run, 'eval_return_mean')]
    rows.append('<tr>' + ''.join(f'<td>{x}</td>' for x in cells) + '</tr>')
  head = ''.join(f'<th>{x}</th>' for x in heads)
  return (
      f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>')


def _section(index, run):
  title = html.escape(str(run['logdir']))
  text = (run['logdir'] / 'config.yaml').read_text(errors='replace')
  return (
      f'<h2 id="run{index}">{title}</h2>{_picture(run)}{_videos(run)}'
      f'<details><summary>config.yaml</summary><pre>{html.escape(text)}'
      f'</pre></details>')


def _picture(run):
  """Draws a run's metrics as an inline PNG."""
  groups = {
      title: sorted(x for x in run['series'] if re.fullmatch(pattern, x))
      for title, pattern in GROUPS.items()}
  groups = {title: names for title, names in groups.items() if names}
  if not groups:
    return '<p>No metrics yet.</p>'
  fig, axes = plots.grid(len(groups), columns=2)
  for ax, (title, names) in zip(axes, groups.items(), strict=True):
    styles = plots.palette(names)
    for name in names:
      xs, ys = np.array(run['series'][name], float).T
      every = -(-len(xs) // POINTS)
      style = {**styles[name], 'marker': '.' if len(xs) < 30 else ''}
      ax.plot(xs[::every], ys[::every], label=_short(name), **style)
    ax.set(title=title, xlabel='environment steps')
    ax.set_yscale(SCALES.get(title, 'linear'))
    if title == 'updates skipped':
      ax.set_ylim(0, max(1, ax.get_ylim()[1]))
    ax.legend(fontsize='x-small', ncols=2)
  return _inline(fig)


def _inline(fig):
  buffer = io.BytesIO()
  fig.savefig(buffer, format='png', dpi=130)
  return _image(buffer.getvalue(), 'png', 'curves over environment steps')


def _short(name):
  return re.sub(r'^share_|_(loss|grad_norm|skipped)$', '', name)


def _videos(run):
  """Returns the newest videos of a run, inline."""
  newest = {}
  for path in (run['logdir'] / 'videos').glob('*.gif'):
    found = re.fullmatch(r'(.+)_(\d+)', path.stem)
    if found:
      key = int(found[2])
      newest[found[1]] = max(newest.get(found[1], (-1, path)), (key, path))
  return ''.join(
      f'<p>{html.escape(path.name)}<br>'
      + _image(path.read_bytes(), 'gif', path.stem, 'video') + '</p>'
      for _, (_, path) in sorted(newest.items())[:VIDEOS])


def _image(data, kind, label, css=''):
  text = base64.b64encode(data).decode()
  size = ''
  if css:
    width = SCALE * int.from_bytes(data[6:8], 'little')  # As GIF says.
    size = f'width="{width}" '
  return (
      f'<img class="{css}" {size}alt="{html.escape(label)}" '
      f'src="data:image/{kind};base64,{text}">')
