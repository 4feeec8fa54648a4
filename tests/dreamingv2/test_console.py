"""Tests the messages of a run without a run."""

import re
import types

import gymnasium
import numpy as np
import pytest

from dreamingv2 import console
from dreamingv2 import settings
from dreamingv2.common import envs


def make(monkeypatch, *flags, **values):
  """Returns a Console at some point of a run, and the lines it prints."""
  lines = []
  stats = {'total_steps': 0, 'total_episodes': 0}
  run = types.SimpleNamespace(**{
      'env_step': 0, 'updates': 0, 'prefilled': False,
      'replay': types.SimpleNamespace(stats=stats), **values})
  config = settings.load_config(['--task', 'toy_reach', *flags])
  made = console.Console(config, '.', run)
  monkeypatch.setattr(made, 'say', lines.append)
  return made, lines


def test_what_is_left_counts_every_phase_ahead(monkeypatch):
  flags = (
      '--steps', '1000', '--prefill', '100', '--pretrain', '7',
      '--train_every', '5', '--eval_every', '400', '--eval_eps', '2',
      '--action_repeat', '2')
  made, _ = make(monkeypatch, *flags)
  assert made._left() == {'step': 500, 'update': 7 + 800 / 2 / 5}
  made, _ = make(
      monkeypatch, *flags, env_step=600, updates=47, prefilled=True)
  assert made._left() == {'step': 200, 'update': 400 / 2 / 5}


def test_evaluations_ahead_count_with_the_length_of_episodes(monkeypatch):
  made, _ = make(
      monkeypatch, '--steps', '1000', '--eval_every', '250', '--eval_eps',
      '3', prefilled=True, replay=types.SimpleNamespace(
          stats={'total_steps': 100, 'total_episodes': 2}))
  assert made._left()['step'] == 1000 + 4 * 3 * 50


def test_run_of_days_says_so_and_names_the_block_for_cpus(monkeypatch):
  made, lines = make(monkeypatch, '--steps', '5e5', '--train_every', '5')
  made.compiled([14.0, 2.6])
  assert lines[0] == 'Compiled the update in 11 s.'
  assert 'about 3 d' in lines[1] and '`small`' in lines[1]


def test_short_run_has_no_warning(monkeypatch):
  made, lines = make(monkeypatch, '--configs', 'small', '--steps', '15000')
  made.compiled([6.0, 0.2])
  assert len(lines) == 1


@pytest.mark.parametrize('gpus, line', [
    ([], r'No GPU found; training on \d+ CPU cores in float32\.'),
    (['/gpu:0'], r'Training on /gpu:0 in float32\.')])
def test_devices_are_said_as_one_would(monkeypatch, gpus, line):
  made, lines = make(monkeypatch)
  made.devices(gpus, 'float32')
  assert re.fullmatch(line, lines[0])


def test_spaces_and_memory_are_said(monkeypatch):
  made, lines = make(monkeypatch, '--steps', '1000')
  box = gymnasium.spaces.Box
  image, action = box(0, 255, (64, 64, 3), np.uint8), box(-1, 1, (4,))
  made.spaces({'image': image, 'unread': action}, {'action': action})
  assert lines[0] == (
      'The environment is ready: image 64x64x3, 4 action values.')
  assert 'up to 12 MiB of RAM and of disk' in lines[1]


def test_vectors_that_are_read_are_said(monkeypatch):
  made, lines = make(monkeypatch, '--encoder.mlp_keys', 'arm|height')
  box = gymnasium.spaces.Box
  action = box(-1, 1, (4,))
  made.spaces({
      'arm': action, 'camera': box(0, 255, (64, 64, 3), np.uint8),
      'height': box(0, 1, ()), 'log_x': action, 'rest': action,
      **envs.FLAGS}, {'action': action})
  assert lines[0] == (
      'The environment is ready: camera 64x64x3, arm 4, height 1, '
      '4 action values.')


@pytest.mark.parametrize('measured, note', [
    (('step', 'update'), '17 min left, 3 updates'),
    (('update',), '3 updates')])
def test_bar_says_what_is_left_once_all_work_was_measured(
    monkeypatch, measured, note):
  made, _ = make(
      monkeypatch, '--steps', '500', '--pretrain', '0', '--train_every', '1',
      '--eval_eps', '0', updates=3, prefilled=True)
  notes = []
  made._bar = types.SimpleNamespace(note=notes.append)
  for kind in measured:
    made.measured(kind, 1.0)
  made.updated()
  assert notes == [note]


def test_last_words_name_the_results_and_what_comes_next(monkeypatch):
  made, lines = make(monkeypatch, env_step=1000, updates=40)
  made.done(90.0)
  assert lines[0].splitlines() == [
      'Done: 1000 steps and 40 updates in 90 s. The results are in .. Next:',
      '  dreamingv2 evaluate --logdir .', '  tensorboard --logdir .']
