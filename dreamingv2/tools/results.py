"""Turns curves into scores, and groups the runs that can be averaged.

A score is the mean of a curve's evaluations within 2.5% of a step, never a
maximum over training. Runs whose settings differ are never averaged.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shlex

import numpy as np
from scipy import stats

from .. import settings
from ..common import config as configs
from ..common import suites
from . import formats
from . import scores

WINDOW = 0.025  # Share of the steps, to both sides.
PAPER_STEPS = 500_000
RESAMPLES = 2000


@dataclasses.dataclass
class Cell:
  """Scores of the runs of one method on one task.

  `groups` holds a list of (seed, score) for each setup. A cell has a mean only
  if all its runs have the same setup.
  """

  task: str
  method: str
  steps: int
  groups: list = dataclasses.field(default_factory=list)
  notes: list = dataclasses.field(default_factory=list)

  @property
  def values(self):
    """Scores, one per run; empty if the runs have several setups."""
    return [x for _, x in self.groups[0]] if len(self.groups) == 1 else []

  @property
  def mean(self):
    """Mean over the runs, NaN if there is none."""
    return float(np.mean(self.values)) if self.values else float('nan')

  @property
  def std(self):
    """Standard deviation over the runs (n - 1), NaN for fewer than 2."""
    values = self.values
    return float(np.std(values, ddof=1)) if len(values) > 1 else float('nan')


@functools.lru_cache(None)
def published():
  """Returns the content of published.yaml."""
  path = pathlib.Path(__file__).parent / 'published.yaml'
  return configs.read_yaml(path)


def read(folders, paths):
  """Returns the curves of logdirs and score files, and notes on them.

  Tasks of the paper get the paper's names. Curves that do not say how they
  were made, such as those of other repositories, get their `source`, or else
  the file's name, at the end of their method's name.

  Args:
    folders: Paths in which to look for runs.
    paths: Score files.

  Raises:
    ValueError: None of them has a curve.
  """
  notes = []
  curves = [c for path in folders for c in scores.collect(path, notes)]
  curves += [c for _, c in read_files(paths, notes)]
  if not curves:
    raise ValueError('; '.join(notes) or (
        'no curve found; give a folder of runs with --indir, or JSON files'))
  return place(curves, notes), notes


def read_files(paths, notes):
  """Returns pairs (path, curve) of score files; see `read` for names."""
  names = [path.name.removesuffix('.gz').removesuffix('.json')
           for path in paths]
  curves = []
  for path, name in zip(paths, names, strict=True):
    if names.count(name) > 1:
      name = path.with_name(name)
    loaded = scores.load(path, notes)
    others = [
        c for c in loaded if 'command' not in c and 'settings' not in c]
    for curve in others:
      origin = curve.get('source', name)
      curve['method'] = f"{curve['method']} ({origin})"
    if others:
      notes.append(
          f'{path}: {len(others)} curves do not say how they were made; '
          f'their values are used unchanged, be they from evaluation or from '
          f'training, and the names of their methods end in '
          f'({others[0].get("source", name)})')
    curves += [(path, c) for c in loaded]
  return curves


def place(curves, notes):
  """Gives tasks the paper's names and drops curves that were read twice.

  A run that differs from the paper's in what it observes or in the length of
  its episodes is no run of the paper's task: its task says how it differs,
  as in 'Lift (200 steps)'.
  """
  curves = [{**c, 'task': label(c)} for c in curves]
  return scores.without_copies(curves, notes)


def canonical(task):
  """Returns the paper's name of a task, or its own if the paper has none."""
  for name, preset in settings.presets().items():
    full = preset['task']
    if task in (name, full, full.partition('_')[2]):
      return name
  return task


def label(curve):
  """Returns a curve's task, with what sets it apart from the paper's."""
  name = canonical(curve['task'])
  preset = settings.presets().get(name)
  if not preset:
    return name
  words = [
      *_observed(curve, preset), *_length(curve, preset), *_given(curve)]
  return f'{name} ({", ".join(words)})' if words else name


def base(task):
  """Returns the paper's task in a name that `label` made."""
  return task.partition(' (')[0]


def _observed(curve, preset):
  """Yields how the observations differ from one image of the task."""
  value = lambda key: setting(curve, key)
  usual = settings.defaults()
  suite = preset['task'].partition('_')[0]
  # dm_control always gives vectors, the others if proprio is True.
  has_vectors = value(f'{suite}.proprio') in (True, None)
  if value('encoder.cnn_keys') == '$^':
    yield 'vectors'
  elif has_vectors and value('encoder.mlp_keys') not in (
      None, usual.encoder.mlp_keys):
    yield 'images and vectors'
  if ',' in str(value(f'{suite}.camera')):
    yield f"cameras {value(f'{suite}.camera')}"
  if any(value(f'distractors.{k}') not in (None, v)
         for k, v in usual.distractors.items()):
    yield 'distractors'


def _given(curve):
  """Yields what a run learned from besides its own steps."""
  if setting(curve, 'offline'):
    yield 'offline'
  elif setting(curve, 'replay.seed_from'):
    yield 'with demonstrations'


def _length(curve, preset):
  """Yields the length of the episodes if it is not the paper's."""
  steps = _episode(curve, preset['task'].partition('_')[0], preset['steps'])
  if steps != preset['steps']:
    yield f'{steps:g} steps'


def _episode(curve, suite, usual):
  """Returns the environment steps of an episode, given the usual number."""
  horizon, cut, repeat = (
      x if formats.is_number(x) and x > 0 else 0 for x in (
          setting(curve, k) for k in (
              f'{suite}.horizon', 'time_limit', 'action_repeat')))
  return min(x for x in (horizon or usual, cut * (repeat or 1)) if x)


def score(curve, steps):
  """Returns a curve's score at a step, None if it was not evaluated there.

  For random actions, which do not learn, all episodes count.
  """
  if curve['method'] == 'random':
    value = scores.mean(curve['ys'])
    return value if np.isfinite(value) else None
  near = [
      y for x, y in zip(curve['xs'], curve['ys'], strict=True)
      if abs(x - steps) <= WINDOW * steps and np.isfinite(y)]
  return float(np.mean(near)) if near else None


def cell(curves, task, method, steps):
  """Makes the cell of one method on one task.

  Args:
    curves: Curves of this task and method.
    task, method: Names.
    steps: Environment steps.
  """
  made = Cell(task, method, steps)
  values = [(c, score(c, steps)) for c in curves]
  made.notes = [_absence(c, steps) for c, value in values if value is None]
  groups = setups([c for c, value in values if value is not None])
  made.groups = [
      sorted((str(c['seed']), score(c, steps)) for c in x) for x in groups]
  made.notes += _doubts(groups, method)
  return made


def setups(curves):
  """Groups curves by their settings; returns a list of groups."""
  groups = []
  for curve in curves:
    for group in groups:
      if not any(differences(other, curve) for other in group):
        group.append(curve)
        break
    else:
      groups.append([curve])
  return groups


def _absence(curve, steps):
  last, budget = curve.get('at', curve['xs'][-1]), curve.get('budget')
  if last >= steps:
    return (
        f"seed {curve['seed']} has no evaluation within {WINDOW * steps:,.0f} "
        f'steps of {steps:,}')
  reach = f"seed {curve['seed']} reached {last:,} of {steps:,} steps"
  if budget and budget < steps:
    return f'{reach} (its --steps: {budget:,.0f})'
  return f'{reach}: unfinished'


def _doubts(groups, method):
  """Yields warnings about a cell whose runs may not be comparable."""
  for index, group in enumerate(groups[1:], 2):
    yield (
        f'setup {index} differs from setup 1, not averaged: '
        f'{change(groups[0], group)}')
  for group in groups:
    seeds = [str(c['seed']) for c in group]
    again = sorted({x for x in seeds if seeds.count(x) > 1})
    if again and method != 'random':
      yield f'seed {", ".join(again)} was run more than once; all runs count'
    commits = {c['commit'] for c in group if 'commit' in c}
    if len(commits) > 1:
      yield f'{len(commits)} commits: {", ".join(sorted(commits))}'
    dirty = sorted(x for x in commits if x.endswith('-dirty'))
    if len(commits) == 1 and dirty:
      yield f'run from a tree with uncommitted changes: {dirty[0]}'


def change(first, other):
  """Says how the settings of one group of `setups` differ from another's."""
  keys = next(x for c in first for d in other if (x := differences(c, d)))
  shown = ', '.join(
      f'{k} {new} instead of {old}'
      for k, (old, new) in list(keys.items())[:4])
  return shown + f' and {len(keys) - 4} more' * (len(keys) > 4)


def differences(one, two):
  """Returns {key: (value in one, value in two)} for settings that differ.

  A key that only one curve has is ignored: the other's code may be older. So
  are keys of other systems.
  Curves without settings are compared by their commands.
  """
  if one.get('format') != two.get('format'):
    return {'format': (one.get('format'), two.get('format'))}
  if 'settings' in one and 'settings' in two:
    one, two = one['settings'], two['settings']
    return {  # Older code wrote some values as numbers that are strings now.
        k: (one[k], two[k]) for k in one
        if k in two and one[k] != two[k] and str(one[k]) != str(two[k])
        and settings.reads(one, k)}
  if 'command' in one and 'command' in two:
    # Two commits may give a block of configs.yaml different values.
    one, two = (
        {**_flags(x), 'commit': x.get('commit', 'unknown')[:7]}
        for x in (one, two))
    keys = sorted({**one, **two})
    return {
        k: (one.get(k, 'unset'), two.get(k, 'unset')) for k in keys
        if one.get(k) != two.get(k)}
  if ('command' in one) != ('command' in two):
    return {'origin': ('known' if 'command' in one else 'unknown',
                       'known' if 'command' in two else 'unknown')}
  return {}


def _flags(curve):
  """Returns {key: value} of those flags that can change a result."""
  flags, key = {}, None
  for word in shlex.split(curve['command']):
    if word.startswith('--'):
      key, _, value = word[2:].partition('=')
      flags[key] = [value] * bool(value)
    elif key:
      flags[key].append(word)
  if 'configs' in flags:
    flags['configs'] = sorted(set(flags['configs']) - {'defaults'})
  return {
      k: ' '.join(v) for k, v in flags.items() if k not in formats.IGNORED}


def setting(curve, key):
  """Returns a setting of a curve, None if it is unknown."""
  if key in curve.get('settings', {}):
    return curve['settings'][key]
  defaults = settings.defaults()
  if 'command' in curve and key in defaults.flat:
    value = _flags(curve).get(key, defaults[key])
    with contextlib.suppress(ValueError):  # Other versions may differ.
      return configs.convert(key, value, defaults[key])
  return None


def belongs(curve, column):
  """Says whether a curve belongs to a column of published.yaml.

  A run whose name extends that of a method (`--method dreamingv2_k0`) can
  belong to any column of the method but its own one in Table I.
  """
  method, wanted = column['method'], column.get('settings', {})
  own = next(
      (x for x in published()['tables']['I']['columns'].values()
       if x['method'] == method), column)
  named = curve['method'] == method or (
      column != own and curve['method'].startswith(f'{method}_'))
  return named and all(
      setting(curve, k) in (v, None) for k, v in wanted.items())


def limit(curve):
  """Returns the maximum return of a curve's task, None if it is unknown.

  Settings that shorten episodes lower the limit.
  """
  if 'of' in curve:
    return 1
  name = base(curve['task'])
  preset = settings.presets().get(name)
  try:
    suite, task = suites.parse('', preset['task'] if preset else name)
  except ValueError:
    return None
  most = suites.limit(suite, task)
  return _episode(curve, suite, most) if most else None


def shares(cells, curves):
  """Divides scores by the maximum return of their task.

  Args:
    cells: Maps (task, label) to a Cell.
    curves: Curves from which the cells were made.

  Returns:
    {label: {task: array of scores}} without random actions, and notes on the
    tasks that are left out.
  """
  limits, samples = {}, {}
  for curve in curves:
    limits.setdefault(curve['task'], set()).add(limit(curve))
  for (task, label), entry in cells.items():
    most = limits[task]
    if entry.values and label != 'random' and len(most) == 1 and all(most):
      samples.setdefault(label, {})[task] = np.array(entry.values) / max(most)
  return samples, [
      f'{task}: left out of statistics over tasks, because its maximum return '
      f'is unknown or ambiguous' for task, most in sorted(limits.items())
      if len(most) > 1 or None in most]


def mean(*samples, axis=-1):
  """Averages the tasks' means; `samples` are one array of scores per task."""
  return np.mean([np.mean(x, axis) for x in samples], 0)


def median(*samples, axis=-1):
  """Returns the median of the tasks' means."""
  return np.median([np.mean(x, axis) for x in samples], 0)


def iqm(*samples, axis=-1):
  """Averages the middle half of all runs of all tasks.

  Source: Agarwal et al. 2021, section 4.
  """
  return stats.trim_mean(np.concatenate(samples, axis), 0.25, axis)


def interval(samples, statistic):
  """Returns a stratified bootstrap interval of 95% of a statistic.

  Every resample draws, for each task, as many runs as the task has.

  Args:
    samples: One array of scores per task.
    statistic: Function such as `iqm`.

  Returns:
    Low and high end; None if a task has fewer than two runs.
  """
  if min(map(len, samples)) < 2:
    return None
  bootstrap = stats.bootstrap(
      samples, statistic, n_resamples=RESAMPLES, confidence_level=0.95,
      method='percentile', vectorized=True, rng=np.random.default_rng(0))
  return tuple(map(float, bootstrap.confidence_interval))


def of_success(curves):
  """Returns the curves of success rates of those runs that have logged any.

  Their `of` says what `ys` are; without it, they are returns.

  Raises:
    ValueError: There is none.
  """
  made = [
      {**c, 'ys': c['successes'], 'of': 'success rate'} for c in curves
      if 'successes' in c]
  if not made:
    raise ValueError(
        'no run has logged success rates: their tasks tell no success, or '
        'they were made by an older version')
  return made


def until(curves, steps):
  """Returns the curves up to a step; those that begin later are left out."""
  cut = []
  for curve in curves:
    count = sum(x <= steps for x in curve['xs'])
    if count:
      cut.append({**curve, **{
          k: curve[k][:count] for k in ('xs', 'ys', 'returns', 'successes')
          if k in curve}})
  if not cut:
    raise ValueError(f'no run has an evaluation up to step {steps:,}')
  return cut


def choose(curves, methods, tasks=()):
  """Returns the curves of the named methods and tasks.

  Without names, all are returned. `Lift` also means `Lift (200 steps)`.

  Raises:
    ValueError: No curve has a method or task of that name, or none has both.
  """
  for name in methods:
    configs.check_known('method', name, sorted({c['method'] for c in curves}))
  known = {x for c in curves for x in (c['task'], base(c['task']))}
  for name in tasks:
    configs.check_known('task', name, sorted(known))
  chosen = [
      c for c in curves if (not methods or c['method'] in methods)
      and (not tasks or {c['task'], base(c['task'])} & {*tasks})]
  if not chosen:
    raise ValueError(f'no run of {", ".join(methods)} on {", ".join(tasks)}')
  return chosen
