"""Tests that mistakes in the user's code become one line with its place."""

import functools
import sys

import pytest

from dreamingv2.common import loading


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Writes modules in the working directory, and forgets them afterwards."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  before = set(sys.modules)

  def write(text, name='own_module'):
    (tmp_path / f'{name}.py').write_text(text)
    return name
  yield write
  for name in set(sys.modules) - before:
    if name.startswith('own_'):
      del sys.modules[name]


def test_module_of_the_working_directory_is_found(write):
  assert loading.load(write('value = 3')).value == 3


@pytest.mark.parametrize('text, words', [
    ('import nothing_like_it', 'ModuleNotFoundError: No module named'),
    ('x = 1\n1 / 0', r'ZeroDivisionError: division by zero .*own_module.py:2'),
    ('def f(:\n', r'SyntaxError: .*own_module.py:1\)'),
    ('raise ValueError("a\\nb")', r'ValueError: a \(.*:1\)$')])
def test_module_that_does_not_import_says_why_and_where(write, text, words):
  with pytest.raises(ImportError, match=words) as info:
    loading.load(write(text))
  assert '\n' not in str(info.value) and 'own_module' in str(info.value)


@pytest.mark.parametrize('name', ['own_absent', 'own_absent.deep', ''])
def test_module_that_does_not_exist_is_named_before_a_start(write, name):
  with pytest.raises(ImportError, match=f'no module {name!r} in'):
    loading.find(name)


def test_find_imports_nothing(write):
  loading.find(write('raise SystemExit'))
  loading.find(f'{write("raise SystemExit")}.deeper')


def call(factory, **args):
  offered = {'seed': 3, 'size': (8, 8)}
  return loading.call(factory, 'm:f', offered, args)


def test_function_gets_what_its_signature_names():
  fixed = functools.partial(lambda seed, size: (seed, size), seed=5)
  assert call(fixed) == ((5, (8, 8)), {'size': (8, 8)})
  assert call(lambda seed: seed) == (3, {'seed': 3})
  assert call(lambda: 0) == (0, {})
  assert call(lambda size, *, lap=1: (size, lap), lap=2) == (
      ((8, 8), 2), {'size': (8, 8)})
  assert call(lambda seed: seed, seed=9) == (9, {})
  assert call(lambda **kwargs: kwargs, lap=2) == ({'lap': 2}, {})


@pytest.mark.parametrize('factory, args, words', [
    (lambda: 0, {'lap': 1}, r"takes \(\), but: .*'lap'; set --env_args"),
    (lambda lap: 0, {}, r'takes \(lap\), but: missing .*lap'),
    (lambda: {}['x'], {}, r"raised KeyError: 'x' \(.*test_loading.py:\d+\)"),
    (3, {}, 'm:f is int, which cannot be called')])
def test_call_that_fails_is_one_line(factory, args, words):
  with pytest.raises(ValueError, match=words) as info:
    call(factory, **args)
  assert '\n' not in str(info.value) and 'm:f' in str(info.value)


def test_what_a_module_defines_is_found_with_classes_and_partials(write):
  name = write(
      'import functools\ndef f(x=0): return x\nclass A:\n  class B: pass\n'
      'g = functools.partial(f, x=3)')
  assert loading.resolve(name, 'g')() == 3
  assert loading.resolve(name, 'A.B').__name__ == 'B'


@pytest.mark.parametrize('text, attribute, words', [
    ('import os', 'os.system', 'not defined by own_module, but by posix'),
    ('from os import system', 'system', 'but by posix'),
    ('import functools\nimport os\nf = functools.partial(os.system, "x")', 'f',
     'but by posix'),
    ('', 'eval', 'does not exist'), ('x = 3', 'x', 'but by int'),
    ('', '__builtins__', 'but by dict'),
    ('', '__loader__.exec_module', 'but by _frozen_importlib')])
def test_what_a_module_does_not_define_is_refused(
    write, text, attribute, words):
  with pytest.raises(ValueError, match=words):
    loading.resolve(write(text), attribute)


@pytest.mark.parametrize('name', ['os', 'os.path', 'subprocess', 'builtins'])
def test_module_of_python_is_refused(name):
  with pytest.raises(ValueError, match=f"'{name}' belongs to Python"):
    loading.resolve(name, 'system')


def test_folder_of_a_package_is_found_without_importing_it(
    tmp_path, monkeypatch):
  (tmp_path / 'own_package').mkdir()
  (tmp_path / 'own_package/__init__.py').write_text('raise ValueError')
  monkeypatch.syspath_prepend(tmp_path)
  found = loading.folder('own_package', '')
  assert found == tmp_path / 'own_package'
  with pytest.raises(ImportError, match='run pip install own'):
    loading.folder('own_absent', 'run pip install own')
