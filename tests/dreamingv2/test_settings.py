"""Blocks, the paper's tasks, and values that are checked before any start."""

import pytest

from dreamingv2 import settings
from dreamingv2 import train
from dreamingv2.common import distribute
from dreamingv2.common import latents
from dreamingv2.common import tfutils
from dreamingv2.objectives import OBJECTIVES


@pytest.mark.parametrize('name', sorted(settings.presets()))
def test_task_of_the_paper_brings_its_block(name):
  preset = settings.presets()[name]
  config = settings.load_config(['--task', name])
  right = settings.load_config(
      ['--configs', preset['block'], '--task', preset['task']])
  assert config.flat == right.flat
  assert config.steps == 5e5
  # Control steps of an arm count one by one, the others two by two.
  repeat = 1 if preset['block'] == 'robosuite' else 2
  assert config.action_repeat == repeat


def test_other_blocks_and_flags_win_over_the_preset():
  config = settings.load_config([
      '--configs', 'dreamerv2', 'small', '--task', 'Reacher-hard',
      '--action_repeat', '4'])
  assert config.method == 'dreamerv2' and config.prefill == 2500
  assert config.task == 'dmc_reacher_hard' and config.action_repeat == 4


def test_other_tasks_stay_as_they_are():
  config = settings.load_config(['--configs', 'robosuite', '--task', 'Stack'])
  assert config.task == 'Stack' and config.suite == 'robosuite'
  assert settings.load_config([]).task == 'robosuite_Lift'


def test_list_names_every_preset_and_trains_nothing(capsys):
  train.main(['--list'])
  text = capsys.readouterr().out
  assert all(name in text for name in settings.presets())
  assert len(settings.presets()) == 15


def test_choices_are_those_of_the_tables():
  tables = {
      'distribute': distribute.STRATEGIES,
      'precision': [*tfutils.PRECISIONS, 'auto']}
  assert {k: sorted(v) for k, v in settings.CHOICES.items()} == {
      k: sorted(v) for k, v in tables.items()}


@pytest.mark.parametrize('key, value, near', [
    ('distribute', 'mirorred', 'mirrored'),
    ('objective', 'contrastve', 'contrastive'),
    ('precision', '61', '16'), ('rssm.latent', 'gausian', 'gaussian')])
def test_unknown_name_is_refused_with_the_flags(key, value, near):
  with pytest.raises(ValueError, match=f"{key} '{value}'; known: {near}"):
    settings.load_config([f'--{key}', value])


@pytest.mark.parametrize('key, value, words', [
    ('dataset.batch', '600000', 'batch is 600000, but the replay will hold '
     '500000 steps at most; lower --dataset.batch'),
    ('keep', '0', r'keep is 0, but must lie in 1\.\.1e\+09; set --keep'),
    ('discount', '1.5', 'discount is 1.5')])
def test_number_out_of_its_range_is_refused(key, value, words):
  with pytest.raises(ValueError, match=words):
    settings.load_config([f'--{key}', value])


@pytest.mark.parametrize('key, table', [
    ('objective', OBJECTIVES), ('rssm.latent', latents.LATENTS)])
def test_every_entry_of_a_table_is_selected_by_some_block(key, table):
  assert settings._values(key) == {*table}
