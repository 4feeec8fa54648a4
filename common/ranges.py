"""Values that a config may hold, where nothing else complains early."""

from .config import known

# Names in tables of modules that need TensorFlow, which is imported late.
CHOICES = {
    'distribute': ('mirrored', 'multiworker', 'none'),
    'precision': ('16', '32', 'auto', 'bf16'),
    'rssm.latent': ('categorical', 'gaussian', 'hybrid'),
}

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


def check(config, blocks):
  """Checks the values of a config.

  Args:
    config: Config.
    blocks: Those of configs.yaml, one of which names each objective.

  Raises:
    ValueError: A number lies outside of its range, a name is unknown, or the
      image has no two sides.
  """
  objectives = {x['objective'] for x in blocks.values() if 'objective' in x}
  for key, names in {**CHOICES, 'objective': objectives}.items():
    known(key, config[key], names)
  for key, (low, high) in RANGES.items():
    if not low <= config[key] <= high:
      raise ValueError(
          f'{key} is {config[key]}, but must lie in {low:g}..{high:g}; set '
          f'--{key}')
  if len(config.render_size) != 2:
    raise ValueError(
        f'render_size is {config.render_size}, but must be height and width; '
        f'set --render_size 64 64')
