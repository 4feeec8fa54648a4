"""Tests every number and pattern of configs.yaml against its range."""

import math
import re
import subprocess
import sys

import pytest

from dreamingv2 import ranges
from dreamingv2 import settings
from dreamingv2 import train

DEFAULTS = settings.defaults()
NUMBERS = [k for k, v in DEFAULTS.flat.items() if ranges.numbers(v)]


def test_every_number_has_one_range_and_every_range_a_number():
  assert [k for k in NUMBERS if not ranges.find(k)] == []
  assert len(NUMBERS) > 100
  for pattern in (*ranges.RANGES, ranges.SCHEDULES):
    assert any(re.fullmatch(pattern, k) for k in DEFAULTS.flat), pattern


def test_every_text_that_code_compiles_is_checked():
  keys = [k for k in DEFAULTS.flat if re.fullmatch(ranges.PATTERNS, k)]
  assert set(keys) >= {
      'decoder.cnn_keys', 'decoder.mlp_keys', 'encoder.cnn_keys',
      'encoder.mlp_keys'}
  assert not [
      k for k in DEFAULTS.flat if k.endswith(('_keys', '_pattern'))
      and k not in keys]


def bad_values(key):
  low, high = ranges.find(key)
  values = ['nan', 'inf', f'{low - 1:.0f}', f'{2 * high + 1:.0f}']
  if isinstance(ranges.numbers(DEFAULTS[key])[0], int):
    return [*values, '0.5']
  return [*values, '-inf', '1e400', repr(math.nextafter(low, -math.inf))]


@pytest.mark.parametrize('key', NUMBERS)
def test_number_out_of_range_ends_with_one_line_that_names_it(key, capsys):
  for value in bad_values(key):
    with pytest.raises(SystemExit) as info:
      train.main([f'--{key}', value])
    assert info.value.code == 2, value
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and key in error, error


@pytest.mark.parametrize('key', NUMBERS)
def test_ends_of_a_range_are_allowed(key):
  like = DEFAULTS[key]
  for value in ranges.find(key) or ():
    config = DEFAULTS.update({
        'replay': {'minlen': 1, 'maxlen': 0},
        key: [value] * len(like) if isinstance(like, tuple) else value})
    ranges.check(config)


@pytest.mark.parametrize('name', sorted(settings.blocks()))
def test_blocks_lie_within_the_ranges(name):
  ranges.check(DEFAULTS.update(settings.blocks()[name] or {}))


@pytest.mark.parametrize('key', [
    k for k in DEFAULTS.flat if re.fullmatch(ranges.PATTERNS, k)])
@pytest.mark.parametrize('value', ['(', '*a', '[', 'a{2,1}', '(?P<x>'])
def test_pattern_that_does_not_compile_is_refused(key, value):
  with pytest.raises(ValueError, match=f'{key} is .* must be a regular'):
    settings.load_config([f'--{key}', value])


@pytest.mark.parametrize('key', ['actor_ent', 'actor_grad_mix'])
@pytest.mark.parametrize('value, fine', [
    ('nan', False), ('inf', False), ('', False), ('much', False),
    ('linear(1,nan,3)', False), ('linear()', False), ('exp(1,2,1e999)', False),
    ('0.5', True), ('linear(2e-3, 1e-4, 1e5)', True)])
def test_schedule_is_made_of_numbers(key, value, fine):
  config = DEFAULTS.update({key: value})
  if fine:
    return ranges.check(config)
  with pytest.raises(ValueError, match=f'^{key} is .*; set --{key}$'):
    ranges.check(config)


def test_longest_chunk_is_no_shorter_than_the_shortest():
  with pytest.raises(ValueError, match='replay.maxlen is 20, but must be 0 '):
    settings.load_config(['--replay.maxlen', '20'])
  settings.load_config(['--replay.maxlen', '0'])


@pytest.mark.parametrize('argv, text', [
    (['--rssm.stoch', '0'], 'rssm.stoch is 0, but must lie in 1..100000; '),
    (['--.*\\.lr', 'nan'], '_opt.lr is nan, but must lie in 0..1; '),
    (['--encoder.cnn_keys', '('], 'encoder.cnn_keys is '),
    (['--task', 'robosuite_Lift', '--suite', 'nope'],
     "Unknown suite 'nope'; known: "),
    (['--task', 'toy_reach', '--distractors.background', '/none.mp4'],
     'distractors'),
    (['--configs', 'dmc_vision', '--distractors.background', '/none.mp4'],
     'distractors.background /none.mp4 is no image, no video ')])
def test_bad_value_ends_before_tensorflow_is_loaded(argv, text, tmp_path):
  program = f'''
import sys
from dreamingv2 import train
try:
  train.main({[*argv, '--logdir', str(tmp_path / 'run')]})
finally:
  assert not {{'tensorflow', 'mujoco', 'robosuite'}} & set(sys.modules)
'''
  done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith('Error: ') and text in done.stderr
  assert done.stderr.count('\n') == 1 and not done.stdout
  assert not (tmp_path / 'run').exists()
