"""Tells how far the runs of a sweep are, and what the rest of them costs."""

import collections
import contextlib
import dataclasses
import json
import os
import shutil
import sys

import rich.console
import rich.table

from ..common import checkpoint as checkpoints
from ..common import files

TAIL = 2 ** 16  # Bytes read from the end of a log.
GIB = 2 ** 30
MOST = 2.0 ** 53  # Of a number in a log.


@dataclasses.dataclass
class Progress:
  """How far a run is: its environment step, and seconds up to `timed`."""

  step: int = 0
  finished: bool = False
  seconds: float = 0.0
  timed: int = 0
  fps: float = 0.0
  result: float = float('nan')


def read(job, logdir=None):
  """Returns the Progress of a job, or of another seed of it in `logdir`."""
  logdir = logdir or job.logdir
  state = Progress()
  step, meta = checkpoints.peek(logdir / 'checkpoints') or (0, {})
  state.finished = step >= int(job.config.steps) and not meta.get('due')
  for line in tail(logdir / 'metrics.jsonl'):
    try:
      values = json.loads(line)
      values = {
          k: v for k, v in values.items() if type(v) in (int, float)
          and abs(v) < MOST}
      state.step = int(values['step'])
    except (AttributeError, KeyError, RecursionError, ValueError):
      continue  # The first line may be cut off; others may be damaged.
    if values.get('seconds', 0) > 0:
      state.seconds, state.timed = values['seconds'], state.step
    state.fps = values.get('fps', state.fps)
    state.result = values.get('eval_return_mean', state.result)
  state.step = max(state.step, step)
  return state


def tail(path):
  """Returns the last lines of a file that are not empty."""
  with contextlib.suppress(OSError, ValueError):
    with files.open_regular(path, sys.maxsize, path.parent) as file:
      file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
      lines = file.read(TAIL).decode(errors='replace').splitlines()
    return [x for x in lines if x.strip()]
  return []


def show_plan(jobs, fps=0):
  """Prints the steps left, the hours they take and the disk they need.

  Args:
    jobs: Jobs of a sweep.
    fps: Environment steps per second where none was measured; 0: unknown.
  """
  table = rich.table.Table(box=None)
  for name in ('run', 'done', 'steps left', 'steps/s', 'hours', 'GiB', 'from'):
    table.add_column(
        name, justify='left' if name in ('run', 'from') else 'right',
        no_wrap=True)
  hours, gib, unknown = 0, 0, 0
  groups = collections.defaultdict(list)
  for job in jobs:
    groups[job.logdir.parent].append(job)
  for folder, group in groups.items():
    states = [read(job) for job in group]
    left = sum(
        max(0, int(j.config.steps) - s.step) * (not s.finished)
        for j, s in zip(group, states, strict=True))
    speed, size, source = _measured(group[0], fps)
    hours += left / speed / 3600 if speed else 0
    gib += left * size / GIB
    unknown += bool(left and not speed)
    table.add_row(
        '/'.join(folder.parts[-2:]),
        f'{sum(s.finished for s in states)} of {len(group)}', f'{left:,}',
        f'{speed:.1f}' if speed else '?',
        f'{left / speed / 3600:.2f}' if speed else '?',
        f'{left * size / GIB:.2f}', source)
  _print(table)
  least = 'at least ' * bool(unknown and hours)
  time = f'{least}{hours:.2f}' if hours or not unknown else 'unknown'
  free = shutil.disk_usage(_existing(jobs[0].logdir)).free / GIB
  _print(f'{time} hours if the runs go one after another; '
         f'{gib:.2f} GiB of disk space, {free:.1f} GiB are free')
  if unknown:
    _print('?: not measured yet; give --fps, or let a run finish')


def _measured(job, fps):
  """Returns steps per second, bytes per step, and the source of both."""
  runs = {x: read(job, x) for x in job.logdir.parent.glob('*')}
  best = max(runs, key=lambda x: runs[x].timed, default=None)
  H, W = job.config.render_size
  raw = H * W * 3 / job.config.action_repeat
  if not best or not runs[best].timed:
    return fps, raw, '--fps, raw images' if fps else 'raw images'
  state, size = runs[best], 0
  for path in best.rglob('*'):
    with contextlib.suppress(OSError):  # A live run may delete files.
      size += path.stat().st_size
  share = min(1, state.timed / job.config.steps)
  return (
      state.timed / state.seconds, size / state.step,
      f'seed {best.name} at {share:.0%}')


def _existing(path):
  return path if path.exists() else _existing(path.parent)


def _print(text):
  console = rich.console.Console(soft_wrap=True, highlight=False)
  # Wrap long lines instead of truncating them.
  console.width = max(console.width, 120)
  console.print(text)
