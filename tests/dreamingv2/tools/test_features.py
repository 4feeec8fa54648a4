"""Tests the command: rows, resumption, bad input and a whole small run."""

import json
import pathlib
import subprocess
import sys

import pytest

from dreamingv2 import settings
from dreamingv2.tools import features
from dreamingv2.tools import readings
from dreamingv2.tools import recordings

SMALL = (
    '--configs', 'small', 'debug', '--tasks', 'toy_torus', '--episodes', '6',
    '--length', '30', '--updates', '2')


@pytest.fixture
def folder(tmp_path):
  return [
      '--recordings', str(tmp_path / 'recordings'), '--out',
      str(tmp_path / 'features.json')]


@pytest.fixture
def measured(monkeypatch):
  """Replaces recording and training; returns the configs that were trained."""
  trained = []

  def run(job):
    trained.append(job.config)
    score = {'r2': 0.5, 'entries': [0.5]}
    return {
        **job.identity, 'settings': features.changed_settings(job.config),
        'state': {'dot': {'now': score}}, 'reward': {}, 'spread': 0.1,
        'rank': 2.0, 'entropy': 3.0, 'cpu_s': 1.0, 'loss': 1.0}

  monkeypatch.setattr(features.Job, 'run', run)
  monkeypatch.setattr(recordings, 'check', lambda config: None)
  monkeypatch.setattr(recordings, 'load', lambda *args: None)
  return trained


def refuse(argv, capsys):
  with pytest.raises(SystemExit) as ending:
    features.main(argv)
  _, err = capsys.readouterr()
  line, = err.splitlines()
  assert ending.value.code == 2 and line.startswith('Error: ')
  return line


def test_a_row_stays_known_if_the_behaviour_changes_in_a_block(
    folder, measured):
  """A model without actor and critic is the same; another model is not."""
  path = pathlib.Path(folder[-1])
  argv = [*SMALL, *folder, '--methods', 'dreamingv2']
  features.main(argv)
  row, = json.loads(path.read_text())
  changes = {
      'discount': 0.5, 'critic.ensemble': 3, 'actor_ent': '1', 'steps': 7.0,
      'rssm.deter': 1234}
  for number, change in enumerate(changes.items()):
    features.write_rows(path, [
        {**row, 'settings': {**row['settings'], **dict([change])}}])
    measured.clear()
    features.main(argv)
    assert len(measured) == (number == len(changes) - 1), change


@pytest.mark.parametrize('task, counts', [
    ('toy_torus', False), ('Lift', False), ('Reacher-easy', False),
    ('my_module:make_env', True)])
def test_discount_counts_where_episodes_can_end(task, counts):
  config = settings.load_config(['--configs', 'small', '--task', task])
  job = features.Job(config, task, 'none', 'dreamingv2', 1)
  assert job.counts('discount') is counts
  assert job.counts('discount_head.units') and not job.counts('imag_horizon')


def test_rows_are_methods_times_seeds_times_tasks(folder, measured, capsys):
  features.main([
      *SMALL, *folder, '--tasks', 'toy_torus', 'toy_reach', '--seeds', '2'])
  out, _ = capsys.readouterr()
  rows = json.loads(pathlib.Path(folder[-1]).read_text())
  assert [(x['task'], x['seed'], x['system']) for x in rows] == [
      (task, seed, system) for task in ('toy_torus', 'toy_reach')
      for seed in (0, 1) for system in ('dreamerv2', 'dreamingv2')]
  assert [x.seed for x in measured] == [0, 0, 1, 1] * 2
  assert out.count('| measure | dreamerv2 | dreamingv2 |') == 2


def test_finished_rows_are_not_measured_again(folder, measured, capsys):
  features.main([*SMALL, *folder])
  rows = features.read_rows(pathlib.Path(folder[-1]))
  features.write_rows(pathlib.Path(folder[-1]), rows[:1])
  del measured[:]
  features.main([*SMALL, *folder])
  assert [x.method for x in measured] == ['dreamingv2']
  assert '1 of 2 rows are known' in capsys.readouterr().err
  for flags in (
      ['--updates', '3'], ['--episodes', '7'], ['--length', '20'],
      ['--configs', 'small'],
      ['--methods', 'dreamerv2+rssm.deter=8', 'dreamingv2+kl.free=2']):
    del measured[:]
    features.main([*SMALL, *folder, *flags])
    assert len(measured) == 2, flags
  del measured[:]
  features.main([*SMALL, *folder])
  assert not measured


def test_settings_of_a_system_and_of_distractors_reach_the_config(
    folder, measured):
  features.main([
      *folder, '--tasks', 'Lift', '--methods', 'dreamingv2+contrastive.pad=1',
      '--distractors', 'none', 'colors=0.5+camera=0.02'])
  plain, changed = measured
  assert plain.contrastive.pad == changed.contrastive.pad == 1
  assert plain.distractors.colors == 0 and changed.distractors.colors == 0.5
  assert changed.distractors.camera == 0.02
  assert plain.action_repeat == 2 and plain.time_limit == 100
  assert plain.robosuite.controller == 'OSC_POSITION'


@pytest.mark.parametrize('argv, words', [
    (['--tasks', 'toy_dummy'], 'toy_dummy: its simulator tells no state'),
    (['--tasks', 'toy_trous'], "Unknown toy task 'trous'"),
    (['--methods', 'dreamerv3'], 'dreamerv2'),
    (['--configs', 'small', 'hybrid'], 'and hybrid are methods'),
    (['--methods', 'tpc+task=Door'], 'sets task, which is the same for all'),
    (['--methods', 'tpc+distractors.colors=1'], 'use --distractors'),
    (['--distractors', 'colours=1'], 'distractors.colours'),
    (['--distractors', 'camera=0.5'], 'toy_torus cannot draw that'),
    (['--updates', '0'], '--updates is 0'),
    (['--out', '/proc/x/y'], 'y cannot be written to /proc'),
    (['--seeds', '0'], '--seeds is 0'),
    (['--episodes', '5'], '--episodes is 5'),
    (['--figure', 'x.gif'], 'x.gif')])
def test_bad_input_is_one_line(argv, words, folder, capsys):
  assert words in refuse([*SMALL, *folder, *argv], capsys)


@pytest.mark.parametrize('text', ['{', '[{}]', '[1]', '{"a": 1}', '\x00'])
def test_file_of_others_is_named_and_stays(text, folder, capsys):
  path = pathlib.Path(folder[-1])
  path.write_text(text)
  assert str(path) in refuse([*SMALL, *folder], capsys)
  assert path.read_text() == text


def test_task_without_state_is_refused_before_tensorflow_loads(folder):
  program = (
      'import sys\nfrom dreamingv2.tools import features\ntry:\n'
      f'  features.main({[*SMALL, *folder, "--tasks", "toy_dummy"]!r})\n'
      'finally:\n  assert "tensorflow" not in sys.modules\n')
  done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True,
      cwd=settings.ROOT)
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert 'tells no state' in done.stderr and '--tasks' in done.stderr


def test_whole_run_measures_all_that_the_table_shows(folder, tmp_path, capsys):
  """Trains in a process of its own, as users do."""
  picture = tmp_path / 'features.png'
  features.main([
      *SMALL, *folder, '--methods', 'dreamingv2', '--figure', str(picture)])
  out, _ = capsys.readouterr()
  row, = features.read_rows(pathlib.Path(folder[-1]))
  for scores in row['state'].values():
    assert scores.keys() == readings.READOUTS.keys()
  for path in readings.OTHERS:
    assert isinstance(readings.pick(row, path), float), path
  assert row['episodes'] == 1 and row['cpu_s'] > 0
  assert 'dot: R^2, features, 15 ahead' in out
  assert picture.stat().st_size > 1000
  assert len([*(tmp_path / 'recordings').iterdir()]) == 1
