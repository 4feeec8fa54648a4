"""Collects curves from logdirs written by hand."""

import gzip
import json

import numpy as np
import pytest

from dreamingv2.tools import formats
from dreamingv2.tools import scores
from tests.helpers import make_curve

HEAD = (
    '# dreamingv2 0.1.0, commit 0123abc, 2 x A CPU, python 3.11.7\n'
    '# train.py --configs small --logdir /some/where --task toy_reach\n')


def write_run(folder, method='dreamingv2', seed=0, lines=()):
  folder.mkdir(parents=True)
  (folder / 'config.yaml').write_text(
      f'{HEAD}method: {method}\nseed: {seed}\ntask: toy_reach\n'
      f'steps: 300.0\nlogdir: {folder}\n'
      f'rssm: {{deter: 8}}\naction_repeat: 2\nrender_size: [64, 64]\n'
      f'dmc: {{camera: 0}}\n')  # Not for this suite's task.
  (folder / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in lines))


def evaluation(step, *returns):
  return [{'step': step, 'eval_return': x} for x in returns] + [
      {'step': step, 'eval_return_mean': float(np.mean(returns))}]


LINES = [
    {'step': 50, 'random_return': 3.0}, {'step': 100, 'random_return': 5.0},
    *evaluation(200, 1.0, 3.0), {'step': 250, 'updates': 7, 'seconds': 60.5},
    *evaluation(300, 9.0, 9.0), *evaluation(300, 4.0, 6.0)]


def test_run_becomes_a_curve_and_one_of_random_actions(tmp_path):
  write_run(tmp_path / 'a' / '3', seed=3, lines=LINES)
  notes = []
  curve, random = scores.collect(tmp_path, notes)
  assert not notes
  common = {
      'task': 'toy_reach', 'seed': 3, 'commit': '0123abc',
      'machine': '2 x A CPU',
      'command': 'python train.py --configs small --task toy_reach'}
  assert curve == {
      **common, 'method': 'dreamingv2', 'xs': [200, 300], 'ys': [2.0, 5.0],
      'returns': [[1.0, 3.0], [4.0, 6.0]], 'updates': 7, 'seconds': 60.5,
      'at': 300, 'budget': 300.0, 'settings': {
          'action_repeat': 2, 'render_size': [64, 64], 'rssm.deter': 8}}
  assert random == {
      **common, 'method': 'random', 'xs': [50, 100], 'ys': [3.0, 5.0],
      'settings': {'action_repeat': 2, 'render_size': [64, 64]}}


def test_success_rates_and_cpu_time_become_part_of_the_curve(tmp_path):
  lines = [*LINES, *evaluation(400, 1.0), {
      'step': 400, 'updates': 8, 'seconds': 70.0, 'cpu_seconds': 90.0}]
  lines[-2]['eval_success_rate'] = 0.5
  write_run(tmp_path / 'a', lines=lines)
  curve, _ = scores.collect(tmp_path, [])
  assert curve['cpu_seconds'] == 90 and curve['xs'] == [200, 300, 400]
  np.testing.assert_array_equal(curve['successes'], [np.nan, np.nan, 0.5])
  scores.save([curve], tmp_path / 'a.json')
  back, = scores.load(tmp_path / 'a.json', [])
  np.testing.assert_equal(back, curve)


def test_run_that_a_file_holds_counts_once(tmp_path, capsys):
  path, run = tmp_path / 'a.json', tmp_path / 'runs' / '0'
  write_run(run, lines=LINES[:5])
  write_run(tmp_path / 'runs' / '1', seed=1, lines=LINES)
  scores.main(['--indir', str(tmp_path / 'runs'), '--out', str(path)])
  short = json.loads(path.read_text())
  assert [c['method'] for c in short] == ['dreamingv2', 'random'] * 2
  # The first run goes on.
  (run / 'metrics.jsonl').write_text(
      ''.join(json.dumps(line) + '\n' for line in LINES))
  capsys.readouterr()
  for _ in range(2):
    scores.main([
        '--scores', str(path), '--indir', str(tmp_path / 'runs'), '--out',
        str(path)])
    longer = json.loads(path.read_text())
    assert len(longer) == 4
    assert sorted((c['seed'], c['method'], c['xs']) for c in longer) == [
        (s, m, x) for s in (0, 1) for m, x in (
            ('dreamingv2', [200, 300]), ('random', [50, 100]))]
  out, err = capsys.readouterr()
  assert '| dreamingv2 | 2 | 300 |' in out and 'counts once' in err


def test_runs_with_other_settings_are_no_copies():
  curve = {'task': 'a', 'method': 'b', 'seed': 0, 'xs': [1, 2],
           'ys': [float('nan'), 3.0], 'settings': {'discount': 0.9}}
  other = {**curve, 'settings': {'discount': 0.5}}
  known = {k: v for k, v in curve.items() if k != 'settings'}
  notes = []
  assert scores.without_copies([other, known, curve], notes) == [other, curve]
  assert len(notes) == 1
  moved = {**curve, 'ys': [float('nan'), 4.0]}
  assert scores.without_copies([curve, moved], notes) == [curve, moved]


@pytest.mark.parametrize('old, new', [
    ('train_kl_loss', 'kl_loss'),
    ('train_model_grad_norm', 'model_grad_norm'),
    ('train_reward_mean', 'reward_mean'),
    ('train_return', 'train_return'),
    ('train_length', 'train_length'),
    ('train_total_steps', 'train_total_steps'),
    ('episodes', 'train_total_episodes'),
    ('eval_return', 'eval_return'),
    ('nce_loss', 'nce_loss'),
    ('fps', 'fps')])
def test_metrics_of_older_runs_are_read_by_their_present_names(
    old, new, tmp_path):
  write_run(tmp_path / 'a', lines=[{'step': 5, old: 1.5}])
  run = formats.open_run(tmp_path / 'a')
  assert list(run.lines()) == [{'step': 5, new: 1.5}]


def damage(text, *numbers):
  """Returns text with the ends of lines cut off."""
  return '\n'.join(
      x[:15] if i in numbers else x
      for i, x in enumerate(text.splitlines(), 1))


@pytest.mark.parametrize('number, ys, words', [
    (1, [2.0, 5.0], ['1 damaged line left out, the first at 1']),
    (3, [2.0, 5.0], ['damaged', 'evaluation at 200 do not match its mean']),
    (5, [5.0], ['damaged', 'evaluation at 200 has no mean']),
])
def test_damaged_line_is_named_and_never_averaged(
    number, ys, words, tmp_path):
  write_run(tmp_path / 'a', lines=LINES)
  path = tmp_path / 'a' / 'metrics.jsonl'
  path.write_text(damage(path.read_text(), number))
  notes = []
  curve, _ = scores.collect(tmp_path, notes)
  assert curve['ys'] == ys
  assert len(notes) == len(words)
  assert all(word in note for word, note in zip(words, notes, strict=True))


def test_runs_that_cannot_be_read_are_named_beside_those_that_can(tmp_path):
  write_run(tmp_path / 'a', lines=LINES)
  write_run(tmp_path / 'b', lines=[{'step': 30, 'updates': 1}])
  for name in ('c', 'd'):
    write_run(tmp_path / name, lines=LINES)
  (tmp_path / 'c' / 'metrics.jsonl').unlink()
  (tmp_path / 'd' / 'config.yaml').write_text('seed: [')
  notes = []
  assert len(scores.collect(tmp_path, notes)) == 2
  b, c, d = notes
  assert 'b: no evaluation yet, after 30 of 300 steps' in b
  assert 'd cannot be read: ' in d and 'config.yaml:' in d
  assert 'c cannot be read: it has no metrics yet' in c


def test_table_compares_after_the_steps_of_the_shortest_run():
  curve = lambda method, seed, xs, ys: {
      'task': 'toy_reach', 'method': method, 'seed': seed, 'xs': xs, 'ys': ys}
  text = scores.table([
      curve('dreamingv2', 0, [100, 200, 300], [1.0, 2.0, 3.0]),
      curve('dreamingv2', 1, [100, 200], [3.0, 4.0]),
      curve('dreamerv2', 0, [100, 210], [5.0, 6.0]),
      curve('random', 0, [10, 20], [0.0, 1.0])])
  assert text.splitlines()[2:] == [
      '| toy_reach | dreamerv2 | 1 | 200 | 5.0 | 5.0 |',
      '| toy_reach | dreamingv2 | 2 | 200 | 3.0 +- 1.4 | 2.0 4.0 |',
      '| toy_reach | random | 1 |  | 0.5 | 0.5 |']


def test_table_averages_the_seeds_whose_evaluation_is_finite():
  text = scores.table([
      make_curve(ys=[0.0, 4.0]), make_curve(seed=1, ys=[0.0, 6.0]),
      make_curve(seed=2, ys=[0.0, np.nan])])
  assert text.splitlines()[2].split(' | ')[2:] == [
      '3', '1000', '5.0 +- 1.4', '4.0 6.0 nan |']


def test_table_never_averages_runs_whose_settings_differ():
  curves = [
      make_curve(seed=i, ys=[0.0, i], settings={'contrastive.horizon': k})
      for i, k in enumerate((3, 3, 0))]
  assert [x.split(' | ')[1:] for x in scores.table(curves).splitlines()[2:]
          ] == [['dreamingv2', '2', '1000', '0.5 +- 0.7', '0.0 1.0 |'],
                [r'dreamingv2 \[2\]', '1', '1000', '2.0', '2.0 |']]


def test_table_has_the_success_rates_of_those_that_tell_them():
  curve = lambda seed, **more: {
      'task': 'Lift', 'method': 'dreamingv2', 'seed': seed, 'xs': [100, 200],
      'ys': [1.0, 2.0], **more}
  head, _, row = scores.table([
      curve(0, successes=[0.1, 0.5]), curve(1),
      curve(2, successes=[0.2, np.nan])]).splitlines()
  assert head.endswith('| success |') and row.endswith('| 2.0 2.0 2.0 | 50% |')


def test_success_rates_follow_their_steps_when_a_file_is_sorted(tmp_path):
  path = tmp_path / 'a.json'
  curve = {
      'task': 'Lift', 'method': 'dreamingv2', 'seed': 0, 'xs': [20, 10],
      'ys': [2.0, 1.0], 'successes': [0.75, 0.25],
      'returns': [[2.0], [1.0]]}
  scores.save([curve], path)
  loaded, = scores.load(path, [])
  assert loaded == {
      **curve, 'xs': [10, 20], 'ys': [1.0, 2.0], 'successes': [0.25, 0.75],
      'returns': [[1.0], [2.0]]}


@pytest.mark.parametrize('key, value, words', [
    ('successes', [1.0], '2 xs, 1 successes'), ('successes', None, 'NoneType'),
    ('returns', [20, 10], 'iterable'), ('returns', [[1.0]], '2 xs, 1 returns'),
    ('successes', ['x', 'y'], "'x' is not a return")])
def test_part_of_a_curve_that_is_not_needed_costs_no_file(
    key, value, words, tmp_path):
  path = tmp_path / 'a.json'
  curve = {
      'task': 'Lift', 'method': 'dreamingv2', 'seed': 0, 'xs': [1, 2],
      'ys': [2.0, 1.0]}
  scores.save([{**curve, key: value}], path)
  notes = []
  assert scores.load(path, notes) == [curve]
  note, = notes
  assert f'{key} left out: ' in note and words in note


def test_random_curve_is_averaged_over_what_is_finite():
  head, _, row = scores.table([{
      'task': 'Lift', 'method': 'random', 'seed': 0, 'xs': [1, 2],
      'ys': [3.0, np.nan], 'successes': [0.1, 0.2]}]).splitlines()
  assert row == '| Lift | random | 1 |  | 3.0 | 3.0 |  |'
  assert np.isnan(scores.mean([np.nan])) and np.isnan(scores.mean([]))


def test_run_that_a_later_version_resumed_counts_once():
  old = {
      'task': 'Lift', 'method': 'dreamingv2', 'seed': 0, 'xs': [1],
      'ys': [2.0], 'settings': {'discount': 0.99}}
  new = {
      **old, 'xs': [1, 2], 'ys': [2.0, 3.0],
      'settings': {'discount': 0.99, 'critic.ensemble': 1}}
  assert scores.without_copies([old, new], []) == [new]
  other = {**new, 'settings': {**new['settings'], 'discount': 0.97}}
  assert scores.without_copies([old, other], []) == [old, other]


def test_curves_are_saved_loaded_and_added(tmp_path, capsys):
  write_run(tmp_path / 'runs' / '0', lines=LINES)
  write_run(tmp_path / 'runs' / '1', seed=1, lines=evaluation(300, 8.0))
  first, second = tmp_path / 'new' / 'first.json', tmp_path / 'second.json'
  scores.main(['--indir', str(tmp_path / 'runs'), '--out', str(first)])
  out = capsys.readouterr().out
  assert '| toy_reach | dreamingv2 | 2 | 300 | 6.5 +- 2.1 | 5.0 8.0 |' in out
  assert '| toy_reach | random | 1 |  | 4.0 | 4.0 |' in out
  curves = scores.load(first, [])
  other = first.with_name('other.json')
  scores.save([{**curves[0], 'seed': 2}], other)
  scores.main([
      '--scores', str(first), str(other), '--out', str(second)])
  packed = tmp_path / 'second.json.gz'
  scores.main(['--scores', str(second), '--out', str(packed)])
  assert gzip.decompress(packed.read_bytes()) == second.read_bytes()
  assert len(curves) == 3
  assert scores.load(second, []) == curves + [{**curves[0], 'seed': 2}]


@pytest.mark.parametrize('argv, text', [
    ([], 'no curve found'),
    (['--indir', 'nowhere'], 'no folder nowhere'),
    (['--scores', 'bad.json'], 'bad.json holds no list of curves'),
    (['--scores', 'poor.json'], "KeyError('ys')"),
    (['--scores', 'uneven.json'], '2 xs, 1 ys'),
    (['--indir', 'broken'], 'metrics.jsonl: 1 damaged line left out'),
    (['--indir', 'old'], 'does not say by which commit'),
])
def test_bad_input_is_named(argv, text, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'bad.json').write_text('3')
  (tmp_path / 'poor.json').write_text(
      '[{"task": "a", "method": "b", "seed": 0, "xs": []}]')
  (tmp_path / 'uneven.json').write_text(
      '[{"task": "a", "method": "b", "seed": 0, "xs": [1, 2], "ys": [1]}]')
  write_run(tmp_path / 'broken')
  (tmp_path / 'broken' / 'metrics.jsonl').write_text('{"step"')
  write_run(tmp_path / 'old')
  (tmp_path / 'old' / 'config.yaml').write_text(
      'method: a\nseed: 0\ntask: toy_reach\n')
  with pytest.raises(SystemExit) as error:
    scores.main(argv)
  line, = capsys.readouterr().err.splitlines()
  assert error.value.code == 2 and text in line
