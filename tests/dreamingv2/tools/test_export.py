"""Exports the policies of agents and plays them without this package."""

import json
import os
import shutil
import subprocess
import sys

import gymnasium
import numpy as np
import PIL.Image
import pytest

from dreamingv2 import api
from dreamingv2 import settings
from dreamingv2.common import counter
from dreamingv2.common import identity
from dreamingv2.common import suites
from dreamingv2.tools import evaluate
from scripts import blind_lift
from tests.dreamingv2.tools.test_evaluate import change
from tests.dreamingv2.tools.test_evaluate import start

LIFT = settings.ROOT / 'policies' / 'lift'
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


@pytest.mark.parametrize('method', [
    'dreamingv2', pytest.param('dreamer', marks=pytest.mark.slow)])
def test_exported_policy_acts_as_the_agent_without_this_package(
    method, tmp_path):
  from dreamingv2 import agent as agents
  from dreamingv2.tools import export
  config = settings.load_config(['--configs', 'debug', method])
  env = suites.make('toy', 'reach')
  agent = agents.Agent(
      config, env.obs_space, env.act_space, counter.Counter())
  played, = evaluate.play(agent, env, 1)
  noise = agent.generator.state.numpy()
  assert export.save(agent, tmp_path / 'policy', played['episode']) < 1e-6
  np.testing.assert_array_equal(agent.generator.state.numpy(), noise)
  ours, state = [], None
  for index in range(51):
    obs = {k: played['episode'][k][index: index + 1] for k in env.obs_space}
    outputs, state = agent.policy(obs, state, 'eval')
    ours.append(outputs['action'][0])
  np.savez(tmp_path / 'episode.npz', **played['episode'])
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
         config='\neval_state_mean: True\n')  # No noise.
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


def test_policy_of_the_repository_acts_on_frames():
  policy = evaluate.load_policy(LIFT, *identity.agent_spaces(
      identity.read(LIFT)))
  state, seen = None, []
  for first in (True, False, False):
    outputs, state = policy.policy({
        'image': np.full([1, 64, 64, 3], 128, np.uint8),
        'is_first': np.array([first])}, state)
    seen.append(outputs['action'])
  seen = np.concatenate(seen)
  assert seen.shape == (3, 4) and np.abs(seen).max() <= 1
  assert len(np.unique(seen, axis=0)) == 3


@pytest.mark.slow
def test_policy_of_the_repository_lifts_cubes_on_both_sides():
  """A script that does not see the cube lifts those of one side at most."""
  sides = {1: (1003, 1011, 1012), -1: (1009, 1010)}  # Seeds of episodes.
  env, policy = blind_lift.start(LIFT), api.restore(LIFT)

  def share(side, make, plays=1):
    """Returns the share of episodes in which the cube is lifted."""
    lifted = []
    for seed in sides[side] * plays:
      (_, y), success, _ = blind_lift.play(env, seed, make())
      assert side * y > 0.024  # m
      lifted.append(success)
    return np.mean(lifted)
  for y in (-0.027, 0.0, 0.027):
    blind = {x: share(x, lambda y=y: blind_lift.Blind(y)) for x in sides}
    assert min(blind.values()) == 0
    assert (max(blind.values()) > 0) == (y != 0)
  ours = {x: share(x, lambda: policy, 2) for x in sides}
  env.close()
  assert min(ours.values()) >= 0.5, ours


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Returns the folder of a model that has the interface of a policy."""
  import tensorflow as tf

  class Model(tf.Module):
    @tf.function(input_signature=[])
    def initial_state(self):
      return {'action': self.value + tf.zeros([1, 2])}

    @tf.function(input_signature=[
        tf.TensorSpec([1, 64, 64, 3], tf.uint8, 'image'),
        tf.TensorSpec([1, 2], tf.float32, 'action')])
    def act(self, image, action):
      return {'action': action}
  model, folder = Model(), tmp_path_factory.mktemp('policy') / 'policy'
  model.value = tf.Variable(0.0)
  tf.saved_model.save(model, str(folder), {
      'serving_default': model.act.get_concrete_function()})
  (folder / 'config.yaml').write_text(
      settings.load_config(['--task', 'toy_reach']).dumps())
  return folder


def cut(path):
  path.write_bytes(path.read_bytes()[:99])


@pytest.mark.parametrize('name, make', [
    ('saved_model.pb', cut), ('variables/variables.index', cut),
    ('variables/variables.index', lambda path: path.unlink()),
    ('variables/variables.data-00000-of-00001', lambda path: path.unlink()),
    ('saved_model.pb', lambda path: path.write_bytes(b''))])
def test_damaged_policy_is_refused_in_one_line(name, make, saved, tmp_path):
  shutil.copytree(saved, tmp_path / 'policy')
  make(tmp_path / 'policy' / name)
  env = suites.make('toy', 'reach')
  with pytest.raises(ValueError, match='policy is no policy that --export'):
    evaluate.load_policy(
        tmp_path / 'policy', env.obs_space, env.act_space)


def test_policy_is_called_a_program_where_it_is_loaded(saved, capfd):
  env = suites.make('toy', 'reach')
  evaluate.load_policy(saved, env.obs_space, env.act_space)
  assert 'is a program' in capfd.readouterr().err
  with pytest.raises(ValueError, match="needs 'image' of the shape"):
    evaluate.load_policy(saved, {}, env.act_space)
  wide = {'action': gymnasium.spaces.Box(-1, 1, (7,))}
  with pytest.raises(ValueError, match='has actions of the shape'):
    evaluate.load_policy(saved, env.obs_space, wide)


@pytest.mark.parametrize('make, words', [
    (os.mkfifo, 'is a pipe'),
    (lambda path: path.symlink_to('/etc/passwd'), 'leads out of'),
    (lambda path: os.truncate(
        os.open(path, os.O_CREAT | os.O_RDWR), 2 ** 40), 'bytes')])
def test_policy_of_odd_files_is_not_loaded(
    make, words, saved, tmp_path, capfd):
  shutil.copytree(saved, tmp_path / 'policy')
  make(tmp_path / 'policy' / 'variables' / 'x')
  with pytest.raises(SystemExit) as ending:
    start('--policy', tmp_path / 'policy')
  assert ending.value.code == 2
  err = capfd.readouterr().err
  assert words in err and len(err.splitlines()) == 1


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
