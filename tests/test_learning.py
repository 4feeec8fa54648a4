"""The score gate: python -m pytest -m slow tests/test_learning.py

Trains on pixels for some minutes and asks for a return: a loss that falls is
no policy that learns.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# toy_reach: going straight there earns 48, random actions 10 on average.
THRESHOLD = 20


@pytest.mark.slow
@pytest.mark.parametrize('method', ['dreamingv2', 'dreamerv2'])
def test_policy_earns_more_than_random_actions(method, tmp_path):
  subprocess.run([
      sys.executable, str(ROOT / 'train.py'), '--logdir', str(tmp_path),
      '--configs', 'small', method, '--task', 'toy_reach',
      '--train_every', '1', '--steps', '4500', '--log_every', '500',
      '--eval_every', '4500', '--eval_eps', '32'], check=True)
  lines = [
      json.loads(line) for line in
      (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  find = lambda name: [x[name] for x in lines if name in x]
  random = np.mean(find('random_return'))
  assert 5 < random < 15
  assert find('eval_return_mean')[-1] > THRESHOLD
