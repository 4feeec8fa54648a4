"""Installs and runs the package as users do, outside of its folder."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import dreamingv2

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Imports all modules that must not load TensorFlow; prints what was loaded.
PROBE = '''
import importlib, json, pkgutil, sys
import dreamingv2.common.renderers, dreamingv2.common.suites
names = ['dreamingv2.train', 'dreamingv2.settings'] + [
    f'dreamingv2.common.{name}' for name in (
        'checkpoint', 'config', 'counter', 'driver', 'envs', 'flags',
        'logger', 'replay', 'when')]
for package in (dreamingv2.common.renderers, dreamingv2.common.suites):
  names += [
      f'{package.__name__}.{module.name}'
      for module in pkgutil.iter_modules(package.__path__)]
for name in names:
  importlib.import_module(name)
print(json.dumps({
    name: getattr(module, '__file__', None)
    for name, module in sys.modules.items()}))
'''

# Runs a file like `python file --help`, and prints what was loaded.
SCRIPT = '''
import contextlib, io, json, runpy, sys
path = sys.argv[1]
sys.argv = [path, '--help']
sys.path[0] = str(__import__('pathlib').Path(path).parent)
with contextlib.redirect_stdout(io.StringIO()) as out:
  try:
    runpy.run_path(path, run_name='__main__')
  except SystemExit as ending:
    assert not ending.code, ending.code
assert '--task' in out.getvalue()
loaded = {'__main__': path}
loaded.update(
    (name, getattr(module, '__file__', None))
    for name, module in sys.modules.items() if name != '__main__')
print(json.dumps(loaded))
'''


def run(code, *args, folder=None):
  """Runs Python code from / and returns the JSON it prints last."""
  env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  if folder:
    env['PYTHONPATH'] = str(folder)
  done = subprocess.run(
      [sys.executable, '-c', code, *map(str, args)], cwd='/', env=env,
      capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def ours(loaded, folder):
  """Returns the modules that were loaded from `folder`, by name.

  A virtual environment in the folder, such as .venv, does not count.
  """
  return {
      name: pathlib.Path(path).relative_to(folder)
      for name, path in loaded.items()
      if path and pathlib.Path(path).is_relative_to(folder)
      and not pathlib.Path(path).is_relative_to(sys.prefix)}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Builds a wheel of a copy of the checkout and unpacks it."""
  temp = tmp_path_factory.mktemp('wheel')
  ignore = shutil.ignore_patterns('__pycache__')
  for name in ('common', 'dreamingv2'):
    shutil.copytree(
        ROOT / name, temp / 'copy' / name, ignore=ignore, symlinks=True)
  for name in (
      'LICENSE', 'README.md', 'configs.yaml', 'pyproject.toml', 'setup.py',
      'train.py'):
    shutil.copy(ROOT / name, temp / 'copy')
  done = subprocess.run(
      [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--quiet',
       '--no-build-isolation', '--wheel-dir', temp, temp / 'copy'],
      capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  (path,) = temp.glob('*.whl')
  with zipfile.ZipFile(path) as file:
    file.extractall(temp / 'site')
  return temp / 'site'


def test_wheel_holds_every_module_and_one_top_level_name(wheel):
  info = f'dreamingv2-{dreamingv2.__version__}.dist-info'
  assert {path.name for path in wheel.iterdir()} == {'dreamingv2', info}
  there = {
      path.relative_to(wheel / 'dreamingv2')
      for path in (wheel / 'dreamingv2').rglob('*') if path.is_file()}
  expected = {
      *(path.relative_to(ROOT) for path in (ROOT / 'common').rglob('*.py')),
      *(path.relative_to(ROOT / 'dreamingv2') for path
        in (ROOT / 'dreamingv2').rglob('*')
        if path.suffix in ('.py', '.yaml', '.typed'))}
  assert there == expected


def test_wheel_tells_what_it_is(wheel):
  info, = wheel.glob('*.dist-info')
  text = (info / 'METADATA').read_text()
  assert (ROOT / 'README.md').read_text().strip() in text
  assert '\nLicense: MIT\n' in text and '\nKeywords: ' in text
  assert '\nClassifier: Programming Language :: Python :: 3.11\n' in text
  assert [x.name for x in info.rglob('LICENSE')]


def test_wheel_and_checkout_give_the_same_names_from_anywhere(wheel):
  installed = ours(run(PROBE, folder=wheel), wheel)
  checkout = ours(run(PROBE, folder=ROOT), ROOT)
  assert installed.keys() == checkout.keys()
  assert installed['dreamingv2.train'].parts == ('dreamingv2', 'train.py')
  assert installed == checkout
  assert (wheel / 'dreamingv2' / 'configs.yaml').is_file()


def test_environment_modules_load_neither_tensorflow_nor_simulators():
  loaded = run(PROBE, folder=ROOT)
  assert not {
      'tensorflow', 'tf_keras', 'tensorflow_probability', 'keras',
      'dm_control', 'gym', 'mujoco', 'robosuite'} & set(loaded)


def test_importing_the_package_loads_nothing_heavy():
  code = (
      'import dreamingv2.common, sys; loaded = list(sys.modules);'
      'import json; print(json.dumps(loaded))')
  assert not {'numpy', 'tensorflow', 'ruamel'} & set(run(code, folder=ROOT))


def test_package_switches_to_the_legacy_keras_unless_told_otherwise():
  code = (
      'import json, os, sys; os.environ.pop("TF_USE_LEGACY_KERAS", 0);'
      'os.environ.update(a.split("=") for a in sys.argv[1:]);'
      'import dreamingv2;'
      'print(json.dumps(os.environ["TF_USE_LEGACY_KERAS"]))')
  assert run(code, folder=ROOT) == '1'
  assert run(code, 'TF_USE_LEGACY_KERAS=0', folder=ROOT) == '0'


@pytest.mark.parametrize('installed', [False, True])
def test_script_loads_no_module_under_two_names(installed, wheel):
  folder = wheel if installed else ROOT
  path = folder / 'dreamingv2' / 'train.py' if installed else ROOT / 'train.py'
  loaded = ours(run(SCRIPT, path, folder=wheel if installed else None), folder)
  loaded.pop('__mp_main__', None)  # The same object: multiprocessing's alias.
  names = {}
  for name, file in loaded.items():
    names.setdefault((folder / file).resolve(), []).append(name)
  assert not {k: v for k, v in names.items() if len(v) > 1}
  assert len(names) > 3


def test_common_is_no_package_of_its_own():
  done = subprocess.run(
      [sys.executable, '-c', 'import common'], cwd=ROOT, capture_output=True,
      text=True)
  assert done.returncode == 1
  assert 'import dreamingv2.common' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize('name, target', [
    ('common', 'common'), ('configs.yaml', 'configs.yaml'),
    ('train.py', 'train.py')])
def test_links_in_the_package_lead_to_the_root(name, target):
  path = ROOT / 'dreamingv2' / name
  assert path.is_symlink() and path.resolve() == ROOT / target


def test_wheel_is_found_by_one_name_and_holds_no_links(wheel):
  assert not [x for x in wheel.rglob('*') if x.is_symlink()]
  code = (
      'import json, dreamingv2.common.config as c; print(json.dumps('
      '[c.__name__, c.__file__]))')
  name, path = run(code, folder=wheel)
  assert name == 'dreamingv2.common.config'
  assert pathlib.Path(path).is_relative_to(wheel)


@pytest.mark.parametrize('installed', [False, True])
def test_command_lists_tasks_from_another_folder(installed, wheel):
  code = (
      'import sys, json; from dreamingv2 import __main__ as m; '
      'm.main(["--list"]); print(json.dumps([*sys.modules]))')
  loaded = run(code, folder=wheel if installed else ROOT)
  assert 'tensorflow' not in loaded


def test_process_of_an_environment_runs_from_a_wheel(wheel):
  code = (
      'import json; from dreamingv2.common import suites; '
      'from dreamingv2 import settings; '
      'config = settings.load_config(["--task", "toy_reach"]); '
      'env, = suites.start(config, [0]); '
      'print(json.dumps(bool(env.reset()()["is_first"]))); env.close()')
  assert run(code, folder=wheel) is True
