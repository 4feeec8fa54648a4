"""Tests that the code keeps its floors, its style and its tables."""

import ast
import fnmatch
import functools
import io
import itertools
import pathlib
import re
import tokenize

import pytest

from dreamingv2.common import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A module imports from its own floor and from those below it.
FLOORS = [
    ['dreamingv2', 'dreamingv2.common'],
    ['common.command', 'common.comments', 'common.config', 'common.counter',
     'common.files', 'common.flags', 'common.forecast', 'common.loading',
     'common.ridge', 'common.when'],
    ['common.distribute', 'common.envs', 'common.identity', 'common.logger',
     'common.machine', 'common.outputs', 'common.own', 'common.plot',
     'common.spacedata', 'common.spaces', 'common.tfutils', 'common.truth',
     'common.worker', 'common.wrappers'],
    ['common.augment', 'common.dists', 'common.losses'],
    ['common.checkpoint', 'common.conformance', 'common.driver',
     'common.episodes', 'common.guards', 'common.latents', 'common.layers',
     'common.logdir', 'common.other', 'common.renderers',
     'common.renderers.*', 'common.replay', 'common.suites',
     'common.suites.*'],
    ['common.critics', 'common.nets'],
    ['ranges', 'settings', 'objectives.base', 'objectives.multistep',
     'objectives.openloop', 'objectives.overshooting'],
    ['objectives.*'],
    ['objectives'],
    ['agent', 'expl', 'probe', 'readout'],
    ['console', 'evaluation', 'learner', 'resume'],
    ['train'],
    ['tools', 'tools.*'],
    ['api'],
    ['__main__'],
]
OBJECTIVES = 7

TENSORFLOW = {'keras', 'tensorflow', 'tensorflow_probability', 'tf_keras'}
SIMULATORS = {'ale_py', 'dm_control', 'gym', 'mujoco', 'robosuite'}
NO_TENSORFLOW = [
    'checkpoint', 'command', 'comments', 'config', 'conformance', 'counter',
    'driver', 'envs', 'episodes', 'files', 'flags', 'guards', 'identity',
    'logdir', 'logger', 'machine', 'outputs', 'own', 'renderers',
    'renderers.*', 'replay', 'ridge', 'spacedata', 'spaces', 'suites',
    'suites.*', 'truth', 'when', 'worker', 'wrappers']

# Methods that write to a given path, and objects whose `save` does not.
WRITERS = {
    'copy2', 'copyfile', 'copytree', 'create_file_writer', 'dump',
    'extractall', 'hardlink_to', 'imsave', 'imwrite', 'memmap', 'mimsave',
    'save', 'savefig', 'savetxt', 'savez', 'savez_compressed',
    'symlink_to', 'to_csv', 'tofile', 'touch', 'write_bytes', 'write_text'}
OWN_WRITERS = {'save': ['_checkpoint', '_state', 'agent', 'export', 'plots']}
# Functions that write files themselves, and why they need not common.files.
WRITES = {
    'dreamingv2.common.checkpoint:write_npz': 'fills an open file',
    'dreamingv2.common.command:entry': 'the null device',
    'dreamingv2.common.files:check_writable': 'tries a place, leaves nothing',
    'dreamingv2.common.files:link': 'is the writer',
    'dreamingv2.common.files:write_atomic': 'is the writer',
    'dreamingv2.common.guards:Lock.__init__': 'a lock is one file for all',
    'dreamingv2.common.logger:JSONLOutput.__call__': 'grows at its end',
    'dreamingv2.common.logger:JSONLOutput.restore': 'cuts off its end',
    'dreamingv2.common.logger:TensorBoardOutput.__call__': 'grows at its end',
    'dreamingv2.common.machine:quiet': 'the null device',
    'dreamingv2.tools.export:save': 'fills the folder of write_folder',
    'dreamingv2.tools.sweep:Job.__call__': 'grows at its end',
}

BLOCKS = configs.read_yaml(ROOT / 'configs.yaml')
METHODS, SUITES = (
    sorted(k for k, v in BLOCKS.items() if k != 'defaults' and key in v)
    for key in ('method', 'suite'))


def find_modules():
  """Returns {dotted name in dreamingv2: path} of all modules."""
  modules = {}
  for path in [
      *ROOT.glob('dreamingv2/**/*.py'), *ROOT.glob('common/**/*.py'),
      *ROOT.glob('train.py')]:
    parts = path.relative_to(ROOT).with_suffix('').parts
    parts = parts if parts[0] == 'dreamingv2' else ('dreamingv2', *parts)
    parts = parts[:-1] if parts[-1] == '__init__' else parts
    modules['.'.join(parts)] = path
  return modules


MODULES = find_modules()
TREES = {
    name: ast.parse(path.read_text()) for name, path in MODULES.items()}
FILES = sorted({
    *MODULES.values(), ROOT / 'setup.py', *ROOT.glob('scripts/*.py'),
    *ROOT.glob('tests/**/*.py')})


def short(path):
  return str(path.relative_to(ROOT))


def floor(name):
  """Returns the index of a module's floor; exact names win over patterns."""
  for match in (lambda name, entry: name == entry, fnmatch.fnmatchcase):
    for index, entries in enumerate(FLOORS):
      if any(match(name, entry) or match(name, f'dreamingv2.{entry}')
             for entry in entries):
        return index
  raise AssertionError(f'{name} is in no floor of FLOORS.')


def walk_top(node):
  """Yields the nodes that run when the module is imported."""
  for child in ast.iter_child_nodes(node):
    if not isinstance(child, (
        ast.AsyncFunctionDef, ast.FunctionDef, ast.Lambda)):
      yield child
      yield from walk_top(child)


def imports(name, top=False):
  """Returns {dotted name that a module imports: whether it is relative}."""
  package = name.split('.')
  if MODULES[name].name != '__init__.py':
    package = package[:-1]
  imported = {}
  for node in walk_top(TREES[name]) if top else ast.walk(TREES[name]):
    if isinstance(node, ast.Import):
      imported.update({alias.name: False for alias in node.names})
    elif isinstance(node, ast.ImportFrom):
      above = package[:len(package) - node.level + 1] if node.level else []
      base = '.'.join(above + [node.module] * bool(node.module))
      for alias in node.names:
        full = f'{base}.{alias.name}'
        imported[full if full in MODULES else base] = bool(node.level)
  return imported


def reach_on_import(name):
  """Returns everything that the import of one of our modules imports."""
  seen, todo = set(), [name]
  while todo:
    current = todo.pop()
    if current not in seen:
      seen.add(current)
      todo += imports(current, top=True) if current in MODULES else ()
  return seen


def test_every_module_has_a_floor_and_imports_none_above():
  wrong = [
      f'{name} imports {other}' for name in MODULES for other in imports(name)
      if other in MODULES and floor(other) > floor(name)]
  assert not wrong


def test_objectives_do_not_know_each_other():
  wrong = [
      f'{name} imports {other}' for name in MODULES for other in imports(name)
      if floor(name) == OBJECTIVES and other in MODULES
      and other != name and floor(other) == OBJECTIVES]
  assert not wrong


def test_common_imports_itself_only_relatively():
  wrong = [
      f'{name} imports {other}' for name in MODULES
      for other, relative in imports(name).items()
      if name.startswith('dreamingv2.common')
      and other.split('.')[0] in ('common', 'dreamingv2') and not relative]
  assert not wrong


def test_common_imports_nothing_outside_itself_from_this_project():
  wrong = [
      f'{name} imports {other}' for name in MODULES for other in imports(name)
      if name.startswith('dreamingv2.common') and other in MODULES
      and not other.startswith('dreamingv2.common')]
  assert not wrong


def test_no_module_imports_a_simulator_at_its_top():
  wrong = [
      f'{name} imports {other}' for name in MODULES
      for other, relative in imports(name, top=True).items()
      if not relative and other.split('.')[0] in SIMULATORS]
  assert not wrong


def test_modules_of_environment_processes_do_not_reach_tensorflow():
  wrong = [
      f'{name} reaches {other}' for name in MODULES
      if any(fnmatch.fnmatchcase(name, f'dreamingv2.{pattern}') for pattern in
             ['ranges', 'settings', 'train',
              *(f'common.{x}' for x in NO_TENSORFLOW)])
      for other in reach_on_import(name)
      if other.split('.')[0] in TENSORFLOW]
  assert not wrong


def test_only_flags_and_train_read_the_command_line():
  wrong = [
      name for name, tree in TREES.items() for node in ast.walk(tree)
      if isinstance(node, ast.Attribute) and node.attr == 'argv'
      and name not in (
          'dreamingv2.__main__', 'dreamingv2.common.flags',
          'dreamingv2.train')]
  assert not wrong


def walk_functions(node, name=''):
  """Yields (dotted name of the function around a call, call)."""
  for child in ast.iter_child_nodes(node):
    inner = name
    if isinstance(child, (ast.ClassDef, ast.FunctionDef)):
      inner = f'{name}.{child.name}' if name else child.name
    if isinstance(child, ast.Call):
      yield name, child
    yield from walk_functions(child, inner)


def is_write(call):
  """Says whether a call may write to a file that it opens itself."""
  if not isinstance(call.func, ast.Attribute):
    name, owner = getattr(call.func, 'id', ''), ''
  else:
    name = call.func.attr
    owner = ast.unparse(call.func.value).rpartition('.')[2]
  values = [*call.args, *(x.value for x in call.keywords)]
  if name in ('fdopen', 'open'):
    text = ' '.join(map(ast.unparse, values))
    return any(
        isinstance(x, ast.Constant) and isinstance(x.value, str)
        and re.fullmatch('[rbt]*[wax+][rwaxbt+]*', x.value) for x in values
    ) or bool(re.search('O_(APPEND|CREAT|RDWR|WRONLY)', text))
  opened = any(getattr(x, 'id', '') in ('buffer', 'file') for x in values)
  if opened or not owner or owner in OWN_WRITERS.get(name, ['files']):
    return False
  return name in WRITERS and bool(values)


@pytest.mark.parametrize('line, expected', [
    ("open('x', 'w')", True), ("path.open('ab+')", True),
    ("open('x', mode='x')", True), ("path.open('rb')", False),
    ('open(path)', False), ('os.open(x, os.O_CREAT)', True),
    ('os.open(x, os.O_RDONLY)', False), ('path.write_text(x)', True),
    ('files.write_text(path, x)', False), ('np.save(path, x)', True),
    ('np.savez(file, x=x)', False), ('fig.savefig(path)', True),
    ('fig.savefig(buffer)', False), ('image.save(path)', True),
    ('draw(x).save(path)', True), ('agent.save()', False),
    ('json.dump(x, y)', True), ('json.dumps(x)', False),
    ('shutil.copyfile(a, b)', True), ('archive.extractall(x)', True)])
def test_calls_that_write_are_told_from_others(line, expected):
  (_, call), *_ = walk_functions(ast.parse(line))
  assert is_write(call) == expected


def test_files_writes_all_files_but_those_that_grow():
  writers = {
      f'{name}:{function}' for name, tree in TREES.items()
      for function, call in walk_functions(tree) if is_write(call)}
  assert writers == set(WRITES)


def test_lines_are_at_most_79_columns():
  wrong = [
      f'{short(path)}:{number}' for path in FILES
      for number, line in enumerate(path.read_text().splitlines(), 1)
      if len(line) > 79 or line != line.rstrip() or '\t' in line]
  assert not wrong


def test_blocks_are_indented_by_two_spaces():
  wrong = []
  for path in FILES:
    for node in ast.walk(ast.parse(path.read_text())):
      body = getattr(node, 'body', None)
      if (isinstance(body, list) and body and hasattr(node, 'col_offset')
          and body[0].lineno > node.lineno
          and body[0].col_offset - node.col_offset != 2):
        wrong.append(f'{short(path)}:{body[0].lineno}')
  assert not wrong


def test_strings_have_single_quotes():
  wrong = []
  for path in FILES:
    for token in tokenize.generate_tokens(
        io.StringIO(path.read_text()).readline):
      text = token.string.lstrip('bfruBFRU')
      if (token.type == tokenize.STRING and text.startswith('"')
          and not text.startswith('"""') and "'" not in text):
        wrong.append(f'{short(path)}:{token.start[0]}')
  assert not wrong


def test_files_have_at_most_500_lines():
  wrong = {
      short(path): lines for path in FILES
      if (lines := len(path.read_text().splitlines())) > 500}
  assert not wrong


def test_functions_have_at_most_40_lines():
  """Counts from the first statement on, without the docstring."""
  wrong = {}
  for name, tree in TREES.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        body = node.body[ast.get_docstring(node) is not None:]
        lines = node.end_lineno - body[0].lineno + 1 if body else 0
        if lines > 40:
          wrong[f'{name}.{node.name}'] = lines
  assert not wrong


def test_what_is_public_has_a_docstring():
  """Suites are exempt: the module of their table documents the functions."""
  wrong = [name for name, tree in TREES.items() if not ast.get_docstring(tree)]
  wrong += [
      f'{name}.{node.name}' for name, tree in TREES.items()
      for node in tree.body
      if isinstance(node, (ast.ClassDef, ast.FunctionDef))
      and not fnmatch.fnmatchcase(name, 'dreamingv2.common.suites.*')
      and not node.name.startswith('_') and not ast.get_docstring(node)]
  assert not wrong


def test_every_module_has_a_test_file():
  """The test file of a package has the name of the package."""
  missing = set()
  for name, path in MODULES.items():
    parts = ['dreamingv2', *name.split('.')[1:]]
    if path.name == '__init__.py':
      parts.append(parts[-1])
    if parts[1] in ('common', 'train'):
      parts = parts[1:]
    if path.read_text().count('\n') > 9:  # Shorter ones have no tests.
      file = pathlib.Path('tests', *parts[:-1], f'test_{parts[-1]}.py')
      missing |= set() if (ROOT / file).exists() else {name}
  assert not missing


@functools.lru_cache(None)
def read_blocks():
  return configs.read_yaml(ROOT / 'configs.yaml')


@functools.lru_cache(None)
def block_keys(name):
  """Returns the dotted keys that a block of configs.yaml sets."""
  blocks = read_blocks()
  defaults = configs.Config(blocks['defaults'])

  def find(block, prefix=''):
    for key, value in (block or {}).items():
      if isinstance(value, dict):
        yield from find(value, f'{prefix}{key}.')
      else:
        yield from defaults.match(f'{prefix}{key}')

  return set(find(blocks[name]))


@pytest.mark.parametrize(
    'method, suite', [*itertools.product(METHODS, SUITES)])
def test_method_blocks_and_suite_blocks_set_disjoint_keys(method, suite):
  assert not block_keys(method) & block_keys(suite)


def test_a_system_is_one_file_one_table_line_one_block_and_one_test_file():
  table = (ROOT / 'dreamingv2/objectives/__init__.py').read_text()
  shared = {'__init__', 'base', 'multistep', 'openloop', 'overshooting'}
  files = {
      x.stem for x in ROOT.glob('dreamingv2/objectives/*.py')} - shared
  blocks = read_blocks()
  used = {blocks[name]['objective'] for name in METHODS}
  assert files == used
  for name in files:
    assert table.count(f"    '{name}': ") == 1
    assert (ROOT / f'tests/dreamingv2/objectives/test_{name}.py').exists()


def test_every_config_block_fits_the_defaults():
  blocks = read_blocks()
  assert {*METHODS, *SUITES, 'debug', 'small'} <= set(blocks)
  defaults = configs.Config(blocks['defaults'])
  for name, block in blocks.items():
    if name != 'defaults':
      assert defaults.update(block or {}).flat.keys() == defaults.flat.keys()
