"""Compares configs.yaml with the code that reads it and with the paper."""

import ast
import itertools
import pathlib
import re

import pytest

from dreamingv2.common import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCKS = configs.read_yaml(ROOT / 'configs.yaml')
DEFAULTS = configs.Config(BLOCKS['defaults'])
METHODS, SUITES = (
    sorted(k for k, v in BLOCKS.items() if k != 'defaults' and key in v)
    for key in ('method', 'suite'))
SIZES = ['debug', 'small']


def apply(*names):
  config = DEFAULTS
  for name in names:
    config = config.update(BLOCKS[name])
  return config


def read_words():
  """Returns the names and strings in all code that may read a setting."""
  words = set()
  paths = [*ROOT.glob('*.py'), *ROOT.glob('common/**/*.py'),
           *ROOT.glob('dreamingv2/**/*.py')]
  for path in paths:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Attribute):
        words.add(node.attr)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        words.add(node.value)
      elif isinstance(node, ast.arg):
        words.add(node.arg)
      elif isinstance(node, ast.JoinedStr):  # f'{name}_every' reads them all.
        parts = [
            re.escape(x.value) if isinstance(x, ast.Constant) else r'\w+'
            for x in node.values]
        if any(len(x) > 3 and x != r'\w+' for x in parts):
          words.add(re.compile(''.join(parts)))
  return words


def is_read(name, words):
  return name in words or any(
      isinstance(x, re.Pattern) and x.fullmatch(name) for x in words)


@pytest.mark.parametrize('name', sorted(set(BLOCKS) - {'defaults'}))
def test_block_loads_over_the_defaults(name):
  config = apply(name)
  assert config.flat.keys() == DEFAULTS.flat.keys()
  for key, value in config.flat.items():
    assert type(value) is type(DEFAULTS[key]), key


@pytest.mark.parametrize(
    'method, suite', itertools.product(METHODS, SUITES))
def test_order_of_method_and_suite_does_not_matter(method, suite):
  assert apply(method, suite).flat == apply(suite, method).flat


@pytest.mark.parametrize('name', METHODS)
def test_method_block_names_itself(name):
  assert apply(name).method == name


def test_method_blocks_can_follow_one_another():
  """The later method replaces all settings of the earlier one."""
  for first, second in itertools.permutations(METHODS, 2):
    assert apply(first, second).flat == apply(second).flat


def test_defaults_are_dreamingv2_on_robosuite():
  assert apply('dreamingv2').flat == DEFAULTS.flat
  assert apply('robosuite').update({'suite': ''}).flat == DEFAULTS.flat


@pytest.mark.parametrize('blocks', [
    ('dmc_vision', 'dreamerv2', 'small'), ('debug',), ('small', 'debug'),
    ('robosuite', 'dreamingv2', 'debug')])
def test_batches_leave_room_for_the_windows(blocks):
  config = apply(*blocks)
  assert config.replay.minlen <= config.replay.maxlen
  assert config.replay.maxlen <= config.dataset.length
  assert config.contrastive.horizon <= config.dataset.length - 2


@pytest.mark.parametrize('size', SIZES)
def test_sizes_change_only_sizes(size):
  """Sizes change no choice that defines a method in the paper.

  Learning rates and the weights of rewards and divergences belong to the size,
  because they decide how much is learned in a number of updates.
  """
  changed = set(apply(size).diff(DEFAULTS))
  assert not {k for k in changed if re.match(
      r'(objective|contrastive|kl|method|suite|task)(\.|$)'
      r'|loss_scales\.(aux|decoder|nce)|.*\.(act|dist|norm|opt|wd)$', k)}


def test_recipe_changes_no_method_suite_or_size():
  """It weighs no loss, so that it holds for all tasks and systems."""
  changed = set(apply('robust').diff(DEFAULTS))
  assert not {k for k in changed if re.match(
      r'(objective|contrastive|loss_scales|method|suite|task|dataset|replay)'
      r'(\.|$)|.*\.(act|norm|opt|lr|units|layers)$', k)}


def test_every_top_level_key_is_read():
  words = read_words()
  assert (ROOT / 'train.py').exists()
  unread = [key for key in DEFAULTS if not is_read(key, words)]
  assert not unread


def test_every_nested_key_is_read_or_an_argument():
  words = read_words()
  groups = {k for k, v in DEFAULTS.items()
            if isinstance(v, configs.Config)}
  unread = [
      f'{group}.{key}' for group in groups for key in DEFAULTS[group]
      if not is_read(key, words)]
  assert not unread


def test_words_of_no_setting_are_not_taken_for_read():
  """The test above can fail."""
  words = read_words()
  assert not is_read('unread_setting', words)
  assert not is_read('gamma_rays', words)
  assert is_read('imag_horizon', words)


@pytest.mark.parametrize('key, value', [
    # Okada & Taniguchi 2022, section III; the others are those of DreamerV2.
    ('contrastive.horizon', 3), ('contrastive.momentum', 0.05),
    ('contrastive.pad', 4), ('contrastive.dynamics', 'rssm'),
    ('rssm.stoch', 32), ('rssm.discrete', 32), ('rssm.deter', 200),
    ('rssm.hidden', 200), ('encoder.cnn_depth', 48), ('kl.balance', 0.8),
    ('kl.free', 1.0), ('dataset.batch', 16), ('dataset.length', 50),
    ('model_opt.lr', 3e-4), ('actor_opt.lr', 8e-5), ('critic_opt.lr', 8e-5),
    ('model_opt.clip', 100.0), ('model_opt.eps', 1e-5),
    ('model_opt.wd', 1e-6), ('discount', 0.99), ('discount_lambda', 0.95),
    ('imag_horizon', 15), ('slow_target_update', 100), ('steps', 5e5),
    ('train_every', 5), ('pretrain', 100), ('prefill', 1000)])
def test_defaults_are_the_published_numbers(key, value):
  assert DEFAULTS[key] == value


def test_small_weighs_only_divergences_further_ahead_less():
  scales = apply('small').loss_scales
  assert (scales.kl, scales.overshooting) == (1.0, 0.2)
