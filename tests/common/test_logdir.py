import os

import pytest

from dreamingv2 import settings
from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import files
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
  """Before the first checkpoint, all that do not affect the episodes."""
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


def test_setting_that_the_objective_does_not_read_may_change(config):
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  logdirs.save_config(config, folder, ['versions'])
  (folder / 'checkpoints').mkdir()
  (folder / 'checkpoints' / '1.npz').touch()
  reads = lambda config, key: (
      key != 'byol.units' or config.objective == 'byol')
  other = config.update({'byol.units': 9})
  assert logdirs.prepare(other, 'robosuite', 'Lift', reads) == folder
  both = other.update({'rssm.deter': 600})
  with pytest.raises(ValueError, match=r'1 key differs: rssm.deter'):
    logdirs.prepare(both, 'robosuite', 'Lift', reads)
  with pytest.raises(ValueError, match='byol.units'):
    logdirs.prepare(
        other.update({'objective': 'byol'}), 'robosuite', 'Lift', reads)


def test_key_that_an_older_version_lacked_had_its_default_there(config):
  """Otherwise a run goes on with what a block has got since then."""
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  older = config.flat
  del older['critic.ensemble']
  logdirs.save_config(Config(older), folder, ['versions'])
  (folder / 'checkpoints').mkdir()
  (folder / 'checkpoints' / '1.npz').touch()
  prepare = lambda config: logdirs.prepare(
      config, 'robosuite', 'Lift', defaults=settings.defaults())
  assert prepare(config) == folder
  with pytest.raises(ValueError, match=(
      r'1 key differs: critic.ensemble 1 there and 2 here')):
    prepare(config.update({'critic.ensemble': 2}))


def test_folder_that_cannot_be_made_is_named(config, tmp_path):
  (tmp_path / 'run').touch()
  with pytest.raises(ValueError, match='run cannot be written .* --logdir'):
    logdirs.prepare(config, 'robosuite', 'Lift')


@pytest.mark.parametrize('method', [
    '../../x', '/abs', '', '.', '..', 'a/b', 'a\nb', 'a\n', 'a\0', 'a b'])
def test_run_cannot_leave_the_folder_of_all_runs(
    method, config, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  for task, name in (('Lift', method), (method, 'dreamer')):
    with pytest.raises(ValueError, match='names a folder'):
      logdirs.prepare(
          config.update({'logdir': '', 'method': name}), 'robosuite', task)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['lock', 'videos', 'train_episodes'])
def test_links_that_lead_out_of_a_logdir_are_refused(name, config, tmp_path):
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  (folder / name).symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(ValueError, match=f'{name} is a link'):
    logdirs.prepare(config, 'robosuite', 'Lift')
  (folder / name).unlink()
  (folder / name).symlink_to('within')
  logdirs.prepare(config, 'robosuite', 'Lift')


def test_line_breaks_of_a_path_spoil_no_config(config):
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  odd = "train.py --logdir 'a\nseed: 7\u2028b\x85\x00\udc80é'"
  logdirs.save_config(config, folder, [odd])
  path = folder / 'config.yaml'
  assert Config.load(path).flat == config.flat
  assert path.read_text().splitlines()[0] == (
      r"# train.py --logdir 'a\nseed: 7\u2028b\x85\x00\udc80é'")


@pytest.mark.parametrize('updates', [0, 1])
def test_checkpoint_without_an_update_gives_way_to_another_config(
    updates, config):
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  logdirs.save_config(config, folder, ['versions'])
  store = checkpoints.Checkpoint(folder / 'checkpoints')
  store.save(0, {}, {'updates': updates})
  logdirs.forget_unlearned(config.update({'keep': 9}), folder)
  assert store.load().step == 0
  logdirs.forget_unlearned(config.update({'rssm.deter': 600}), folder)
  assert bool(store.load()) == bool(updates)


def test_new_weights_of_an_older_version_give_way_to_a_block_s_new_key(config):
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  older = config.flat
  del older['critic.ensemble']
  logdirs.save_config(Config(older), folder, ['versions'])
  store = checkpoints.Checkpoint(folder / 'checkpoints')
  store.save(0, {}, {'updates': 0})
  logdirs.forget_unlearned(config, folder, settings.defaults())
  assert store.load().step == 0
  logdirs.forget_unlearned(
      config.update({'critic.ensemble': 2}), folder, settings.defaults())
  assert store.load() is None


@pytest.mark.parametrize('make, words', [
    (os.mkfifo, 'is a pipe'), (os.mkdir, 'is a folder'),
    (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 2 ** 40),
     'bytes; at most'),
    (lambda path: path.write_text('a: &a [1]\nb: *a\n'), 'aliases')])
def test_odd_config_is_refused_and_stays(make, words, config):
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  path = folder / 'config.yaml'
  make(path)
  before = path.lstat()
  with pytest.raises(ValueError, match=f'config.yaml.*{words}'):
    logdirs.prepare(config, 'robosuite', 'Lift')
  if 'aliases' not in words:
    with pytest.raises(ValueError, match=f'config.yaml.*{words}'):
      logdirs.save_config(config, folder, ['versions'])
  assert path.lstat() == before


@pytest.mark.parametrize('meta', [
    '[]', '{}', '3', '{"step": "x", "meta": {}}'])
def test_odd_checkpoint_says_nothing_of_a_run(meta, config):
  folder = logdirs.prepare(config, 'robosuite', 'Lift')
  logdirs.save_config(config, folder, ['versions'])
  (folder / 'checkpoints').mkdir()
  path = folder / 'checkpoints' / '000000000007.npz'
  files.write_atomic(path, lambda file: checkpoints.write_npz(
      file, {'meta.json': meta.encode()}))
  assert checkpoints.peek(path.parent) is None
  assert logdirs.prepare(config, 'robosuite', 'Lift') == folder
