"""Nested, typed, immutable settings, addressed by dotted keys."""

import collections.abc
import difflib
import io
import os
import pathlib
import re
import sys

from ruamel import yaml as ruamel_yaml

from .files import read_bytes
from .files import write_text

FILE_BYTES = 2 ** 24  # Largest YAML file, with its comments.
YAML_SIZE = 2 ** 17  # Most characters without comments; 10 KB may take 1 s.
YAML_DEPTH = 32  # Most levels of nested brackets.


class UnknownKey(ValueError, KeyError):
  """A key or a pattern matches no setting."""

  # KeyError would print the message in quotes.
  __str__ = Exception.__str__


class Config(collections.abc.Mapping):
  """Holds settings: `config.rssm.deter`, `config['rssm.deter']`.

  Leaves are bool, int, float, str, or tuples of one of these types. As a
  mapping (`**config.rssm`) a Config iterates over the keys of one level;
  groups are Configs. A Config is immutable: `update` returns a new one, in
  which every value keeps its type.

  Raises:
    ValueError: A key or a value is not allowed.
  """

  def __init__(self, mapping=(), **kwargs):
    tree = {}
    for parts, value in _leaves(dict(mapping, **kwargs)):
      key = '.'.join(parts)
      _check_name(key, parts)
      node = tree
      for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
          raise ValueError(f"Config key '{key}' lies below a value")
      if parts[-1] in node:
        raise ValueError(f"Config key '{key}' is given twice")
      node[parts[-1]] = _normalize(key, value)
    object.__setattr__(self, '_children', {
        key: Config(value) if isinstance(value, dict) else value
        for key, value in tree.items()})

  @property
  def flat(self):
    """The values by dotted key, as a new dict."""
    return {'.'.join(parts): value for parts, value in _leaves(self)}

  def dumps(self):
    """Returns the YAML that `save` writes."""
    buffer = io.StringIO()
    _yaml().dump(self, buffer)
    return buffer.getvalue()

  def save(self, path):
    """Writes YAML that `load` reads back to an equal Config."""
    write_text(path, self.dumps())

  @classmethod
  def load(cls, path):
    """Reads what `save` wrote."""
    return cls(read_yaml(path))

  def parse_flags(self, argv=None, known_only=False, help_exists=None):
    """Returns a Config with the flags of the command line set in it.

    See Flags.parse.
    """
    from . import flags  # Late, as flags imports this module.
    return flags.Flags(self).parse(argv, known_only, help_exists)

  def update(self, mapping=(), **kwargs):
    """Returns a Config with other values of the same types.

    A key is dotted (`rssm.deter`), or the top of a nested dict. A key with a
    character other than letters, digits and `_.-` is a regular expression that
    must match whole dotted keys (`.*\\.wd`).

    Raises:
      UnknownKey: A key or a pattern matches nothing.
      ValueError: A value cannot be converted without loss.
    """
    flat = self.flat
    for parts, value in _leaves(dict(mapping, **kwargs)):
      for key in _match(_join(parts), flat):
        flat[key] = convert(key, value, flat[key])
    return type(self)(flat)

  def match(self, key):
    """Returns the dotted keys that a key or a pattern matches.

    Raises:
      UnknownKey: No key matches.
    """
    return _match(key, self.flat)

  def diff(self, other):
    """Returns {dotted key: (mine, theirs)} of what differs; None: absent."""
    mine, theirs = self.flat, other.flat
    pairs = {
        key: (mine.get(key), theirs.get(key)) for key in {**mine, **theirs}}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}

  def __getitem__(self, key):
    node = self
    for part in str(key).split('.'):
      children = node._children if isinstance(node, Config) else {}
      if part not in children:
        _raise_unknown(str(key), self.flat)
      node = children[part]
    return node

  def __getattr__(self, name):
    if name.startswith('__') or name == '_children':
      raise AttributeError(name)
    try:
      return self[name]
    except UnknownKey as error:
      raise AttributeError(str(error)) from None

  def __setattr__(self, name, value):
    raise AttributeError(
        f'Config is immutable; update({name}={value!r}) returns a new one')

  def __iter__(self):
    return iter(self._children)

  def __len__(self):
    return len(self._children)

  def __repr__(self):
    return f'Config({self.flat})'

  def __reduce__(self):
    return type(self), (self.flat,)


def convert(key, value, like):
  """Converts `value` to the type of `like`.

  Raises:
    ValueError: It cannot be converted without loss; the message names `key`.
  """
  if isinstance(like, tuple) and isinstance(value, (list, tuple)):
    items = [convert(key, x, like[0]) if like else x for x in value]
    return _normalize(key, items)
  try:
    return _CONVERTERS[type(like)](value)
  except (KeyError, OverflowError, TypeError, ValueError):
    raise ValueError(
        f"Config key '{key}' must be of type {describe(like)}, not "
        f'{value!r}') from None


def describe(value):
  """Returns the name of a config value's type, for messages."""
  if isinstance(value, tuple):
    return f'list of {_NAMES[type(value[0])]}s' if value else 'list'
  return _NAMES[type(value)]


def check_known(kind, name, names):
  """Checks that `name` is one of `names`.

  Raises:
    ValueError: It is not; the message lists `names`, the most similar first.
  """
  if name in names:
    return
  near = difflib.get_close_matches(str(name), list(names), 5, 0.5)
  names = near + [x for x in sorted(names) if x not in near]
  names = ', '.join(names) or 'none'
  raise ValueError(f'Unknown {kind} {name!r}; known: {names}')


def read_yaml(path, within=None):
  """Returns the mapping in a YAML file.

  Aliases are refused, because a few of them can expand to any amount of data.

  Args:
    path: Path of the file.
    within: Folder that a link must not lead out of; None allows any place.

  Raises:
    OSError: The file cannot be opened.
    ValueError: The file is not YAML, has a key twice, holds no mapping, is too
      large or too deeply nested, or is not a regular file.
  """
  data = read_bytes(pathlib.Path(path), FILE_BYTES, within)
  try:
    text = data.decode()
  except UnicodeDecodeError:
    raise ValueError(f'{path}: not UTF-8') from None
  return read_mapping(text, path)


def read_mapping(text, path='YAML'):
  """Returns the mapping in a text of YAML; see `read_yaml`.

  Args:
    text: YAML.
    path: Where it comes from, for messages.
  """
  _check_size(path, text)
  try:
    data = _yaml().load(text)
  except ruamel_yaml.error.YAMLError as error:
    mark = getattr(error, 'problem_mark', None)
    where = f'{path}:{mark.line + 1}' if mark else path
    what = getattr(error, 'problem', None) or 'not YAML'
    raise ValueError(f'{where}: {what.splitlines()[0]}') from None
  except RecursionError:
    raise ValueError(f'{path}: too deeply nested') from None
  # Raised by values that look like a number, a date or bytes but are not.
  except (ArithmeticError, AttributeError, LookupError, TypeError,
          ValueError) as error:
    raise ValueError(f'{path}: {str(error)[:80]}') from None
  if not isinstance(data, dict):
    raise ValueError(f'{path}: expected a mapping of keys to values')
  return data


def _check_size(path, text):
  lines = [x for x in text.splitlines() if not x.startswith('#')]
  size = sum(map(len, lines))
  if size > YAML_SIZE:
    raise ValueError(
        f'{path}: {size:,} characters of YAML; at most {YAML_SIZE:,} are '
        f'read')
  depth = deepest = 0
  for bracket in re.findall(r'[][{}]', '\n'.join(lines)):
    depth += 1 if bracket in '[{' else -1
    deepest = max(deepest, depth)
  if deepest > YAML_DEPTH:
    raise ValueError(f'{path}: too deeply nested')


def _yaml():
  yaml = ruamel_yaml.YAML(typ='safe', pure=True)
  yaml.Composer = _Composer
  yaml.Representer = _Representer
  # Otherwise some folded or non-ASCII strings change when read back.
  yaml.allow_unicode = False
  yaml.width = sys.maxsize
  return yaml


class _Composer(ruamel_yaml.composer.Composer):
  """Refuses aliases."""

  def compose_node(self, parent, index):
    if self.parser.check_event(ruamel_yaml.events.AliasEvent):
      event = self.parser.peek_event()
      raise ruamel_yaml.composer.ComposerError(
          None, None, f'aliases such as *{event.anchor[:20]} are not read',
          event.start_mark)
    return super().compose_node(parent, index)


class _Representer(ruamel_yaml.representer.SafeRepresenter):
  """Writes groups as blocks in their order and lists on one line."""


_Representer.add_representer(Config, lambda self, config: (
    self.represent_mapping('tag:yaml.org,2002:map', config.items(), False)))
_Representer.add_representer(tuple, lambda self, items: (
    self.represent_sequence('tag:yaml.org,2002:seq', items, True)))
# By default a few strings such as '?|x' would be written without quotes.
_Representer.add_representer(str, lambda self, text: (
    self.represent_scalar(
        'tag:yaml.org,2002:str', text, "'" if _is_pattern(text) else None)))


def _leaves(mapping, prefix=()):
  """Yields (path, value); a dot in a key, unless a pattern, starts a level."""
  for key, value in mapping.items():
    if not isinstance(key, str):
      raise ValueError(f'Config key {key!r} must be a string')
    parts = prefix + ((key,) if _is_pattern(key) else tuple(key.split('.')))
    if not isinstance(value, collections.abc.Mapping):
      yield parts, value
    elif value:
      yield from _leaves(value, parts)
    else:
      raise ValueError(f"Config key '{'.'.join(parts)}' is an empty group")


def _is_pattern(key):
  return not re.fullmatch(r'[A-Za-z0-9_.-]+', key)


def _match(key, flat):
  """Returns the keys of a flat dict that a key or a pattern matches."""
  if key in flat:
    return [key]
  group = [name for name in flat if name.startswith(f'{key}.')]
  if group:
    raise UnknownKey(
        f"Config key '{key}' is a group; set {', '.join(group)}")
  names = []
  if _is_pattern(key):
    try:
      names = [name for name in flat if re.fullmatch(key, name)]
    except re.error as error:
      raise ValueError(
          f"Config key '{key}' is no regular expression: {error}") from None
  return names or _raise_unknown(key, flat)


def _join(parts):
  if len(parts) == 1 or not any(map(_is_pattern, parts)):
    return '.'.join(parts)
  return r'\.'.join(f'(?:{part})' for part in parts)


def _check_name(key, parts):
  if _is_pattern(key) or not all(parts):
    raise ValueError(
        f"Config key '{key}' must be made of letters, digits, '_' and '-'")
  for part in parts:
    if hasattr(Config, part):
      raise ValueError(f"Config key '{key}': '{part}' is a method of Config")


def _raise_unknown(key, known):
  stem = key.rsplit('.')[-1]
  near = difflib.get_close_matches(key, known, 3, 0.5)
  near += [x for x in known if x.rsplit('.')[-1] == stem and x not in near]
  hint = f"; nearest: {', '.join(near[:3])}" if near else ''
  raise UnknownKey(f"Unknown config key '{key}'{hint}")


def _normalize(key, value):
  """Returns a value as it is stored: a list becomes a tuple of one type."""
  if type(value) in _NAMES:
    return value
  if not isinstance(value, (list, tuple)):
    raise ValueError(
        f"Config key '{key}' holds {value!r}: allowed are bool, int, float, "
        'str and lists of one of these types')
  types = {type(x) for x in value}
  if types == {int, float}:
    return tuple(map(float, value))
  if len(types) > 1 or not types <= set(_NAMES):
    raise ValueError(
        f"Config key '{key}' holds {value!r}: all values must have one type")
  return tuple(value)


def _to_bool(value):
  if isinstance(value, bool):
    return value
  return {'True': True, 'False': False}[value]


def _to_float(value):
  number = float(value)
  if isinstance(value, bool) or isinstance(value, int) and number != value:
    raise ValueError
  return number


def _to_int(value):
  # Not always via float, which cannot hold every int.
  if type(value) is int or re.fullmatch(r'[+-]?\d+', str(value)):
    return int(value)
  if not _to_float(value).is_integer():
    raise ValueError
  return int(float(value))


def _to_str(value):
  if isinstance(value, bool) or not isinstance(
      value, (int, float, str, os.PathLike)):
    raise ValueError
  return str(value)


_CONVERTERS = {bool: _to_bool, float: _to_float, int: _to_int, str: _to_str}
_NAMES = {
    bool: 'True/False', float: 'float', int: 'int', str: 'string'}
