"""Numbers that a config may hold, where nothing else complains early."""

# Key -> least and greatest value.
RANGES = {
    'action_repeat': (1, 1e9),
    'contrastive.momentum': (0, 1),
    'dataset.batch': (1, 1e9),
    'dataset.length': (2, 1e9),
    'disag_models': (1, 1e9),
    'discount': (0, 1),
    'discount_lambda': (0, 1),
    'env_restarts': (0, 1e9),
    'env_timeout': (0, 1e9),
    'envs': (1, 1e9),
    'eval_eps': (0, 1e9),
    'imag_horizon': (2, 1e9),
    'keep': (1, 1e9),
    'kl.balance': (0, 1),
    'max_skipped': (0, 1e9),
    'prefill': (0, 1e9),
    'pretrain': (0, 1e9),
    'replay.max_gib': (0, 1e9),
    'rssm.deter': (1, 1e9),
    'rssm.discrete': (2, 1e9),
    'rssm.ensemble': (1, 1e9),
    'rssm.hidden': (1, 1e9),
    'rssm.stoch': (1, 1e9),
    'seed': (0, 2 ** 31 - 1),
    'stall_after': (0, 1e9),
    'train_every': (1, 1e9),
    'train_steps': (1, 1e9),
}


def check(config):
  """Checks the numbers of a config.

  Raises:
    ValueError: One lies outside of its range, or the image has no two sides.
  """
  for key, (low, high) in RANGES.items():
    if not low <= config[key] <= high:
      raise ValueError(
          f'{key} is {config[key]}, but must lie in {low:g}..{high:g}; set '
          f'--{key}')
  if len(config.render_size) != 2:
    raise ValueError(
        f'render_size is {config.render_size}, but must be height and width; '
        f'set --render_size 64 64')
