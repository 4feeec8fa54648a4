"""Tests the help and errors of a parser, and how programs end."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from dreamingv2.common import command
from dreamingv2.common import guards

ROOT = pathlib.Path(__file__).parents[2]
TEXT = """Does a thing.

More about it.

tool make --size 3 \\
    --name x
tool make
"""
PROGRAM = '''
import os, sys, time
from dreamingv2.common import command
from dreamingv2.common import guards
@command.entry()
def main():
  {}
main()
'''


def make_parser():
  parser = command.Parser('tool make', TEXT)
  parser.add_argument('--size', type=int, default=4, help='metres')
  parser.add_argument('--share', default='9%', help='of all')
  parser.add_argument('--zero', type=float, default=0, help='none')
  parser.add_argument('--names', nargs='*', default=['a', 'b'], help='words')
  parser.add_argument('--all', nargs='*', default=[], help='(default: all)')
  parser.add_argument('--fast', action='store_true', help='no care')
  parser.add_argument('--out', help='a file')
  return parser


def run(body, **kwargs):
  """Runs a program with this body of main; returns exit code and stderr."""
  done = subprocess.run(
      [sys.executable, '-c', PROGRAM.format(body)], cwd=ROOT,
      stderr=subprocess.PIPE, text=True, **kwargs)
  return done.returncode, done.stderr


@pytest.fixture
def deserted():
  """Returns the writing end of a pipe that nobody reads."""
  theirs, ours = os.pipe()
  os.close(theirs)
  yield ours
  os.close(ours)


def test_docstring_is_the_help_with_its_examples_last():
  text = make_parser().format_help()
  assert '\n\nDoes a thing.\n\nMore about it.\n\noptions:' in text
  assert text.endswith(
      '\nExamples:\n  tool make --size 3 \\\n      --name x\n  tool make\n')


def test_defaults_are_shown_where_they_say_something(monkeypatch):
  monkeypatch.setenv('COLUMNS', '200')
  text = make_parser().format_help()
  lines = [' '.join(x.split()) for x in text.splitlines()]
  for line in (
      '--size SIZE metres (default: 4)', '--share SHARE of all (default: 9%)',
      '--zero ZERO none (default: 0)', '--all [ALL ...] (default: all)',
      '--names [NAMES ...] words (default: a b)', '--fast no care',
      '--out OUT a file'):
    assert line in lines


@pytest.mark.parametrize('argv, words', [
    ('--sise 3', "Unknown flag '--sise'; known: --size, "),
    ('--siz=3', "Unknown flag '--siz'; known: --size, "),
    ('--size x', "argument --size: invalid int value: 'x'"),
    ('more', "unexpected argument 'more'")])
def test_mistake_is_one_line_that_names_the_help(argv, words, capsys):
  with pytest.raises(SystemExit) as ending:
    make_parser().parse_args(argv.split())
  out, err = capsys.readouterr()
  line, = err.splitlines()
  assert ending.value.code == 2 and not out
  assert line.startswith('Error: ') and words in line
  assert line.endswith('; see tool make --help')


def test_home_folder_is_found_where_the_shell_leaves_its_sign(monkeypatch):
  monkeypatch.setenv('HOME', '/home/me')
  names = {'~/runs': '/home/me/runs', 'a/~b': 'a/~b', '~none/a': '~none/a'}
  for text, path in names.items():
    assert command.path(text) == pathlib.Path(path)


def test_tools_and_scripts_take_paths_in_one_way():
  root = pathlib.Path(__file__).parents[2]
  files = [*root.glob('dreamingv2/tools/*.py'), *root.glob('scripts/*.py')]
  assert len(files) > 20
  for path in files:
    assert 'type=pathlib.Path' not in path.read_text(), path


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('body', [
    'print("a")', 'print("a" * 10 ** 6)', 'print("a"); sys.exit(0)',
    '[print("a" * 99) for _ in range(9999)]'])
def test_program_ends_quietly_where_nobody_reads(body, unbuffered, deserted):
  env = {**os.environ, 'PYTHONUNBUFFERED': unbuffered}
  assert run(body, stdout=deserted, env=env) == (0, '')


def test_exit_code_of_an_error_stays_where_nobody_reads(deserted):
  code, err = run('print("a"); command.fail("b")', stdout=deserted, env={
      **os.environ, 'PYTHONUNBUFFERED': ''})
  assert (code, err) == (2, 'Error: b\n')


def test_other_broken_pipes_are_not_hidden(deserted):
  code, err = run(
      f'os.write({deserted}, b"a")', pass_fds=[deserted],
      stdout=subprocess.PIPE)
  assert code == 1 and 'BrokenPipeError' in err


def test_sigint_ends_a_program_with_one_line():
  process = subprocess.Popen(
      [sys.executable, '-c', PROGRAM.format(
          'print("a", flush=True); time.sleep(60)')],
      cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  process.stdout.readline()
  process.send_signal(signal.SIGINT)
  _, err = process.communicate(timeout=60)
  assert (process.returncode, err) == (130, 'Stopped by SIGINT.\n')


@pytest.mark.parametrize('kind', [RuntimeError, KeyError])
def test_interrupt_that_becomes_another_error_stays_one(kind, capsys):
  """SIGINT inside of a lock's release ends in a RuntimeError."""
  @command.entry()
  def main():
    with guards.user_errors():
      try:
        raise KeyboardInterrupt
      finally:
        raise kind('cannot release un-acquired lock')

  with pytest.raises(SystemExit) as ending:
    main()
  assert ending.value.code == 130
  assert capsys.readouterr().err == 'Stopped by SIGINT.\n'
