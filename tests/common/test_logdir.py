import pytest

from dreamingv2 import settings
from dreamingv2.common import logdir as logdirs
from dreamingv2.common.config import Config


@pytest.fixture
def config(tmp_path):
  return settings.defaults().update({'logdir': str(tmp_path / 'run')})


def test_run_lies_below_task_method_and_seed(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  config = settings.load_config(['--configs', 'dreamer', '--seed', '3'])
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  assert str(folder) == 'logdir/robosuite_Lift/dreamer/3'
  assert folder.is_dir() and not list(folder.iterdir())


def test_config_is_replaced_whole_and_keeps_who_ran_it(config):
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  logdirs.save_config(config, folder, ['versions 1', 'train.py'])
  logdirs.save_config(config, folder, ['versions 1', 'train.py'])
  longer = config.update({'steps': 1e6})
  logdirs.save_config(longer, folder, ['versions 2', 'train.py --steps 1e6'])
  path = folder / 'config.yaml'
  assert path.read_text().splitlines()[:5] == [
      '# versions 1', '# train.py', '# versions 2', '# train.py --steps 1e6',
      'method: dreamingv2']
  assert Config.load(path).flat == longer.flat
  assert [x.name for x in folder.iterdir()] == ['config.yaml']


@pytest.mark.parametrize('updates, started, fine', [
    ({'steps': 1e6}, True, True), ({'rssm.deter': 600}, True, False),
    ({'rssm.deter': 600}, False, True), ({'action_repeat': 4}, False, False),
    ({'robosuite.horizon': 9}, False, False), ({'keep': 9}, False, True)])
def test_settings_that_a_run_may_change(config, updates, started, fine):
  """Before the first checkpoint, all that does not shape the episodes."""
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  logdirs.save_config(config, folder, ['versions'])
  if started:
    (folder / 'checkpoints').mkdir()
    (folder / 'checkpoints' / '1.npz').touch()
  if fine:
    assert logdirs.prepare(
        config.update(updates), 'robosuite', 'Lift') == folder
    return
  key, = updates
  with pytest.raises(ValueError, match=f'another config.*{key} .* here'):
    logdirs.prepare(config.update(updates), 'robosuite', 'Lift')


def test_folder_that_cannot_be_made_is_named(config, tmp_path):
  (tmp_path / 'run').touch()
  with pytest.raises(ValueError, match='run cannot be written .* --logdir'):
    logdirs.prepare(config, 'robosuite', 'Lift')
