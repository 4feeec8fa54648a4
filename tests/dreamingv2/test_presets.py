import pytest

from dreamingv2 import presets
from dreamingv2 import train


@pytest.mark.parametrize('name', sorted(presets.load()))
def test_task_of_the_paper_brings_its_block(name):
  preset = presets.load()[name]
  config = train.load_config(['--task', name])
  right = train.load_config(
      ['--configs', preset['block'], '--task', preset['task']])
  assert config.flat == right.flat
  assert config.steps == 5e5
  # Control steps of an arm count one by one, the others two by two.
  repeat = 1 if preset['block'] == 'robosuite' else 2
  assert config.action_repeat == repeat


def test_other_blocks_and_flags_win_over_the_preset():
  config = train.load_config([
      '--configs', 'dreamerv2', 'small', '--task', 'Reacher-hard',
      '--action_repeat', '4'])
  assert config.method == 'dreamerv2' and config.prefill == 2500
  assert config.task == 'dmc_reacher_hard' and config.action_repeat == 4


def test_other_tasks_stay_as_they_are():
  config = train.load_config(['--configs', 'robosuite', '--task', 'Stack'])
  assert config.task == 'Stack' and config.suite == 'robosuite'
  assert train.load_config([]).task == 'robosuite_Lift'


def test_list_names_every_preset_and_trains_nothing(capsys):
  train.main(['--list'])
  text = capsys.readouterr().out
  assert all(name in text for name in presets.load())
  assert len(presets.load()) == 15
