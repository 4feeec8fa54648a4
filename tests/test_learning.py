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
THRESHOLD = 16
METHODS = {
    'dreamingv2': (),
    # With the weight of 0.2 its posterior is one code on this task.
    'dreamerv2': ('--loss_scales.kl', '1'),
}


@pytest.mark.slow
def test_policies_earn_more_than_random_actions(tmp_path):
  runs = {
      method: subprocess.Popen([
          sys.executable, str(ROOT / 'train.py'), '--logdir',
          str(tmp_path / method), '--configs', 'small', method,
          '--task', 'toy_reach', '--train_every', '1', '--steps', '3500',
          '--log_every', '500', '--eval_every', '3500', '--eval_eps', '32',
          '--deterministic', 'True', *flags])
      for method, flags in METHODS.items()}
  codes = {method: run.wait() for method, run in runs.items()}
  assert not any(codes.values()), codes
  found = {method: read(tmp_path / method) for method in METHODS}
  for method, (random, trained) in found.items():
    assert 5 < random < 15, method
    assert trained > THRESHOLD, found


def read(logdir):
  """Returns the mean return of random actions and of the last evaluation."""
  lines = [
      json.loads(line) for line in
      (logdir / 'metrics.jsonl').read_text().splitlines()]
  find = lambda name: [x[name] for x in lines if name in x]
  return np.mean(find('random_return')), find('eval_return_mean')[-1]
