"""Trains an agent on some replicas: python tests/replicas.py KIND OUT ARGS

KIND is none, mirrored (two logical CPU devices) or multiworker (TF_CONFIG
says which of two processes this is, and so which half of the batch it gets).
ARGS are blocks of configs.yaml and KEY=VALUE. All noise is constant, so that
the results do not depend on how a batch is split. OUT.npz gets the metrics of
each update and the variables of every replica of this process.
"""

import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import gymnasium
import numpy as np
import tensorflow as tf

from dreamingv2 import agent as agents
from dreamingv2 import api
from dreamingv2.common import counter
from dreamingv2.common import distribute
from dreamingv2.common import tfutils

B, T, A, UPDATES = 4, 8, 2, 3


def constant(shape, seed=None, low=0.0, high=1.0, dtype=tf.float32, **kwargs):
  return tf.cast(tf.fill(shape, 0.63 * low + 0.37 * high), dtype)


def spaces():
  box = gymnasium.spaces.Box
  flag = box(0, 1, (), bool)
  return {
      'state': box(-np.inf, np.inf, (5,), np.float32),
      'reward': box(-np.inf, np.inf, (), np.float32),
      'is_first': flag, 'is_last': flag, 'is_terminal': flag
  }, {'action': box(-1, 1, (A,), np.float32)}


def batch(seed):
  rng = np.random.default_rng(seed)
  data = {
      'state': rng.normal(size=(B, T, 5)).astype(np.float32),
      'reward': rng.normal(size=(B, T)).astype(np.float32),
      'action': rng.uniform(-1, 1, (B, T, A)).astype(np.float32),
      **{k: np.zeros((B, T), bool)
         for k in ('is_first', 'is_last', 'is_terminal')}}
  data['is_first'][:, 0] = True
  data['is_first'][B - 1, T // 2] = True  # The halves mask different amounts.
  data['state'][B // 2:] *= 3
  return data


def make_strategy(kind, config):
  if kind != 'mirrored':
    return distribute.make(kind, config)
  cpu, = tf.config.list_physical_devices('CPU')
  tf.config.set_logical_device_configuration(
      cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
  distribute.STRATEGIES['mirrored'] = lambda: tf.distribute.MirroredStrategy(
      ['CPU:0', 'CPU:1'])
  return distribute.make(kind, config)


def main(kind, out, *args):
  mlp = {'mlp_keys': '.*', 'cnn_keys': '$^', 'mlp_layers': [16]}
  config = api.load('debug', *[x for x in args if '=' not in x]).update({
      'dataset': {'batch': B, 'length': T}, 'encoder': mlp, 'decoder': mlp})
  config = config.update(dict(x.split('=') for x in args if '=' in x))
  strategy = make_strategy(kind, config)
  tfutils.setup('32')
  with distribute.scope(strategy):
    made = agents.Agent(config, *spaces(), counter.Counter(0))
  if config.seed == 0:  # Other seeds keep their noise.
    tf.random.stateless_uniform = constant
    tf.random.stateless_normal = constant
  part = slice(None)
  if kind == 'multiworker':
    index = json.loads(os.environ['TF_CONFIG'])['task']['index']
    part = slice(index * B // 2, (index + 1) * B // 2)
  arrays = {}
  for update in range(UPDATES):
    _, metrics = made.train({k: v[part] for k, v in batch(update).items()})
    arrays.update({f'metrics/{update}/{k}': v for k, v in metrics.items()})
  for name, variable in made._variables().items():
    for i, value in enumerate(getattr(variable, 'values', [variable])):
      arrays[f'{i}/{name}'] = value
  made.load(made.save())  # Like a resumed run.
  obs = {k: v[:1, 0] for k, v in batch(0).items() if k != 'action'}
  arrays['action'] = made.policy(obs, mode='eval')[0]['action']
  np.savez(out, **{k: np.asarray(v) for k, v in arrays.items()})


if __name__ == '__main__':
  main(*sys.argv[1:])
