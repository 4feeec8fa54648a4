"""Evaluates and exports agents of short runs on the toy task."""

import io
import json
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import PIL.Image
import pytest

from dreamingv2.tools import evaluate
from dreamingv2 import settings
from dreamingv2.common import checkpoint
from dreamingv2.common import counter
from dreamingv2.common import envs
from dreamingv2.common import suites
from tests.helpers import run_toy

ALONE = """
import sys
import numpy as np
sys.modules['dreamingv2'] = None  # To import it is an ImportError.
import tensorflow as tf
policy = tf.saved_model.load(sys.argv[1])
episode = dict(np.load(sys.argv[2]))
state, actions = policy.initial_state(), []
for image, first in zip(episode['image'], episode['is_first']):
  state = policy.act(image=image[None], is_first=[first], **state)
  actions.append(state['action'][0].numpy())
assert not [x for x in sys.modules if x.startswith('dreamingv2.')]
np.save(sys.argv[3], actions)
"""


@pytest.fixture(scope='module')
def logdir(tmp_path_factory):
  """The logdir of a run with a best and a newest checkpoint."""
  folder = tmp_path_factory.mktemp('run') / 'logdir'
  run_toy(folder)
  best = folder / 'checkpoints' / checkpoint.BEST
  best.unlink()  # It is the same file as the newest.
  shutil.copy(best.with_name(f'{50:012d}.npz'), best)
  return folder


def start(*argv):
  """Runs the program in this process and returns what it printed."""
  evaluate.main([str(x) for x in argv])


@pytest.fixture(scope='module')
def results(logdir):
  """The folder of what two runs of the program wrote: JSON, video."""
  folder = logdir.parent
  before = {x: x.stat().st_mtime_ns for x in logdir.rglob('*')}
  for name in ('one', 'two'):
    start('--logdir', logdir, '--episodes', 2, '--video',
          folder / f'{name}.gif', '--out', folder / f'{name}.json')
  assert before == {x: x.stat().st_mtime_ns for x in logdir.rglob('*')}
  return folder


def test_evaluation_tells_every_return_and_repeats(results, capsys):
  one, two = (
      json.loads((results / f'{x}.json').read_text()) for x in ('one', 'two'))
  assert one == two
  assert one['step'] == 100 and one['episodes'] == len(one['return']) == 2
  assert len(set(one['return'])) == 2 and one['length'] == [50] * 2
  assert one['mean'] == pytest.approx(np.mean(one['return']))
  assert one['std'] == pytest.approx(np.std(one['return']))
  assert one['success_rate'] == np.mean(one['success'])


def test_other_seed_gives_other_episodes_and_best_another_agent(
    logdir, results, tmp_path, capsys):
  for name, flags in {'seed': ['--seed', 1], 'best': ['--best']}.items():
    start('--logdir', logdir, '--episodes', 1, '--out', tmp_path / name,
          *flags)
  newest = json.loads((results / 'one.json').read_text())
  seed, best = (
      json.loads((tmp_path / x).read_text()) for x in ('seed', 'best'))
  assert seed['return'][0] != newest['return'][0]
  assert best['step'] == 50
  out = capsys.readouterr().out
  assert 'Step 50, ' in out and 'episode 1: return ' in out
  assert 'success rate ' in out and 'standard deviation 0.00' in out


def test_video_shows_the_episodes_side_by_side(results):
  with PIL.Image.open(results / 'one.gif') as gif:
    assert gif.size == (2 * 128, 128) and gif.n_frames > 20
    assert np.asarray(gif.convert('RGB')).std() > 5


@pytest.mark.parametrize('method', ['dreamingv2', 'dreamer'])
def test_exported_policy_acts_as_the_agent_without_this_package(
    method, tmp_path):
  from dreamingv2 import agent as agents
  from dreamingv2.tools import export
  config = settings.load_config(['--configs', 'debug', method])
  env = suites.make('toy', 'reach')
  agent = agents.Agent(
      config, env.obs_space, env.act_space, counter.Counter())
  found, = evaluate.play(agent, env, 1)
  noise = agent.generator.state.numpy()
  assert export.save(agent, tmp_path / 'policy', found['episode']) < 1e-6
  np.testing.assert_array_equal(agent.generator.state.numpy(), noise)
  ours, state = [], None
  for index in range(51):
    obs = {k: found['episode'][k][index: index + 1] for k in env.obs_space}
    outputs, state = agent.policy(obs, state, 'eval')
    ours.append(outputs['action'][0])
  np.savez(tmp_path / 'episode.npz', **found['episode'])
  environ = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  subprocess.run([
      sys.executable, '-I', '-c', ALONE, str(tmp_path / 'policy'),
      str(tmp_path / 'episode.npz'), str(tmp_path / 'actions.npy')],
      check=True, cwd=tmp_path, env=environ, timeout=300)
  np.testing.assert_allclose(
      np.load(tmp_path / 'actions.npy'), ours, rtol=0, atol=1e-6)
  assert np.abs(np.diff(ours, axis=0)).max() > 1e-3


def test_exported_policy_earns_what_its_agent_earns(
    logdir, tmp_path, monkeypatch, capsys):
  from dreamingv2 import agent as agents
  change(logdir, tmp_path / 'run', drop='eval_state_mean',
         config='\neval_state_mean: True\n')  # Free of noise.
  start('--logdir', tmp_path / 'run', '--episodes', 2, '--export',
        tmp_path / 'policy', '--out', tmp_path / 'agent.json')
  monkeypatch.setattr(agents, 'Agent', lambda *args: pytest.fail())
  start('--policy', tmp_path / 'policy', '--episodes', 2, '--out',
        tmp_path / 'policy.json')
  ours, theirs = (
      json.loads((tmp_path / f'{x}.json').read_text())
      for x in ('agent', 'policy'))
  assert theirs['from'].startswith('Step 100, ')
  assert theirs['return'] == pytest.approx(ours['return'], rel=1e-4)
  assert capsys.readouterr().out.count('Step 100, ') == 2


@pytest.mark.slow
def test_exported_policy_drives_lift(tmp_path):
  run = lambda *words: subprocess.run(
      [sys.executable, '-m', 'dreamingv2', *words], cwd=settings.ROOT,
      check=True, capture_output=True, text=True, timeout=900).stdout
  run('train', '--configs', 'robosuite', 'debug', '--task', 'Lift',
      '--robosuite.horizon', '20', '--prefill', '40', '--steps', '60',
      '--eval_eps', '0', '--logdir', str(tmp_path / 'run'))
  policy = str(tmp_path / 'policy')
  out = run('evaluate', '--logdir', str(tmp_path / 'run'),
            '--episodes', '1', '--export', policy)
  assert float(out.rpartition("agent's by ")[2].split()[0]) < 1e-4
  out = run('evaluate', '--policy', policy, '--episodes', '2',
            '--video', str(tmp_path / 'lift.gif'))
  assert 'episode 2: return ' in out and ', 20 agent steps' in out
  assert 'success rate ' in out
  with PIL.Image.open(tmp_path / 'lift.gif') as gif:
    assert np.asarray(gif.convert('RGB')).std() > 20


def test_play_counts_a_success_at_any_step():

  class Env(envs.Wrapper):
    count = 0

    def reset(self):
      self.count = 0
      return self.env.reset()

    def step(self, action):
      self.count += 1
      return self.env.step(action)

    def success(self):
      return self.count in self.marks

  class Agent:

    def policy(self, obs, state, mode):
      return {'action': np.zeros((1, self.size), np.float32)}, None

  agent = Agent()
  env = Env(suites.make('toy', 'reach'))
  agent.size = 2
  for marks, expected in [((7,), True), ((50,), True), ((), False)]:
    env.marks = marks
    found = evaluate.play(agent, env, 2)
    assert [x['success'] for x in found] == [expected] * 2
  agent.size = 6
  found, = evaluate.play(agent, suites.make('toy', 'dummy'), 1)
  assert found['success'] is None
  assert evaluate.summary([found])['success_rate'] is None


def test_progress_tells_the_episode_on_a_terminal_only(monkeypatch, capsys):

  class Terminal(io.StringIO):

    def isatty(self):
      return True

  agent = types.SimpleNamespace(policy=lambda obs, state, mode: (
      {'action': np.zeros((1, 2), np.float32)}, None))
  monkeypatch.setenv('COLUMNS', '80')
  for stream in (Terminal(), io.StringIO()):
    monkeypatch.setattr(sys, 'stderr', stream)
    assert len(evaluate.play(agent, suites.make('toy', 'reach'), 3)) == 3
    assert ('episode 2 of 3' in stream.getvalue()) == stream.isatty()
  assert not capsys.readouterr().out


def test_success_reaches_through_a_process_and_is_optional():
  for task, kinds in {'reach': (bool,), 'dummy': (type(None),)}.items():
    env = envs.Async(lambda task=task: suites.make('toy', task))
    env.reset()()
    assert type(env.success()()) in kinds
    env.close()


def test_episodes_tell_the_spaces_they_came_from(logdir):
  episode, = evaluate.read_episodes(logdir, 1)
  env = suites.make('toy', 'reach')
  obs_space, act_space = evaluate.spaces(episode)
  assert {k: (v.shape, v.dtype) for k, v in obs_space.items()} == {
      k: (v.shape, v.dtype) for k, v in env.obs_space.items()}
  assert act_space['action'].shape == (2,)
  assert not hasattr(act_space['action'], 'discrete')
  onehot = {**episode, 'action': np.eye(3, dtype='f')[[0, 1, 2, 1]]}
  onehot['action'][0] = 0
  assert evaluate.spaces(onehot)[1]['action'].discrete


def change(logdir, folder, *, config='', drop=(), arrays=None):
  """Copies a logdir's config and newest checkpoint, changed."""
  folder.mkdir()
  text = (logdir / 'config.yaml').read_text()
  lines = [x for x in text.splitlines() if not x.startswith(drop or '\0')]
  (folder / 'config.yaml').write_text('\n'.join(lines) + config)
  snapshot = evaluate.read_checkpoint(logdir)
  checkpoint.Checkpoint(folder / 'checkpoints').save(
      snapshot.step, {**snapshot.arrays, **(arrays or {})}, snapshot.meta)


def test_older_config_is_completed_with_a_warning(logdir, tmp_path, capsys):
  change(logdir, tmp_path / 'old', drop=('pred_discount', 'keep'))
  config = evaluate.load_config(tmp_path / 'old')
  assert config.pred_discount is True and config.keep == 2
  err = capsys.readouterr().err
  assert 'is older than 1 keys, which are at their defaults: pred_disc' in err


@pytest.mark.parametrize('name, flags, words', [
    ('logdir', ['--episodes', '0'], '--episodes is 0'),
    ('logdir', ['--video', 'a.mp4'], 'its ending must be .gif'),
    ('logdir', ['--export', '.'], '--export . exists'),
    ('logdir', ['--out', '/dev/null'], '/dev/null is a device and will not'),
    ('logdir', ['--video', 'a.gif', '--out', '.'], '. is a folder and will n'),
    (None, ['--policy', '.', '--best'], 'give --logdir instead of --policy'),
    (None, ['--policy', '.'], '. is no exported policy: it has no saved_mod'),
    ('nowhere', [], 'nowhere is no logdir'),
    ('empty', [], 'has no checkpoint that can be read'),
    ('empty', ['--best'], 'has no best.npz'),
    ('unknown', [], '1 keys that this version does not know: new.key; use '
     'the version that wrote it: dreamingv2 0.1.0, commit'),
    ('size', [], 'the checkpoint is of another model'),
    ('task', [], "Unknown toy task 'raech'")])
def test_bad_input_ends_in_one_line_before_anything_is_played(
    name, flags, words, logdir, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  if name == 'logdir':
    (tmp_path / 'logdir').symlink_to(logdir)
  elif name == 'empty':
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'config.yaml').write_text(
        (logdir / 'config.yaml').read_text())
  elif name and name != 'nowhere':
    config = {
        'unknown': '\nnew: {key: 1}\n', 'task': '\ntask: toy_raech\n'}
    change(logdir, tmp_path / name, config=config.get(name, ''),
           drop=('task: ',) if name == 'nothing' else (),
           arrays={'wm/encoder/conv0/bias': np.zeros(9, 'f')}
           if name == 'size' else None)
    if name == 'task':
      path = tmp_path / name / 'config.yaml'
      lines = path.read_text().splitlines()
      path.write_text('\n'.join(
          x for x in lines if x != 'task: toy_reach'))
  with pytest.raises(SystemExit) as error:
    start(*['--logdir', name][:2 * bool(name)], *flags)
  assert error.value.code == 2
  lines = capsys.readouterr().err.splitlines()
  assert words in lines[-1] and lines[-1].startswith('Error: ')
  assert not list(tmp_path.glob('*.gif'))


def test_all_keys_of_todays_config_are_known(logdir):
  assert (evaluate.load_config(logdir).flat.keys()
          == settings.defaults().flat.keys())
