"""Command-line flags for the keys of a Config."""

import sys
import textwrap

from . import command
from . import config as configs

WIDTH = 76  # Columns of the paragraphs in a help.


class Flags:
  """Sets the values of a Config from `--key value` and `--key=value`.

  A list takes several values (`--configs a b` or `a,b`). A pattern sets every
  key that it matches (`--.*\\.wd 1e-6`). If a key is set twice, the last value
  counts.
  """

  def __init__(self, config=(), **kwargs):
    self._config = configs.Config(config, **kwargs)

  def parse(self, argv=None, known_only=False, help_exists=None):
    """Returns the Config with the flags of `argv` set in it.

    Args:
      argv: Arguments of the command line; by default those of this process.
      known_only: Whether to skip unknown flags and their values, and to return
        (config, skipped arguments) instead.
      help_exists: Whether `--help` prints the keys and exits. The default is
        the opposite of `known_only`, since with it others may still add keys.

    Raises:
      ValueError: A flag is unknown, or its value is missing or of a wrong
        type.
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
      except configs.UnknownKey as error:
        if not known_only:
          raise ValueError(f'{words[0]}: {error}') from None
        remaining += words
    return (config, remaining) if known_only else config

  def help(self):
    """Returns each key's flag, type and default."""
    parser = command.Parser('train', usage='[--KEY VALUE ...]', add_help=False)
    self.document(parser)
    return parser.format_help()

  def document(self, parser, comments=None):
    """Adds every key to the help of a parser.

    Args:
      parser: command.Parser.
      comments: {dotted key: (heading, comment)}, see comments.read. A key
        without a comment gets that of the first key with the same last part.
    """
    comments, groups, shared = comments or {}, {}, {}
    for key, value in self._config.flat.items():
      parent, _, last = key.rpartition('.')
      heading, text = comments.get(key, ('Flags', ''))
      if text:
        shared.setdefault(last, text)
      group = comments.get(parent, ('', ''))[1]
      title, _, more = (f'{parent}. {group}' if group else heading).partition(
          '. ')
      if title not in groups:
        groups[title] = parser.add_argument_group(
            title, textwrap.fill(more, WIDTH) or None)
      text = text or shared.get(last, '')
      if not text.endswith('...'):
        text = text.removesuffix('.')
      text = f'{text} (default: {_show(value)})'.lstrip()
      groups[title].add_argument(
          f'--{key}', metavar=_kind(value), help=text.replace('%', '%%'))


def _groups(argv):
  """Splits arguments into lists that each begin with a flag."""
  groups = []
  for word in argv:
    if word.startswith('--') or not groups:
      groups.append([])
    groups[-1].append(word)
  return groups


def _set(config, words):
  """Returns `config` with the values of one flag set."""
  flag, inline, value = words[0].partition('=')
  values = [value] * bool(inline) + words[1:]
  if not flag.startswith('--'):
    raise ValueError(
        f"Unexpected argument '{flag}': write --key value or --key=value")
  for key in config.match(flag[2:]):
    like = config[key]
    kind = configs.describe(like)
    if not values:
      raise ValueError(f'{flag}: give a value of type {kind}')
    if isinstance(like, tuple):
      new = [x for value in values for x in value.split(',') if x]
    elif len(values) == 1:
      new = values[0]
    else:
      raise ValueError(
          f'{flag}: give one value of type {kind}, not '
          f"'{' '.join(values)}'")
    try:
      config = config.update({key: new})
    except ValueError as error:
      raise ValueError(f'{flag}: {error}') from None
  return config


def _kind(value):
  """Returns the type of a value as the help shows it."""
  if isinstance(value, tuple):
    return f'{_kind(value[0])} ...' if value else 'string ...'
  return configs.describe(value)


def _show(value):
  words = value if isinstance(value, tuple) else [value]
  return ' '.join(map(str, words)) or "''"
