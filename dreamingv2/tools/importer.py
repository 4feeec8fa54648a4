"""Turns demonstrations and datasets of others into episodes.

dreamingv2 import --data demo.hdf5 --out demos -- --configs small --task Lift
dreamingv2 import --data ~/.minari/datasets/D4RL/door/human-v2 --out door

DATA is an HDF5 file of robosuite or robomimic, or the folder of a Minari
dataset in HDF5. Flags after `--` are those of the run that will read the
episodes: images get its size, and its action repeat groups the steps. With
--task, a file of robosuite is drawn anew from its recorded states, so that the
observations are exactly those of the run. Without, stored observations count.

Train with them by --replay.seed_from FOLDER, or on them alone by
--offline FOLDER.
"""

import argparse
import functools
import warnings

import numpy as np

from .. import settings
from ..common import command
from ..common import envs
from ..common import files
from ..common import guards
from ..common import own
from ..common import renderers
from ..common import replay as replays
from ..common import spaces
from ..common import suites
from . import demonstrations


@command.entry()
def main(argv=None):
  """Imports what the command line names; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    if args.out.exists():
      raise ValueError(f'--out {args.out} exists; name a new folder')
    config = settings.load_config(args.flags)
    drawn = any(x.partition('=')[0] == '--task' for x in args.flags)
    demos = demonstrations.whole(demonstrations.read(args.data))
    if drawn:
      episodes = draw(demos, config)
    else:
      episodes = (play(demo, config) for demo in demos)
    with files.write_folder(args.out) as folder:
      count, steps, total = write(episodes, folder)
  print(
      f'{args.out}: {count} episodes, {steps} agent steps, mean return '
      f'{total / count:.2f}')


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser(
      'dreamingv2 import', __doc__,
      usage='dreamingv2 import --data DATA --out FOLDER [-- FLAGS]')
  parser.add_argument(
      '--data', type=command.path, required=True, metavar='DATA',
      help='HDF5 file, or folder of a Minari dataset')
  parser.add_argument(
      '--out', type=command.path, required=True, metavar='FOLDER',
      help='new folder to write, with a file for each episode')
  parser.add_argument('flags', nargs='*', help=argparse.SUPPRESS)
  return parser


def write(episodes, folder):
  """Writes episodes; returns their number, agent steps and summed return.

  Raises:
    ValueError: There is none.
  """
  replay, total = replays.Replay(folder, capacity=1), 0.0
  for episode in episodes:
    replay.add_episode(episode)
    total += float(episode['reward'].sum())
  stats = replay.stats
  if not stats['total_episodes']:
    raise ValueError('The data hold no episode with a step')
  return stats['total_episodes'], stats['total_steps'], total


def draw(demos, config):
  """Yields episodes whose observations are drawn from recorded states.

  Args:
    demos: Iterable of demonstrations.Demo.
    config: Config of the run that will read the episodes.

  Raises:
    ValueError: The task is none of robosuite's, or is not that of the data.
  """
  suite, _ = suites.check(config)
  if suite != 'robosuite':
    raise ValueError(
        f'Only states of robosuite can be drawn, and --task {config.task} is '
        f'of suite {suite}; leave it out to take stored observations')
  env, = suites.start(config, [config.seed])
  try:
    known = env.call('describe')()
    for demo in demos:
      demonstrations.check_same(demo, known)
      rows = env.call(
          'replay', demo.model, demo.states, demo.actions,
          config.action_repeat)()
      rows[-1]['is_last'] = True
      yield stack(rows)
  finally:
    env.close()


def play(demo, config):
  """Returns the episode of a demonstration with its stored observations.

  The recording is played through the wrappers that a run puts around an
  environment of Gymnasium.

  Raises:
    ValueError: There are no observations, or a space is not supported, or a
      value is not of its space; the message names the demonstration.
  """
  if demo.obs is None or isinstance(demo.obs, dict) and not demo.obs:
    raise ValueError(
        f'{demo.name} has no observations, only states; name the task to draw '
        f'them: dreamingv2 import ... -- --configs small --task '
        f'{demo.task or "TASK"}')
  try:
    return stack(_rows(demo, config))
  except ValueError as error:
    text = str(error).removesuffix(f'; {spaces.HELP}')
    raise ValueError(f'{demo.name}: {text}') from None


def _rows(demo, config):
  repeat = config.action_repeat
  tape = demonstrations.Tape(demo, _image_names(demo, config))
  env = own.convert(tape, config.render_size, repeat)
  for key, reason in env.left_out.items():  # Python shows each line once.
    warnings.warn(f'Observation {key} is left out: {reason}', stacklevel=2)
  env = envs.ready(env, bound=config.action_bound)
  encode = functools.partial(
      demonstrations.encode, tape.action_space, bound=config.action_bound)
  actions = [
      encode(demo.actions[i: i + repeat])
      for i in range(0, len(demo.actions), repeat)]
  rows = [{**env.reset(), 'action': np.zeros_like(actions[0])}]
  rows += [{**env.step({'action': x}), 'action': x} for x in actions]
  rows[-1]['is_last'] = True
  return rows


def stack(rows):
  """Returns the arrays [T, ...] of a list of rows."""
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def _image_names(demo, config):
  """Returns {key of an image in the data: key in the episodes}.

  robomimic calls them <camera>_image.
  """
  if not isinstance(demo.obs, dict):
    return {}
  cameras = {
      camera: key for key, camera in
      renderers.cameras(config.robosuite.camera).items()}
  names = [x for x in demo.obs if x.endswith('_image')]
  result = {}
  for name in names:
    camera = name.removesuffix('_image')
    usual = 'image' if len(names) == 1 else f'image_{camera}'
    result[name] = cameras.get(camera, usual)
  return result


if __name__ == '__main__':
  main()
