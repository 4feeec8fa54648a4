"""Command-line flags for the keys of a Config."""

import sys

from . import config as configlib


class Flags:
  """Sets the values of a Config from `--key value` and `--key=value`.

  A list takes several values (`--configs a b` or `a,b`), a pattern sets every
  key it matches (`--.*\\.wd 1e-6`), and where a key is set twice the last one
  counts.
  """

  def __init__(self, config=(), **kwargs):
    self._config = configlib.Config(config, **kwargs)

  def parse(self, argv=None, known_only=False, help_exists=None):
    """Returns the Config with the flags of `argv` set in it.

    Args:
      argv: Words of the command line, by default those of this process.
      known_only: Whether to leave unknown flags alone, with their values, and
        return (config, their words) instead.
      help_exists: Whether `--help` prints the keys and ends the process; by
        default unless `known_only`, where others may still add keys.

    Raises:
      ValueError: An unknown flag, a missing value or one of a wrong type.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if help_exists is None:
      help_exists = not known_only
    if help_exists and {'-h', '--help'} & set(argv):
      print(self.help())
      sys.exit(0)
    config, remaining = self._config, []
    for words in _groups(argv):
      try:
        config = _set(config, words)
      except configlib.UnknownKey as error:
        if not known_only:
          raise ValueError(f'{words[0]}: {error}') from None
        remaining += words
    return (config, remaining) if known_only else config

  def help(self):
    """Returns a line for each key: its flag, type and default."""
    rows = [
        (f'--{key}', configlib.describe(value), _show(value))
        for key, value in self._config.flat.items()]
    flags, types, _ = (max(map(len, column)) for column in zip(
        *rows, strict=True))
    return '\n'.join(
        f'{flag:<{flags}}  {kind:<{types}}  {default}'
        for flag, kind, default in rows)


def _groups(argv):
  """Splits words into lists that begin with a flag each."""
  groups = []
  for word in argv:
    if word.startswith('--') or not groups:
      groups.append([])
    groups[-1].append(word)
  return groups


def _set(config, words):
  """Returns `config` with the values behind one flag set."""
  flag, inline, value = words[0].partition('=')
  values = [value] * bool(inline) + words[1:]
  if not flag.startswith('--'):
    raise ValueError(
        f"Unexpected argument '{flag}': write --key value or --key=value.")
  for key in config.match(flag[2:]):
    like = config[key]
    kind = configlib.describe(like)
    if not values:
      raise ValueError(f'{flag}: give a value of type {kind}.')
    if isinstance(like, tuple):
      new = [x for value in values for x in value.split(',') if x]
    elif len(values) == 1:
      new = values[0]
    else:
      raise ValueError(
          f'{flag}: give one value of type {kind}, not '
          f"'{' '.join(values)}'.")
    try:
      config = config.update({key: new})
    except ValueError as error:
      raise ValueError(f'{flag}: {error}') from None
  return config


def _show(value):
  if isinstance(value, tuple):
    return ' '.join(map(str, value))
  return repr(value) if isinstance(value, str) else str(value)
