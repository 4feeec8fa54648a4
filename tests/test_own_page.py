"""Runs what docs/own.md shows, from the first environment to the robot."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import gymnasium
import pytest

from dreamingv2 import __main__ as command
from dreamingv2 import api
from dreamingv2 import settings
from scripts import control

PAGE = settings.ROOT / 'docs' / 'own.md'
BLOCKS = re.findall(
    r'^```(python|sh)\n(.*?)^```', PAGE.read_text(), re.M | re.S)
ROBOT = """
import numpy as np

class Robot:
  moves = []

  def read(self):
    return np.zeros((64, 64, 3), np.uint8)

  def move(self, action):
    self.moves.append(action)
"""


# Words that only one block has -> what a short run replaces in it.
SHORT = {
    'class Slide': {},
    "'steps': 4000": {'4000': '60', "'train_every': 1": "'train_every': 20"},
    'numbers = api.evaluate': {'episodes=10': 'episodes=1'},
    'env.reset(seed=0)': {},
    '--export policy': {},
    'robot.move': {'range(200)': 'range(5)'},
    'copy/slide': {'8000': '80', "'train_every': 1": "'train_every': 20"},
    'class HighLift': {},
    '--task HighLift': {
        'robosuite small': 'robosuite debug', '15000': '60',
        '--train_every 2': '--robosuite.horizon 20 --prefill 20 --eval_eps 0',
        '--episodes 10': '--episodes 1'}}


def read(words):
  """Returns the block that has these words, with what a short run replaces."""
  block, = [x for _, x in BLOCKS if words in x]
  for old, new in SHORT[words].items():
    assert old in block, (old, block)
    block = block.replace(old, new)
  return block


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Returns a folder with the modules of the page, in which its code runs."""
  for name, words in {'env': 'class Slide', 'lift': 'class HighLift'}.items():
    (tmp_path / f'my_{name}.py').write_text(read(words))
  (tmp_path / 'my_robot.py').write_text(ROBOT)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  for name in ('my_env', 'my_robot'):
    sys.modules.pop(name, None)


def test_every_block_is_run():
  """Those that the other tests do not run need no more than a few seconds."""
  for language, block in BLOCKS:
    known = [words for words in SHORT if words in block]
    assert len(known) <= 1
    if not known:
      assert language == 'python' and 'train(' not in block, block
      exec(compile(block, PAGE.name, 'exec'), {})


def test_page_leads_from_an_environment_to_a_robot(
    folder, monkeypatch, capsys):
  load = api.load
  monkeypatch.setattr(api, 'load', lambda *blocks: load('debug').update({
      'prefill': 50, 'eval_eps': 0}))

  def run(words):
    """Returns the variables of a block, and what it printed."""
    capsys.readouterr()
    code = compile(read(words), PAGE.name, 'exec')
    variables = {}
    exec(code, variables)
    return variables, capsys.readouterr().out

  run("'steps': 4000")
  numbers = run('numbers = api.evaluate')[0]['numbers']
  assert numbers['length'] == [50] and -50 <= numbers['mean'] <= 50
  total = run('env.reset(seed=0)')[0]['total']
  assert -50 <= total <= 50
  command.main(shlex.split(read('--export policy'))[1:])
  values, said = run('robot.move')
  assert len(values['robot'].moves) == 5 and 'of 5 steps were late' in said
  # In the robot's own units.
  assert all(abs(x[0]) <= 0.1 for x in values['robot'].moves)
  shutil.copytree('logdir/slide', 'copy/slide')
  run('copy/slide')
  steps = [json.loads(x)['step'] for x in (
      folder / 'copy/slide/metrics.jsonl').read_text().splitlines()]
  assert max(steps) == 80 and min(steps) <= 50
  assert not [x for x in steps if x > 60 and x < 80]


@pytest.mark.slow
def test_own_task_of_robosuite_trains(folder):
  lines = read('--task HighLift').replace('\\\n', '').splitlines()
  for words in map(shlex.split, lines):
    subprocess.run(
        [sys.executable, '-m', *words], check=True, timeout=900,
        env={**os.environ, 'PYTHONPATH': str(settings.ROOT)})
  made = json.loads((folder / 'logdir/high/environment.json').read_text())
  assert made['task'] == 'HighLift'  # robosuite knows none of that name.
  assert (folder / 'high.gif').stat().st_size > 10000


def test_loop_at_a_fixed_rate_is_measured(capsys):
  control.main(['--configs', 'debug', '--rate', '2', '--steps', '2'])
  lines = capsys.readouterr().out.splitlines()
  assert [x.partition(':')[0] for x in lines] == ['agent', 'exported']
  assert all(' of 2 steps late at 2 Hz, ' in x for x in lines)


class Clock:
  """A clock that only sleep moves."""

  now = 0.0

  def monotonic(self):
    return self.now

  process_time = monotonic

  def sleep(self, seconds):
    self.now += seconds


class Slow:
  """Takes 0.5 s for its third action."""

  observation_space = gymnasium.spaces.Box(0, 1)

  def __init__(self, clock):
    self.clock, self.calls = clock, 0

  def act(self, observation, state=None):
    self.calls += 1
    self.clock.sleep(0.5 if self.calls == 3 else 0.01)
    return 0, self.calls


def test_late_steps_are_counted(monkeypatch):
  monkeypatch.setattr(control, 'time', Clock())
  late, seconds = control.control(Slow(control.time), rate=5, steps=6)
  assert late == 2 and seconds == pytest.approx(6 / 5)
