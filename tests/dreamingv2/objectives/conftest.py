"""The real world model, and which of its parts a loss moves."""

import pytest
import tensorflow as tf

from dreamingv2.common import tfutils
from tests.helpers import to_tensors

# Part of the world model: prefix of its variables.
PARTS = {
    'encoder': 'encoder/', 'gru': 'rssm/cell/', 'head': 'heads/',
    'posterior': 'rssm/obs_', 'prior': 'rssm/img_out',
    'objective': 'objective/', 'slow': 'objective/slow_'}


@pytest.fixture
def make_model(make_config, make_agent, make_batch):
  """Returns a function: method and updates to world model and batch."""

  def make(method, vector=True, **updates):
    config = make_config(method, vector=vector, updates={
        k.replace('__', '.'): v for k, v in updates.items()})
    return make_agent(config).wm, to_tensors(make_batch(config))

  return make


@pytest.fixture
def moved_by(grads_of):
  """Returns a function: the parts that get gradient from a metric."""

  def moved(wm, data, name):
    with tf.GradientTape() as tape:
      tape.watch(list(tfutils.named_variables(wm).values()))
      value = wm.loss(data)[3][name]
    found = grads_of(tape, value, wm)
    parts = {part for part, start in PARTS.items() for key, norm in
             found.items() if key.startswith(start) and norm > 1e-8}
    # What is slow belongs to the objective too.
    only_slow = all('slow_' in k for k, v in found.items()
                    if k.startswith('objective/') and v > 1e-8)
    return parts - ({'objective'} if only_slow else set())

  return moved


@pytest.fixture
def pieces():
  """Returns a function: what the objective's `loss` is given."""

  def make(wm, data):
    data = wm.objective.augment(wm.preprocess(data))
    embed = wm.encoder(data)
    post, prior = wm.rssm.observe(embed, data['action'], data['is_first'])
    return data, embed, post, prior

  return make
