"""Tests blocks, the paper's tasks, and checks of values before a start."""

import re
import shlex

import gymnasium
import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2 import train


@pytest.mark.parametrize('name', sorted(settings.presets()))
def test_task_of_the_paper_brings_its_block(name):
  preset = settings.presets()[name]
  config = settings.load_config(['--task', name])
  right = settings.load_config(
      ['--configs', preset['block'], '--task', preset['task']])
  assert config.flat == right.flat
  assert config.steps == 5e5
  # The action repeat is 1 for arms and 2 for other tasks.
  repeat = 1 if preset['block'] == 'robosuite' else 2
  assert config.action_repeat == repeat


def test_other_blocks_and_flags_win_over_the_preset():
  config = settings.load_config([
      '--configs', 'dreamerv2', 'small', '--task', 'Reacher-hard',
      '--action_repeat', '4'])
  assert config.method == 'dreamerv2' and config.prefill == 2500
  assert config.task == 'dmc_reacher_hard' and config.action_repeat == 4


def test_other_tasks_stay_as_they_are():
  config = settings.load_config(['--configs', 'robosuite', '--task', 'Stack'])
  assert config.task == 'Stack' and config.suite == 'robosuite'
  assert settings.load_config([]).task == 'robosuite_Lift'


def test_list_names_every_preset_and_trains_nothing(capsys):
  train.main(['--list'])
  text = capsys.readouterr().out
  assert all(name in text for name in settings.presets())
  assert len(settings.presets()) == 15


@pytest.fixture
def helped(monkeypatch, capsys):
  """Returns the help of train for some words, without wrapped lines."""
  monkeypatch.setenv('COLUMNS', '500')

  def ask(*argv):
    train.main(argv)
    return capsys.readouterr().out
  return ask


def flag_lines(text):
  """Returns {key: rest of its line} for the flags in a help text."""
  text = re.sub(r'\n {15,}', '  ', text)  # After long names.
  flags = re.findall(r'^  --(\S+) (.*)$', text, re.M)
  return {key: rest for key, rest in flags if key in settings.defaults().flat}


@pytest.mark.parametrize('argv', [
    ['--help'], ['-h'], ['--help', '--configs', 'small', 'dreamer'],
    ['--configs', 'dmc_proprio', '-h'], ['--task', 'Reacher-easy', '--help'],
    ['--help', '--nonsense', '3', '--steps', 'x']])
def test_help_has_every_key_with_type_default_and_comment(argv, helped):
  words = [x for x in argv if x not in ('-h', '--help')]
  config = settings.load_config(words[:4 * ('--nonsense' not in words)])
  lines = flag_lines(helped(*argv))
  assert list(lines) and lines.keys() == config.flat.keys()
  for key, value in config.flat.items():
    values = value if isinstance(value, tuple) else [value]
    kind = {bool: 'True/False', int: 'int', float: 'float', str: 'string'}[
        type(values[0])] + ' ...' * isinstance(value, tuple)
    default = ' '.join(map(str, values)) or "''"
    match = re.fullmatch(
        rf'{kind} +(.+) \(default: {re.escape(default)}\)', lines[key])
    assert match, (key, lines[key])
    comment = settings.comments()[key][1].removesuffix('.')
    assert match[1].startswith(comment)


def test_key_without_a_comment_has_that_of_the_first_with_its_name(helped):
  lines = flag_lines(helped('--help'))
  assert 'Learning rate' in lines['model_opt.lr']
  assert 'Learning rate' in lines['expl_opt.lr']
  for key in settings.defaults().flat:
    heading, comment = settings.comments()[key]
    parent, _, last = key.rpartition('.')
    if not comment:  # Groups of similar keys.
      first = next(
          x for x in settings.defaults().flat
          if x.rpartition('.')[2] == last and settings.comments()[x][1])
      assert parent and '.' in first, key


def test_help_lists_blocks_by_kind_tasks_and_examples(helped):
  text = helped('--help')
  assert text.startswith('usage: dreamingv2 train [--configs BLOCK ...]')
  assert settings.list_blocks() in text and settings.table() in text
  assert all(x in text for x in settings.EXAMPLES.splitlines())
  headings = [
      'Run', 'Environment', 'Replay', 'World model', 'Objective', 'Behaviour',
      'Exploration']
  assert [x for x in re.findall(r'^(\S.*):$', text, re.M) if x in headings
          ] == headings


def test_blocks_are_listed_by_kind_with_a_line_each():
  lines = settings.list_blocks().splitlines()[1:]
  kind, kinds = '', {}
  for line in lines:
    assert len(line) < 80
    if line.startswith('    '):
      name, text = line.split(None, 1)
      kinds[name] = kind
      assert len(text) > 10
    else:
      kind = line.strip()
  assert kinds.keys() == settings.blocks().keys() - {'defaults'}
  assert settings.RECIPES == tuple(
      x for x, kind in kinds.items() if kind == 'Recipes')
  assert [x for x, kind in kinds.items() if kind.startswith('Methods')
          ] == settings.methods()
  for name, kind in kinds.items():
    assert (kind == 'Suites') == ('suite' in settings.blocks()[name])
    assert kind in ('Recipes', 'Sizes', 'Suites') or (
        'method' in settings.blocks()[name])


@pytest.mark.parametrize('argv', [
    ['--configs'], ['--configs='], ['--task', 'Lift', '--configs'],
    ['--configs', '--task', 'Lift'], ['--help', '--configs'],
    ['--configs', '', '--task', 'Lift']])
def test_configs_without_a_name_lists_the_blocks(argv, capsys):
  with pytest.raises(SystemExit) as ending:
    train.main(argv)
  out, err = capsys.readouterr()
  assert ending.value.code == 2 and not out
  assert err == (
      'Error: --configs needs the name of a block\n'
      f'{settings.list_blocks()}\n')


@pytest.mark.parametrize('words', [['--task', ''], ['--task=']])
def test_empty_task_is_not_the_one_of_the_defaults(words):
  with pytest.raises(ValueError, match='--task is empty.*--list'):
    settings.load_config(['--configs', 'small', *words, '--seed', '1'])


def test_examples_of_the_help_are_understood():
  for line in settings.EXAMPLES.splitlines():
    program, name, *words = shlex.split(line, comments=True)
    assert (program, name) == ('dreamingv2', 'train')
    if '--help' in words:
      assert settings.answer(words)
    else:
      settings.load_config(words)


@pytest.mark.parametrize('key, value, near', [
    ('distribute', 'mirorred', 'mirrored'),
    ('objective', 'contrastve', 'contrastive'),
    ('precision', '61', '16'), ('rssm.latent', 'gausian', 'gaussian'),
    # These give no number, or one that is no float.
    ('critic.dist', 'onehot', 'twohot'),
    ('discount_head.dist', 'onehot', 'twohot'),
    ('expl_head.dist', 'trunc_normal', 'normal'),
    ('reward_head.dist', 'binary', 'mse')])
def test_unknown_name_is_refused_with_the_flags(key, value, near):
  with pytest.raises(ValueError, match=f"{key} '{value}'; known: {near}"):
    settings.load_config([f'--{key}', value])


def test_videos_are_of_what_is_observed():
  box = lambda *shape: gymnasium.spaces.Box(0, 255, shape, np.uint8)
  space = {'image': box(8, 8, 3), 'image_side': box(8, 8, 1), 'n': box(2)}
  config = settings.load_config(['--log_keys_video', 'image', 'image_side'])
  act = {'action': box(2)}
  settings.check_spaces(config, space, act)
  with pytest.raises(ValueError, match="log_keys_video 'image_side'; known"):
    settings.check_spaces(config, {'image': space['image']}, act)
  settings.check_spaces(settings.defaults(), {'vector': box(2)}, act)
  vector = settings.load_config(['--log_keys_video', 'image', 'n'])
  with pytest.raises(ValueError, match=r'has n of shape \(2,\); only images'):
    settings.check_spaces(vector, space, act)


@pytest.mark.parametrize('key', ['eval_noise', 'expl_noise'])
def test_noise_on_discrete_actions_is_a_probability(key):
  act = {'action': gymnasium.spaces.Box(0, 1, (4,), np.float32)}
  config = settings.load_config([f'--{key}', '1.5'])
  settings.check_spaces(config, {'image': act['action']}, act)
  act['action'].discrete = True
  with pytest.raises(ValueError, match=f'{key} is 1.5.*at most 1; set'):
    settings.check_spaces(config, {'image': act['action']}, act)
  config = settings.load_config([f'--{key}', '1'])
  settings.check_spaces(config, {'image': act['action']}, act)


@pytest.mark.parametrize('key, value, words', [
    ('keep', '0', r'keep is 0, but must lie in 1\.\.1e\+09; set --keep'),
    ('discount', '1.5', 'discount is 1.5')])
def test_number_out_of_its_range_is_refused(key, value, words):
  with pytest.raises(ValueError, match=words):
    settings.load_config([f'--{key}', value])


def test_percentiles_of_returns_must_be_in_order():
  with pytest.raises(ValueError, match=r'low is 50.0, but must be below .*50'):
    settings.load_config([r'--return_norm\.(low|high)', '50'])


@pytest.mark.parametrize('method', settings.methods())
@pytest.mark.parametrize('size', ['debug', 'small'])
def test_size_wins_over_the_method_wherever_it_stands(method, size):
  first, last = [
      settings.load_config(['--configs', *names])
      for names in ((size, method), (method, size))]
  assert first.flat == last.flat
  right = settings.blocks()[size]['dataset']
  assert dict(first.dataset) == right and first.method == method


def test_order_keeps_methods_suites_and_sizes_in_turn():
  names = ['robust', 'small', 'tpc', 'debug', 'ur5', 'defaults']
  assert settings.order(names) == [
      'tpc', 'ur5', 'defaults', 'small', 'debug', 'robust']
  with pytest.raises(ValueError, match="config block 'ur6'; known: ur5"):
    settings.order(['ur6'])


def test_two_methods_are_refused_but_one_may_be_named_twice():
  assert settings.load_config(
      ['--configs', 'tpc', 'small', 'tpc']).method == 'tpc'
  for words in (['tpc', 'small', 'dreamer'], ['tpc,dreamer']):
    with pytest.raises(ValueError, match='tpc and dreamer are methods, of w'):
      settings.load_config(['--configs', *words])


@pytest.mark.parametrize('method, batch, length', [
    ('dreamerpro', 50, 51), ('dreamingv2', 16, 50), ('tpc', 150, 50)])
def test_method_has_the_batch_of_its_source(method, batch, length):
  config = settings.load_config(['--configs', method])
  assert dict(config.dataset) == {'batch': batch, 'length': length}
  assert config.replay.minlen == config.replay.maxlen == length
  cheap = settings.load_config(['--configs', method, '--dataset.batch', '16'])
  assert dict(cheap.dataset) == {'batch': 16, 'length': length}


@pytest.mark.parametrize('old, new', [
    ('blast', 'blast_kl'), ('cfm', 'cfm_nce'), ('cvrl', 'cvrl_nce'),
    ('mssm', 'mssm_nce')])
def test_name_of_a_system_that_lacks_its_behaviour_offers_the_new_one(
    old, new):
  with pytest.raises(ValueError, match=f"'{old}'; known: {new}"):
    settings.load_config(['--configs', old])


@pytest.mark.parametrize('flags, words', [
    ('--prototypes.count 100', 'prototypes.count 100 .*contrastive.*prototyp'),
    ('--configs tpc --contrastive.horizon 1', "'predictive'.*byol, contr"),
    ('--configs byol --contrastive.vmf=True', "'byol', only with contr"),
    ('--configs dreamer --loss_scales.overshooting 0.5', 'reconstruction'),
    ('--configs barlow_twins --loss_scales.byol 2', 'barlow_twins'),
    ('--configs tpc --kl.free 2', "'predictive', only with .*contrastive"),
    ('--configs tpc --loss_scales.kl 0.1', "'predictive', only with"),
    ('--configs blast_kl --kl.balance 0.5', "'bootstrap', only with"),
    ('--configs dreamer --rssm.discrete 8',
     "rssm.latent 'gaussian', only with categorical, hybrid: .*--rssm.latent"),
    ('--rssm.min_std 0.2', "rssm.latent 'categorical', only with gaussian"),
    ('--disag_models 5',
     "'greedy', only with Plan2Explore: .* one with --expl_behavior"),
    ('--expl_behavior ModelLoss --disag_log True', "'ModelLoss', only with"),
    ('--expl_head.units 9', "expl_behavior 'greedy'")])
def test_flag_without_effect_is_refused(flags, words):
  with pytest.raises(ValueError, match=words):
    settings.load_config(flags.split())


@pytest.mark.parametrize('flags', [
    '--configs dreamerpro --prototypes.count 100',
    '--configs byol --contrastive.horizon 1 --byol.units 9',
    '--objective prototypes --prototypes.count 100',
    '--prototypes.count 2500',  # Unchanged.
    '--configs blast_kl --kl.free 2',
    '--configs dreamer --rssm.min_std 0.2',
    '--expl_behavior Plan2Explore --disag_models 5 --expl_head.units 9',
    '--expl_behavior Random --expl_until 500',
    r'--.*\.units 100',  # Of other systems as well.
    '--configs dreamerv2 small'])
def test_flag_that_is_read_or_a_pattern_is_taken(flags):
  settings.load_config(flags.split())


def test_batch_must_fit_into_the_replay():
  flags = ['--dataset.batch', '20', '--replay.capacity']
  assert settings.load_config([*flags, '1000']).replay.capacity == 1000
  assert settings.load_config([*flags, '0']).replay.capacity == 0
  with pytest.raises(
      ValueError, match=r'batch of 20 x 50 .* replay of 999; set --replay.c'):
    settings.load_config([*flags, '999'])
