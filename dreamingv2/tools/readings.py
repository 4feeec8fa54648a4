"""Trains a world model alone, and measures, tabulates and draws its features.

TensorFlow is loaded by `train` and `measure` only.
"""

import tempfile
import time

import numpy as np
from scipy import stats

from ..common import episodes as episodelib
from ..common import machine
from ..common import plot as plots
from ..common import replay as replays
from . import recordings
from . import text

# Readouts in the order of the table, and how it calls them.
READOUTS = {
    'rest_embed': 'embedding, at rest', 'rest': 'features, at rest',
    'embed': 'embedding', 'now': 'features', '5': 'features, 5 ahead',
    '15': 'features, 15 ahead'}
# Rows of the table below the readouts.
OTHERS = {
    'reward.held_out': 'reward error, held out',
    'reward.unsolved': 'same, not solved yet',
    'reward.train': 'same, training episodes',
    'reward.15': 'reward error, 15 ahead', 'spread': 'spread of codes',
    'rank': 'rank of codes', 'entropy': 'entropy of codes, nats',
    'cpu_s': 'training, CPU-s'}


def measure(config, path, updates):
  """Trains the world model of a config on a recording and measures it.

  Args:
    config: Config.
    path: Path of the recording.
    updates: Number of gradient steps.

  Returns:
    Dict of plain values: 'state' (see readout.state_scores; each score also
    has 'scripted', R^2 of the scripted episodes alone), 'reward' (errors over
    variance), 'spread', 'rank', 'entropy', 'cpu_s' of the training and 'loss',
    its last value; 'solved' and 'episodes', how many scripted held-out
    episodes end solved.
  """
  from .. import readout
  parts = recordings.read(path)
  wm, cpu, loss = train(config, parts['train'], updates)
  seen = {
      part: readout.represent(wm, [
          recordings.observations(x) for x in episodes])
      for part, episodes in parts.items()}
  pairs = {
      part: list(zip(seen[part], recordings.told(parts[part]), strict=True))
      for part in parts}
  state = readout.state_scores(pairs['train'], pairs['test'])
  scripted = [
      x for x, episode in zip(pairs['test'], parts['test'], strict=True)
      if episode[recordings.KIND][0]]
  for name, scores in readout.state_scores(pairs['train'], scripted).items():
    for when, score in scores.items():
      state[name][when]['scripted'] = score['r2']
  for name, scores in state.items():
    scores.update(_rest(readout, name, pairs['rest'], pairs['rest_test']))
  solved, episodes = recordings.solved(parts['test'])
  return {
      'state': state, 'reward': _rewards(readout, seen, parts),
      **readout.variety(seen['test']), 'cpu_s': round(cpu, 1), 'loss': loss,
      'solved': solved, 'episodes': episodes}


def train(config, episodes, updates):
  """Trains a world model alone.

  Args:
    config: Config.
    episodes: Recorded episodes.
    updates: Number of gradient steps.

  Returns:
    World model, CPU seconds and the last loss.

  Raises:
    ValueError: The loss is not finite, or no episode is long enough.
  """
  with machine.quiet():
    from .. import agent as agents
    from ..common import tfutils
  tfutils.setup(config.precision, config.deterministic, config.seed)
  episodes = [recordings.observations(x) for x in episodes]
  obs, act = episodelib.spaces(episodes)
  wm = agents.WorldModel(config, obs)
  wm.build(tfutils.zeros({**obs, **act}, 1, config.dataset.length))
  step = lambda data: wm.train(data)[-1]
  step = tfutils.compile(step) if config.jit else step
  begin, metrics = time.process_time(), {}
  with tempfile.TemporaryDirectory() as folder:
    memory = replays.Replay(folder, seed=config.seed, **config.replay)
    for episode in episodes:
      memory.add_episode(episode)
    batches = memory.dataset(**config.dataset)
    for _ in range(updates):
      metrics = step(_tensors(next(batches)))
  loss = float(metrics['model_loss'])
  if not np.isfinite(loss):
    raise ValueError(
        f'{config.method}: the loss is {loss} after {updates} updates; set '
        f'--updates, or a smaller --model_opt.lr')
  return wm, time.process_time() - begin, loss


def _tensors(data):
  import tensorflow as tf
  return {k: tf.convert_to_tensor(v) for k, v in data.items()}


def _rest(readout, name, fit, test):
  """Scores the readout of first moments; see readout.score."""
  result = {}
  for when, key in (('rest_embed', 'embed'), ('rest', 'feat')):
    score = readout.score(name, *(
        [(x[key], truth[name]) for x, truth in part] for part in (fit, test)))
    result.update({when: score} if score else {})
  return result


def _rewards(readout, seen, parts):
  unsolved = [~x[recordings.SUCCESS] for x in parts['test']]
  most = max(readout.AHEAD)
  return {
      'held_out': readout.reward_error(seen['test']),
      'train': readout.reward_error(seen['train']),
      'unsolved': readout.reward_error(seen['test'], where=unsolved),
      **{str(k): readout.reward_error(seen['test'], f'reward_{k}', k, most)
         for k in readout.AHEAD}}


def groups(rows):
  """Returns {(task, distractors, updates): {system: rows of its seeds}}."""
  found = {}
  for row in rows:
    key = row['task'], row['distractors'], row['updates']
    found.setdefault(key, {}).setdefault(row['system'], []).append(row)
  return found


def pick(row, path):
  """Returns the number at a dotted path of a row, or None."""
  for part in path.split('.'):
    row = row.get(part) if isinstance(row, dict) else None
  return row


def summarize(rows, path):
  """Returns mean, and low and high end of its 95% interval over seeds.

  The interval is Student's, for seeds that scatter normally; its ends are None
  for one seed. None if no row has the number.
  """
  values = [x for x in (pick(row, path) for row in rows) if x is not None]
  if not values:
    return None
  mean, count = float(np.mean(values)), len(values)
  if count < 2:
    return mean, None, None
  half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count ** 0.5
  return mean, float(mean - half), float(mean + half)


def table(rows):
  """Formats rows as Markdown, one table per task and kind of distractors."""
  blocks = []
  for (task, kind, updates), systems in groups(rows).items():
    seeds = max(map(len, systems.values()))
    lines = [
        f'{task}, distractors {kind}, {updates} updates, mean of {seeds} '
        f'seed{"s" * (seeds > 1)}' + ' (95% interval)' * (seeds > 1) + ':', '']
    measured = [
        (label, [summarize(x, path) for x in systems.values()])
        for label, path in _measures(systems)]
    lines += text.table(['measure', *map(text.markdown, systems)], [
        [label, *map(_cell, x)] for label, x in measured if any(x)])
    blocks.append('\n'.join(lines))
  return '\n\n'.join(blocks)


def _measures(systems):
  """Yields (label, path) of the rows of a table."""
  first = next(iter(systems.values()))[0]
  for name, scores in first['state'].items():
    for when, label in READOUTS.items():
      if when in scores:
        yield f'{name}: R^2, {label}', f'state.{name}.{when}.r2'
      if 'mm' in scores.get(when, ()):
        yield f'{name}: error in mm, {label}', f'state.{name}.{when}.mm'
  for path, label in OTHERS.items():
    yield label, path


def _cell(values):
  if values is None:
    return '-'
  mean, low, high = values
  ends = f' ({_digits(low)} to {_digits(high)})' if low is not None else ''
  return _digits(mean) + ends


def _digits(x):
  return f'{x:.2f}' if abs(x) < 10 else f'{x:.1f}' if abs(x) < 100 else (
      f'{x:.0f}')


def draw(rows):
  """Draws R^2 against the steps ahead, a panel per task and vector.

  Lines are features; single marks at the left are embeddings. Bars are 95%
  intervals over seeds. Panels of the same vector have the same axis.
  """
  found = groups(rows)
  panels = [
      (key, name, systems) for key, systems in found.items()
      for name in next(iter(systems.values()))[0]['state']]
  styles = plots.palette({x['system'] for x in rows})
  fig, axes = plots.grid(len(panels))
  for ax, ((task, kind, _), name, systems) in zip(axes, panels, strict=True):
    for system, own in systems.items():
      style = styles[system]
      _errorbar(ax, own, name, {'now': 0, '5': 5, '15': 15}, **style,
                label=text.plot(system))
      _errorbar(ax, own, name, {'embed': -3}, **{**style, 'ls': ''}, mfc='w')
    title = text.plot(f"{task}: {name.removesuffix('_m')}")
    ax.set_title(title if kind == 'none' else f'{title}\n{text.plot(kind)}')
    ax.set_xticks([-3, 0, 5, 15], ['embed', '0', '5', '15'])
    ax.set_xlabel('steps ahead')
  for ax, (key, name, _) in zip(axes, panels, strict=True):
    same = [
        other.get_ylim() for other, (k, n, _) in zip(axes, panels, strict=True)
        if (k[0], n) == (key[0], name)]
    low, high = min(x for x, _ in same), max(x for _, x in same)
    ax.set_ylim(max(-0.5, low), min(1.02, high))
  axes[0].set_ylabel('R^2 of a linear readout')
  plots.legend(fig)
  return fig


def _errorbar(ax, rows, name, places, **style):
  points = [(x, summarize(rows, f'state.{name}.{k}.r2'))
            for k, x in places.items()]
  points = [(x, y) for x, y in points if y]
  if points:
    mean = np.array([y[0] for _, y in points])
    ends = np.array([
        [y[i] if y[i] is not None else y[0] for _, y in points]
        for i in (1, 2)])
    ax.errorbar(
        [x for x, _ in points], mean, abs(ends - mean), capsize=2, **style)
