"""The folder of a run: whether it fits a config, and its config.yaml."""

import pathlib
import re
import tempfile

from .checkpoint import peek
from .config import FILE_BYTES
from .config import Config
from .files import read_bytes
from .files import remove_stale
from .files import write_text
from .suites import SUITES

# Keys that may change when a run is resumed.
RESUMABLE = (
    'deterministic', 'endless_after', 'env_restarts', 'env_timeout', 'envs',
    'eval_eps', 'eval_every', 'jit', 'keep', 'log_every', 'log_keys_max',
    'log_keys_mean', 'log_keys_sum', 'log_keys_video', 'logdir',
    'max_skipped', 'outputs', 'replay.max_gib', 'save_every', 'stall_after',
    'steps')
# Keys that shape the episodes in the logdir; without a checkpoint there, only
# these must stay.
DATA = (
    'action_bound', 'action_repeat', 'distractors', 'env_args',
    'render_size', 'suite',
    'task', 'time_limit', *SUITES)


def name(config, suite, task):
  """Returns the folder of a run below the one that holds all of them.

  Raises:
    ValueError: The task or the method would lead elsewhere.
  """
  task = task.replace(':', '-')  # As in my_module:make_env.
  if suite == 'gym':
    task = task.replace('/', '-')  # As in ALE/Pong-v5.
  for key, value in (('task', task), ('method', config.method)):
    if not re.fullmatch(r'[\w+=-][\w.+=-]*', value):
      raise ValueError(
          f'{key} is {value!r}, but names a folder: it must be made of '
          f'letters, digits and _.+=- and not begin with a dot; set --{key}')
  return pathlib.PurePath(f'{suite}_{task}', config.method, str(config.seed))


def prepare(
    config, suite, task, reads=lambda config, key: True, defaults=None):
  """Makes the logdir and checks that it can serve this config.

  Args:
    reads: Function that says whether a dotted key counts, given the config; a
      key that does not may change.
    defaults: As in `check`.

  Raises:
    ValueError: It cannot be written, holds a run of another config, or links
      that lead out of it.
  """
  logdir = pathlib.Path(
      config.logdir or 'logdir' / name(config, suite, task)).expanduser()
  _check_links(logdir)
  learned = _learned(logdir)
  check(config, logdir, lambda key: (
      key not in RESUMABLE and reads(config, key) and (
          learned or key.split('.')[0] in DATA)), defaults=defaults)
  try:
    logdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=logdir):
      pass
  except OSError as error:
    raise ValueError(
        f'logdir {logdir} cannot be written ({error}); choose another '
        f'--logdir') from None
  return logdir


def forget_unlearned(config, logdir, defaults=None):
  """Removes checkpoints without an update that another config has written.

  They hold new weights, perhaps of another model. Episodes stay. `defaults` is
  as in `check`.
  """
  try:
    check(
        config, logdir, lambda key: key not in RESUMABLE, defaults=defaults)
  except ValueError:
    if not _learned(logdir):
      for path in (logdir / 'checkpoints').glob('*.npz'):
        path.unlink()


def _check_links(logdir):
  for path in logdir.iterdir() if logdir.is_dir() else ():
    if path.is_symlink() and not path.resolve().is_relative_to(
        logdir.resolve()):
      raise ValueError(
          f'{path} is a link that leads out of the logdir, where a run would '
          f'write; remove it, or choose another --logdir')


def _learned(logdir):
  """Says whether a checkpoint has updates, or cannot tell."""
  folder = logdir / 'checkpoints'
  state = peek(folder)
  return state[1].get('updates') != 0 if state else any(folder.glob('*.npz'))


def check(config, logdir, counts, flag='--logdir', defaults=None):
  """Compares a config with that of the run in a folder, if there is one.

  Args:
    counts: Function that says of a dotted key whether it has to be the same.
    flag: What the user may set to go elsewhere.
    defaults: Config with the values that keys had in effect for a version
      that lacked them; without, such keys may differ.

  Raises:
    ValueError: They differ.
  """
  path = logdir / 'config.yaml'
  if not path.exists():
    return
  here, there = config.flat, Config.load(path).flat
  there = {**(defaults.flat if defaults else {}), **there}
  diff = {
      k: (here.get(k), old) for k, old in there.items()
      if counts(k) and here.get(k) != old}
  if diff:
    differ = ', '.join(
        f'{k} {old} there and {new} here'
        for k, (new, old) in list(diff.items())[:5])
    raise ValueError(
        f'{logdir} holds a run of another config ({len(diff)} '
        f'{"keys differ" if len(diff) > 1 else "key differs"}: {differ}); '
        f'choose another {flag}, or the same settings')


def save_config(config, logdir, run):
  """Writes the config.

  Args:
    run: Lines on who runs it and how, which stand on top of the file.
  """
  remove_stale(logdir)
  path = logdir / 'config.yaml'
  text = read_bytes(path, FILE_BYTES, logdir) if path.exists() else b''
  lines = text.decode(errors='replace').splitlines()
  heads = [x for x in lines if x.startswith('# ')]
  # No line break or control character of a path may end the comment.
  odd = re.compile(r'[^ -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd]')
  run = [
      '# ' + odd.sub(lambda x: ascii(x[0])[1:-1], line) for line in run]
  if heads[-len(run):] != run:
    heads += run
  write_text(path, '\n'.join([*heads, config.dumps()]))
