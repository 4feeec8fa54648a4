"""Draws the paper's tasks as an agent sees them, and times their steps.

dreamingv2 sheet --out docs/tasks.png
dreamingv2 sheet --renderer igibson --tasks Lift Door PegInHole

Each task has two pictures of the first moment of an episode: the agent's 64 x
64 pixels, enlarged, and the scene rendered at a larger size. A Markdown table
gives the milliseconds of a control step with a frame of 64 x 64, and of such a
frame alone: CPU time of all threads of the process, and wall time.
"""

import functools
import time

import numpy as np
import PIL.Image
import PIL.ImageDraw

from .. import settings
from ..common import command
from ..common import files
from ..common import guards
from ..common import plot as plots
from ..common import suites
from ..common import worker

COLUMNS = 3
LARGE = 192  # Pixels to each side.
SMALL = 64
TEXT = 14  # Pixels above each task.
# Maps a suite to options for the larger picture: the agent's own camera looks
# at the table and shows little of the robot.
WHOLE = {'robosuite': {'camera': 'frontview'}}
WARM_UP = 3  # First steps, which are not timed because they compile.


class Stage:
  """Plays random actions in one task and times it; runs in a worker."""

  def __init__(self, make, size):
    self._env = make(seed=1, size=(size, size), action_repeat=1)
    self._random = np.random.default_rng(0)

  def play(self, steps, frames):
    """Plays some steps, draws some frames and times both.

    Returns:
      First image; (CPU ms, wall ms) of a step, and of a frame alone.
    """
    image = self._env.reset()['image']
    self._act(WARM_UP)
    step = self._time(self._act, steps)
    frame = self._time(self._draw, frames)
    return image, step, frame

  def close(self):
    self._env.close()

  def _act(self, steps):
    shape = self._env.act_space['action'].shape
    for _ in range(steps):
      action = self._random.uniform(-1, 1, shape).astype(np.float32)
      self._env.step({'action': action})

  def _draw(self, times):
    for _ in range(times):
      self._env.images()

  def _time(self, function, times):
    begin = time.process_time(), time.perf_counter()
    function(times)
    end = time.process_time(), time.perf_counter()
    return [1000 * (y - x) / times for x, y in zip(begin, end, strict=True)]


@command.entry()
def main(argv=None):
  """Draws the tasks that the command line names; see --help."""
  args = make_parser().parse_args(argv)
  names = settings.presets()
  with guards.user_errors():
    plots.check(args.out, ('png',))
    shots = {
        name: shoot(names[name], args.renderer, args.render, args.steps)
        for name in args.tasks}
    picture = draw({k: [x[0] for x in v] for k, v in shots.items()})
    files.write_atomic(
        args.out, lambda file: picture.save(file, 'png', optimize=True))
  print(table({name: small[1:] for name, (small, _) in shots.items()}))


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser('dreamingv2 sheet', __doc__)
  names = list(settings.presets())
  parser.add_argument(
      '--tasks', nargs='+', default=names, choices=names, metavar='TASK',
      help='tasks that dreamingv2 --list names (default: all)')
  parser.add_argument(
      '--renderer', default='mujoco', help='mujoco, igibson or filament')
  parser.add_argument(
      '--render', default='full', metavar='QUALITY',
      help='full, medium or light')
  parser.add_argument(
      '--steps', type=int, default=20, metavar='N',
      help='environment steps to time')
  parser.add_argument(
      '--out', default='tasks.png', type=command.path, metavar='FILE',
      help='PNG file to write')
  return parser


def shoot(preset, renderer, quality, steps):
  """Plays a task at both sizes, each in a separate process.

  Returns:
    For each size: the image, and the times of a step and of a frame.
  """
  config = settings.load_config([
      '--configs', preset['block'], '--task', preset['task'],
      '--renderer', renderer, r'--.*\.render', quality])
  make, environ = suites.constructor(config)
  whole = functools.partial(make, **WHOLE.get(config.suite, {}))
  shots = []
  for env, size, frames in ((make, SMALL, steps), (whole, LARGE, 1)):
    host = worker.Process(functools.partial(Stage, env, size), environ)
    try:
      shots.append(host.call('play', steps, frames)())
    finally:
      host.close()
  return shots


def draw(pictures):
  """Draws the sheet from {name: (small image, large image)}."""
  width, height = 2 * LARGE + 8, LARGE + TEXT + 8
  rows = -(-len(pictures) // COLUMNS)
  columns = min(len(pictures), COLUMNS)
  sheet = PIL.Image.new('RGB', (columns * width, rows * height), 'white')
  pen = PIL.ImageDraw.Draw(sheet)
  for number, (name, images) in enumerate(pictures.items()):
    x, y = number % columns * width, number // columns * height
    pen.text((x + 2, y + 1), name, 'black')
    for place, image in enumerate(images):
      image = PIL.Image.fromarray(image).resize(
          (LARGE, LARGE), PIL.Image.NEAREST)
      sheet.paste(image, (x + place * LARGE, y + TEXT))
  return sheet


def table(times):
  """Formats {name: ((CPU ms, wall ms) of a step, of a frame)} as Markdown."""
  lines = [
      '| task | step, CPU-ms | wall | frame, CPU-ms | wall |',
      '|---|---|---|---|---|']
  lines += [
      f'| {name} | ' + ' | '.join(f'{x:.3g}' for x in (*step, *frame)) + ' |'
      for name, (step, frame) in times.items()]
  return '\n'.join(lines)


if __name__ == '__main__':
  main()
