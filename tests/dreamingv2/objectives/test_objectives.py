"""Compares tables in modules that need TensorFlow with the settings."""

import pytest

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
  governed = [
      k for k in settings.defaults().flat if not k.startswith('loss_scales')
      and {k, k.partition('.')[0]} & settings.READERS.keys()]
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
    named = settings.READERS.get(key, settings.READERS[key.split('.')[0]])
    assert readers == set(named), key
