"""Reads what the comments of a YAML file say about its keys."""

import pathlib
import re

from ruamel import yaml as ruamel_yaml


def read(path):
  """Returns {dotted key: (heading, comment)} of a YAML file.

  The comment of a key stands behind its value, or in the lines right above
  it. A heading is a comment with an empty line below it; it holds for the
  keys that follow at its depth and for all that lie in them, until the next.
  Both are '' where there is none.
  """
  text = pathlib.Path(path).read_text(encoding='utf-8')
  lines = text.splitlines()
  root = ruamel_yaml.YAML(typ='safe', pure=True).compose(text)
  found = {}

  def walk(node, prefix, heading, start):
    for key, value in node.value:
      line, column = key.start_mark.line, key.start_mark.column
      heading = _heading(lines[start:line], column) or heading
      name = f'{prefix}{key.value}'
      group = isinstance(value, ruamel_yaml.MappingNode)
      end = key.end_mark if group and not value.flow_style else value.end_mark
      found[name] = heading, _behind(lines, end) or _above(
          lines[:line + 1], column)
      if group:
        walk(value, f'{name}.', heading, line)
      start = line

  walk(root, '', '', 0)
  return found


def _heading(lines, column):
  """Returns the last comment of a column that an empty line follows."""
  for index in reversed(range(len(lines) - 1)):
    if not lines[index + 1].strip() and _comment(lines[index], column):
      return _above(lines[:index + 2], column)
  return ''


def _behind(lines, mark):
  found = re.match(r'[:,]?\s+#\s*(.*)', lines[mark.line][mark.column:])
  return found[1].strip() if found else ''


def _above(lines, column):
  """Returns the comment that ends right above the last line."""
  words = []
  if not lines[-1][:column].strip():
    for line in reversed(lines[:-1]):
      if not _comment(line, column):
        break
      words.insert(0, line.strip().lstrip('#').strip())
  return re.sub(r' ?\n\n ?', '\n\n', ' '.join(x or '\n\n' for x in words))


def _comment(line, column):
  return line.startswith('#', column) and not line[:column].strip()
