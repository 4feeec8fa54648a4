"""Compares scores and statistics with numbers computed by hand."""

import json

import numpy as np
import pytest

from dreamingv2.tools import results
from tests.helpers import make_curve

PAPER = ('UR5-reach', 'Reach-duplo', 'Lift', 'Door', 'PegInHole')


@pytest.mark.parametrize('xs, ys, expected', [
    ([900, 975, 1000, 1025, 1026], [9., 1., 2., 6., 99.], 3.0),
    ([500, 1500], [1., 2.], None),
    ([974], [5.], None),
    ([990, 1000], [np.nan, 4.], 4.0)])
def test_score_is_the_mean_near_the_step_and_no_maximum(xs, ys, expected):
  assert results.score(make_curve(xs=xs, ys=ys), 1000) == expected


def test_score_of_random_actions_takes_all_episodes():
  curve = make_curve(method='random', xs=[5, 10], ys=[1., 4.])
  assert results.score(curve, 500_000) == 2.5


def test_score_of_random_actions_is_of_finite_returns():
  random = lambda ys: make_curve(method='random', xs=[5, 10], ys=ys)
  assert results.score(random([1., np.nan]), 100) == 1
  assert results.score(random([np.nan, np.nan]), 100) is None


def test_cell_has_mean_and_deviation_over_runs():
  curves = [make_curve(seed=i, ys=[0., y]) for i, y in enumerate([1., 2., 6.])]
  cell = results.cell(curves, 'Lift', 'dreamingv2', 1000)
  assert cell.values == [1, 2, 6] and cell.mean == 3
  np.testing.assert_allclose(cell.std, np.sqrt((4 + 1 + 9) / 2))
  assert not cell.notes


def test_cell_never_averages_runs_of_several_settings():
  curves = [
      make_curve(seed=0, settings={'rssm.deter': 8, 'new.key': 1}),
      make_curve(seed=1, settings={'rssm.deter': '8'}),
      make_curve(seed=2, settings={'rssm.deter': 9})]
  cell = results.cell(curves, 'Lift', 'dreamingv2', 1000)
  assert [len(group) for group in cell.groups] == [2, 1]
  assert np.isnan(cell.mean) and not cell.values
  assert 'not averaged: rssm.deter 9 instead of 8' in cell.notes[0]


@pytest.mark.parametrize('one, two, same', [
    ('python train.py --configs small a --seed 0 --steps 9',
     'python train.py --seed=1 --configs a small --log_every 7', True),
    ('python train.py --configs small',
     'python train.py --configs small --rssm.deter 9', False)])
def test_cell_tells_runs_without_settings_apart_by_command(one, two, same):
  curves = [make_curve(command=x, commit='a') for x in (one, two)]
  cell = results.cell(curves, 'Lift', 'dreamingv2', 1000)
  assert (len(cell.groups) == 1) == same
  curves[1]['commit'] = 'b'  # Its configs.yaml may be another.
  cell = results.cell(curves, 'Lift', 'dreamingv2', 1000)
  assert len(cell.groups) == 2


def test_cell_says_what_is_unfinished_repeated_or_dirty():
  settings = {'settings': {'rssm.deter': 8}}
  curves = [
      make_curve(seed=0, **settings, commit='a'),
      make_curve(seed=0, **settings, commit='b-dirty', ys=[0., 2.]),
      make_curve(seed=1, **settings, xs=[100, 200], at=300, budget=1000.),
      make_curve(seed=2, **settings, xs=[100, 200], at=200, budget=200.),
      make_curve(seed=3, **settings, xs=[100, 1500], at=1500)]
  cell = results.cell(curves, 'Lift', 'dreamingv2', 1000)
  assert len(cell.values) == 2
  assert cell.notes == [
      'seed 1 reached 300 of 1,000 steps: unfinished',
      'seed 2 reached 200 of 1,000 steps (its --steps: 200)',
      'seed 3 has no evaluation within 25 steps of 1,000',
      'seed 0 was run more than once; all runs count',
      '2 commits: a, b-dirty']


@pytest.mark.parametrize('task, expected', [
    ('robosuite_Lift', 'Lift'), ('Lift', 'Lift'),
    ('dmc_walker_walk', 'Walker-walk'), ('walker_walk', 'Walker-walk'),
    ('dmc_manip_reach_duplo', 'Reach-duplo'), ('toy_reach', 'toy_reach')])
def test_tasks_get_the_names_of_the_paper(task, expected):
  assert results.canonical(task) == expected


@pytest.mark.parametrize('task, settings, expected', [
    ('robosuite_Lift', {}, 'Lift'),
    ('robosuite_Lift', {'robosuite.horizon': 500, 'time_limit': 0}, 'Lift'),
    ('robosuite_Lift', {'robosuite.horizon': 200}, 'Lift (200 steps)'),
    ('dmc_walker_walk', {'time_limit': 100, 'action_repeat': 2},
     'Walker-walk (200 steps)'),
    ('dmc_walker_walk', {'encoder.mlp_keys': '.*', 'encoder.cnn_keys': '$^'},
     'Walker-walk (vectors)'),
    ('robosuite_Lift', {'encoder.mlp_keys': '.*', 'robosuite.proprio': True},
     'Lift (images and vectors)'),
    ('robosuite_Lift', {'encoder.mlp_keys': '.*', 'robosuite.proprio': False},
     'Lift'),
    ('robosuite_Lift', {'robosuite.camera': 'agentview,robot0_eye_in_hand'},
     'Lift (cameras agentview,robot0_eye_in_hand)'),
    ('Door', {'distractors.camera': 0.1}, 'Door (distractors)'),
    ('gym_Lift', {'robosuite.horizon': 200}, 'gym_Lift'),
    ('my_robosuite:Lift', {}, 'my_robosuite:Lift')])
def test_only_runs_like_the_papers_have_its_names(task, settings, expected):
  curve = make_curve(task=task, settings=settings)
  placed, = results.place([curve], [])
  assert placed['task'] == expected
  # The upper limit is that of the episodes that were played.
  assert results.limit(placed) == results.limit(curve)


@pytest.mark.parametrize('task, settings, expected', [
    ('Lift', {}, 500), ('Lift', {'robosuite.horizon': 200}, 200),
    ('Reach-duplo', {}, 250), ('dmc_hopper_hop', {}, 1000),
    ('Walker-walk', {'time_limit': 100, 'action_repeat': 2}, 200),
    ('Walker-walk', {'time_limit': 0, 'action_repeat': 2}, 1000),
    ('toy_reach', {}, 50), ('atari_pong', {}, None)])
def test_limit_is_the_most_return_of_an_episode(task, settings, expected):
  assert results.limit(make_curve(task=task, settings=settings)) == expected


def test_statistics_equal_numbers_computed_by_hand():
  tasks = [np.array([1., 2., 3.]), np.array([10., 20., 30., 40., 50.])]
  assert results.mean(*tasks) == (2 + 30) / 2
  assert results.median(*tasks) == 16
  # The two lowest and the two highest of eight runs are left out.
  assert results.iqm(*tasks) == np.mean([3, 10, 20, 30])


def test_interval_resamples_each_task_by_itself():
  # Each task has one value: a resample that mixes tasks would spread.
  tasks = [np.full(3, 1.), np.full(4, 100.)]
  for statistic in (results.mean, results.median):
    assert results.interval(tasks, statistic) == (50.5, 50.5)
  assert results.interval([np.ones(3), np.ones(1)], results.iqm) is None


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
  rng = np.random.default_rng(0)
  centers = np.array([[0.2], [0.5], [0.8]])
  inside = 0
  for _ in range(60):
    low, high = results.interval(
        list(centers + rng.normal(0, 0.1, (3, 12))), results.mean)
    inside += low <= 0.5 <= high
  # Binomial of 60 at 0.93 (short samples narrow it): 50 to 60 is +-3 sigma.
  assert 50 <= inside <= 60


def test_published_holds_the_numbers_of_the_paper():
  tables = results.published()['tables']
  assert list(tables) == ['I', 'II', 'III']
  assert [len(x['rows']) for x in tables.values()] == [15, 5, 5]
  for table in tables.values():
    for row in table['rows'].values():
      assert len(row) == len(table['columns'])
  # Tables I and II share these two columns.
  for task in PAPER:
    assert tables['I']['rows'][task][0] == tables['II']['rows'][task][3]
  # As the text says, DreamingV2 leads on all arms, Dreaming on group (B).
  means = lambda x: [y[0] if y else 0 for y in tables['I']['rows'][x]]
  assert all(np.argmax(means(x)) == 0 for x in PAPER)
  for task in ('Reacher-hard', 'Reacher-easy', 'Finger-turn-hard'):
    assert np.argmax(means(task)) == 2
  assert np.argmax(means('Walker-walk')) == 1
  assert tables['I']['rows']['Lift'][5] == [24, 35]


def test_curves_of_other_repositories_keep_apart_from_ours(tmp_path):
  foreign = {'task': 'dmc_walker_walk', 'method': 'dreamerv2', 'seed': '1',
             'xs': [0, 10], 'ys': [1., 2.]}
  (tmp_path / 'dmc-vision.json').write_text(json.dumps([foreign, foreign]))
  ours = make_curve(task='dmc_walker_walk', method='dreamerv2', command='a')
  (tmp_path / 'ours.json').write_text(json.dumps([ours]))
  curves, notes = results.read(
      [], [tmp_path / 'dmc-vision.json', tmp_path / 'ours.json'])
  assert {(c['task'], c['method']) for c in curves} == {
      ('Walker-walk', 'dreamerv2 (dmc-vision)'), ('Walker-walk', 'dreamerv2')}
  assert len(curves) == 2 and 'read twice' in notes[-1]
  assert '2 curves do not say how they were made' in notes[0]


def test_files_of_one_name_keep_apart(tmp_path):
  paths = [tmp_path / x / 'runs.json' for x in ('plain', 'video')]
  for path in paths:
    path.parent.mkdir()
    path.write_text(json.dumps([make_curve(method='tpc')]))
  assert [c['method'] for c in results.read([], paths)[0]] == [
      f'tpc ({x.with_suffix("")})' for x in paths]


@pytest.mark.parametrize('objective, differ', [
    ('byol', True), ('contrastive', False), (None, True)])
def test_settings_of_other_systems_are_no_difference(objective, differ):
  one, two = ({'settings': {
      'loss_scales.byol': x, **({'objective': objective} if objective else {})
  }} for x in (1.0, 5.0))
  assert bool(results.differences(one, two)) == differ


def test_numbers_that_are_equal_are_no_difference():
  one, two = ({'settings': {'steps': x}} for x in (1, 1.0))
  assert not results.differences(one, two)


@pytest.mark.parametrize('tasks, expected', [
    ([], 'abc'), (['Lift'], 'ab'), (['Lift (200 steps)'], 'b'),
    (['toy_reach', 'Lift (200 steps)'], 'bc')])
def test_tasks_are_chosen_with_or_without_their_label(tasks, expected):
  curves = [
      make_curve(task=task, method=name) for name, task in zip(
          'abc', ['Lift', 'Lift (200 steps)', 'toy_reach'], strict=True)]
  assert [
      c['method'] for c in results.choose(curves, [], tasks)] == [*expected]


def test_method_that_has_no_run_on_the_task_is_named():
  curves = [make_curve(), make_curve(task='Door', method='tpc')]
  with pytest.raises(ValueError, match='^no run of tpc on Lift$'):
    results.choose(curves, ['tpc'], ['Lift'])
