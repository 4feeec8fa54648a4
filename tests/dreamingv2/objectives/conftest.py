"""Builds the real world model and finds the parts that a loss trains."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import agent as agents
from dreamingv2.common import config as configs
from dreamingv2.common import suites
from dreamingv2.common import tfutils
from tests.dreamingv2.conftest import CONFIGS
from tests.helpers import scalars
from tests.helpers import to_tensors

# Maps parts of the world model to the prefix of their variables.
PARTS = {
    'encoder': 'encoder/', 'gru': 'rssm/cell/', 'head': 'heads/',
    'posterior': 'rssm/obs_', 'prior': 'rssm/img_out',
    'objective': 'objective/', 'slow': 'objective/slow_'}


@pytest.fixture
def make_model(make_config, make_agent, make_batch):
  """Returns a function from method and updates to world model and batch."""

  def make(method, vector=True, **updates):
    config = make_config(method, vector=vector, updates={
        k.replace('__', '.'): v for k, v in updates.items()})
    return make_agent(config).wm, to_tensors(make_batch(config))

  return make


@pytest.fixture
def moved_by(grads_of):
  """Returns a function that finds the parts with a gradient of a metric."""

  def moved(wm, data, name):
    with tf.GradientTape() as tape:
      tape.watch(list(tfutils.named_variables(wm).values()))
      value = wm.loss(data)[3][name]
    norms = grads_of(tape, value, wm)
    parts = {part for part, start in PARTS.items() for key, norm in
             norms.items() if key.startswith(start) and norm > 1e-8}
    # Slow copies belong to the objective as well.
    only_slow = all('slow_' in k for k, v in norms.items()
                    if k.startswith('objective/') and v > 1e-8)
    return parts - ({'objective'} if only_slow else set())

  return moved


@pytest.fixture
def pieces():
  """Returns a function that makes the arguments of the objective's loss."""

  def make(wm, data):
    data = wm.objective.augment(wm.preprocess(data))
    embed = wm.encoder(data)
    post, prior = wm.rssm.observe(embed, data['action'], data['is_first'])
    return data, embed, post, prior

  return make


@pytest.fixture(scope='session')
def toy_episodes():
  """Plays random actions on toy_reach; returns arrays [N, T, ...]."""
  env = suites.make('toy', 'reach', seed=0)
  rng, episodes = np.random.default_rng(0), []
  for _ in range(30):
    action = np.zeros(2, np.float32)
    steps = [{**env.reset(), 'action': action}]
    while not steps[-1]['is_last']:
      if len(steps) % 5 == 1:  # The dot must move far.
        action = rng.uniform(-1, 1, 2).astype(np.float32)
      steps.append({**env.step({'action': action}), 'action': action})
    episodes.append({
        k: np.stack([x[k] for x in steps]) for k in steps[0]})
  return {k: np.stack([x[k] for x in episodes]) for k in episodes[0]}


@pytest.fixture
def learn(toy_episodes):
  """Returns a function that trains a world model on toy_reach.

  It takes blocks of configs.yaml, a number of updates and other settings, and
  returns the metrics of the last update.
  """
  box, flag = gymnasium.spaces.Box, gymnasium.spaces.Box(0, 1, (), bool)
  image = box(0, 255, (64, 64, 3), np.uint8)

  def run(*names, updates, cameras=1, **settings):
    blocks = configs.read_yaml(CONFIGS)
    config = configs.Config(blocks['defaults'])
    for name in names:
      config = config.update(blocks[name])
    config = config.update({
        k.replace('__', '.'): v for k, v in settings.items()})
    keys = ['image', 'image_side'][:cameras]
    spaces = {
        **dict.fromkeys(keys, image), 'reward': box(-np.inf, np.inf, ()),
        **dict.fromkeys(('is_first', 'is_last', 'is_terminal'), flag)}
    wm = agents.WorldModel(config, spaces)
    B, T = config.dataset.batch, config.dataset.length
    rng = np.random.default_rng(0)

    def draw():
      N, rows = toy_episodes['reward'].shape
      episode = rng.integers(N, size=(B, 1))
      index = rng.integers(rows - T + 1, size=(B, 1)) + np.arange(T)
      data = {k: v[episode, index] for k, v in toy_episodes.items()}
      data['reward'] = data['reward'].astype(np.float32)
      data['is_first'][:, 0] = True
      if cameras == 2:
        data['image_side'] = data['image'][:, :, :, ::-1]
      return to_tensors(data)

    wm.build(draw())
    step = tfutils.compile(lambda data: wm.train(data)[2])
    for _ in range(updates):
      metrics = step(draw())
    return scalars(metrics)

  return run
