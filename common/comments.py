"""Reads the comments that describe the keys of a YAML file."""

import pathlib
import re

from ruamel import yaml as ruamel_yaml


def read(path):
  """Returns {dotted key: (heading, comment)} of a YAML file.

  The comment of a key follows its value on the same line, or fills the lines
  right above the key. A heading is a comment with an empty line below it; it
  applies to the keys after it at the same depth and to all keys inside them,
  until the next heading. A missing comment or heading is ''.
  """
  text = pathlib.Path(path).read_text(encoding='utf-8')
  lines = text.splitlines()
  root = ruamel_yaml.YAML(typ='safe', pure=True).compose(text)
  comments = {}

  def walk(node, prefix, heading, start):
    for key, value in node.value:
      line, column = key.start_mark.line, key.start_mark.column
      heading = _heading(lines[start:line], column) or heading
      name = f'{prefix}{key.value}'
      group = isinstance(value, ruamel_yaml.MappingNode)
      end = key.end_mark if group and not value.flow_style else value.end_mark
      comments[name] = heading, _behind(lines, end) or _above(
          lines[:line + 1], column)
      if group:
        walk(value, f'{name}.', heading, line)
      start = line

  walk(root, '', '', 0)
  return comments


def _heading(lines, column):
  """Returns the last comment at `column` that an empty line follows."""
  for index in reversed(range(len(lines) - 1)):
    if not lines[index + 1].strip() and _comment(lines[index], column):
      return _above(lines[:index + 2], column)
  return ''


def _behind(lines, mark):
  match = re.match(r'[:,]?\s+#\s*(.*)', lines[mark.line][mark.column:])
  return match[1].strip() if match else ''


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
