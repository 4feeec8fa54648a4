import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import objectives
from dreamingv2.common import tfutils
from dreamingv2.objectives import base


def test_objective_does_nothing_by_default():
  objective = base.Objective(None, None, {})
  data = {'image': tf.zeros([1, 2, 4, 4, 3])}
  assert objective.augment(data) is data
  assert objective.loss(None, data, None, None, None) == ({}, {})
  assert objective.update(None) is None
  assert objective.report(None, data) == {}
  assert objective.heads == {}
  assert not tfutils.named_variables(list(objective.modules))


@pytest.mark.parametrize('name', sorted(objectives.OBJECTIVES))
def test_objective_overrides_only_the_interface(name):
  members = {
      'heads', 'modules', 'views', 'latents', 'posterior',
      'augment', 'kl_loss', 'loss', 'update', 'report'}
  cls = objectives.OBJECTIVES[name]
  assert issubclass(cls, base.Objective)
  public = {k for k in vars(cls) if not k.startswith('_')}
  assert public <= members


@pytest.mark.parametrize('name', [
    'barlow_twins', 'blast', 'byol', 'cfm', 'cvrl', 'dreamerpro',
    'dreamerv2', 'dreamingv2', 'hybrid', 'tpc'])
def test_objective_does_not_keep_the_world_model(
    name, make_config, make_agent, make_batch):
  config = make_config(name)
  agent = make_agent(config)
  agent.report(make_batch(config))
  wm = agent.wm
  assert all(value is not wm for value in vars(wm.objective).values())
  names = tfutils.named_variables(wm.objective)
  # A slow copy of its own is no part of the world model.
  assert not [k for k in names if 'rssm' in k and 'slow' not in k]


def test_make_offers_the_nearest_name(make_config):
  config = make_config(updates={'objective': 'contrastiv'})
  with pytest.raises(ValueError, match='known: contrastive'):
    objectives.make(config, None, {})


@pytest.mark.parametrize('name', [
    'barlow_twins', 'blast', 'byol', 'cfm', 'cvrl', 'dreamerpro',
    'dreamerv2', 'dreamingv2', 'hybrid', 'tpc'])
def test_losses_are_float32_scalars(
    name, make_config, make_agent, make_batch):
  config = make_config(name)
  wm = make_agent(config).wm
  data = wm.objective.augment(wm.preprocess({
      k: tf.convert_to_tensor(v) for k, v in make_batch(config).items()}))
  embed = wm.encoder(data)
  post, prior = wm.rssm.observe(embed, data['action'], data['is_first'])
  terms, metrics = wm.objective.loss(wm, data, embed, post, prior)
  for value in [*terms.values(), *metrics.values()]:
    assert value.dtype == tf.float32 and value.shape == ()
    assert np.isfinite(float(value))
