"""Tests the one command: its help, its errors, and its output in a pipe."""

import importlib
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from dreamingv2 import __main__ as command
from dreamingv2 import settings

TOOLS = [x for x in command.COMMANDS if x != 'train']
HELPS = [
    [], ['--list'], ['--help'], *([x, '--help'] for x in command.COMMANDS),
    ['figures', 'curves', '-h']]


def start(*words, **kwargs):
  return subprocess.Popen(
      [sys.executable, '-m', 'dreamingv2', *words], cwd=settings.ROOT,
      stderr=subprocess.PIPE, text=True, **kwargs)


def refused(argv, capsys):
  """Returns the line that a command prints before it exits with code 2."""
  with pytest.raises(SystemExit) as ending:
    command.main(argv)
  out, err = capsys.readouterr()
  line, = err.splitlines()
  assert ending.value.code == 2 and not out and line.startswith('Error: ')
  return line


def parsers(name):
  """Returns the parser of a tool and those of its subcommands."""
  module, _ = command.COMMANDS[name]
  module = importlib.import_module(module, 'dreamingv2')
  parts = [module.make_parser()]
  for action in parts[0]._actions:
    if isinstance(action.choices, dict):
      parts += action.choices.values()
  return parts


@pytest.mark.parametrize('argv', [[], ['-h'], ['--help']])
def test_help_names_every_command_and_what_it_does(argv, capsys):
  command.main(argv)
  out = capsys.readouterr().out
  for name, (_, text) in command.COMMANDS.items():
    assert re.search(rf'^  {name} +{re.escape(text)}$', out, re.M)


def test_examples_of_the_help_name_commands(capsys):
  command.main([])
  _, _, text = capsys.readouterr().out.partition('Examples:\n')
  for line in text.splitlines():
    _, name, *rest = shlex.split(line, comments=True)
    assert name in command.COMMANDS or [name, *rest] == ['--list']


@pytest.mark.parametrize('name', TOOLS)
def test_help_of_a_tool_explains_every_option(name, monkeypatch):
  monkeypatch.setenv('COLUMNS', '300')
  for parser in parsers(name):
    text = re.sub(r'\n {15,}', '  ', parser.format_help())  # Unfolded.
    assert parser.description and 'Examples:\n  dreamingv2 ' in text
    for action in parser._actions:
      if isinstance(action.choices, dict) or action.nargs == '*' and (
          not action.option_strings and action.dest == 'flags'):
        continue  # Figures have their own help; FLAGS of sweep.
      assert action.help, action
      line, = [
          x for x in text.splitlines() if re.match(
              rf'  {([*action.option_strings, action.metavar])[0]}[, ]', x)]
      assert action.help.partition(' (default: ')[0] in line
      if action.nargs != 0 and action.default not in (None, [], ''):
        value = action.default
        shown = ' '.join(value) if isinstance(value, list) else str(value)
        assert f'(default: {shown})' in line or '(default: all)' in line


@pytest.mark.parametrize('name', TOOLS)
def test_examples_of_a_tool_are_understood(name):
  for parser in parsers(name):
    _, _, text = parser.format_help().partition('Examples:\n')
    for line in text.replace('\\\n', ' ').splitlines():
      words = shlex.split(line, comments=True)
      assert shlex.join(words).startswith(parser.prog)
      parser.parse_args(words[len(parser.prog.split()):])


@pytest.mark.parametrize('argv, words', [
    (['trian'], "Unknown command 'trian'; known: train, "),
    (['nonsense'], "Unknown command 'nonsense'; known: benchmark, "),
    (['--configs', 'robosuite', '--task', 'a b'],
     "did you mean: dreamingv2 train --configs robosuite --task 'a b'"),
    (['--lits'], 'dreamingv2 train --lits'),
    (['train', '--stpes', '3'], "'stpes'; nearest: steps"),
    (['train', '--configs', 'smal'], "'smal'; known: small"),
    (['train', '--help', '--configs', 'smal'], "'smal'; known: small"),
    (['tables', '--indri', 'a'], "'--indri'; known: --indir"),
    (['figures', 'curvs'], "invalid choice: 'curvs'"),
    (['figures', 'curves', '--ot', 'a'], 'required: --out'),
    (['figures'], 'required: FIGURE'),
    (['evaluate'], '--logdir --policy is required'),
    (['evaluate', '--logdir', 'a', '--policy', 'b'], 'not allowed with'),
    (['sweep'], 'required: --methods, --tasks'),
    (['benchmark', '--rounds', 'x'], "invalid int value: 'x'"),
    (['scores', 'more'], "unexpected argument 'more'"),
    (['sheet', '--tasks', 'Lif'], "invalid choice: 'Lif'")])
def test_mistake_in_the_words_is_one_line(argv, words, capsys):
  assert words in refused(argv, capsys)


@pytest.mark.parametrize('kind', ['empty', 'file', 'missing'])
@pytest.mark.parametrize('words', [
    'evaluate --logdir {}', 'evaluate --policy {}', 'tables --indir {}',
    'tables {}', 'scores --indir {}', 'scores --scores {}',
    'figures curves --indir {} --out o.png', 'figures curves {} --out o.png',
    'figures profiles --indir {} --out o.png',
    'figures dashboard --indir {} --out o.html',
    'figures latents --logdir {} --out o.png',
    'figures reconstructions --logdir {} --out o.png'])
def test_folder_that_no_tool_understands_is_one_line(
    kind, words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('empty').mkdir()
  pathlib.Path('file').write_text('hello')
  line = refused(words.format(kind).split(), capsys)
  assert kind in line or '--indir' in line
  assert not list(tmp_path.glob('o.*'))


@pytest.mark.parametrize('words', [
    'train --task toy_reach --logdir {}',
    'sweep --methods dreamer --tasks toy_reach --dry --indir {}',
    'sweep --methods dreamer --tasks toy_reach --indir {}'])
def test_folder_to_write_that_is_a_file_is_one_line(words, tmp_path, capsys):
  path = tmp_path / 'file'
  path.write_text('hello')
  assert str(path) in refused(words.format(path).split(), capsys)


@pytest.mark.parametrize('words', HELPS, ids=' '.join)
def test_help_ends_quietly_in_a_pipe_that_is_closed(words):
  theirs, ours = os.pipe()
  os.close(theirs)
  process = start(*words, stdout=ours)
  os.close(ours)
  _, err = process.communicate(timeout=120)
  assert (process.returncode, err) == (0, '')


@pytest.mark.parametrize('program', [
    '-m dreamingv2 --list', '-m dreamingv2 train --help', 'train.py --help'])
def test_head_takes_the_first_line_and_no_more(program):
  done = subprocess.run(
      ['bash', '-c', f'set -o pipefail; {sys.executable} {program} | head -1'],
      cwd=settings.ROOT, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, '')
  assert len(done.stdout.splitlines()) == 1


def test_commands_are_imported_without_tensorflow_or_a_simulator():
  modules = [
      f'dreamingv2{module}' for module, _ in command.COMMANDS.values()]
  code = (
      'import importlib, sys; [importlib.import_module(x) for x in '
      f'{modules!r}]; print({{"tensorflow", "mujoco", "robosuite", '
      '"dm_control", "matplotlib"} & {*sys.modules})')
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=settings.ROOT, capture_output=True,
      text=True)
  assert (done.stdout, done.stderr) == ('set()\n', '')


def test_help_of_train_is_fast():
  """Measures CPU seconds, as others may use the machine; 0.45 is usual."""
  code = (
      'import sys, time; from dreamingv2 import __main__ as m; '
      'm.main(["train", "--help"]); '
      'assert not {"tensorflow", "mujoco"} & {*sys.modules}; '
      'print(time.process_time(), file=sys.stderr)')
  done = subprocess.run(
      [sys.executable, '-c', code], cwd=settings.ROOT, capture_output=True,
      text=True)
  assert done.returncode == 0 and float(done.stderr) < 2


@pytest.mark.parametrize('seconds', [0, 1])
def test_sigint_while_a_run_starts_is_one_line(seconds, tmp_path):
  process = start(
      'train', '--task', 'toy_reach', '--configs', 'debug', '--logdir',
      str(tmp_path / 'run'), stdout=subprocess.PIPE, start_new_session=True)
  while process.poll() is None and not (tmp_path / 'run' / 'lock').exists():
    time.sleep(0.01)
  time.sleep(seconds)
  os.killpg(process.pid, signal.SIGINT)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 130
  assert err.splitlines()[-1] == 'Stopped by SIGINT.'
  assert 'Traceback' not in err


def test_sigint_while_the_program_is_imported_is_one_line(tmp_path):
  (tmp_path / 'numpy.py').write_text(
      'import time\nprint(1, flush=True)\ntime.sleep(60)\n')
  for program in (['train.py'], ['-m', 'dreamingv2', 'train']):
    process = subprocess.Popen(
        [sys.executable, *program, '--task', 'toy_reach'],
        cwd=settings.ROOT,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err == 'Stopped by SIGINT.\n'
    assert process.returncode in (130, -signal.SIGINT)  # The same in a shell.
