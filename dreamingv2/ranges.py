"""Allowed values of the numbers and patterns in configs.yaml.

Every number needs a row in RANGES: a test fails for a new key without one.
"""

import math
import re

COUNT = (1, 1e9)
COUNT_OR_NONE = (0, 1e9)
SHARE = (0, 1)
SIZE = (1, 1e5)  # Units or channels of a layer.
SMALL = (1e-30, 1)  # Added to a divisor, so that it is never zero.

# Regular expression for whole dotted keys -> smallest and largest value; in a
# list, the limits hold for every entry.
RANGES = {
    r'.*\.(layers|warm_up)': (0, 1000),
    r'.*\.(units|size|cnn_depth|mlp_layers)': SIZE,
    r'.*\.cnn_kernels': (1, 100),
    r'.*\.min_std': (0, 100),
    r'.*\.unimix': SHARE,
    r'.*_opt\.clip': COUNT_OR_NONE,
    r'.*_opt\.eps': SMALL,
    r'.*_opt\.(lr|wd)': SHARE,
    r'(.*_)?reward_norm\.eps': SMALL,
    r'(.*_)?reward_norm\.momentum': SHARE,
    r'(.*_)?reward_norm\.scale': (1e-9, 1e9),
    'replay_reward_norm.order': (1, 100),
    r'loss_scales\..*': (0, 1e6),
    r'(robosuite|ur5)\.(horizon|control_freq)': (1, 1e6),
    'action_bound': (0, 1e6),
    'action_repeat': (1, 1e6),
    'atari.noops': (0, 1e6),
    r'(barlow_twins|r2dreamer)\.(redundancy|scale)': (0, 1e6),
    'bootstrap.momentum': SHARE,
    'contrastive.horizon': (0, 1000),
    'contrastive.kl_free': (0, 1e6),
    'contrastive.momentum': SHARE,
    'contrastive.pad': (0, 1000),
    'contrastive.temperature': (1e-6, 1e6),
    'dataset.batch': (1, 1e6),
    'dataset.length': (2, 1e6),
    'disag_models': (2, 1000),
    'disag_offset': (0, 1000),
    'discount': SHARE,
    'discount_lambda': SHARE,
    r'distractors\.(camera|colors)': SHARE,
    'endless_after': COUNT_OR_NONE,
    'env_restarts': COUNT_OR_NONE,
    'env_timeout': COUNT_OR_NONE,
    'envs': (1, 4096),
    'eval_eps': COUNT_OR_NONE,
    r'(eval|expl)_noise': (0, 100),
    r'expl_(extr|intr)_scale': (-1e6, 1e6),
    'expl_until': COUNT_OR_NONE,
    'imag_horizon': (2, 10000),
    'imag_starts': COUNT_OR_NONE,
    'keep': COUNT,
    'kl.balance': SHARE,
    r'kl\.(dyn|free|rep)': (0, 1e6),
    r'(eval|log|save)_every': (0, 1e12),
    'max_skipped': COUNT_OR_NONE,
    'predictive.consistency': (0, 1e6),
    'predictive.noise': (1e-6, 1e6),  # Of 0, there is no density.
    'prefill': COUNT_OR_NONE,
    'pretrain': COUNT_OR_NONE,
    'prototypes.count': SIZE,
    'prototypes.freeze': (0, 1e12),
    'prototypes.momentum': SHARE,
    'prototypes.norm': (0, 1e6),
    'prototypes.shift': (0, 1000),
    r'prototypes\.(sinkhorn_eps|temperature)': (1e-6, 1e6),
    'prototypes.sinkhorn_iters': (1, 1000),
    'render_size': (1, 4096),
    'replay.capacity': (0, 1e12),
    'replay.max_gib': COUNT_OR_NONE,
    'replay.maxlen': (0, 1e6),
    'replay.minlen': (1, 1e6),
    'return_norm.floor': (1e-9, 1e9),
    'return_norm.high': (50, 100),
    'return_norm.low': (0, 50),
    'return_norm.momentum': SHARE,
    r'rssm\.(continuous|deter|hidden|stoch)': SIZE,
    'rssm.discrete': (2, 1e5),
    r'(critic|rssm)\.ensemble': (1, 1000),
    'seed': (0, 2 ** 31 - 1),
    'slow_target_fraction': SHARE,
    'slow_target_update': COUNT,
    'stall_after': COUNT_OR_NONE,
    'steps': (1, 1e12),
    'time_limit': COUNT_OR_NONE,
    'train_every': COUNT,
    'train_steps': (1, 1e6),
    'ur5.max_speed': (1e-3, 1e3),
}
# Keys whose value is a regular expression for names.
PATTERNS = r'.*\.(cnn_keys|mlp_keys|wd_pattern)|log_keys_(sum|mean|max)'
# Keys whose value is a number or a schedule such as linear(1,0.1,1e5).
SCHEDULES = r'actor_(ent|grad_mix)'


def find(key):
  """Returns the smallest and largest value of a key, or None without a row."""
  rows = [v for k, v in RANGES.items() if re.fullmatch(k, key)]
  assert len(rows) < 2, key
  return rows[0] if rows else None


def check(config):
  """Checks the numbers and patterns of a config.

  Raises:
    ValueError: A number is NaN or outside its range, or a pattern does not
      compile.
  """
  for key, value in config.flat.items():
    if re.fullmatch(PATTERNS, key):
      _check_pattern(key, value)
    elif re.fullmatch(SCHEDULES, key):
      _check_schedule(key, value)
    elif numbers(value):
      low, high = find(key)
      if not all(low <= x <= high for x in numbers(value)):
        raise ValueError(
            f'{key} is {value}, but must lie in {low:g}..{high:g}; set '
            f'--{key}')
  if config.return_norm.low >= config.return_norm.high:
    raise ValueError(
        f'return_norm.low is {config.return_norm.low}, but must be below '
        f'return_norm.high, {config.return_norm.high}; set --return_norm.low')
  low, high = config.replay.minlen, config.replay.maxlen
  if high and high < low:
    raise ValueError(
        f'replay.maxlen is {high}, but must be 0 or at least replay.minlen, '
        f'{low}; set --replay.maxlen')


def numbers(value):
  """Returns the numbers in a value of a config as a list."""
  values = value if isinstance(value, tuple) else (value,)
  return [
      x for x in values
      if isinstance(x, (int, float)) and not isinstance(x, bool)]


def _check_pattern(key, value):
  try:
    re.compile(value)
  except (re.error, OverflowError, RecursionError) as error:
    raise ValueError(
        f'{key} is {value!r}, but must be a regular expression ({error}); '
        f'set --{key}') from None


def _check_schedule(key, value):
  """Checks the numbers; the schedules themselves are in common.other."""
  _, inside, rest = value.replace(' ', '').partition('(')
  words = rest.removesuffix(')').split(',') if inside else [value]
  try:
    finite = all(math.isfinite(float(x)) for x in words)
  except ValueError:
    finite = False
  if not finite:
    raise ValueError(
        f'{key} is {value!r}, but must be a number, or a schedule of numbers '
        f'such as linear(1,0.1,1e5); set --{key}')
