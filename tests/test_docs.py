"""Checks the documents against the code: links, commands, flags, names."""

import argparse
import ast
import contextlib
import importlib.util
import pathlib
import re
import shlex
import types

import gymnasium
import pytest

import dreamingv2
from dreamingv2 import __main__ as command
from dreamingv2 import api
from dreamingv2 import settings
from dreamingv2.common import config as configs
from dreamingv2.common import suites
from dreamingv2.tools import benchmark
from tests import test_house

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted([
    *ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('policies/*.md'),
    *ROOT.glob('scores/*.md')])
WIDTH = 79
WORDS = 1200
# Words in capitals that stand for values of the user.
PLACEHOLDERS = {
    'DIR': 'logdir', 'FOLDER': 'logdir', 'METHOD': 'dreamingv2',
    'TASK': 'toy_reach', 'R': 'mujoco', 'Q': 'full', 'N': '1'}
# Programs of other projects, which no test calls.
FOREIGN = {
    '.', 'bash', 'basedpyright', 'curl', 'pip', 'ruff', 'source',
    'tensorboard'}
SCRIPT = ['python', 'train.py']


class Parsed(Exception):
  """Stops a tool as soon as it has parsed its command line."""


def short(path):
  return str(path.relative_to(ROOT))


def read_blocks(text, language):
  """Returns the code blocks of a language."""
  return re.findall(rf'^```{language}\n(.*?)^```', text, re.M | re.S)


def read_commands(block):
  """Returns the commands of a shell block, each as a list of words."""
  lines = block.replace('\\\n', ' ').splitlines()
  texts = [x for line in lines for x in line.split('&&')]
  commands = [shlex.split(x, comments=True) for x in texts]
  return [[fill(word) for word in x] for x in commands if x]


def read_spans(text):
  """Returns the text between backticks outside of code blocks."""
  text = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
  return [' '.join(x.split()) for x in re.findall(r'`([^`]+)`', text)]


def fill(word):
  return PLACEHOLDERS.get(word, word)


def section(text, title):
  return text.partition(f'\n## {title}\n')[2].partition('\n## ')[0]


def parse(words, monkeypatch):
  """Raises the error that a user would see if a command is wrong."""
  if words[:2] == SCRIPT:
    words = ['dreamingv2', 'train', *words[2:]]
  if words[0] in FOREIGN or words[:3] == ['python', '-m', 'pytest']:
    return
  if words[:2] == ['python', '-m']:
    assert importlib.util.find_spec(words[2]), words
    return
  if words[0] == 'python':
    assert (ROOT / words[1]).is_file(), words
    return
  assert words[0] == 'dreamingv2', f'unknown program: {words}'
  if words[1:] in ([], ['--list'], ['--help']):
    return
  name, *rest = words[1:]
  assert name in command.COMMANDS, words
  if name == 'train':
    check_run(rest)
  else:
    parse_tool(name, rest, monkeypatch)


def check_run(words):
  """Raises ValueError if a command cannot start a training."""
  config = settings.load_config(words)
  with contextlib.suppress(ImportError):  # Optional packages.
    suites.check(config)


def parse_tool(name, words, monkeypatch):
  """Lets a tool parse its words and stops it there."""
  seen = []
  real = argparse.ArgumentParser.parse_args

  def parse_args(self, args=None, namespace=None):
    seen.append(real(self, args, namespace))
    raise Parsed

  module = importlib.import_module(command.COMMANDS[name][0], 'dreamingv2')
  with monkeypatch.context() as patched:
    patched.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
    with pytest.raises(Parsed):
      module.main(words)
  args, = seen
  if name == 'sweep':
    for method in args.methods:
      for task in args.tasks:
        check_run(['--configs', method, '--task', task, *args.flags])
  if name == 'benchmark':
    for method in args.methods:
      benchmark.load(method, args.configs, args.precision)


@pytest.fixture(scope='module')
def tool_sources():
  return ''.join(
      x.read_text() for folder in ('dreamingv2/tools', 'scripts')
      for x in (ROOT / folder).glob('*.py'))


@pytest.mark.parametrize('path', PAGES, ids=short)
def test_commands_in_code_blocks_are_understood(path, monkeypatch):
  for block in read_blocks(path.read_text(), 'sh'):
    for words in read_commands(block):
      parse(words, monkeypatch)


@pytest.mark.parametrize('words, error', [
    ('dreamingv2 trian --task toy_reach', AssertionError),
    ('dreamingv2 train --configs smal', ValueError),
    ('dreamingv2 train --rssm.dter 3', ValueError),
    ('python train.py --task toy_raech', ValueError),
    ('dreamingv2 tables --indirs logdir', SystemExit),
    ('dreamingv2 sweep --methods dreamerv3 --tasks Lift', ValueError),
    ('dreamer train', AssertionError), ('python absent.py', AssertionError),
    ('python -m dreamingv2.absent', AssertionError)])
def test_wrong_command_is_found(words, error, monkeypatch):
  """The test above can fail."""
  with pytest.raises(error):
    parse(words.split(), monkeypatch)


@pytest.mark.parametrize('path', PAGES, ids=short)
def test_commands_and_flags_in_sentences_exist(path, tool_sources):
  for span in read_spans(path.read_text()):
    words = span.split()
    if words[0] == 'dreamingv2' and len(words) > 1:
      names = {*words[1].split('|')}
      assert names <= {*command.COMMANDS, '--list'}, span
    flags = [x for x in words if re.match(r'--[a-zA-Z.]', x)]
    if words[0] == 'dreamingv2' or words[0].startswith('--'):
      for flag in flags:
        assert is_flag(flag, tool_sources), f'{flag} in `{span}`'


def is_flag(word, tool_sources):
  """Tells whether train or a tool takes a flag."""
  flag = word.partition('=')[0]
  try:
    settings.defaults().match(flag.removeprefix('--'))
    return True
  except configs.UnknownKey:
    return (
        flag in ('--configs', '--help', '--key', '--list')
        or f"'{flag}'" in tool_sources)


@pytest.mark.parametrize(
    'path', [x for x in PAGES if x.name != 'own.md'], ids=short)
def test_python_blocks_run_up_to_the_training(path, monkeypatch):
  """The settings are real; environments and training are replaced.

  test_own_page.py runs those of own.md.
  """
  monkeypatch.setattr(
      gymnasium, 'make', lambda name: types.SimpleNamespace(name=name))
  trained = []
  monkeypatch.setattr(
      api, 'train', lambda env, config, *args, **kwargs: trained.append(
          config.logdir))
  for block in read_blocks(path.read_text(), 'python'):
    before = len(trained)
    exec(compile(block, short(path), 'exec'), {})
    assert len(trained) - before == block.count('api.train(')


@pytest.mark.parametrize('path', PAGES, ids=short)
def test_links_and_pictures_exist(path):
  text = re.sub(r'^```.*?^```', '', path.read_text(), flags=re.M | re.S)
  targets = re.findall(r'\]\(([^)\s]+)\)', text)
  wrong = [
      x for x in targets if not re.match(r'https?://', x)
      and not (path.parent / x.partition('#')[0]).exists()]
  assert not wrong


@pytest.mark.parametrize('path', PAGES, ids=short)
def test_lines_are_wrapped_at_one_width(path):
  """Table rows, images and addresses are exempt: they cannot be wrapped."""
  wrong = [
      f'{number}: {line}' for number, line in enumerate(
          path.read_text().splitlines(), 1)
      if line != line.rstrip() or len(line) > WIDTH and not re.match(
          r'\||!\[|.*https://', line)]
  assert not wrong


@pytest.mark.parametrize('path', PAGES, ids=short)
def test_tests_and_files_that_a_page_names_exist(path):
  known = {
      name for x in ROOT.glob('tests/**/*.py')
      for name in [x.stem, *re.findall(r'def (test_\w+)', x.read_text())]}
  spans = read_spans(path.read_text())
  named = {x for span in spans for x in re.findall(r'\btest_[a-z_0-9]+', span)}
  assert named - {'test_'} <= known
  paths = [
      x for x in spans if re.fullmatch(
          r'(common|docs|dreamingv2|policies|scores|scripts|tests)/[\w./]+', x)
      and not re.search('NAME|PATH', x)]
  # Modules may also be named as they are imported.
  wrong = [x for x in paths if not (ROOT / x).exists()]
  assert not wrong


def test_every_score_file_is_described():
  text = (ROOT / 'scores' / 'README.md').read_text()
  for path in (ROOT / 'scores').glob('*.json'):
    assert f'| `{path.name}` |' in text, path.name


def test_license_of_every_pinned_package_is_in_the_table():
  text = (ROOT / 'docs' / 'gpu.md').read_text()
  rows = re.findall(r'^\| [^|]+ \| ([^|]+) \|$', text, re.M)
  listed = re.sub(r'\([^)]*\)', '', ' '.join(rows)).lower().replace('_', '-')
  pinned = re.findall(
      r'^([\w.-]+)==', (ROOT / 'constraints.txt').read_text(), re.M)
  missing = {
      x for x in pinned
      if x.lower().replace('_', '-') not in re.split(r'[, ]+', listed)}
  assert len(pinned) > 80 and not missing


def test_number_of_systems_is_what_there_is():
  words = dict(enumerate(
      'ten eleven twelve thirteen fourteen fifteen sixteen'.split(), 10))
  for path in (ROOT / 'README.md', ROOT / 'docs' / 'learning.md'):
    found = re.findall(r'\ball (\w+teen|\w+)\s+systems', path.read_text())
    assert {*found} & {*words.values()} == {words[len(settings.methods())]}


def test_readme_is_one_page():
  assert len((ROOT / 'README.md').read_text().split()) <= WORDS


def test_ci_does_what_the_readme_tells_a_newcomer():
  """Each command of the section Install is in .ci/run, in the same order."""
  text = section((ROOT / 'README.md').read_text(), 'Install')
  told = [
      x.strip() for block in read_blocks(text, 'sh')
      for line in block.splitlines() for x in line.split('&&')]
  told = list(dict.fromkeys(told))  # A new terminal activates again.
  lines = (ROOT / '.ci/run').read_text().splitlines()
  assert [x for x in lines if x in told] == told
  assert told[0] == 'bash install.sh'
  assert told[-1] == 'python -m pytest -q -n 2 --dist loadfile'


def test_index_lists_every_page_once():
  text = (ROOT / 'docs/README.md').read_text()
  listed = re.findall(r'^\| \[(.+?)\]\((.+?)\) \|', text, re.M)
  assert all(name == target for name, target in listed)
  pages = {x.name for x in ROOT.glob('docs/*.md')} - {'README.md'}
  assert sorted(name for name, _ in listed) == sorted(pages)


def test_floors_in_the_design_are_those_of_the_test():
  text = section((ROOT / 'docs/design.md').read_text(), 'Floors')
  rows = re.findall(r'^\| \d+ \| (.*) \|$', text, re.M)
  assert [re.findall('`(.+?)`', x) for x in rows] == test_house.FLOORS


def test_table_of_methods_names_those_of_the_first_table():
  text = section((ROOT / 'README.md').read_text(), 'Methods')
  names = re.findall(r'^\| `(\w+)`', text, re.M)
  assert len(names) == 6 and {*names} <= {*settings.methods()}


def test_citation_and_changelog_know_the_version_and_the_paper():
  cff = configs.read_yaml(ROOT / 'CITATION.cff')
  assert cff['version'] == dreamingv2.__version__
  assert f'\n## {dreamingv2.__version__}\n' in (
      ROOT / 'CHANGELOG.md').read_text()
  paper = cff['preferred-citation']
  bibtex, = read_blocks((ROOT / 'README.md').read_text(), 'bibtex')
  bibtex = ' '.join(bibtex.replace('{', '').replace('}', '').split())
  assert paper['title'] in bibtex and f'year={paper["year"]}' in bibtex
  assert all(x['family-names'] in bibtex for x in paper['authors'])


def test_figure_of_the_method_shows_the_default_distance():
  tree = ast.parse((ROOT / 'scripts/draw_method.py').read_text())
  values = {
      node.targets[0].id: node.value.value for node in tree.body
      if isinstance(node, ast.Assign) and isinstance(
          node.value, ast.Constant)}
  assert values['HORIZON'] == settings.defaults().contrastive.horizon
