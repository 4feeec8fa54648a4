"""Runs a saved agent: every return, videos, and an export of its policy.

dreamingv2 evaluate --logdir DIR --episodes 10 --video out.gif
dreamingv2 evaluate --logdir DIR --best --export policy
dreamingv2 evaluate --policy policy --episodes 10

The logdir says what task and agent it is of. Nothing in it is changed, but
that a damaged checkpoint is set aside. An exported policy acts by itself: no
agent is made.
"""

import json
import pathlib

import numpy as np

from .. import settings
from ..common import checkpoint as checkpoints
from ..common import command
from ..common import config as configs
from ..common import counter
from ..common import driver as drivers
from ..common import envs
from ..common import episodes as episodelib
from ..common import files
from ..common import guards
from ..common import logdir as logdirs
from ..common import logger
from ..common import machine
from ..common import suites

# Where the variables begin that make what an agent does and shows.
ACTING = (
    'probe/decoder/', 'task_behavior/actor/', 'wm/encoder/', 'wm/heads/',
    'wm/rewnorm/', 'wm/rssm/')
COLUMNS = 4  # Episodes side by side in a video.
SCALE = 2  # Of its frames.


@command.entry()
def main(argv=None):
  """Evaluates as the command line says; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    check(args)
    config = load_config(args.logdir or args.policy)
    snapshot = args.logdir and read_checkpoint(args.logdir, args.best)
    env = start_env(config)
  try:
    with guards.user_errors():
      if args.video and 'image' not in env.obs_space:
        raise ValueError(
            f'--video needs an observation called image; there are '
            f'{", ".join(sorted(set(env.obs_space) - set(envs.FLAGS)))}')
      if snapshot:
        agent = load_agent(config, snapshot, env.obs_space, env.act_space)
        agent.generator.reset_from_seed(args.seed)
      else:
        agent = load_policy(args.policy)
    found = play(agent, env, args.episodes, args.seed)
  finally:
    env.close()
  origin = describe(snapshot) if snapshot else _heads(args.policy)[0]
  print(f'{origin}.')
  print(table(found))
  if args.video:
    write_video(found, args.video)
  if args.out:
    write_json(found, args, snapshot, origin)
  if args.export:
    export_policy(agent, args, origin, found[0]['episode'])


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser('dreamingv2 evaluate', __doc__)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
      '--logdir', type=pathlib.Path, metavar='FOLDER',
      help='folder of the run')
  source.add_argument(
      '--policy', type=pathlib.Path, metavar='FOLDER',
      help='folder that --export has written')
  parser.add_argument(
      '--best', action='store_true',
      help='take the checkpoint of the best evaluation, not the newest')
  parser.add_argument(
      '--episodes', type=int, default=10, metavar='N',
      help='episodes to play, by the mode of the policy')
  parser.add_argument(
      '--seed', type=int, default=0, metavar='N',
      help='seed of environment and agent; an exported policy has its own')
  parser.add_argument(
      '--video', type=pathlib.Path, metavar='FILE',
      help=f'GIF file to write: the first {COLUMNS} episodes')
  parser.add_argument(
      '--export', type=pathlib.Path, metavar='FOLDER',
      help='new folder for the policy as a SavedModel')
  parser.add_argument(
      '--out', type=pathlib.Path, metavar='FILE',
      help='JSON file to write: all numbers')
  return parser


def check(args):
  """Raises ValueError for flags that would fail late."""
  if args.episodes < 1:
    raise ValueError(f'--episodes is {args.episodes}; it must be at least 1')
  if args.video and args.video.suffix.lower() != '.gif':
    raise ValueError(f'--video is {args.video}; its ending must be .gif')
  if args.export and args.export.exists():
    raise ValueError(f'--export {args.export} exists; name a new folder')
  if args.policy and (args.best or args.export):
    raise ValueError('--best and --export choose among the checkpoints of a '
                     'run; give --logdir instead of --policy')
  if args.policy and not (args.policy / 'saved_model.pb').exists():
    raise ValueError(
        f'{args.policy} is no exported policy: it has no saved_model.pb; '
        f'--logdir DIR --export {args.policy} writes one')
  for path in (args.video, args.out):
    if path:
      files.check(path)


def find_config(logdir):
  """Returns the path of the config.yaml of a run, or of a policy.

  Raises:
    ValueError: There is none.
  """
  path = logdir / 'config.yaml'
  if not path.exists():
    raise ValueError(
        f'{logdir} is no logdir and no export of one: it has no config.yaml')
  return path


def load_config(logdir):
  """Returns the config of a run, or of the run that a policy is from.

  Keys that its code did not know have their defaults of now.

  Raises:
    ValueError: There is none, or it has keys that this code does not know.
  """
  path = find_config(logdir)
  defaults = settings.defaults()
  found = configs.Config.load(path).flat
  unknown = [k for k in found if k not in defaults.flat]
  if unknown:
    heads = _heads(logdir)
    raise ValueError(
        f'{path} has {len(unknown)} keys that this version does not know: '
        f'{", ".join(unknown[:5])}; use the version that wrote it'
        + f': {heads[-2].partition(", python")[0]}' * (len(heads) > 1))
  missing = [
      k for k in defaults.flat if k not in found
      and k not in logdirs.RESUMABLE]
  if missing:
    logger.say(
        f'Warning: {path} is older than {len(missing)} keys, which are at '
        f'their defaults: {", ".join(missing[:5])}'
        + ', ...' * (len(missing) > 5))
  return defaults.update(found)


def _heads(folder):
  """Returns the comments of a config.yaml: who made it, and how."""
  text = (folder / 'config.yaml').read_text()
  return [x[2:] for x in text.splitlines() if x[:2] == '# '] or ['unknown']


def read_checkpoint(logdir, best=False):
  """Returns the newest good checkpoint of a run, or that of the best return.

  Raises:
    ValueError: There is none.
  """
  folder = logdir / 'checkpoints'
  if best and not (folder / checkpoints.BEST).exists():
    raise ValueError(
        f'{folder} has no {checkpoints.BEST}, which comes with the first '
        f'evaluation; leave --best out')
  snapshot = checkpoints.Checkpoint(folder).load(best)
  if not snapshot:
    raise ValueError(f'{folder} has no checkpoint that can be read')
  return snapshot


def start_env(config):
  """Starts the environment of a run in a process of its own.

  Raises:
    ImportError, RuntimeError, ValueError: It cannot be made here.
  """
  (env,) = suites.start(config, [config.seed])
  return env


def load_policy(folder):
  """Loads an exported policy, which acts as an agent does.

  Raises:
    OSError: It cannot be read.
  """
  with machine.quiet():
    from . import export
  return export.Exported(folder)


def load_agent(config, snapshot, obs_space, act_space):
  """Makes the agent of a checkpoint, fit to act but not to go on training.

  What only training needs may be missing, as in checkpoints of older code.

  Raises:
    ValueError: The checkpoint is of another model.
  """
  with machine.quiet():
    from .. import agent as agents
    from ..common import tfutils
  tfutils.setup(config.precision, config.deterministic, config.seed)
  agent = agents.Agent(config, obs_space, act_space, counter.Counter(
      snapshot.step // config.action_repeat))
  own, arrays = agent.save(), snapshot.arrays
  report = checkpoints.assign_report(
      {k: v.shape for k, v in own.items() if k.startswith(ACTING)},
      {k: v for k, v in arrays.items() if k.startswith(ACTING)})
  if report:
    raise ValueError(
        f'the checkpoint is of another model than its config.yaml says, or '
        f'of another version of the code ({report})')
  agent.load({
      k: arrays[k] if k in arrays and arrays[k].shape == v.shape else v
      for k, v in own.items()})
  return agent


def play(agent, env, episodes, seed=0):
  """Plays episodes with the mode of the policy.

  Args:
    agent: Agent.
    env: Environment; what its `success()` says after a step is noted.
    episodes: Number of them.
    seed: Of the environment.

  Returns:
    A dict for each: 'return', 'length' (agent steps), 'success' (at any
    step; None where the task defines none), and 'episode', its arrays.
  """
  found, marks = [], []
  succeeds = getattr(env, 'success', lambda: None)

  def note(transition, worker):
    value = succeeds()
    marks.append(value() if callable(value) else value)

  def finish(episode):
    known = [x for x in marks if x is not None]
    found.append({
        'return': float(episode['reward'].astype(np.float64).sum()),
        'length': len(episode['reward']) - 1,
        'success': any(known) if known else None, 'episode': episode})

  driver = drivers.Driver([env], seed=(seed, 2))
  driver.on_reset(lambda transition, worker: marks.clear())
  driver.on_step(note)
  driver.on_episode(finish)
  policy = lambda obs, state: agent.policy(obs, state, 'eval')
  with logger.Progress(episodes, 0, 'evaluating', 'episodes') as bar:
    for number in range(1, episodes + 1):
      bar.describe(f'episode {number} of {episodes}')
      driver(policy, episodes=1)
      bar.update(1)
  return found


def summary(found):
  """Returns the statistics of what `play` returned."""
  returns = [x['return'] for x in found]
  known = [x['success'] for x in found if x['success'] is not None]
  return {
      'episodes': len(found), 'mean': float(np.mean(returns)),
      'std': float(np.std(returns)), 'median': float(np.median(returns)),
      'least': min(returns), 'most': max(returns),
      'success_rate': float(np.mean(known)) if known else None}


def table(found):
  """Formats every return and their statistics."""
  words = {None: '', True: 'success', False: 'no success'}
  lines = [
      f"episode {i}: return {x['return']:.2f}, {x['length']} agent steps"
      + f", {words[x['success']]}" * (x['success'] is not None)
      for i, x in enumerate(found, 1)]
  stats = summary(found)
  lines.append(
      f"mean {stats['mean']:.2f}, standard deviation {stats['std']:.2f}, "
      f"median {stats['median']:.2f}, from {stats['least']:.2f} to "
      f"{stats['most']:.2f}")
  if stats['success_rate'] is not None:
    lines.append(
        f"success rate {stats['success_rate']:.0%} (the task's own "
        f'criterion, met at any step)')
  return '\n'.join(lines)


def write_video(found, path):
  """Writes the first episodes side by side; those that end first wait."""
  videos = [x['episode']['image'] for x in found[:COLUMNS]]
  length = max(map(len, videos))
  padded = [
      np.concatenate([x, np.repeat(x[-1:], length - len(x), 0)])
      for x in videos]
  video = np.concatenate(padded, 2).repeat(SCALE, 1).repeat(SCALE, 2)
  files.write_bytes(path, logger.encode_gif(video, fps=20))
  print(f'{path}: {len(videos)} episodes side by side')


def describe(snapshot):
  """Says when a checkpoint was written."""
  return f'Step {snapshot.step}, {snapshot.meta["updates"]} updates'


def export_policy(agent, args, origin, episode):
  """Exports an agent with the config of its run, and says how well."""
  from . import export
  text = (args.logdir / 'config.yaml').read_text()
  with files.write_folder(args.export) as folder:
    difference = export.save(agent, folder, episode)
    files.write_text(folder / 'config.yaml', f'# {origin}\n{text}')
  print(
      f'{args.export}: over {len(episode["reward"])} steps its actions '
      f"differ from the agent's by {difference:.2g} at most.")


def write_json(found, args, snapshot, origin):
  """Writes all numbers, and what they are of."""
  source = {
      'logdir': str(args.logdir), 'step': snapshot.step, 'best': args.best
  } if snapshot else {'policy': str(args.policy), 'from': origin}
  data = {
      **source, 'seed': args.seed, **summary(found),
      **{key: [x[key] for x in found]
         for key in ('return', 'length', 'success')}}
  files.write_text(args.out, json.dumps(data, indent=1) + '\n')


def read_episodes(logdir, count, skip=0):
  """Returns the newest episodes that a run has stored, the newest first.

  Raises:
    ValueError: There are not so many.
  """
  paths = sorted((logdir / 'train_episodes').glob('*.npz'), reverse=True)
  found = []
  for _, data in episodelib.load_episodes(paths[skip:]):
    if not isinstance(data, Exception):
      found.append(data)
    if len(found) == count:
      return found
  raise ValueError(
      f'{logdir}/train_episodes has {len(found)} episodes that can be read; '
      f'{count} are needed')


def spaces(episode):
  """Returns the spaces that an episode's arrays show.

  An action whose every row but the first is one-hot is discrete.
  """
  import gymnasium
  box = gymnasium.spaces.Box
  ends = {'uint8': (0, 255), 'bool': (0, 1)}
  found = {
      k: box(*ends.get(v.dtype.name, (-np.inf, np.inf)), v.shape[1:], v.dtype)
      for k, v in episode.items() if k in envs.FLAGS or k != 'action'}
  action = box(-1, 1, episode['action'].shape[1:], np.float32)
  rows = episode['action'][1:]
  if np.isin(rows, (0, 1)).all() and (rows.sum(-1) == 1).all():
    action.discrete = True
  return found, {'action': action}


if __name__ == '__main__':
  main()
