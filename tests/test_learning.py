"""The score gate: python -m pytest -m slow tests/test_learning.py

Trains on pixels for some minutes and asks for a return that a policy can only
get if it sees both the object that it moves and the target. A falling loss
does not show that a policy learns.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dreamingv2.common.suites import toy

ROOT = pathlib.Path(__file__).resolve().parents[1]
TASK = 'torus'
EPISODES = 64
STEPS = {'dreamingv2': 3250, 'dreamerv2': 3500}


@pytest.mark.slow
@pytest.mark.parametrize('method', STEPS)
def test_policy_earns_what_only_sight_can(method, tmp_path):
  baselines, steps = toy.baselines(TASK), str(STEPS[method])
  subprocess.run([
      sys.executable, str(ROOT / 'train.py'), '--logdir', str(tmp_path),
      '--configs', 'small', method, '--task', f'toy_{TASK}', '--train_every',
      '1', '--steps', steps, '--log_every', '500', '--eval_every', steps,
      '--eval_eps', str(EPISODES), '--deterministic', 'True'], check=True)
  returns = read(tmp_path)
  text = f'{np.mean(returns):.1f} +- {error(returns):.1f}'
  print(f'{method}: {text}; baselines: {baselines}')
  assert len(returns) == EPISODES
  assert np.mean(returns) > threshold(baselines, error(returns)), (
      f'{method} must earn more than blind policies: {text}; {baselines}')


def threshold(baselines, spread):
  """Returns a return that no policy reaches without sight.

  It is a fifth of the way to the oracle, and at least four standard errors
  above the best policy that sees nothing or does not see the target.
  """
  blind = max(v for k, v in baselines.items() if k != 'oracle')
  return max(blind + 4 * spread, blind + 0.2 * (baselines['oracle'] - blind))


RNG = np.random.default_rng(0)
WORLD = toy.WORLDS[TASK]
POLICIES = {
    'random': lambda t, dot, target: RNG.uniform(-1, 1, dot.shape),
    'still': lambda t, dot, target: 0 * dot,
    'corner': lambda t, dot, target: 0 * dot + 1,
    'open loop': lambda t, dot, target: 0 * dot + (t < 9) - (8 < t < 14),
    'no target': lambda t, dot, target: WORLD.offset(0.5, dot) * 10,
    'no dot': lambda t, dot, target: WORLD.offset(target, 0.5) * 10,
    'slow oracle': lambda t, dot, target: WORLD.offset(target, dot),
}


@pytest.mark.parametrize('name', POLICIES)
def test_threshold_is_passed_by_sight_alone(name):
  """Luck does not suffice: each policy is evaluated 50 times."""
  baselines, passed = toy.baselines(TASK, 1000), 0
  for _ in range(50):
    starts = RNG.uniform(*WORLD.START, (2, EPISODES, 2))
    returns = toy.simulate(WORLD, *starts, POLICIES[name])
    passed += np.mean(returns) > threshold(baselines, error(returns))
  assert passed == (50 if name == 'slow oracle' else 0)


def error(returns):
  """Returns the standard error of the mean."""
  return np.std(returns) / len(returns) ** 0.5


def read(logdir):
  """Returns the returns of the last evaluation."""
  lines = [
      json.loads(line) for line in
      (logdir / 'metrics.jsonl').read_text().splitlines()]
  return [x['eval_return'] for x in lines if 'eval_return' in x]
