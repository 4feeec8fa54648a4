"""Evaluates a saved agent: its returns, videos, and an export of its policy.

dreamingv2 evaluate --logdir DIR --episodes 10 --video out.gif
dreamingv2 evaluate --logdir DIR --best --export policy
dreamingv2 evaluate --policy policy --episodes 10

The config in the logdir selects the task and the agent. The logdir is not
changed, except that a damaged checkpoint is moved to its folder `damaged`. An
exported policy acts without an agent; it is a program, so play only those that
you trust.
"""

import json
import sys

import numpy as np

from .. import evaluation
from .. import resume
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
from ..common import identity
from ..common import logdir as logdirs
from ..common import logger as loggers
from ..common import machine
from ..common import own
from ..common import spacedata
from ..common import suites
from ..common import worker

# First parts of the names of variables that an agent needs to act and draw.
ACTING = (
    'probe/decoder/', 'task_behavior/actor/', 'wm/encoder/', 'wm/heads/',
    'wm/rewnorm/', 'wm/rssm/')
COLUMNS = 4  # Episodes side by side in a video.
SCALE = 2  # Screen pixels per pixel of its frames.
POLICY_BYTES, POLICY_FILES = 2 ** 33, 1000  # Most of an exported policy.


@command.entry()
def main(argv=None):
  """Evaluates what the command line names; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    check(args)
    folder = args.logdir or args.policy
    config = load_config(folder)
    snapshot = args.logdir and read_checkpoint(folder, args.best, args.step)
    env = start_env(config, folder)
  try:
    with guards.user_errors():
      cameras = own.videos(config, env.obs_space)
      if args.video and not cameras:
        raise ValueError(
            f'--video needs an image; this run has '
            f'{", ".join(sorted(set(env.obs_space) - set(envs.FLAGS)))}, and '
            f'log_keys_video is {list(config.log_keys_video)}')
      spaces = check_spaces(folder, env)
      agent = restore(config, snapshot, *spaces, args.seed) if (
          snapshot) else load_policy(folder, *spaces)
    with guards.user_errors((worker.BadReturn,)):
      played = play(
          agent, env, args.episodes, args.seed, config.endless_after)
  except worker.GaveUp as error:
    loggers.say(f'Error: {error}')
    sys.exit(3)
  finally:
    env.close()
  origin = describe(snapshot) if snapshot else _heads(folder)[0]
  print(f'{origin}.')
  print(table(played))
  if args.video:
    write_video(played, cameras, args.video)
  if args.out:
    data = results(played, folder, snapshot, args.best, args.seed)
    files.write_text(args.out, json.dumps(data, indent=1) + '\n')
  if args.export:
    export_policy(agent, args, origin, played[0]['episode'])


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser('dreamingv2 evaluate', __doc__)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument(
      '--logdir', type=command.path, metavar='FOLDER',
      help='folder of the run')
  source.add_argument(
      '--policy', type=command.path, metavar='FOLDER',
      help='folder written by --export; it is a program, so only one that you '
      'trust')
  which = parser.add_mutually_exclusive_group()
  which.add_argument(
      '--best', action='store_true',
      help='use the checkpoint of the best evaluation, not the newest')
  which.add_argument(
      '--step', type=int, metavar='N',
      help='use the checkpoint of so many environment steps; the newest few '
      'of a run exist')
  parser.add_argument(
      '--episodes', type=int, default=10, metavar='N',
      help='episodes to play, with the mode of the policy')
  parser.add_argument(
      '--seed', type=int, default=0, metavar='N',
      help='seed of environment and agent; an exported policy has its own')
  parser.add_argument(
      '--video', type=command.path, metavar='FILE',
      help=f'GIF file to write, with the first {COLUMNS} episodes and the '
      'cameras that log_keys_video names')
  parser.add_argument(
      '--export', type=command.path, metavar='FOLDER',
      help='new folder to write, with the policy as a SavedModel')
  parser.add_argument(
      '--out', type=command.path, metavar='FILE',
      help='JSON file to write, with all numbers')
  return parser


def check(args):
  """Raises ValueError for flags that would fail late."""
  if args.episodes < 1:
    raise ValueError(f'--episodes is {args.episodes}; it must be at least 1')
  if args.video and args.video.suffix.lower() != '.gif':
    raise ValueError(f'--video is {args.video}; its ending must be .gif')
  if args.export and args.export.exists():
    raise ValueError(f'--export {args.export} exists; name a new folder')
  if args.policy:
    if args.best or args.step is not None or args.export:
      raise ValueError('--best, --step and --export need the checkpoints of a '
                       'run; give --logdir instead of --policy')
    check_policy(args.policy)
  for path in (args.video, args.out, args.export):
    if path:
      files.check_writable(path)


def is_policy(folder):
  """Says whether a folder holds an exported policy, not a run."""
  return (folder / 'saved_model.pb').exists()


def check_policy(folder):
  """Raises ValueError if a folder holds no exported policy, or odd files."""
  if not is_policy(folder):
    raise ValueError(
        f'{folder} is not an exported policy: it has no saved_model.pb; '
        f'write one with --logdir DIR --export {folder}')
  files.check_folder(folder, POLICY_BYTES, POLICY_FILES)


def find_config(logdir):
  """Returns the path of the config.yaml of a run or of an exported policy.

  Raises:
    ValueError: There is none.
  """
  path = logdir / 'config.yaml'
  if not path.exists():
    raise ValueError(
        f'{logdir} is not a logdir or an exported policy: it has no '
        f'config.yaml')
  return path


def load_config(logdir):
  """Returns the config of a run, or of the run of an exported policy.

  Keys that are newer than the run have today's defaults.

  Raises:
    ValueError: There is no config, or it has keys that this code lacks.
  """
  path = find_config(logdir)
  defaults = settings.defaults()
  stored = configs.Config.load(path).flat
  unknown = [k for k in stored if k not in defaults.flat]
  if unknown:
    heads = _heads(logdir)
    raise ValueError(
        f'{path} has {len(unknown)} keys that this version does not know: '
        f'{", ".join(unknown[:5])}; use the version that wrote it'
        + f': {heads[-2].partition(", python")[0]}' * (len(heads) > 1))
  missing = [
      k for k in defaults.flat if k not in stored
      and k not in logdirs.RESUMABLE]
  if missing:
    loggers.say(
        f'Warning: {path} lacks {len(missing)} newer keys; they get their '
        f'defaults: {", ".join(missing[:5])}'
        + ', ...' * (len(missing) > 5))
  return defaults.update(stored)


def _heads(folder):
  """Returns the comments of a config.yaml: versions and command."""
  lines = _read_config(folder).splitlines()
  return [x[2:] for x in lines if x[:2] == '# '] or ['unknown']


def _read_config(folder):
  data = files.read_bytes(folder / 'config.yaml', configs.FILE_BYTES)
  return data.decode(errors='replace')


def read_checkpoint(logdir, best=False, step=None):
  """Returns the newest readable checkpoint of a run, or its best one.

  With `step`, it is the one of so many environment steps.

  Raises:
    ValueError: There is none, or both are asked for.
  """
  if best and step is not None:
    raise ValueError(f'best and step {step} name two checkpoints; give one')
  folder = logdir / 'checkpoints'
  if best and not (folder / checkpoints.BEST).exists():
    raise ValueError(
        f'{folder} has no {checkpoints.BEST}, which the first evaluation '
        f'writes; leave --best out')
  store = checkpoints.Checkpoint(folder, check=resume.check)
  snapshot = store.load(best, until=step)
  if step not in (None, snapshot and snapshot.step):
    steps = sorted(
        int(x.stem) for x in folder.glob('*.npz') if x.stem.isdigit())
    raise ValueError(
        f'{folder} has no checkpoint of step {step}; there are those of '
        f'{", ".join(map(str, steps)) or "no step"}')
  if not snapshot:
    raise ValueError(f'{folder} has no checkpoint that can be read')
  return snapshot


def start_env(config, folder):
  """Starts the environment of a run in a separate process.

  Args:
    config: Config of the run.
    folder: Folder of the run, or of its exported policy.

  Raises:
    ImportError, RuntimeError, ValueError: It cannot be started here.
  """
  made = identity.read(folder)
  if made.get('source', 'suite') != 'suite':
    if not made['make']:
      raise ValueError(
          f'{folder} was trained on {made["task"]}, which only Python can '
          f'make; give it to dreamingv2.api.evaluate(folder, env)')
    config = config.update(identity.settings(made))
  (env,) = suites.start(config, [config.seed])
  return env


def check_spaces(folder, env):
  """Checks that an environment has all that a run observed, and its actions.

  Returns:
    Spaces of observations and actions of the run; those of the environment for
    a run of an older version.

  Raises:
    ValueError: They differ; names what.
  """
  made = identity.read(folder)
  if not made:
    return env.obs_space, env.act_space
  obs_space, act_space = identity.agent_spaces(made)
  words = lambda space: episodelib.describe(
      space and (space.shape, space.dtype))
  pairs = [(k, words(v), words(env.obs_space.get(k)))
           for k, v in obs_space.items() if not k.startswith('log_')]
  if made['class']:  # Else the run learned from stored episodes alone.
    pairs.append(('action', *(
        str(spacedata.from_data(x['action']))
        for x in (made, identity.of(env)))))
  wrong = [f'{k!r} is {was} there, but {now} here'
           for k, was, now in pairs if was != now]
  if wrong:
    raise ValueError(
        f'{folder} was trained on {made["task"]}, and this environment '
        f'differs: {", ".join(wrong)}')
  return obs_space, act_space


def load_policy(folder, obs_space, act_space):
  """Loads an exported policy, which acts like an agent.

  Raises:
    ValueError: The policy cannot be read, or is for other spaces.
  """
  with machine.quiet():
    from . import export
  loggers.say(
      f'Loading {folder}. An exported policy is a program that now runs here; '
      f'only open those that you trust.')
  policy = export.Exported(folder)
  policy.check(obs_space, act_space)
  return policy


def restore(config, snapshot, obs_space, act_space, seed=0):
  """Makes the agent of a run's checkpoint, whose noise begins with a seed.

  Raises:
    ValueError: The checkpoint belongs to another run or model.
  """
  resume.check_origin(snapshot.meta, resume.origin(config))
  agent = load_agent(config, snapshot, obs_space, act_space)
  agent.generator.reset_from_seed(seed)
  return agent


def load_agent(config, snapshot, obs_space, act_space):
  """Makes the agent of a checkpoint, to act but not to continue training.

  Variables that only training needs may be missing from the checkpoint, as
  they are in checkpoints of older code.

  Raises:
    ValueError: The checkpoint holds another model.
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
        f'the checkpoint is of another model than the one in config.yaml, or '
        f'of another version of the code ({report})')
  agent.load({
      k: arrays[k] if k in arrays and arrays[k].shape == v.shape else v
      for k, v in own.items()})
  return agent


def play(agent, env, episodes, seed=0, longest=0):
  """Plays episodes with the mode of the policy.

  Args:
    agent: Agent.
    env: Environment; its `success()`, if any, is called after every step.
    episodes: Number of episodes.
    seed: Seed of the episodes.
    longest: Steps after which an episode that does not end is cut; 0: never.

  Returns:
    A dict for each episode: 'return', 'length' (agent steps), 'success' (at
    any step; None if the task defines no success), and 'episode' (arrays).
  """
  played = []
  driver = drivers.Driver([env], seed=(seed, 2), longest=longest)
  driver.on_episode(played.append)
  found = evaluation.Successes(driver, [env]).episodes
  policy = lambda obs, state: agent.policy(obs, state, 'eval')
  with loggers.Progress(episodes, 0, 'evaluating', 'episodes') as bar:
    for number in range(1, episodes + 1):
      bar.describe(f'episode {number} of {episodes}')
      driver(policy, episodes=1)
      bar.update(1)
  return [{
      'return': float(episode['reward'].astype(np.float64).sum()),
      'length': len(episode['reward']) - 1, 'success': success,
      'episode': episode} for episode, success in zip(
          played, found, strict=True)]


def summary(played):
  """Returns the statistics of the episodes that `play` returned."""
  returns = [x['return'] for x in played]
  known = [x['success'] for x in played if x['success'] is not None]
  return {
      'episodes': len(played), 'mean': float(np.mean(returns)),
      'std': float(np.std(returns)), 'median': float(np.median(returns)),
      'least': min(returns), 'most': max(returns),
      'success_rate': float(np.mean(known)) if known else None}


def results(played, folder, snapshot, best=False, seed=0):
  """Returns all numbers, and the checkpoint or policy they belong to.

  Args:
    played: What `play` returned.
    folder: Folder of the run, or of its exported policy.
    snapshot: Checkpoint, None for a policy.
    best: Whether it is the checkpoint of the best evaluation.
    seed: Seed of the episodes.
  """
  source = {
      'logdir': str(folder), 'step': snapshot.step, 'best': best
  } if snapshot else {'policy': str(folder), 'from': _heads(folder)[0]}
  return {
      **source, 'seed': seed, **summary(played),
      **{key: [x[key] for x in played]
         for key in ('return', 'length', 'success')}}


def table(played):
  """Formats every return, and statistics of all."""
  words = {None: '', True: 'success', False: 'no success'}
  lines = [
      f"episode {i}: return {x['return']:.2f}, {x['length']} agent steps"
      + f", {words[x['success']]}" * (x['success'] is not None)
      for i, x in enumerate(played, 1)]
  stats = summary(played)
  lines.append(
      f"mean {stats['mean']:.2f}, standard deviation {stats['std']:.2f}, "
      f"median {stats['median']:.2f}, from {stats['least']:.2f} to "
      f"{stats['most']:.2f}")
  if stats['success_rate'] is not None:
    lines.append(
        f"success rate {stats['success_rate']:.0%} (the task's own "
        f'criterion, met at any step)')
  return '\n'.join(lines)


def write_video(played, cameras, path):
  """Writes the first episodes side by side, the cameras below each other.

  Short episodes end in a still.
  """
  videos = []
  for x in played[:COLUMNS]:
    images = [loggers.to_picture(x['episode'][k]) for k in cameras]
    videos.append(np.concatenate([
        np.broadcast_to(y, (*y.shape[:3], 3)) for y in images], 1))
  length = max(map(len, videos))
  padded = [
      np.concatenate([x, np.repeat(x[-1:], length - len(x), 0)])
      for x in videos]
  video = np.concatenate(padded, 2).repeat(SCALE, 1).repeat(SCALE, 2)
  files.write_bytes(path, loggers.encode_gif(video))
  print(f'{path}: {len(videos)} episodes side by side')


def describe(snapshot):
  """Returns the step and the number of updates of a checkpoint, as text."""
  return f'Step {snapshot.step}, {snapshot.meta["updates"]} updates'


def export_policy(agent, args, origin, episode):
  """Exports an agent with its config; prints how far the actions differ."""
  from . import export
  text = _read_config(args.logdir)
  agent.generator.reset_from_seed(args.seed)
  with files.write_folder(args.export) as folder:
    difference = export.save(agent, folder, episode)
    files.write_text(folder / 'config.yaml', f'# {origin}\n{text}')
    if identity.read(args.logdir):
      files.write_bytes(folder / identity.FILE, files.read_bytes(
          args.logdir / identity.FILE, identity.FILE_BYTES))
  print(
      f'{args.export}: over {len(episode["reward"])} steps its actions '
      f"differ from the agent's by {difference:.2g} at most")


def read_episodes(logdir, count, skip=0):
  """Returns the newest stored episodes of a run, the newest first.

  Args:
    logdir: Path of the run.
    count: Number of episodes.
    skip: Number of newest episodes to leave out.

  Raises:
    ValueError: There are not enough episodes.
  """
  paths = sorted((logdir / 'train_episodes').glob('*.npz'), reverse=True)
  episodes = []
  for _, data in episodelib.load_episodes(paths[skip:]):
    if not isinstance(data, Exception):
      episodes.append(data)
    if len(episodes) == count:
      return episodes
  raise ValueError(
      f'{logdir}/train_episodes has {len(episodes)} episodes that can be '
      f'read; {count} are needed')


if __name__ == '__main__':
  main()
