"""Writes an overview of runs as one self-contained HTML file."""

import base64
import contextlib
import html
import io
import re

import numpy as np

from ..common import files
from ..common import plot as plots
from . import formats
from . import results
from . import text as texts

POINTS = 400  # Most points on a line; more could not be seen.
GROUPS = {  # Panel title: names of its metrics; DreamerV3's have slashes.
    'returns': r'(train|random)_return|eval_return(_mean)?|\w*episode/score',
    'model losses': r'(?!(expl_)?(actor|critic)_)\w+_loss|'
                    r'train/loss/(?!policy|value|repval)\w+',
    'behaviour losses': r'(expl_)?(actor|critic)_loss|'
                        r'train/loss/(policy|value|repval)',
    'entropy (nats)': r'(prior|post|actor)_ent|train/(dyn|rep)_ent',
    'gradient norms': r'\w+_grad_norm|train/opt/grad_norm',
    'updates skipped': r'\w+_skipped',
    'share of the time': r'share_.*',
    'environment steps per second': r'fps|fps/policy',
}
SCALES = {'gradient norms': 'log', 'model losses': 'symlog'}
VIDEOS = 2  # Most videos of a run; the newest of each name is shown.
SCALE = 2  # Screen pixels per pixel of a video.
HEADS = (
    'run', 'task', 'method', 'seed', 'last evaluation', 'steps', 'of',
    'updates', 'hours', 'steps/s')
LINES = 12  # Most lines in a panel; more could not be told apart.
CONFIG_BYTES = 2 ** 20
VIDEO_BYTES = 2 ** 24
# All columns of the table fit a window of 1300 pixels.
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; padding: 0 1em;
  max-width: 80em; color: #222; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .5em; text-align: right; vertical-align: top;
  border-bottom: 1px solid #ddd; }
td:nth-child(-n+3), th:nth-child(-n+3) { text-align: left;
  overflow-wrap: break-word; max-width: 20em; }
td:first-child { min-width: 12em; overflow-wrap: anywhere; }
td:nth-child(5) { font-weight: 600; }
img { max-width: 100%; } pre { overflow-x: auto; background: #f5f5f5;
  padding: .6em; } .video { image-rendering: pixelated; }
.note { color: #a33; overflow-wrap: anywhere; } summary { cursor: pointer; }
"""


def write(folders, paths, page, draw):
  """Writes the overview of the runs in some folders and of score files.

  Args:
    folders: Paths in which to look for runs.
    paths: Score files; each of their curves gets a row of the table.
    page: HTML file to write.
    draw: Function of curves and a list of notes that returns their figure.

  Returns:
    Warnings about runs, as text; the page shows them as well.

  Raises:
    ValueError: The folders and files have no run and no curve.
  """
  rows, sections, notes, curves = [], [], [], []
  for folder in folders:
    for run in formats.open_runs(folder, notes):
      mine = run.curves(notes)
      curves += mine
      try:
        series = _series(run)
        sections.append(_section(len(sections), run, series))
      except (OSError, ValueError) as error:
        notes.append(texts.line(f'{run.logdir} cannot be drawn: {error}'))
      else:
        rows.append(_run_row(len(sections) - 1, run, series, mine))
  pairs = results.read_files(paths, notes)
  rows += [_curve_row(*x) for x in pairs if x[1]['method'] != 'random']
  if not rows:
    raise ValueError('; '.join(notes) or 'no run found; give a folder of '
                     'runs with --indir, or JSON files')
  curves = results.place(curves + [c for _, c in pairs], notes)
  parts = [
      '<h1>Runs</h1>', _table(rows),
      _inline(draw(curves, notes)) if curves else '',
      *(f'<p class="note">{html.escape(x)}</p>' for x in notes), *sections]
  page.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(page, (
      f'<!doctype html><html lang="en"><meta charset="utf-8">'
      f'<title>Runs</title><style>{STYLE}</style>{"".join(parts)}</html>\n'))
  return notes


def _series(run):
  """Returns {metric: [(step, value)]} of a run."""
  series = {}
  for values in run.lines([]):
    step = values.pop('step')
    for key, value in values.items():
      series.setdefault(key, []).append((step, value))
  return series


def _run_row(index, run, series, curves):
  """Returns {head: HTML of the cell} for the row of a run."""
  last = {key: x[-1][1] for key, x in series.items()}
  ends = [_end(c) for c in curves if c['method'] != 'random']
  return _row(
      f'<a href="#run{index}">{_html(run.logdir)}</a>', vars(run),
      ends[0] if ends else '–',
      max((x[-1][0] for x in series.values()), default=0), last)


def _curve_row(path, curve):
  """Returns {head: HTML of the cell} for a curve of a score file."""
  return _row(_html(path), curve, _end(curve), curve['xs'][-1], curve)


def _row(link, names, end, steps, last):
  """Formats the cells of a row; `last` is {metric: newest number}."""
  text = lambda values, key, form, unit=1: (
      '–' if values.get(key) is None else form.format(values[key] / unit))
  return {
      'run': link, **{
          x: _html(names[x]) for x in ('task', 'method', 'seed')},
      'last evaluation': end, 'steps': f'{steps:,}',
      'of': text(names, 'budget', '{:,.0f}'),
      'updates': text(last, 'updates', '{:,.0f}'),
      'hours': text(last, 'seconds', '{:.2f}', 3600),
      'steps/s': text(last, 'fps', '{:.1f}')}


def _end(curve):
  """Formats the last evaluation.

  Where others log single episodes, it is the mean of the last ten.
  """
  single = 'format' in curve and all(
      len(x) == 1 for x in curve.get('returns', ((), )))
  return f"{np.mean(curve['ys'][-10 if single else -1:]):.1f}"


def _html(value):
  return html.escape(texts.printable(value))


def _table(rows):
  head = ''.join(f'<th>{x}</th>' for x in HEADS)
  lines = ''.join(
      '<tr>' + ''.join(f'<td>{row[x]}</td>' for x in HEADS) + '</tr>'
      for row in rows)
  return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def _section(index, run, series):
  path = run.logdir / 'config.yaml'
  config = files.read_bytes(path, CONFIG_BYTES, run.logdir).decode(
      errors='replace') if path.exists() else 'There is no config.yaml'
  return (
      f'<h2 id="run{index}">{_html(run.logdir)}</h2>{_picture(series)}'
      f'{_videos(run.logdir)}<details><summary>config.yaml</summary><pre>'
      f'{html.escape(config)}</pre></details>')


def _picture(series):
  """Draws a run's metrics as an inline PNG."""
  groups = {
      title: sorted(x for x in series if re.fullmatch(pattern, x))[:LINES]
      for title, pattern in GROUPS.items()}
  groups = {title: names for title, names in groups.items() if names}
  if not groups:
    return '<p>No metrics yet.</p>'
  fig, axes = plots.grid(len(groups), columns=2)
  for ax, (title, names) in zip(axes, groups.items(), strict=True):
    styles = plots.palette(names)
    for name in names:
      xs, ys = np.array(series[name], float).T
      every = -(-len(xs) // POINTS)
      style = {**styles[name], 'marker': '.' if len(xs) < 30 else ''}
      ax.plot(xs[::every], ys[::every], label=texts.plot(_short(name)),
          **style)
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
  return re.sub(
      r'^share_|_(loss|grad_norm|skipped)$|^train/(loss/)?', '', name)


def _videos(logdir):
  """Returns the newest videos of a run as HTML, without unreadable ones."""
  newest = {}
  for path in (logdir / 'videos').glob('*.gif'):
    match = re.fullmatch(r'(.+)_(\d+)', path.stem)
    if match:
      key = int(match[2])
      newest[match[1]] = max(newest.get(match[1], (-1, path)), (key, path))
  parts = []
  for _, (_, path) in sorted(newest.items())[:VIDEOS]:
    with contextlib.suppress(OSError, ValueError):
      data = files.read_bytes(path, VIDEO_BYTES, logdir)
      if data[:4] == b'GIF8':
        parts.append(f'<p>{_html(path.name)}<br>' + _image(
            data, 'gif', texts.printable(path.stem), 'video') + '</p>')
  return ''.join(parts)


def _image(data, kind, label, css=''):
  text = base64.b64encode(data).decode()
  size = ''
  if css:
    width = SCALE * int.from_bytes(data[6:8], 'little')  # As the GIF says.
    size = f'width="{width}" '
  return (
      f'<img class="{css}" {size}alt="{html.escape(label)}" '
      f'src="data:image/{kind};base64,{text}">')
