"""The folder of a run: whether it fits a config, and its config.yaml."""

import os
import pathlib
import tempfile

from .checkpoint import write_atomic
from .config import Config

# Keys that may change when a run is resumed.
RESUMABLE = (
    'deterministic', 'env_restarts', 'env_timeout', 'envs', 'eval_eps',
    'eval_every', 'jit', 'keep', 'log_every', 'log_keys_video', 'logdir',
    'max_skipped', 'replay.max_gib', 'save_every', 'stall_after', 'steps')
# Keys that shape the episodes in the logdir; without a checkpoint there, only
# these must stay.
DATA = (
    'action_repeat', 'distractors', 'dmc', 'render_size', 'robosuite', 'suite',
    'task', 'time_limit', 'ur5')


def prepare(config, suite, task):
  """Makes the logdir and checks that it can serve this config.

  Raises:
    ValueError: It cannot be written, or holds a run of another config.
  """
  logdir = pathlib.Path(config.logdir or os.path.join(
      'logdir', f'{suite}_{task}', config.method, str(config.seed)))
  logdir = logdir.expanduser()
  path = logdir / 'config.yaml'
  if path.exists():
    started = any((logdir / 'checkpoints').glob('*.npz'))
    diff = {
        k: v for k, v in config.diff(Config.load(path)).items()
        if k not in RESUMABLE and (started or k.split('.')[0] in DATA)}
    if diff:
      differ = ', '.join(
          f'{k} {old} there and {new} here'
          for k, (new, old) in list(diff.items())[:5])
      raise ValueError(
          f'{logdir} holds a run of another config ({len(diff)} keys differ: '
          f'{differ}); choose another --logdir, or the same settings')
  try:
    logdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=logdir):
      pass
  except OSError as error:
    raise ValueError(
        f'logdir {logdir} cannot be written ({error}); choose another '
        f'--logdir') from None
  return logdir


def save_config(config, logdir, run):
  """Writes the config.

  Args:
    run: Lines on who runs it and how, which stand on top of the file.
  """
  path = logdir / 'config.yaml'
  lines = path.read_text().splitlines() if path.exists() else []
  heads = [x for x in lines if x.startswith('# ')]
  run = [f'# {line}' for line in run]
  if heads[-len(run):] != run:
    heads += run
  config.save(path)
  text = '\n'.join([*heads, path.read_text()])
  write_atomic(path, lambda file: file.write(text.encode()))
