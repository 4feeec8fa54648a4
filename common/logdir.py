"""The folder of a run: whether it fits a config, and its config.yaml."""

import pathlib
import tempfile

from .checkpoint import peek
from .config import Config
from .files import remove_stale, write_text
from .suites import SUITES

# Keys that may change when a run is resumed.
RESUMABLE = (
    'deterministic', 'env_restarts', 'env_timeout', 'envs', 'eval_eps',
    'eval_every', 'jit', 'keep', 'log_every', 'log_keys_video', 'logdir',
    'max_skipped', 'outputs', 'replay.max_gib', 'save_every', 'stall_after',
    'steps')
# Keys that shape the episodes in the logdir; without a checkpoint there, only
# these must stay.
DATA = (
    'action_repeat', 'distractors', 'render_size', 'suite', 'task',
    'time_limit', *SUITES)


def name(config, suite, task):
  """Returns the folder of a run below the one that holds all of them."""
  return pathlib.PurePath(f'{suite}_{task}', config.method, str(config.seed))


def prepare(config, suite, task):
  """Makes the logdir and checks that it can serve this config.

  Raises:
    ValueError: It cannot be written, or holds a run of another config.
  """
  logdir = pathlib.Path(
      config.logdir or 'logdir' / name(config, suite, task)).expanduser()
  learned = _learned(logdir)
  check(config, logdir, lambda key: key not in RESUMABLE and (
      learned or key.split('.')[0] in DATA))
  try:
    logdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=logdir):
      pass
  except OSError as error:
    raise ValueError(
        f'logdir {logdir} cannot be written ({error}); choose another '
        f'--logdir') from None
  return logdir


def forget_unlearned(config, logdir):
  """Removes checkpoints without an update that another config has written.

  They hold new weights, perhaps of another model. Episodes stay.
  """
  try:
    check(config, logdir, lambda key: key not in RESUMABLE)
  except ValueError:
    if not _learned(logdir):
      for path in (logdir / 'checkpoints').glob('*.npz'):
        path.unlink()


def _learned(logdir):
  """Says whether a checkpoint has updates, or cannot tell."""
  folder = logdir / 'checkpoints'
  state = peek(folder)
  return state[1].get('updates') != 0 if state else any(folder.glob('*.npz'))


def check(config, logdir, counts, flag='--logdir'):
  """Compares a config with that of the run in a folder, if there is one.

  Args:
    counts: Function that says of a dotted key whether it has to be the same.
    flag: What the user may set to go elsewhere.

  Raises:
    ValueError: They differ.
  """
  path = logdir / 'config.yaml'
  if not path.exists():
    return
  diff = {
      k: v for k, v in config.diff(Config.load(path)).items() if counts(k)}
  if diff:
    differ = ', '.join(
        f'{k} {old} there and {new} here'
        for k, (new, old) in list(diff.items())[:5])
    raise ValueError(
        f'{logdir} holds a run of another config ({len(diff)} keys differ: '
        f'{differ}); choose another {flag}, or the same settings')


def save_config(config, logdir, run):
  """Writes the config.

  Args:
    run: Lines on who runs it and how, which stand on top of the file.
  """
  remove_stale(logdir)
  path = logdir / 'config.yaml'
  lines = path.read_text().splitlines() if path.exists() else []
  heads = [x for x in lines if x.startswith('# ')]
  run = [f'# {line}' for line in run]
  if heads[-len(run):] != run:
    heads += run
  write_text(path, '\n'.join([*heads, config.dumps()]))
