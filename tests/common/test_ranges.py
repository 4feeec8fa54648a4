"""Values of a config that are checked before anything starts."""

import pytest

from dreamingv2 import train
from dreamingv2.common import distribute
from dreamingv2.common import latents
from dreamingv2.common import ranges
from dreamingv2.common import tfutils


def test_choices_are_those_of_the_tables():
  tables = {
      'distribute': distribute.STRATEGIES, 'rssm.latent': latents.LATENTS,
      'precision': [*tfutils.PRECISIONS, 'auto']}
  assert {k: sorted(v) for k, v in ranges.CHOICES.items()} == {
      k: sorted(v) for k, v in tables.items()}


@pytest.mark.parametrize('key, value, near', [
    ('distribute', 'mirorred', 'mirrored'),
    ('objective', 'contrastve', 'contrastive'),
    ('precision', '61', '16'), ('rssm.latent', 'gausian', 'gaussian')])
def test_unknown_name_is_refused_with_the_flags(key, value, near):
  with pytest.raises(ValueError, match=f"{key} '{value}'; known: {near}"):
    train.load_config([f'--{key}', value])


@pytest.mark.parametrize('key, value, words', [
    ('keep', '0', r'keep is 0, but must lie in 1\.\.1e\+09; set --keep'),
    ('discount', '1.5', 'discount is 1.5')])
def test_number_out_of_its_range_is_refused(key, value, words):
  with pytest.raises(ValueError, match=words):
    train.load_config([f'--{key}', value])
