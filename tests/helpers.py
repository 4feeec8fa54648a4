"""Helper functions that several tests need.

TensorFlow is imported late, because the fast tier imports this file as well.
"""

import pathlib
import types

import numpy as np

from dreamingv2.common import envs
from dreamingv2.common import suites


def assert_equal(lhs, rhs):
  """Asserts that two dicts of arrays are bitwise equal."""
  assert lhs.keys() == rhs.keys()
  for key in lhs:
    np.testing.assert_array_equal(lhs[key], rhs[key], err_msg=key)


def copy(module):
  """Returns the values of a module's variables by path."""
  from dreamingv2.common import tfutils
  variables = tfutils.named_variables(module)
  return {k: v.numpy().copy() for k, v in variables.items()}


def in_worker(function, suite='dmc', **options):
  """Calls a function in a process without TensorFlow; returns its result."""
  env = envs.Async(
      lambda: types.SimpleNamespace(obs_space=function(), close=lambda: None),
      environ=suites.prepare(suite, **options))
  try:
    return env.obs_space
  finally:
    env.close()


def memory():
  """Returns the resident memory of this process in MiB."""
  text = pathlib.Path('/proc/self/status').read_text()
  return int(text.partition('VmRSS:')[2].split()[0]) / 1024


def normal(*shape, seed=0):
  """Draws standard normal float32 numbers."""
  return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def scalars(metrics):
  """Fetches scalar tensors by name."""
  return {k: float(v) for k, v in metrics.items()}


def to_tensors(data):
  """Turns a dict of arrays into one of tensors."""
  import tensorflow as tf
  return {k: tf.convert_to_tensor(v) for k, v in data.items()}


def make_curve(**values):
  """Makes a curve as in scores.py, with evaluations at 500 and 1000."""
  return {
      'task': 'Lift', 'method': 'dreamingv2', 'seed': 0, 'xs': [500, 1000],
      'ys': [0.0, 1.0], **values}


def run_toy(logdir, *argv):
  """Trains on toy_reach for 100 steps with environments in this process.

  Returns:
    The Run; it keeps the checkpoints of step 50, before any update, and 100.
  """
  from dreamingv2 import settings
  from dreamingv2 import train
  config = settings.load_config([
      *(argv or ['--configs', 'debug']), '--task', 'toy_reach', '--steps',
      '100', '--prefill', '50', '--log_every', '50', '--save_every', '50',
      '--eval_eps', '1', '--logdir', str(logdir)])
  logdir.mkdir(parents=True, exist_ok=True)
  made = [suites.make('toy', 'reach', seed=seed) for seed in (0, 999)]
  run = train.Run(config, logdir, made[:1], made[1:])
  run.train()
  return run
