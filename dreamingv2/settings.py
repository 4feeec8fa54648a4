"""All settings: configs.yaml, the paper's tasks, and checks of values.

train.py and all tools read the settings from here, so that no tool imports the
script. Nothing here loads TensorFlow or a simulator.
"""

import functools
import itertools
import pathlib
import textwrap

from . import ranges
from .common import command
from .common import comments as commentlib
from .common import config as configs
from .common import flags
from .common import outputs
from .common.config import check_known

FOLDER = pathlib.Path(__file__).resolve().parent
# Folder with configs.yaml: the checkout, or this folder in site-packages.
ROOT = (FOLDER / 'configs.yaml').resolve().parent

# Copies of names whose tables are in modules that load TensorFlow.
CHOICES = {
    'distribute': ('mirrored', 'multiworker', 'none'),
    'precision': ('16', '32', 'auto', 'bf16', 'tf32'),
}
# Distributions of the heads that predict numbers.
NUMBERS = ('mse', 'normal', 'symlog', 'twohot')
HEADS = {
    'critic.dist': NUMBERS,
    'discount_head.dist': ('binary', *NUMBERS),
    'expl_head.dist': NUMBERS,
    'reward_head.dist': NUMBERS,
}
# Blocks that override methods, suites and sizes wherever they stand.
RECIPES = ('robust',)
# Keys whose allowed values are those that the blocks of configs.yaml set.
NAMED_BY_BLOCKS = ('objective', 'rssm.latent')

EXAMPLES = '''\
dreamingv2 train --configs robosuite small --task Lift
dreamingv2 train --configs dreamerv2 --task Reacher-hard --seed 1
dreamingv2 train --configs dmc_vision --task dmc_hopper_hop --rssm.deter 600
dreamingv2 train --help --configs small  # Its defaults.'''

# Objectives by what they read.
BALANCED = (
    'barlow_twins', 'byol', 'contrastive', 'cross_modal', 'cvrl', 'forward',
    'prototypes', 'r2dreamer', 'reconstruction')
DIVERGENCE = ('bootstrap', *BALANCED)
MULTI_STEP = ('barlow_twins', 'byol', 'contrastive')
# Keys or groups of keys that count only with some values of another key. The
# longest key that matches decides.
READERS = {
    'objective': {
        'barlow_twins': ('barlow_twins',),
        'bootstrap': ('bootstrap',),
        'byol': ('byol',),
        'contrastive': MULTI_STEP,
        'contrastive.aux_negatives': ('contrastive',),
        'contrastive.momentum': ('byol', 'contrastive'),
        'contrastive.negatives': ('contrastive',),
        'contrastive.slow_critic': ('contrastive',),
        'contrastive.symmetric': ('contrastive',),
        'contrastive.temperature': ('contrastive',),
        'contrastive.vmf': ('contrastive',),
        'cross_modal': ('cross_modal',),
        'cvrl': ('cvrl',),
        'forward': ('forward',),
        'kl': DIVERGENCE,
        'kl.balance': BALANCED,
        'kl.forward': BALANCED,
        'kl.rep': BALANCED,
        'loss_scales.byol': ('byol',),
        'loss_scales.kl': DIVERGENCE,
        'loss_scales.overshooting': MULTI_STEP,
        'predictive': ('predictive',),
        'prototypes': ('prototypes',),
        'r2dreamer': ('r2dreamer',),
    },
    'rssm.latent': {
        'rssm.continuous': ('hybrid',),
        'rssm.discrete': ('categorical', 'hybrid'),
        'rssm.min_std': ('gaussian', 'hybrid'),
        'rssm.std_act': ('gaussian', 'hybrid'),
        'rssm.unimix': ('categorical', 'hybrid'),
    },
    'expl_behavior': {
        'disag_action_cond': ('Plan2Explore',),
        'disag_log': ('Plan2Explore',),
        'disag_models': ('Plan2Explore',),
        'disag_offset': ('Plan2Explore',),
        'disag_target': ('Plan2Explore',),
        'expl_extr_scale': ('ModelLoss', 'Plan2Explore'),
        'expl_head': ('ModelLoss', 'Plan2Explore'),
        'expl_intr_scale': ('ModelLoss', 'Plan2Explore'),
        'expl_model_loss': ('ModelLoss',),
        'expl_opt': ('ModelLoss', 'Plan2Explore'),
        'expl_reward_norm': ('ModelLoss', 'Plan2Explore'),
        'expl_until': ('ModelLoss', 'Plan2Explore', 'Random'),
    },
}


@functools.lru_cache(None)
def blocks():
  """Maps the names of the blocks in configs.yaml to their settings."""
  return configs.read_yaml(FOLDER / 'configs.yaml')


@functools.lru_cache(None)
def defaults():
  """Returns the Config of the block `defaults`."""
  return configs.Config(blocks()['defaults'])


@functools.lru_cache(None)
def presets():
  """Maps the paper's task names to presets, see tasks.yaml."""
  return configs.read_yaml(FOLDER / 'tasks.yaml')


def methods():
  """Returns the names of the blocks that select a system."""
  return [
      k for k, v in blocks().items() if k != 'defaults' and 'method' in v]


@functools.lru_cache(None)
def comments():
  """Maps blocks, and keys of defaults, to (heading, comment)."""
  pairs = commentlib.read(FOLDER / 'configs.yaml')
  return {k.removeprefix('defaults.'): v for k, v in pairs.items()}


def load_config(argv):
  """Returns the config that blocks and flags select.

  Args:
    argv: Words of the command line.

  Raises:
    ValueError: Unknown block or key, a value of a wrong type or outside its
      range, or a flag without effect.
  """
  selected, remaining = _select(argv)
  config = flags.Flags(selected).parse(remaining, help_exists=False)
  named = lambda words: {
      x[2:].partition('=')[0] for x in words if x.startswith('--')}
  # Patterns may match keys of all systems.
  chosen = named(remaining) & set(config.diff(selected))
  if config.offline:
    config = _offline(config, 'task' in named(argv))
  check(config)
  check_readers(config, chosen)
  return config


def _offline(config, named):
  """Returns the config of a run that has no environment.

  Args:
    named: Whether the user has named the task.

  Raises:
    ValueError: The task was not named, or there are two sources of episodes.
  """
  if not named:
    raise ValueError(
        f'--offline {config.offline} needs the name of the task of its '
        f'episodes, with which evaluate makes the environment; set --task '
        f'(data_NAME if there is none)')
  if config.replay.seed_from not in ('', config.offline):
    raise ValueError(
        f'--offline {config.offline} and --replay.seed_from '
        f'{config.replay.seed_from} name two folders; leave one out')
  return config.update({
      'replay.seed_from': config.offline, 'prefill': 0, 'eval_eps': 0})


def _select(argv):
  """Returns the config of --configs and --task, and the other words."""
  for word, following in itertools.pairwise([*argv, '--']):
    # An empty word is a variable of the shell that is not set.
    if word in ('--configs', '--configs=') and (
        not following or following.startswith('--')):
      raise ValueError(
          f'--configs needs the name of a block\n{list_blocks()}')
    if word == '--task=' or word == '--task' and not following:
      raise ValueError(
          '--task is empty, but must name a task, such as --task Lift; '
          'dreamingv2 train --list prints those of the paper')
  chosen, remaining = flags.Flags(configs=['defaults'], task='').parse(
      argv, known_only=True)
  task, names = expand(chosen.task, chosen.configs)
  config = defaults()
  for name in order(names):
    config = config.update(blocks()[name])
  return config.update({'task': task or config.task}), remaining


def expand(task, names):
  """Replaces a task of the paper by its preset.

  Args:
    task: Value of --task, '' if it was not given.
    names: Blocks of --configs.

  Returns:
    Task and blocks; the preset's block comes first, so that the others
    override it.
  """
  preset = presets().get(task)
  if not preset:
    return task, names
  others = [x for x in names if x != 'defaults']  # This would undo the block.
  return preset['task'], [preset['block'], *others]


def order(names):
  """Sorts blocks so that sizes override methods, and recipes override both.

  Args:
    names: Blocks of --configs.

  Returns:
    The blocks that name a method or a suite, then sizes, then recipes; each
    kind keeps its given order.

  Raises:
    ValueError: Unknown block, or two methods.
  """
  for name in names:
    check_known('config block', name, blocks())
  chosen = [x for x in dict.fromkeys(names) if x in methods()]
  if len(chosen) > 1:
    raise ValueError(
        f'{" and ".join(chosen)} are methods, of which a run has one; leave '
        f'the others out of --configs')
  return sorted(names, key=lambda name: (
      not {'method', 'suite'} & blocks()[name].keys(), name in RECIPES))


def check_readers(config, keys):
  """Checks that all keys that were set count with the rest of a config.

  Args:
    config: Config.
    keys: Dotted keys that were set.

  Raises:
    ValueError: One of the keys has no effect.
  """
  for key in sorted(keys):
    for other, values in _readers(key).items():
      if config[other] not in values:
        place = 'a method with --configs' if other == 'objective' else (
            f'one with --{other}')
        raise ValueError(
            f'--{key} {config[key]} has no effect with {other} '
            f"'{config[other]}', only with {', '.join(values)}: leave it out "
            f'or select {place}')


def reads(config, key):
  """Says whether anything can depend on a dotted key, given the others.

  Args:
    config: Config, or the values by dotted key, of which some may be absent.
    key: Dotted key.
  """
  return all(
      config[other] in values for other, values in _readers(key).items()
      if other in config)


def _readers(key):
  """Returns {other key: its values with which a dotted key counts}."""
  parts = key.split('.')
  names = ['.'.join(parts[:i]) for i in range(len(parts), 0, -1)]
  found = {
      other: next((rows[x] for x in names if x in rows), None)
      for other, rows in READERS.items()}
  return {k: v for k, v in found.items() if v}


def check(config):
  """Checks the values of a config.

  Raises:
    ValueError: A number lies outside its range, a pattern does not compile, a
      name is unknown, render_size does not have two entries, or a batch does
      not fit into the replay.
  """
  for key, names in {**CHOICES, **HEADS}.items():
    check_known(key, config[key], names)
  for key in NAMED_BY_BLOCKS:
    check_known(key, config[key], values(key))
  outputs.check(config.outputs)
  ranges.check(config)
  if len(config.render_size) != 2:
    raise ValueError(
        f'render_size is {config.render_size}, but must be height and width; '
        f'set --render_size 64 64')
  batch, length = config.dataset.batch, config.dataset.length
  if 0 < config.replay.capacity < batch * length:
    raise ValueError(
        f'a batch of {batch} x {length} steps (dataset.batch x '
        f'dataset.length) is larger than the replay of '
        f'{config.replay.capacity:.0f}; set --replay.capacity, 0 for no '
        f'limit, or --dataset.batch')


def check_spaces(config, obs_space, act_space):
  """Checks the observations named by log_keys_video, and noise on actions.

  The names in the defaults may be missing.

  Raises:
    ValueError: The environment has no such observation, or it is no image;
      the probability of a random discrete action is above 1.
  """
  for key in ('eval_noise', 'expl_noise'):
    if config[key] > 1 and getattr(act_space['action'], 'discrete', False):
      raise ValueError(
          f'{key} is {config[key]}, but for discrete actions it is the '
          f'probability of a random one, at most 1; set --{key}')
  for key in config.log_keys_video:
    if key not in defaults().log_keys_video:
      check_known('entry of log_keys_video', key, obs_space)
      if len(obs_space[key].shape) != 3:
        raise ValueError(
            f'log_keys_video has {key} of shape {obs_space[key].shape}; only '
            f'images [H, W, C] make a video')


def values(key):
  """Returns the values that blocks of configs.yaml give a key."""
  names = set()
  for block in blocks().values():
    for part in key.split('.'):
      block = block.get(part) if isinstance(block, dict) else None
    names |= {block} - {None}
  return names


def answer(argv):
  """Returns the text that --help or --list asks for, or '' without them.

  Raises:
    ValueError: --help comes with an unknown block.
  """
  words = [x for x in argv if x not in ('-h', '--help')]
  if len(words) < len(argv):
    return manual(words)
  return table() if '--list' in argv else ''


def manual(argv=()):
  """Returns the help of train: blocks, tasks, and flags under headings.

  Args:
    argv: Words of the command line; its blocks and task change the defaults
      that the help shows.

  Raises:
    ValueError: An unknown block.
  """
  intro = [
      textwrap.fill(x, flags.WIDTH)
      for x in comments()['defaults'][0].split('\n\n')]
  parser = command.Parser(
      'dreamingv2 train', '\n\n'.join([
          'Trains an agent, or resumes the run in its logdir; the same as '
          'python train.py.', *intro, list_blocks(),
          f"The paper's tasks, for --task:\n{table()}", EXAMPLES]),
      usage='dreamingv2 train [--configs BLOCK ...] [--task TASK] '
      '[--KEY VALUE ...]')
  parser.add_argument(
      '--configs', metavar='BLOCK ...', help='blocks to apply, see above')
  parser.add_argument(
      '--list', action='store_true', help="print the paper's tasks and end")
  flags.Flags(_select(argv)[0]).document(parser, comments())
  return parser.format_help()


def list_blocks():
  """Lists the blocks for --configs under their headings, one line each."""
  lines, before = ['Blocks, for --configs:'], None
  for name in blocks():
    heading, comment = comments()[name]
    if name != 'defaults':
      lines += [f"  {heading.partition('. ')[0]}"] * (heading != before)
      lines.append(f'    {name:<13} {comment}')
      before = heading
  return '\n'.join(lines)


def table():
  """Lists the paper's tasks, one line each."""
  lines = [
      f"{'--task':<19} {'configs':<11} {'steps':>5} {'s':>3} {'action':>6} "
      f"{'limit':>5}  source"]
  for name, x in presets().items():
    lines.append(
        f"{name:<19} {x['block']:<11} {x['steps']:>5} {x['seconds']:>3} "
        f"{x['action']:>6} {x['limit']:>5}  {x['source']}")
  lines += [
      '', 'All observe one image (render_size 64 64) and get 500,000 steps. '
      'Units: steps, control',
      'steps per episode; s, simulated seconds; action, entries in -1..1; '
      'limit, largest return.',
      'Any other task: --configs robosuite --task Stack, '
      '--configs dmc_vision --task dmc_hopper_hop.']
  return '\n'.join(lines)
