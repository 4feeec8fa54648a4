"""Exports the policies of agents and plays them without this package."""

import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from dreamingv2 import settings
from dreamingv2.common import counter
from dreamingv2.common import suites
from dreamingv2.tools import evaluate
from tests.dreamingv2.tools.test_evaluate import change
from tests.dreamingv2.tools.test_evaluate import start

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


@pytest.mark.parametrize('method', ['dreamingv2', 'dreamer'])
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
