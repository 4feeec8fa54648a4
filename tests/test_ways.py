"""Tests the ways into a run: stored episodes, seeds, the user's own code."""

import json
import sys

import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2 import train
from dreamingv2.common import config as configs
from dreamingv2.common import envs
from dreamingv2.common import replay as replays
from dreamingv2.common import suites
from dreamingv2.tools import evaluate
from tests import helpers

SHORT = [
    '--configs', 'debug', '--steps', '60', '--prefill', '50', '--train_every',
    '20', '--log_every', '20', '--save_every', '20', '--eval_eps', '0']


def record(folder, episodes=3, **extra):
  """Writes random episodes of toy_reach as a run stores them."""
  env = suites.make('toy', 'reach', seed=0)
  replay, random = replays.Replay(folder), np.random.default_rng(0)
  for _ in range(episodes):
    rows = [{**env.reset(), 'action': np.zeros(2, np.float32)}]
    while not rows[-1]['is_last']:
      action = {'action': random.uniform(-1, 1, 2).astype(np.float32)}
      rows.append({**env.step(action), **action})
    replay.add_episode({
        **{k: np.stack([x[k] for x in rows]) for k in rows[0]},
        **{k: v[:len(rows)] for k, v in extra.items()}})


def read_metrics(logdir):
  lines = (logdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(x) for x in lines]


def test_offline_run_learns_from_episodes_alone(tmp_path, monkeypatch, capsys):
  record(tmp_path / 'data')
  before = sorted((tmp_path / 'data').iterdir())
  monkeypatch.setattr(suites, 'start', None)  # Starting one would fail.
  argv = [
      *SHORT, '--task', 'toy_reach', '--offline', str(tmp_path / 'data'),
      '--logdir', str(tmp_path / 'run')]
  train.main(argv)
  said = capsys.readouterr().err.replace('\n    ', ' ')
  assert 'Batches also come from 3 episodes' in said and '150 agent' in said
  # An update before the first step, then one every 20 steps.
  lines = read_metrics(tmp_path / 'run')
  assert [x['step'] for x in lines] == [20, 40, 60]
  assert lines[-1]['updates'] == 4
  assert not any('return' in key for x in lines for key in x)
  assert not list((tmp_path / 'run/train_episodes').iterdir())
  assert sorted((tmp_path / 'data').iterdir()) == before
  # It resumes, and evaluate can make the environment.
  train.main([*argv, '--steps', '80'])
  assert read_metrics(tmp_path / 'run')[-1]['updates'] == 5
  config = evaluate.load_config(tmp_path / 'run')
  snapshot = evaluate.read_checkpoint(tmp_path / 'run')
  env = suites.make('toy', 'reach', seed=0)
  agent = evaluate.load_agent(
      config, snapshot, env.obs_space, env.act_space)
  assert evaluate.play(agent, env, 1)[0]['length'] == 50
  assert 'discount' not in agent.wm.heads  # No stored episode is terminal.


def refused(argv, capsys, monkeypatch):
  """Returns the line of a run that ends before TensorFlow is loaded."""
  monkeypatch.setattr(train, 'Run', None)  # Its constructor loads it.
  with pytest.raises(SystemExit) as ending:
    train.main(argv)
  # Before it is what the run says it is about to do.
  *_, line = capsys.readouterr().err.splitlines()
  assert ending.value.code == 2 and line.startswith('Error: ')
  return line


@pytest.mark.parametrize('flags, words', [
    (['--offline', 'absent', '--task', 'toy_reach'], 'absent holds no episo'),
    (['--offline', 'data'], '--offline data needs the name of the task'),
    (['--offline', 'data', '--task', 'toy_raech'], "'raech'; known: reach"),
    (['--offline', 'data', '--task', 'toy_reach', '--replay.seed_from', 'b'],
     'name two folders'),
    (['--offline', 'other', '--task', 'data_mine'], "'action' is float32[3]"),
])
def test_offline_mistake_is_one_line(
    flags, words, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  record('data', 1)
  record('other', 1)
  record(tmp_path / 'c', 1, action=np.zeros((51, 3), np.float32))
  path, = (tmp_path / 'c').iterdir()
  path.rename(tmp_path / 'other' / path.name)
  line = refused([*SHORT, '--logdir', 'run', *flags], capsys, monkeypatch)
  assert words in line


def test_task_of_data_alone_is_filed_under_its_name():
  config = settings.load_config(['--offline', 'x', '--task', 'data_mine'])
  assert suites.check(config) == ('data', 'mine')
  assert config.prefill == config.eval_eps == 0
  online = configs.Config({**config.flat, 'offline': ''})
  with pytest.raises(ValueError, match="'data_mine' .*not begin with a suite"):
    suites.check(online)


def test_seeds_are_counted_apart_from_the_steps_of_a_run(tmp_path):
  record(tmp_path / 'demos', 2)
  helpers.run_toy(
      tmp_path / 'run', '--configs', 'debug', '--replay.seed_from',
      str(tmp_path / 'demos'))
  counts = [x for x in read_metrics(tmp_path / 'run') if 'random_return' in x]
  assert counts[0]['step'] == 50
  assert counts[0]['train_total_steps'] == 50
  assert counts[0]['train_seed_steps'] == 100
  assert counts[0]['train_seed_episodes'] == 2
  assert len(list((tmp_path / 'run/train_episodes').glob('*.npz'))) == 2


OWN = '''
from dreamingv2.common import envs
def good(size):
  return envs.Dummy('continuous', size, 30)
def raises():
  raise RuntimeError('no key for the robot')
class Wrong(envs.Dummy):
  def reset(self):
    return {**super().reset(), 'image': 0}
class Falls(envs.Dummy):
  def step(self, action):
    return {}['joint']
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  (tmp_path / 'own_way.py').write_text(OWN)
  (tmp_path / 'own_bad.py').write_text('import nothing_like_it')


@pytest.mark.parametrize('task, flags, words', [
    ('own_way:raises', [], 'raised RuntimeError: no key for the robot ('),
    ('own_way:absent', [], "has no attribute 'absent'"),
    ('own_way:Wrong', [], "'image': declared uint8 [64, 64, 3] in 0..255"),
    ('own_way:Falls', [], "KeyError: 'joint' ("),
    ('own_bad:make', [], "No module named 'nothing_like_it'"),
    ('own_gone:make', [], "no module 'own_gone'"),
    ('own_way:good', ['--env_args', '{lap: 3}'], "'lap'"),
    ('own_way:good', ['--env_args', 'lap'], "env_args is 'lap', but must be"),
    ('gym_CartPol-v1', [], 'Did you mean'),
    ('toy_reach', ['--env_args', '{lap: 3}'], 'toy takes no --env_args')])
def test_mistake_in_own_code_is_one_line(
    task, flags, words, own, tmp_path, capsys, monkeypatch):
  argv = [*SHORT, '--task', task, '--logdir', str(tmp_path / 'run'), *flags]
  assert words in refused(argv, capsys, monkeypatch)


def test_own_function_trains_from_the_command_line(own, tmp_path):
  train.main([
      *SHORT, '--task', 'own_way:good', '--logdir', str(tmp_path / 'run')])
  assert read_metrics(tmp_path / 'run')[-1]['updates'] > 1
  config = evaluate.load_config(tmp_path / 'run')
  env = evaluate.start_env(config, tmp_path / 'run')
  try:
    # Nothing reads its vectors.
    assert env.identity['left_out'] == {
        'vector': "not matched by encoder.mlp_keys '$^'"}
    assert env.reset()().keys() == env.obs_space.keys()
    assert env.obs_space.keys() == {'image', *envs.FLAGS}
    assert env.reset()()['image'].shape == (64, 64, 3)
  finally:
    env.close()


class Plugin:
  """A suite that another package brings."""

  OPTIONS = {'speed': 1.0}

  @staticmethod
  def tasks():
    return ['dot']

  @staticmethod
  def validate(task, options):
    configs.check_known('plugin task', task, ['dot'])

  @staticmethod
  def limit(task, options):
    return 9 * options['speed']

  @staticmethod
  def make(task, seed, size, action_repeat, speed):
    return suites.known()['toy']().make('reach', seed, size, action_repeat)


def test_package_brings_a_suite_by_an_entry_point(monkeypatch):
  real = suites.importlib.metadata.entry_points
  points = {suites.GROUP: [
      suites.importlib.metadata.EntryPoint('plugin', __name__, suites.GROUP)]}
  monkeypatch.setattr(
      suites.importlib.metadata, 'entry_points',
      lambda **kw: points.get(kw.get('group')) or real(**kw))
  monkeypatch.setattr(
      suites.importlib.metadata.EntryPoint, 'load', lambda self: Plugin)
  config = settings.load_config([
      '--task', 'plugin_dot', '--env_args', '{speed: 2.0}'])
  assert suites.check(config) == ('plugin', 'dot')
  assert suites.options('plugin', config) == {'speed': 2.0}
  assert suites.limit('plugin', 'dot', speed=2.0) == 18
  make, _ = suites.constructor(config)
  assert make(seed=0).reset()['image'].shape == (64, 64, 3)
  assert suites.has_foreign_code(config)
  with pytest.raises(ValueError, match="'dott'; known: dot"):
    suites.check(config.update({'task': 'plugin_dott'}))
  with pytest.raises(ValueError, match="'sped'; known: speed"):
    suites.check(config.update({'env_args': '{sped: 1}'}))
