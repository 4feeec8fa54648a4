"""Tests that demonstrations become episodes, stored or drawn anew."""

import importlib.util
import json
import re
import types

import h5py
import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2.common import envs
from dreamingv2.common import episodes
from dreamingv2.common import suites
from dreamingv2.tools import demonstrations
from dreamingv2.tools import importer
from tests.dreamingv2.tools import test_demonstrations as samples

STEPS = samples.STEPS


def run(data, out, *flags):
  importer.main(['--data', str(data), '--out', str(out), '--', *flags])
  return list(episodes.read_folder(out))


def test_stored_observations_of_robomimic(tmp_path, capsys):
  data = samples.write_robomimic(tmp_path / 'a.hdf5')
  first, second = run(
      data, tmp_path / 'out', '--render_size', '4', '4', '--action_repeat',
      '2', '--robosuite.camera', 'agentview,eye')
  assert capsys.readouterr().out == (
      f'{tmp_path}/out: 2 episodes, 6 agent steps, mean return 15.00\n')
  assert first.keys() == {
      'action', 'image', 'image_eye', 'object', *envs.FLAGS}
  assert first['image'].shape == (4, 4, 4, 3)
  assert first['image'][:, 0, 0, 0].tolist() == [2, 2, 2, 99]
  assert second['image'][0].max() == 10
  assert first['object'].tolist() == [[0, 1], [4, 5], [8, 9], [10, 11]]
  assert first['reward'].tolist() == [0, 0 + 1, 2 + 3, 4 + 5]
  assert first['action'].tolist() == [[0, 0], *[[0.5, 0.5]] * 3]
  assert first['is_last'].tolist() == [False, False, False, True]
  assert first['is_first'].tolist() == [True, False, False, False]
  assert not first['is_terminal'].any()


def test_stored_observations_of_minari(tmp_path):
  data = samples.write_minari(tmp_path / 'door')
  first, second = run(data, tmp_path / 'out')
  assert first['image'].shape == (STEPS + 1, 64, 64, 3)
  assert (second['speed'] == 1).all() and first['speed'].dtype == np.float32
  assert first['action'].argmax(-1)[1:].tolist() == [0, 1, 2] * 2
  assert not first['is_terminal'].any() and second['is_terminal'][-1]
  _, act_space = episodes.spaces([first, second])
  assert act_space['action'].discrete


def test_dataset_of_minari_with_one_observation(tmp_path):
  """`if not demo.obs` is an error of NumPy for an array."""
  data = samples.write_minari(
      tmp_path / 'hopper', observation_space=json.dumps({
          'type': 'Box', 'shape': [2], 'dtype': 'float64', 'low': [0, 0],
          'high': [9, 9]}))
  with h5py.File(data / 'data/main_data.hdf5', 'r+') as file:
    for group in file.values():
      del group['observations']
      group['observations'] = np.full((STEPS + 1, 2), np.arange(2))
  first, second = run(data, tmp_path / 'out')
  assert first['vector'].tolist() == [[0, 1]] * (STEPS + 1)
  assert len(second['reward']) == STEPS + 1


def test_what_is_left_out_and_what_does_not_fit_is_named(tmp_path, capsys):
  data = samples.write_robomimic(tmp_path / 'a.hdf5')
  with h5py.File(data, 'r+') as file:
    obs = file['data/demo_10/obs']
    obs['depth'], obs['task'] = np.ones((STEPS, 8, 8, 1)), [b'lift'] * STEPS
    file['data/demo_2/actions'][4] = 7
  _, demo = demonstrations.read(data)
  with pytest.warns(UserWarning, match='(depth|task) is left out: ') as found:
    episode = importer.play(demo, settings.defaults())
  assert len(found) == 2 and not episode.keys() & {'depth', 'task'}
  with pytest.raises(SystemExit):
    run(data, tmp_path / 'out')
  line, = capsys.readouterr().err.splitlines()
  assert 'a.hdf5: demo_2: An action [7. 7.] lies outside of' in line


@pytest.mark.parametrize('flags, words', [
    ([], 'has no observations, only states; .*--task Lift'),
    (['--task', 'toy_reach'], 'Only states of robosuite can be drawn'),
    (['--task', 'Lfit', '--suite', 'robosuite'], "'Lfit'; known: Lift"),
    (['--stpes', '3'], "'stpes'")])
def test_mistake_is_one_line_and_leaves_nothing(
    flags, words, tmp_path, capsys):
  data = samples.write_robomimic(
      tmp_path / 'a.hdf5', drop=[
          'obs/agentview_image', 'obs/eye_image', 'obs/object'])
  with pytest.raises(SystemExit) as ending:
    run(data, tmp_path / 'out', *flags)
  line, = capsys.readouterr().err.splitlines()
  assert ending.value.code == 2
  assert re.search(words, line), line
  assert [x.name for x in tmp_path.iterdir()] == ['a.hdf5']


def test_folder_that_exists_is_kept(tmp_path, capsys):
  (tmp_path / 'out').mkdir()
  with pytest.raises(SystemExit):
    run(tmp_path / 'absent', tmp_path / 'out')
  assert 'out exists; name a new folder' in capsys.readouterr().err


@pytest.fixture(scope='module')
def lift(tmp_path_factory):
  """Records one demonstration of Lift with robosuite's own recorder."""
  path = tmp_path_factory.mktemp('lift') / 'demo.hdf5'
  script = settings.ROOT / 'scripts/record_lift.py'

  def record():
    spec = importlib.util.spec_from_file_location('record_lift', script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.record(path, 1, horizon=60)
  env = envs.Async(lambda: types.SimpleNamespace(
      obs_space=record(), close=lambda: None),
      environ=suites.prepare('robosuite'))
  assert env.obs_space == [True]
  env.close()
  return path


def test_recorded_demonstration_is_drawn_as_the_run_sees_it(
    lift, tmp_path):
  flags = [
      '--configs', 'robosuite', 'small', '--task', 'Lift', '--action_repeat',
      '2', '--render_size', '32', '32']
  episode, = run(lift, tmp_path / 'out', *flags)
  with h5py.File(lift) as file:
    actions = file['data/demo_1/actions'][()]
    info = json.loads(file['data'].attrs['env_info'])
  assert info['env_name'] == 'Lift' and actions.shape == (60, 4)
  # The state after the last action was not recorded.
  assert len(episode['reward']) == 1 + 59 // 2
  assert np.allclose(episode['action'][1:], actions[:58:2], atol=1e-6)
  # Reaching earns less than 0.45 a control step, holding the lifted cube 1.
  assert episode['reward'][1] < 0.5 and (episode['reward'][-4:] == 2).all()
  assert episode['image'].shape == (30, 32, 32, 3)
  red = (episode['image'][..., 0] > episode['image'][..., 1] + 60.0)
  rows = [np.nonzero(x)[0].mean() for x in (red[0], red[-1])]
  assert rows[1] < rows[0] - 3  # The cube is higher in the picture.
  # A run with the same flags takes it as it is.
  config = settings.load_config(flags)
  env, = suites.start(config, [0])
  wanted = {**env.obs_space, **env.act_space}
  env.close()
  assert {k: (v.shape[1:], v.dtype) for k, v in episode.items()} == {
      k: (v.shape, v.dtype) for k, v in wanted.items()}
