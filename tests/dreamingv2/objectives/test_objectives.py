"""Compares tables in modules that need TensorFlow with the settings."""

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import expl
from dreamingv2 import objectives
from dreamingv2 import settings
from dreamingv2.common import config as configs
from dreamingv2.common import distribute
from dreamingv2.common import latents
from dreamingv2.common import tfutils


def test_choices_are_those_of_the_tables():
  tables = {
      'distribute': distribute.STRATEGIES,
      'precision': [*tfutils.PRECISIONS, 'auto']}
  assert {k: sorted(v) for k, v in settings.CHOICES.items()} == {
      k: sorted(v) for k, v in tables.items()}


@pytest.mark.parametrize('key, table', [
    ('objective', objectives.OBJECTIVES), ('rssm.latent', latents.LATENTS)])
def test_every_entry_of_a_table_is_selected_by_some_block(key, table):
  assert settings.values(key) == {*table}


def test_readers_are_the_objectives_that_read(
    make_config, make_agent, monkeypatch):
  """Builds every objective and records the settings that it reads."""
  rows = settings.READERS['objective']
  governed = [
      k for k in settings.defaults().flat if not k.startswith('loss_scales')
      and {k, k.partition('.')[0]} & rows.keys()]
  found = {key: set() for key in governed}
  for method in (
      'barlow_twins', 'blast_kl', 'byol', 'cfm_nce', 'cvrl_nce', 'dreamer',
      'dreamerpro', 'dreaming', 'mssm_nce', 'r2dreamer', 'tpc'):
    config = make_config(method, vector=False, updates={
        'contrastive.vmf': method == 'dreaming'})
    groups = {id(config[k]): k for k in config if isinstance(
        config[k], configs.Config)}
    get = configs.Config.__getitem__

    def note(self, key, get=get, groups=groups, config=config):
      name = f'{groups.get(id(self))}.{key}'
      if name in found:
        found[name].add(config.objective)
      return get(self, key)

    with monkeypatch.context() as patch:
      patch.setattr(configs.Config, '__getitem__', note)
      make_agent(config)
  for key, readers in found.items():
    named = rows.get(key, rows[key.split('.')[0]])
    assert readers == set(named), key


@pytest.mark.parametrize('key, value', [
    ('continuous', 4), ('discrete', 5), ('min_std', 0.2),
    ('std_act', 'softplus'), ('unimix', 0.1)])
def test_readers_of_the_latent_state_are_the_kinds_that_it_changes(key, value):
  usual = {
      'stoch': 3, 'discrete': 4, 'continuous': 2, 'std_act': 'sigmoid2',
      'min_std': 0.1, 'unimix': 0.0}

  def look(kind, **changed):
    latent = latents.make(kind, **{**usual, **changed})
    stats = latent.stats(tf.linspace(0.0, 1.0, latent.outputs))
    return np.concatenate([x.numpy().ravel() for x in stats.values()])

  changed = {
      kind for kind in latents.LATENTS
      if not np.array_equal(look(kind), look(kind, **{key: value}))}
  assert changed == set(settings.READERS['rssm.latent'][f'rssm.{key}'])


def test_readers_of_exploration_are_the_behaviours_that_read(
    make_config, make_agent, make_batch, monkeypatch):
  """Trains every behaviour and records the settings that it reads."""
  rows = dict(settings.READERS['expl_behavior'])
  # train.py reads it; greedy acts alike before and after.
  assert set(rows.pop('expl_until')) == {*expl.BEHAVIORS}
  found = {key: set() for key in rows}
  get = configs.Config.__getitem__
  for name in ('greedy', *expl.BEHAVIORS):

    def note(self, key, name=name):
      if key in found:
        found[key].add(name)
      return get(self, key)

    config = make_config('dreamer', updates={'expl_behavior': name})
    with monkeypatch.context() as patch:
      patch.setattr(configs.Config, '__getitem__', note)
      make_agent(config).train(make_batch(config))
  assert found == {key: set(names) for key, names in rows.items()}
