"""Writes docs/upstream.md, which compares this project with DreamerV2's code.

python -m scripts.upstream

Upstream's names and config keys are in docs/upstream/names.json and keys.json;
ours are read from the files of this checkout. docs/upstream/reasons.yaml has a
reason for each name or key that differs. A missing reason is an error, and so
is a reason that is no longer needed.
"""

import ast
import json
import pathlib
import textwrap

from dreamingv2 import settings
from dreamingv2.common import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[1]
DATA = ROOT / 'docs' / 'upstream'
PAGE = ROOT / 'docs' / 'upstream.md'
WIDTH = 79  # Columns of a paragraph.
REASONS = configs.read_yaml(DATA / 'reasons.yaml')


class Reasons:
  """Looks up reasons by name, and finds those that were never looked up.

  Args:
    part: Key of reasons.yaml.
  """

  def __init__(self, part):
    self._part = part
    self._reasons = REASONS[part]
    self._asked = set()

  def __call__(self, name, *others):
    """Returns the reason for a name, or for the first of `others` with one.

    Raises:
      ValueError: None of them has a reason.
    """
    for key in (name, *others):
      if key in self._reasons:
        self._asked.add(key)
        return self._reasons[key]
    raise ValueError(
        f'{self._part}: {name} differs from upstream; add a reason to '
        f'docs/upstream/reasons.yaml')

  def check(self):
    """Raises ValueError if a reason was never looked up."""
    left = [x for x in self._reasons if x not in self._asked]
    if left:
      raise ValueError(
          f'{self._part}: reasons.yaml has reasons that nothing needs: '
          f'{", ".join(left)}')


def read_upstream(name):
  """Returns the content of a JSON file of facts about upstream."""
  return json.loads((DATA / f'{name}.json').read_text())


def read_names():
  """Returns {file: public names in order}, without upstream's plot.py."""
  names = read_upstream('names')['names']
  return {
      file: [x for x in names[file] if is_public(x)]
      for file in names if file != 'common/plot.py' and names[file]}


def is_public(name):
  """Says whether no part of a dotted name starts with an underscore."""
  return not any(part.startswith('_') for part in name.split('.'))


def our_file(file):
  """Returns the path in this project of a file of upstream."""
  return REASONS['files'].get(file, file)


def define(file):
  """Lists the dotted names that one of our files defines, in order."""
  names = []
  for node in ast.parse((ROOT / file).read_text()).body:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
      names.append(node.name)
      names += [
          f'{node.name}.{x.name}' for x in getattr(node, 'body', ())
          if isinstance(node, ast.ClassDef) and isinstance(x, ast.FunctionDef)]
  return names


def imported(file):
  """Returns {name: module} of the imports at the top of one of our files."""
  return {
      alias.asname or alias.name: node.module
      for node in ast.parse((ROOT / file).read_text()).body
      if isinstance(node, ast.ImportFrom) for alias in node.names}


def kept(file, names):
  """Returns the names of an upstream file that our file has as well."""
  ours = {*define(our_file(file)), *imported(our_file(file))}
  return [x for x in names if x in ours]


def in_order(file, names):
  """Says whether our file defines the names in upstream's order.

  The order of classes and functions is compared, and that of the members of
  each class.
  """
  ours = [x for x in define(our_file(file)) if x in names]
  groups = {x.rpartition('.')[0] for x in ours}
  pick = lambda group, all_names: [
      x for x in all_names if x in ours and x.rpartition('.')[0] == group]
  return all(pick(x, ours) == pick(x, names) for x in groups)


def flat(blocks, name):
  """Returns upstream's defaults, updated by one of its blocks."""
  values = {**blocks['defaults'], **blocks[name]}
  return {k: v for k, v in values.items() if k in blocks['defaults']}


def our_flat(name):
  """Returns our defaults, updated by one of our blocks."""
  return settings.defaults().update(settings.blocks()[name]).flat


def same(one, other):
  """Says whether two config values mean the same."""
  listed = lambda x: list(x) if isinstance(x, tuple) else x
  try:
    return float(one) == float(other)
  except (TypeError, ValueError):
    return listed(one) == listed(other)


def show(value):
  """Formats a config value as in configs.yaml."""
  if isinstance(value, (list, tuple)):
    return f'[{", ".join(map(str, value))}]'
  if isinstance(value, float):
    return f'{value:g}'
  return str(value) or "''"


def code(names):
  """Formats names as inline code, separated by commas."""
  return ', '.join(f'`{x}`' for x in names)


def paragraph(text, first='', then=''):
  """Wraps a text; `first` starts its first line, `then` the others."""
  return textwrap.fill(
      ' '.join(text.split()), WIDTH, initial_indent=first,
      subsequent_indent=then, break_long_words=False, break_on_hyphens=False)


def bullet(text):
  """Formats an entry of a Markdown list."""
  return paragraph(text, '- ', '  ')


def table(heads, rows):
  """Formats a Markdown table."""
  lines = [heads, ['---'] * len(heads), *rows]
  return '\n'.join(
      f'| {" | ".join(str(x).replace("|", chr(92) + "|") for x in line)} |'
      for line in lines)


def describe_missing(old, reason):
  """Says where a missing name went, and why; checks the new place."""
  if isinstance(reason, str):
    return f'gone. {reason}'
  file, name = reason['now'].split(':')
  if name not in define(file):
    raise ValueError(f'reasons.yaml: {file} does not define {name}')
  how = f'moved to `{file}`' if name == old else f'now `{name}` in `{file}`'
  return f'{how}. {reason["why"]}'


def file_section(file, names, reasons):
  """Describes a file of upstream, class by class."""
  here = kept(file, names)
  ours = [x for x in define(our_file(file)) if is_public(x)]
  where = '' if our_file(file) == file else f' -> `{our_file(file)}`'
  lines = [f'### `{file}`{where}', '', paragraph(
      f'{len(here)} of {len(names)} public names kept'
      f'{", in order" * in_order(file, names)}.'), '']
  for owner in dict.fromkeys(x.partition('.')[0] for x in names):
    members = [x for x in names if x == owner or x.startswith(f'{owner}.')]
    text = f'`{owner}`'
    present = [x for x in members if x in here]
    methods = [x.partition('.')[2] for x in present if '.' in x]
    module = imported(our_file(file)).get(owner)
    text += ' kept' * bool(present)
    text += f', imported from `{module}`' if module else ''
    text += f', with {code(methods)}' * bool(methods)
    text += '.' * bool(present)
    more = [
        x.partition('.')[2] for x in ours
        if x.startswith(f'{owner}.') and x not in members]
    text += f' Also: {code(more)}.' * bool(more)
    gone = [x for x in members if x not in here]
    if owner in gone:
      text += f' {describe_missing(owner, reasons(f"{file}:{owner}"))}'
    else:
      text += ''.join(
          f' `{x}`: {describe_missing(x, reasons(f"{file}:{x}"))}'
          for x in gone)
    lines.append(bullet(text))
  new = [x for x in ours if '.' not in x and x not in names]
  if new:
    lines.append(bullet(f'Also: {code(new)}.'))
  return lines


def names_section():
  """Describes upstream's files one by one."""
  reasons, lines = Reasons('names'), []
  for file, names in read_names().items():
    lines += [*file_section(file, names, reasons), '']
  reasons.check()
  return lines


def key_rows(theirs, ours, keys, reasons, block):
  """Returns a table row for each key whose value differs."""
  rows = []
  for key in keys:
    if same(theirs[key], ours.get(key, ...)):
      continue
    why = reasons(f'{block}:{key}', key)
    here = f'`{show(ours[key])}`' if key in ours else 'gone'
    if not isinstance(why, str):
      here, why = f'`{why["now"]}: {show(ours[why["now"]])}`', why['why']
    rows.append([f'`{key}`', f'`{show(theirs[key])}`', here, why])
  return rows


def keys_section():
  """Describes upstream's config keys, block by block."""
  blocks, reasons, lines = read_upstream('keys')['blocks'], Reasons('keys'), []
  heads = ['key', 'upstream', 'here', 'why']
  for name, block in blocks.items():
    lines += [f'### `{name}`', '']
    if name not in settings.blocks():
      lines += [paragraph(f'Gone. {reasons(name)}'), '']
      continue
    theirs, ours = flat(blocks, name), our_flat(name)
    rows = key_rows(theirs, ours, [k for k in block if k in theirs],
                    reasons, name)
    different = {x[0].strip('`') for x in rows}
    equal = [k for k in block if k not in different]
    lines += [table(heads, rows), '', paragraph(
        f'The same value ({len(equal)} of {len(block)} keys): '
        f'{code(equal)}.'), '']
  reasons.check()
  new = [k for k in settings.defaults().flat if k not in blocks['defaults']]
  return [*lines, '### Only here', '', paragraph(code(new)), '']


def behaviour_section():
  """Describes differences in behaviour where names and keys agree.

  A row without `here` was different once and is the same as upstream now.
  """
  return [
      bullet(
          f'**{row["what"]}.** Upstream: {row["upstream"]}. '
          f'Here: {row.get("here", "the same")}. {row.get("why", "")}')
      for row in REASONS['behaviour']]


def logs_section():
  """Describes the content of a logdir."""
  logs = REASONS['logs']
  return [
      paragraph(logs['text']), '',
      paragraph(f'As upstream: {code(logs["same"])}.'), '',
      table(['upstream', 'here', 'why'], [
          [f'`{x["upstream"]}`', x['here'], x['why']]
          for x in logs['other']]), '',
      paragraph(f'Only here: {logs["new"]}')]


def count():
  """Returns how many of upstream's public names we keep, and their total."""
  names = read_names()
  return (
      sum(len(kept(file, x)) for file, x in names.items()),
      sum(map(len, names.values())))


def page():
  """Returns the whole page.

  Raises:
    ValueError: A reason is missing or is not needed.
  """
  facts = read_upstream('names')
  (present, total), defaults = count(), read_upstream('keys')['blocks'][
      'defaults']
  ours = settings.defaults().flat
  keys = [k for k in defaults if k in ours]
  changed = [k for k in keys if not same(defaults[k], ours[k])]
  commit = f'[{facts["commit"]}]({facts["repository"]}/tree/{facts["commit"]})'
  head = REASONS['head'].format(
      commit=commit, present=present, total=total,
      share=f'{present / total:.0%}', keys=len(keys), all_keys=len(defaults),
      changed=len(changed))
  parts = [
      '# Beside DreamerV2', '',
      *[y for x in head.strip().split('\n\n') for y in (paragraph(x), '')],
      '## Names', '', paragraph(REASONS['names_text']), '', *names_section(),
      '## Config keys', '', paragraph(REASONS['keys_text']), '',
      *keys_section(), '## Behaviour', '',
      paragraph(REASONS['behaviour_text']), '', *behaviour_section(), '',
      '## Logs', '', *logs_section()]
  return '\n'.join(parts) + '\n'


if __name__ == '__main__':
  PAGE.write_text(page(), encoding='utf-8')
