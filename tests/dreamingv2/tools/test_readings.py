"""Tests training a world model alone, the table and the figure."""

import numpy as np
import pytest

from dreamingv2.tools import readings


def make_row(system, seed=0, r2=0.5, **values):
  score = {'r2': r2, 'entries': [r2, None, r2]}
  return {
      'task': 'Lift', 'distractors': 'none', 'system': system, 'seed': seed,
      'updates': 9, 'recording': 'x', 'settings': {},
      'state': {
          'cube_m': {
              'embed': {**score, 'mm': 3.0}, 'now': {**score, 'mm': 12.0},
              '5': score, '15': {**score, 'r2': None}},
          'joints': {'embed': score, 'now': score}},
      'reward': {'held_out': 1.25, 'unsolved': None}, 'spread': 0.5,
      'rank': 20.0, 'entropy': 8.0, 'cpu_s': 170.0, **values}


def test_interval_is_students():
  rows = [make_row('a', i, r2) for i, r2 in enumerate([0.2, 0.4, 0.6])]
  mean, low, high = readings.summarize(rows, 'state.cube_m.now.r2')
  # Half the width: 4.303 (two degrees of freedom) * 0.2 / sqrt(3).
  assert mean == pytest.approx(0.4)
  assert (high - low) / 2 == pytest.approx(4.303 * 0.2 / 3 ** 0.5, rel=1e-3)
  assert readings.summarize(rows[:1], 'spread') == (0.5, None, None)
  assert readings.summarize(rows, 'reward.unsolved') is None
  assert readings.summarize(rows, 'state.absent.now.r2') is None


def test_table_has_a_column_per_system_and_a_block_per_task():
  rows = [
      make_row('dreamingv2', 0, 0.25), make_row('dreamingv2', 1, 0.75),
      make_row('dreamerv2'), make_row('dreamerv2', task='Reach')]
  first, second = readings.table(rows).split('\n\nReach')
  lines = first.splitlines()
  assert lines[0] == (
      'Lift, distractors none, 9 updates, mean of 2 seeds (95% interval):')
  assert lines[2] == '| measure | dreamingv2 | dreamerv2 |'
  cells = {x.split(' | ')[0]: x.split(' | ')[1:] for x in lines[4:]}
  ends = 12.706 * 0.5 / 2 ** 0.5 / 2 ** 0.5  # One degree of freedom.
  assert cells['| cube_m: R^2, features'] == [
      f'0.50 ({0.5 - ends:.2f} to {0.5 + ends:.2f})', '0.50 |']
  assert cells['| cube_m: error in mm, embedding'][1] == '3.00 |'
  assert '| same, not solved yet' not in cells
  assert cells['| training, CPU-s'][1] == '170 |'
  assert 'joints: R^2, embedding' in second


def test_figure_has_a_panel_per_vector_and_a_line_per_system():
  rows = [
      make_row('dreamingv2', i, r2) for i, r2 in enumerate([0.2, 0.4])]
  fig = readings.draw([*rows, make_row('dreamerv2', r2=0.9)])
  assert [x.get_title() for x in fig.axes] == ['Lift: cube', 'Lift: joints']
  lines = {
      x.get_label(): x.lines[0].get_xydata().tolist()
      for x in fig.axes[0].containers}
  assert lines['dreamerv2'] == [[0, 0.9], [5, 0.9]]
  mean = pytest.approx(0.3)
  assert lines['dreamingv2'] == [[0, mean], [5, mean]]


def test_panels_of_one_vector_share_their_axis():
  plain = make_row('dreamingv2', 0, 0.9)
  hard = {**make_row('dreamingv2', 0, 0.2), 'distractors': 'colors=0.5'}
  fig = readings.draw([plain, hard])
  titles = [x.get_title() for x in fig.axes]
  assert titles[2] == 'Lift: cube\ncolors=0.5'
  for one, two in ((0, 2), (1, 3)):
    low, high = fig.axes[one].get_ylim()
    assert fig.axes[two].get_ylim() == (low, high)
    assert low < 0.2 and high > 0.9


def make_episodes(count, length=30):
  rng = np.random.default_rng(0)
  episodes = []
  for _ in range(count):
    first = np.arange(length) == 0
    episodes.append({
        'image': rng.integers(0, 256, (length, 64, 64, 3), np.uint8),
        'reward': rng.normal(size=length).astype(np.float32),
        'action': rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        'is_first': first, 'is_last': first[::-1].copy(),
        'is_terminal': np.zeros(length, bool),
        'log_truth_x': np.zeros((length, 1), np.float32)})
  return episodes


def test_training_moves_the_model_and_repeats_with_its_seed(make_config):
  from tests.helpers import assert_equal
  from tests.helpers import copy
  config = make_config('dreamingv2', vector=False)
  found = []
  for updates, seed in ((0, 0), (3, 0), (3, 0), (3, 1)):
    other = config.update({'seed': seed})
    wm, cpu, loss = readings.train(other, make_episodes(2), max(1, updates))
    found.append((copy(wm), loss))
    assert cpu > 0 and 'discount' not in wm.heads
  assert_equal(found[1][0], found[2][0])
  assert found[1][1] == found[2][1] != found[3][1]
  assert any((found[0][0][k] != v).any() for k, v in found[1][0].items())


def test_loss_that_is_not_finite_is_named(make_config):
  config = make_config('dreamerv2', vector=False)
  episodes = make_episodes(2)
  for episode in episodes:
    episode['reward'][:] = np.nan
  with pytest.raises(ValueError, match='the loss is nan after 1 updates'):
    readings.train(config, episodes, 1)
