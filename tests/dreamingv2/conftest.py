"""Small configs, agents and batches for the tests of the learning code.

The fixtures return functions, which a test calls with its own arguments.
TensorFlow is imported late, because the fast tier loads this file as well.
"""

import pathlib
import sys

import gymnasium
import numpy as np
import pytest

from dreamingv2.common import config as configs
from dreamingv2.common import counter
from dreamingv2.common import envs

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs.yaml'
A = 2
LATENTS = {
    'own': {},  # That of the method.
    'categorical': {'rssm.latent': 'categorical'},
    'gaussian': {
        'rssm.latent': 'gaussian', 'contrastive.dynamics': 'linear'},
    'hybrid': {'rssm.latent': 'hybrid', 'rssm.continuous': 3},
}


def cameras(config):
  return 2 if config.objective == 'cross_modal' else 1


@pytest.fixture(autouse=True)
def setup():
  """Sets float32 and the seed for every test if TensorFlow is loaded."""
  setup_tensorflow()
  yield
  setup_tensorflow()


def setup_tensorflow():
  if sys.modules.get('tensorflow'):
    from dreamingv2.common import tfutils
    tfutils.setup('32', seed=0)


@pytest.fixture(scope='session')
def make_config():
  """Returns a function from block names and updates to the smallest Config."""
  blocks = configs.read_yaml(CONFIGS)

  def make(*names, updates=(), latent='own', vector=True):
    config = configs.Config(blocks['defaults'])
    for name in names:
      config = config.update(blocks[name])
    config = config.update(blocks['debug'])
    config = config.update({
        'dataset': {'batch': 3, 'length': 7},
        'replay': {'minlen': 7, 'maxlen': 7}, 'imag_horizon': 3})
    config = config.update(LATENTS[latent])
    if vector:  # Images are slow, and few tests need them.
      config = config.update({
          name: {'mlp_keys': '.*', 'cnn_keys': '$^', 'mlp_layers': [16]}
          for name in ('encoder', 'decoder')})
    return config.update(dict(updates))

  return make


@pytest.fixture(scope='session')
def make_spaces():
  """Returns a function that makes the observation and action spaces."""

  def make(discrete=False, cameras=1, ends=False):
    box = gymnasium.spaces.Box
    obs = {
        'image': box(0, 255, (64, 64, 3), np.uint8),
        'state': box(-np.inf, np.inf, (5,), np.float32),
        **(envs.FLAGS if ends else envs.ENDLESS)}
    act = box(0 if discrete else -1, 1, (A,), np.float32)
    if cameras == 2:
      obs['image_side'] = obs['image']
    if discrete:
      act.discrete = True
    return obs, {'action': act}

  return make


@pytest.fixture(scope='session')
def make_batch():
  """Returns a function that draws a batch for a config."""

  def make(config, seed=0, discrete=False):
    rng = np.random.default_rng(seed)
    B, T = config.dataset.batch, config.dataset.length
    data = {
        **{key: rng.integers(0, 256, (B, T, 64, 64, 3), np.uint8)
           for key in ('image', 'image_side')[:cameras(config)]},
        'state': rng.normal(size=(B, T, 5)).astype(np.float32),
        'reward': rng.normal(size=(B, T)).astype(np.float32),
        'is_first': np.zeros((B, T), bool),
        'is_last': np.zeros((B, T), bool),
        'is_terminal': np.zeros((B, T), bool),
        'action': rng.uniform(-1, 1, (B, T, A)).astype(np.float32)}
    data['is_first'][:, 0] = True
    if discrete:
      data['action'] = np.eye(A, dtype=np.float32)[rng.integers(0, A, (B, T))]
    return data

  return make


@pytest.fixture(scope='session')
def make_agent(make_spaces):
  """Returns a function that builds an agent, always from the same seed."""

  def make(config, discrete=False, seed=0, ends=False):
    from dreamingv2 import agent as agents
    from dreamingv2.common import tfutils
    tfutils.setup(config.precision.replace('auto', '32'), seed=seed)
    spaces = make_spaces(discrete, cameras(config), ends)
    return agents.Agent(config, *spaces, counter.Counter(0))

  return make


@pytest.fixture(scope='session')
def grads_of():
  """Returns a function that makes {path: gradient norm, 0 if none}."""

  def grads(tape, value, module):
    import tensorflow as tf

    from dreamingv2.common import tfutils
    variables = tfutils.named_variables(module)
    gradients = tape.gradient(value, list(variables.values()))
    return {
        key: 0.0 if grad is None else float(tf.norm(grad))
        for key, grad in zip(variables, gradients, strict=True)}

  return grads
