import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import objectives
from dreamingv2.common import tfutils
from dreamingv2.objectives import base
from tests.helpers import normal


def test_objective_does_nothing_by_default():
  objective = base.Objective(None, None, {})
  data = {'image': tf.zeros([1, 2, 4, 4, 3])}
  assert objective.augment(data) is data
  assert objective.terms(None, data, None, None, None) == ({}, {}, None)
  assert objective.update(None) is None
  assert objective.report(None, data) == {}
  assert objective.heads == {}
  assert not tfutils.named_variables(list(objective.modules))


@pytest.mark.parametrize('name', sorted(objectives.OBJECTIVES))
def test_objective_overrides_only_the_interface(name):
  members = {
      'heads', 'modules', 'views', 'latents', 'posterior',
      'augment', 'kl_loss', 'terms', 'update', 'report'}
  cls = objectives.OBJECTIVES[name]
  assert issubclass(cls, base.Objective)
  public = {k for k in vars(cls) if not k.startswith('_')}
  assert public <= members


@pytest.mark.parametrize('name', [
    'barlow_twins', 'blast_kl', 'byol', 'cfm_nce', 'cvrl_nce', 'dreamerpro',
    'dreamerv2', 'dreamingv2', 'hybrid', 'r2dreamer', 'tpc'])
def test_objective_does_not_keep_the_world_model(
    name, make_config, make_agent, make_batch):
  config = make_config(name)
  agent = make_agent(config)
  agent.report(make_batch(config))
  wm = agent.wm
  assert all(value is not wm for value in vars(wm.objective).values())
  names = tfutils.named_variables(wm.objective)
  # A slow copy of the objective is not a part of the world model.
  assert not [k for k in names if 'rssm' in k and 'slow' not in k]


def test_make_offers_the_nearest_name(make_config):
  config = make_config(updates={'objective': 'contrastiv'})
  with pytest.raises(ValueError, match='known: contrastive'):
    objectives.make(config, None, {})


@pytest.mark.parametrize('name', [
    'barlow_twins', 'blast_kl', 'byol', 'cfm_nce', 'cvrl_nce', 'dreamerpro',
    'dreamerv2', 'dreamingv2', 'hybrid', 'r2dreamer', 'tpc'])
def test_losses_are_float32_scalars(
    name, make_config, make_agent, make_batch):
  config = make_config(name)
  wm = make_agent(config).wm
  data = wm.objective.augment(wm.preprocess({
      k: tf.convert_to_tensor(v) for k, v in make_batch(config).items()}))
  embed = wm.encoder(data)
  post, prior = wm.rssm.observe(embed, data['action'], data['is_first'])
  terms, metrics = wm.objective.loss(wm, data, embed, post, prior)
  parts = ['code'] if 'decoder' in wm.heads else ['code', 'target']
  for part in parts:
    assert 0 < float(metrics[f'{part}_spread']) <= 1 + 1e-5
    assert float(metrics[f'{part}_rank']) >= 1
  for value in [*terms.values(), *metrics.values()]:
    assert value.dtype == tf.float32 and value.shape == ()
    assert np.isfinite(float(value))


def test_variety_equals_the_eigenvalues_of_the_covariance():
  x = normal(7, 5, 4) + 2
  spread, rank = base.measure_variety(tf.constant(x))
  rows = x.reshape(-1, 4)
  values = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
  np.testing.assert_allclose(rank, values.sum() ** 2 / (values ** 2).sum(),
                             rtol=1e-4)
  np.testing.assert_allclose(
      spread, values.sum() / (rows ** 2).sum(-1).mean(), rtol=1e-4)


@pytest.mark.parametrize('value', [0.0, 1e-8, 3.0])
def test_variety_of_one_vector_is_zero(value):
  variety = base.measure_variety(tf.fill([6, 4], value))
  np.testing.assert_allclose(variety, 0, atol=1e-6)


@pytest.mark.parametrize('directions', [1, 3])
def test_rank_counts_directions_whatever_their_scale(directions):
  x = np.zeros((1000, 8), np.float32)
  x[:, :directions] = normal(1000, directions)
  for scale in (1e-4, 1.0, 1e4):
    _, rank = base.measure_variety(tf.constant(scale * x), most=1000)
    np.testing.assert_allclose(rank, directions, rtol=0.02)


def test_variety_sends_no_gradient():
  x = tf.constant(normal(6, 4))
  with tf.GradientTape() as tape:
    tape.watch(x)
    value = tf.add_n(base.measure_variety(x))
  assert tape.gradient(value, x) is None
