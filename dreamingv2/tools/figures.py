"""Draws the paper's figures from runs.

dreamingv2 figures curves --indir logdir --out fig3.png
dreamingv2 figures reconstructions --logdir A B --out fig4.png
dreamingv2 figures latents --logdir A --out fig5.png
dreamingv2 figures profiles --indir logdir --out profiles.png
dreamingv2 figures dashboard scores/small.json --indir logdir --out runs.html

The ending of the file selects PNG, PDF or SVG. The figures reconstructions and
latents use the episodes and the checkpoint in a logdir; they need no
simulator.
"""

import numpy as np

from ..common import command
from ..common import guards
from ..common import machine
from ..common import plot as plots
from . import evaluate
from . import results
from . import scores
from . import tables
from . import text as texts

BAND = (5, 95)  # Percentiles.
THRESHOLDS = 41  # Points of a performance profile.
FAR = 2.5  # A limit this many times the axis would flatten the curves.
MARKS = 12  # Markers on a line; more would hide it.
POINTS = 200  # Most points on a line; some runs log every episode.
MOST_PANELS = 60
MOST_LINES = 40  # Methods in one figure.


@command.entry()
def main(argv=None):
  """Draws the figure that the command line names; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors((ImportError, OSError, ValueError)):
    plots.check(args.out, ('html',) if args.kind == 'dashboard' else ())
    for note in KINDS[args.kind](args):
      print(f'Note: {note}')
  print(args.out)


def make_parser():
  """Returns the parser of the command line, with one for each figure."""
  parser = command.Parser(
      'dreamingv2 figures', __doc__,
      usage='dreamingv2 figures FIGURE [--help] ...')
  kinds = parser.add_subparsers(
      dest='kind', required=True, title='figures', metavar='FIGURE')
  for name, draw in KINDS.items():
    prog = f'dreamingv2 figures {name}'
    examples = [x for x in __doc__.splitlines() if x.startswith(f'{prog} ')]
    about = draw.__doc__.splitlines()[0]
    sub = kinds.add_parser(
        name, prog=prog, help=about[0].lower() + about[1:].rstrip('.'),
        text='\n\n'.join([about, *examples]))
    for flag, options in FLAGS[name].items():
      sub.add_argument(flag, **options)
    sub.add_argument(
        '--out', type=command.path, required=True, metavar='FILE',
        help='HTML file to write' if name == 'dashboard' else
        'picture to write: its ending is .png, .pdf or .svg')
  return parser


def curves(args):
  """Draws learning curves: median, 5 to 95 percentiles, limit (Fig. 3)."""
  runs, notes = results.read(args.indir, args.scores)
  runs = results.choose(runs, args.methods, args.tasks)
  if args.success:
    runs = results.of_success(runs)
  if args.steps:
    runs = results.until(runs, args.steps)
  plots.save(draw_curves(runs, notes), args.out)
  return notes


def draw_curves(runs, notes):
  """Returns a figure of curves, one panel per task; adds to the notes."""
  tasks = _first(
      sorted({c['task'] for c in runs}, key=_rank), MOST_PANELS, 'tasks',
      notes)
  methods = _first(
      sorted({c['method'] for c in runs}, key=lambda x: (x != 'random', x)),
      MOST_LINES, 'methods', notes)
  runs = [
      c for c in runs if c['task'] in tasks and c['method'] in methods]
  tasks = [x for x in tasks if x in {c['task'] for c in runs}]
  groups = {}
  for name in sorted({(c['task'], c['method']) for c in runs}):
    mine = [c for c in runs if (c['task'], c['method']) == name]
    if name[1] == 'random':
      groups[name] = mine
      continue
    setups = results.setups(mine)
    for index, group in enumerate(setups):
      label = scores.numbered(name[1], index)
      groups[name[0], label] = group
      if index:
        notes.append(
            f'{name[0]}, {label}: drawn apart from {name[1]}, with '
            f'{results.change(setups[0], group)}')
  styles = plots.palette({label for _, label in groups} - {'random'})
  fig, axes = plots.grid(len(tasks))
  for ax, task in zip(axes, tasks, strict=True):
    mine = {k[1]: v for k, v in groups.items() if k[0] == task}
    notes += _panel(ax, task, mine, styles)
  plots.legend(fig)
  return fig


def _first(names, most, kind, notes):
  if len(names) > most:
    notes.append(
        f'{len(names)} {kind} do not fit into one figure; only the first '
        f'{most} are drawn')
  return names[:most]


def _rank(task):
  names = list(results.published()['tables']['I']['rows'])
  return (names.index(task) if task in names else len(names), task)


def _panel(ax, task, groups, styles):
  """Draws one task; yields notes."""
  ax.set(
      title=texts.plot(task), xlabel='environment steps',
      ylabel=next(iter(groups.values()))[0].get('of', 'return'), ymargin=0.12)
  for label, group in groups.items():
    if label == 'random':
      returns = [y for c in group for y in c['ys'] if np.isfinite(y)] or [0]
      ax.axhspan(
          *np.percentile(returns, BAND), color='0.88', lw=0, zorder=0,
          label='random, 5 to 95%')
      ax.axhline(np.mean(returns), color='0.6', lw=1, ls=':')
      if len(groups) == 1:  # Bands do not set the limits of the axis.
        ax.set_xlim(0, max(1, *(c['xs'][-1] for c in group)))
      continue
    xs, values = binned(group)
    if not len(xs):
      yield f'{task}, {label}: none of its returns is finite'
      continue
    whole = np.isfinite(values).all(0)
    low, mid, high = np.nanpercentile(values, [BAND[0], 50, BAND[1]], axis=0)
    style = styles[label]
    ax.plot(
        xs, np.where(whole, mid, np.nan), label=texts.plot(label), **style,
        markevery=max(1, -(-len(xs) // MARKS)))
    if len(group) > 1:
      ax.fill_between(xs, low, high, color=style['color'], alpha=0.2, lw=0)
    if not whole.all():
      ax.plot(xs, mid, color=style['color'], lw=1.2, ls=':')
      yield (
          f'{task}, {label}: not all of its {len(group)} runs have a value at '
          f'every step; where some have not, the line is thin and dotted')
  _draw_limit(ax, groups)
  _draw_published(ax, task, groups, styles)
  ax.xaxis.set_major_formatter(
      lambda x, _: f'{x:g}' if x < 1e3 else f'{x / 1000:g}K' if (
          x < 1e6) else f'{x / 1e6:g}M')


def binned(curves):
  """Returns steps [N] and returns [R, N] of R runs, NaN if missing.

  A bin is as wide as the largest typical distance between two evaluations of
  a run, so that runs that evaluate at different steps can be compared. It
  stands at the mean of its steps. Values that are not finite do not count.
  """
  gaps = [np.median(np.diff(c['xs'])) for c in curves if len(c['xs']) > 1]
  spans = [(c['xs'][-1] - c['xs'][0]) / POINTS for c in curves]
  width = max([*gaps, *spans, 1])
  index = [
      np.floor(np.array(c['xs'], float) / width + 0.5).astype(int)
      for c in curves]
  bins = np.unique(np.concatenate(index))
  steps = np.concatenate([np.array(c['xs'], float) for c in curves])
  column = np.searchsorted(bins, np.concatenate(index))
  xs = np.bincount(column, steps) / np.bincount(column)
  values = np.full((len(curves), len(bins)), np.nan)
  for row, curve, where in zip(values, curves, index, strict=True):
    ys = np.array(curve['ys'], float)
    known = np.isfinite(ys)
    column = np.searchsorted(bins, where[known])
    counts = np.bincount(column, minlength=len(bins))
    sums = np.bincount(column, ys[known], len(bins))
    row[counts > 0] = sums[counts > 0] / counts[counts > 0]
  some = np.isfinite(values).any(0)
  return xs[some], values[:, some]


def _draw_limit(ax, groups):
  limits = {results.limit(c) for group in groups.values() for c in group}
  for limit in limits - {None}:
    if limit <= FAR * ax.get_ylim()[1]:
      ax.axhline(limit, color='0.2', lw=1, ls='--', label='upper limit')
    else:
      ax.annotate(
          f'upper limit {limit:g} ↑', (0.02, 0.98), color='0.2',
          xycoords='axes fraction', va='top', fontsize='small')


def _draw_published(ax, task, groups, styles):
  """Marks the paper's returns if the axis shows returns up to their step."""
  table = results.published()['tables']['I']
  if any('of' in c for group in groups.values() for c in group):
    return
  if ax.get_xlim()[1] < 0.9 * results.PAPER_STEPS:
    return
  for column, pair in zip(
      table['columns'].values(), table['rows'].get(task, ()), strict=False):
    if pair and column['method'] in groups:
      style = styles[column['method']]
      ax.errorbar(
          results.PAPER_STEPS, pair[0], pair[1], color=style['color'],
          marker=style['marker'], mfc='none', ms=7, capsize=3, lw=1,
          label='published (open)')


def profiles(args):
  """Draws performance profiles: the share of runs above each score."""
  runs, notes = results.read(args.indir, args.scores)
  runs = [
      c for c in results.choose(runs, args.methods, args.tasks)
      if c['method'] != 'random']
  methods = _first(
      sorted({c['method'] for c in runs}), MOST_LINES, 'methods', notes)
  samples, missing = shares(
      [c for c in runs if c['method'] in methods], args.steps)
  if not samples:
    raise ValueError(
        'no run has a score at this step: ' + '; '.join((missing + notes)[:3]))
  taus = np.linspace(0, 1, THRESHOLDS)
  styles = plots.palette(samples)
  fig, (ax,) = plots.grid(1, height=2.8)
  for method, by_task in samples.items():
    above = lambda tau: lambda *x, axis=-1: np.mean(
        np.concatenate(x, axis) > tau, axis)
    values = [above(tau)(*by_task) for tau in taus]
    style = {**styles[method], 'marker': ''}
    ax.step(
        taus, values, where='post', **style,
        label=texts.plot(f'{method} ({sum(map(len, by_task))})'))
    bands = [results.interval(by_task, above(tau)) for tau in taus]
    if all(bands):
      ax.fill_between(
          taus, *zip(*bands, strict=True), step='post', alpha=0.2, lw=0,
          color=style['color'])
    else:
      notes.append(f'{method}: a task has one run, so there is no interval')
  ax.set(
      title=f'tasks: {len(by_task)}; runs in parentheses',
      xlabel='score τ, share of the upper limit', xlim=(0, 1),
      ylabel='share of runs above τ', ylim=(0, 1.03))
  plots.legend(fig, 2)
  plots.save(fig, args.out)
  return notes + missing


def shares(curves, steps):
  """Divides scores by the maximum return of their task.

  Only tasks on which all methods have a score are used.

  Returns:
    {method: [array of scores for each task]}, and notes.
  """
  common = scores.shortest(curves)
  cells, notes = {}, []
  for task, method in sorted({(c['task'], c['method']) for c in curves}):
    mine = [c for c in curves if (c['task'], c['method']) == (task, method)]
    cells[task, method] = results.cell(
        mine, task, method, common[task] if steps is None else steps)
    notes += [f'{task}, {method}: {x}' for x in cells[task, method].notes]
  samples, left_out = results.shares(cells, curves)
  notes += left_out
  tasks = set.intersection(*map(set, samples.values())) if samples else set()
  if samples and not tasks:
    raise ValueError(
        'the methods share no task; choose some with --methods: ' + '; '.join(
            f'{k} has {", ".join(v)}' for k, v in samples.items()))
  return {k: [v[x] for x in sorted(tasks)] for k, v in samples.items()}, notes


def reconstructions(args):
  """Draws observations and their reconstructions by decoders (Fig. 4)."""
  for logdir in args.logdir:
    evaluate.find_config(logdir)
  with machine.quiet():
    from . import views
  return views.reconstructions(
      args.logdir, args.out, args.frames, args.fit, args.best)


def latents(args):
  """Draws the categoricals that change with an episode's phases (Fig. 5)."""
  evaluate.find_config(args.logdir)
  with machine.quiet():
    from . import views
  return views.latents(
      args.logdir, args.out, args.episodes, args.phases, args.by, args.best)


def dashboard(args):
  """Writes an overview of runs as one self-contained HTML file."""
  from . import dashboard as pages
  return pages.write(args.indir, args.scores, args.out, draw_curves)


KINDS = {
    'curves': curves, 'dashboard': dashboard, 'latents': latents,
    'profiles': profiles, 'reconstructions': reconstructions}
INDIR = {'--indir': dict(
    nargs='*', default=[], type=command.path, metavar='FOLDER',
    help='folders in which to look for runs, at any depth')}
FILES = {
    **INDIR,
    'scores': dict(
        nargs='*', type=command.path, metavar='FILE',
        help='JSON files with curves, written by dreamingv2 scores')}
CURVES = {
    **FILES,
    '--methods': dict(
        nargs='*', default=[], metavar='METHOD',
        help='methods to show, as the runs name them (default: all)'),
    '--tasks': dict(
        nargs='*', default=[], metavar='TASK',
        help='tasks to show, as the figure names them (default: all)')}
BEST = {'--best': dict(
    action='store_true',
    help='use the checkpoint of the best evaluation, not the newest')}
FLAGS = {
    'curves': {
        **CURVES,
        '--success': dict(
            action='store_true',
            help='draw the success rate of the evaluations, not the return'),
        '--steps': dict(
            type=tables.parse_number, metavar='N',
            help='last environment step to draw (default: all)')},
    'dashboard': FILES,
    'latents': {
        '--logdir': dict(
            type=command.path, required=True, metavar='FOLDER',
            help='folder of the run'), **BEST,
        '--episodes': dict(
            type=int, default=10, metavar='N',
            help='number of newest episodes used to choose the categoricals'),
        '--phases': dict(
            type=int, default=3, metavar='N', help='number of phases'),
        '--by': dict(
            default='reward', choices=('reward', 'time'),
            help='how the phases of an episode are told apart')},
    'profiles': {
        **CURVES,
        '--steps': dict(
            default=str(results.PAPER_STEPS), type=tables.parse_steps,
            help='environment step at which runs are compared, or '
            '"common": the last one that all runs of a task have reached')},
    'reconstructions': {
        '--logdir': dict(
            type=command.path, required=True, nargs='+', metavar='FOLDER',
            help='folders of runs'), **BEST,
        '--frames': dict(
            type=int, default=6, metavar='N',
            help='number of frames to draw from the newest episode'),
        '--fit': dict(
            type=int, default=0, metavar='UPDATES',
            help='updates to train a decoder on the frozen features of a '
                 'run that has none (default: 0)')},
}


if __name__ == '__main__':
  main()
