"""Reads logdirs like those of DreamerV2 and DreamerV3, written by code."""

import gzip
import io
import json
import os
import sys

import numpy as np
import pytest

from dreamingv2.tools import figures
from dreamingv2.tools import formats
from dreamingv2.tools import results
from dreamingv2.tools import scores
from dreamingv2.tools import tables
from tests.dreamingv2.tools import test_scores
from tests.helpers import make_curve

V2 = """\
action_repeat: {repeat}
actor: {{act: elu, dist: trunc_normal, layers: 4}}
encoder: {{cnn_keys: image, mlp_keys: $^}}
eval_every: 10000.0
logdir: {folder}
log_keys_video: [image]
prefill: 5000
rssm: {{deter: 200, discrete: 32, stoch: 32}}
seed: {seed}
steps: 1000000.0
task: {task}
time_limit: 0
"""
V3 = """\
agent:
  dyn: {{rssm: {{deter: 8192}}, typ: rssm}}
  loss_scales: {{dyn: 1.0, rep: 0.1}}
env:
  dmc: {{repeat: 2, size: [64, 64]}}
logdir: {folder}
method: {method}
replay: {{fracs: {{priority: 0.0, uniform: 1.0}}, prio: {{initial: .inf}}}}
run: {{log_every: 120, steps: 1100000.0, train_ratio: 256.0}}
seed: {seed}
task: {task}
"""


@pytest.mark.parametrize('line, command', [
    ('train.py --configs small --logdir a/b --steps 5',
     'python train.py --configs small --steps 5'),
    ('my_train.py', 'python my_train.py'),
    ('dreamingv2 train --logdir=a/b --steps 5', 'dreamingv2 train --steps 5'),
    ('__main__.py train', 'python -m dreamingv2 train')])
def test_command_of_a_run_can_be_run(line, command):
  assert formats.command(line) == command


def write_lines(path, lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def write_v2(
    folder, task='dmc_walker_walk', seed=0, evals=((2000, (1., 3.)),),
    **config):
  """Writes a logdir of DreamerV2: evals are pairs of step and returns."""
  folder.mkdir(parents=True)
  (folder / 'config.yaml').write_text(V2.format(
      folder=folder, task=task, seed=seed, **{'repeat': 2, **config}))
  lines = [{'step': 1000, 'train_return': 20., 'train_length': 500.,
            'train_total_steps': 500., 'train_total_episodes': 1.}]
  for step, returns in evals:
    lines += [{
        'step': step, 'eval_return': x, 'eval_length': 500.,
        'eval_total_steps': 500.} for x in returns]
    lines.append({
        'step': step + 8, 'kl_loss': 3.5, 'image_loss': 11e3,
        'model_grad_norm': 9.0, 'actor_loss': -1.0, 'prior_ent': 50.,
        'fps': 20.})
  write_lines(folder / 'metrics.jsonl', lines)


def write_v3(
    folder, task='dmc_walker_walk', seed=0, method='name',
    episodes=((1000, 5.), (2000, 7.)), scores_file=True):
  """Writes a logdir of DreamerV3, with the score of each episode."""
  folder.mkdir(parents=True)
  (folder / 'config.yaml').write_text(V3.format(
      folder=folder, task=task, seed=seed, method=method))
  lines = [{'step': s, 'episode/score': y, 'episode/length': 500.}
           for s, y in episodes]
  metrics = [*lines, {
      'step': episodes[-1][0] + 16, 'train/loss/image': 500.,
      'train/loss/dyn': 3., 'train/rand/action': .9, 'fps/train': 900.}]
  write_lines(folder / 'metrics.jsonl', metrics)
  if scores_file:
    write_lines(folder / 'scores.jsonl', [
        {k: x[k] for k in ('step', 'episode/score')} for x in lines])


def read(folder):
  notes = []
  return scores.collect(folder, notes), notes


def test_dreamerv2_run_gets_the_mean_of_the_episodes_of_each_evaluation(
    tmp_path):
  write_v2(tmp_path / 'a', seed=4, evals=[
      (10_000, (1., 2., 6.)), (20_000, (8.,))])
  (curve,), notes = read(tmp_path)
  settings = curve.pop('settings')
  assert curve == {
      'task': 'dmc_walker_walk', 'method': 'dreamerv2 (upstream)', 'seed': 4,
      'xs': [10_000, 20_000], 'ys': [3., 8.], 'returns': [[1., 2., 6.], [8.]],
      'at': 20_008, 'budget': 1e6, 'format': 'DreamerV2'}
  assert settings['rssm.deter'] == 200 and settings['action_repeat'] == 2
  assert not {'logdir', 'steps', 'eval_every', 'seed', 'task'} & {*settings}
  assert not notes


def test_dreamerv2_run_without_evaluation_shows_training_and_says_so(
    tmp_path):
  write_v2(tmp_path / 'a', evals=[])
  (curve,), (note,) = read(tmp_path)
  assert (curve['xs'], curve['ys']) == ([1000], [20.])
  assert 'it has no eval_return; the curve shows train_return, which' in note


@pytest.mark.parametrize('scores_file', [True, False])
def test_dreamerv3_run_gets_the_score_of_each_episode(scores_file, tmp_path):
  write_v3(tmp_path / 'a', scores_file=scores_file, episodes=[
      (500, 1.), (1500, 2.), (1500, 4.)])
  (curve,), notes = read(tmp_path)
  assert curve['method'] == 'dreamerv3 (upstream)'
  assert (curve['xs'], curve['ys']) == ([500, 1500], [1., 3.])
  assert curve['budget'] == 1.1e6 and curve['format'] == 'DreamerV3'
  assert curve['settings']['run.train_ratio'] == 256
  assert 'run.steps' not in curve['settings']
  assert 'the curve shows episode/score, which is of training' in notes[0]


@pytest.mark.parametrize('path, write, task, expected', [
    # The names in the config win; the path is used if it has none.
    ('dmc_walker_walk/mine/3', write_v2, 'dmc_walker_walk', 'mine'),
    ('walker/mine/3', write_v2, 'dmc_walker_walk', 'dreamerv2'),
    ('dmc_walker_walk/mine/x3', write_v2, 'dmc_walker_walk', 'dreamerv2'),
    ('dmc_walker_walk/mine/3', write_v3, 'dmc_walker_walk', 'mine'),
    ('deep/er/dmc_walker_walk/mine/3', write_v3, 'dmc_walker_walk', 'mine')])
def test_path_names_the_method_where_it_is_task_method_seed(
    path, write, task, expected, tmp_path):
  write(tmp_path / path, seed=7)
  (curve,), _ = read(tmp_path)
  assert curve['task'] == task and curve['seed'] == 7
  assert curve['method'] == f'{expected} (upstream)'


def test_dreamerv3_config_names_its_method(tmp_path):
  write_v3(tmp_path / 'dmc_walker_walk' / 'other' / '3', method='big')
  assert read(tmp_path)[0][0]['method'] == 'big (upstream)'


def test_folder_without_config_is_named_by_its_path_alone(tmp_path):
  write_v2(tmp_path / 'dmc_hopper_hop' / 'mine' / '3')
  write_v3(tmp_path / 'nameless')
  for path in ('dmc_hopper_hop/mine/3', 'nameless'):
    (tmp_path / path / 'config.yaml').unlink()
  (curve,), (note,) = read(tmp_path)
  assert (curve['task'], curve['method'], curve['seed']) == (
      'dmc_hopper_hop', 'mine (upstream)', 3)
  assert 'nameless cannot be read: its task is unknown' in note


def test_runs_of_others_are_never_averaged_with_ours(tmp_path):
  write_v2(tmp_path / 'dmc_walker_walk' / 'dreamerv2' / '0',
           evals=[(1000, (1., 3.))])
  write_v3(tmp_path / 'dmc_walker_walk' / 'dreamerv2' / '1',
           episodes=[(1000, 10.)])
  ours = make_curve(
      task='dmc_walker_walk', method='dreamerv2', settings={'a': 1},
      ys=[0., 100.])
  path = tmp_path / 'ours.json'
  path.write_text(json.dumps([ours]))
  curves, notes = results.read([tmp_path], [path])
  assert {c['method'] for c in curves} == {
      'dreamerv2', 'dreamerv2 (upstream)'}
  (one, *_), footnotes, _ = tables.build(curves, 1000, notes)
  entries = next(
      dict(zip(one.columns, x[3], strict=True)) for x in one.rows
      if x[:2] == ('Walker-walk', 'these runs'))
  assert entries['DreamerV2'].mean == 100
  # Runs of two formats are not averaged, even if their folders have one name.
  assert entries['dreamerv2 (upstream)'].text == 'not averaged'
  assert 'format DreamerV3 instead of DreamerV2' in footnotes[0]


def test_what_cannot_be_read_is_one_short_line_beside_the_others(tmp_path):
  write_v2(tmp_path / 'good')
  for name in ('empty', 'fifo', 'linked', 'other', 'words'):
    write_v2(tmp_path / name)
  (tmp_path / 'empty' / 'metrics.jsonl').write_text('')
  (tmp_path / 'fifo' / 'metrics.jsonl').unlink()
  os.mkfifo(tmp_path / 'fifo' / 'metrics.jsonl')
  (tmp_path / 'linked' / 'metrics.jsonl').unlink()
  (tmp_path / 'linked' / 'metrics.jsonl').symlink_to(
      tmp_path / 'good' / 'metrics.jsonl')
  (tmp_path / 'other' / 'config.yaml').write_text('lr: 0.1\n')
  (tmp_path / 'words' / 'config.yaml').write_text(
      'action_repeat: 2\ntask: "a\\nb" \nseed: [' + 'x' * 9000 + ']')
  curves, notes = read(tmp_path)
  assert len(curves) == 1 and len(notes) == 5
  assert all(len(x) < 320 + len(str(tmp_path)) and '\n' not in x
             for x in notes)
  for note, words in zip(notes, (
      'none of its lines has eval_return or train_return',
      'is a pipe, not a file to read', 'is a link that leads out of',
      'are not those of a run of DreamerV3, DreamingV2, DreamerV2',
      'seed is '), strict=True):
    assert words in note


def test_packed_score_files_are_read(tmp_path):
  curves = [make_curve(method='dreamerv3', seed=str(i)) for i in range(2)]
  path = tmp_path / 'dmc.json.gz'
  path.write_bytes(gzip.compress(json.dumps(curves).encode()))
  found, _ = results.read([], [path])
  assert {(c['method'], c['seed']) for c in found} == {
      ('dreamerv3 (dmc)', '0'), ('dreamerv3 (dmc)', '1')}


def test_collected_runs_of_others_keep_their_names_in_a_file(tmp_path, capsys):
  write_v2(tmp_path / 'runs' / 'a')
  write_v3(tmp_path / 'runs' / 'b')
  test_scores.write_run(tmp_path / 'runs' / 'c', lines=test_scores.LINES)
  out = tmp_path / 'scores.json'
  scores.main(['--indir', str(tmp_path / 'runs'), '--out', str(out)])
  curves, _ = results.read([], [out])
  assert {c['method'] for c in curves} == {
      'dreamerv2 (upstream)', 'dreamerv3 (upstream)', 'dreamingv2', 'random'}
  assert '| dreamerv3 (upstream) | 1 | 2000 | 7.0 |' in capsys.readouterr().out


def test_all_formats_are_drawn_together(tmp_path, capsys):
  write_v2(tmp_path / 'runs' / 'a', evals=[
      (x, (x / 100, x / 90)) for x in range(0, 50_000, 10_000)])
  rng = np.random.default_rng(0)
  write_v3(tmp_path / 'runs' / 'b', episodes=[
      (1000 * i, float(i + rng.normal())) for i in range(60)])
  ours = tmp_path / 'ours.json'
  ours.write_text(json.dumps([make_curve(
      task='Walker-walk', command='a', xs=[10_000, 20_000])]))
  curves, _ = results.read([tmp_path / 'runs'], [ours])
  ax, = figures.draw_curves(curves, []).axes
  lines = {x.get_label(): len(x.get_xdata()) for x in ax.lines}
  assert lines['dreamerv2 (upstream)'] == 5
  assert lines['dreamerv3 (upstream)'] == 60 and lines['dreamingv2'] == 2
  page = tmp_path / 'runs.html'
  figures.main(['dashboard', str(ours), '--indir', str(tmp_path / 'runs'),
                '--out', str(page)])
  text = page.read_text()
  assert text.count('data:image/png') == 3
  for words in ('<td>dreamerv2 (upstream)</td>', '<td>Walker-walk</td>',
                f'<td>{ours}</td>', '<td>1,100,000</td>'):
    assert words in text


def test_long_runs_are_drawn_by_so_many_points():
  xs = list(range(0, 100_000, 10))
  centers, values = figures.binned([make_curve(xs=xs, ys=[1.] * len(xs))])
  assert len(centers) == figures.POINTS + 1 and (values == 1).all()


def test_links_to_folders_are_not_entered(tmp_path):
  write_v2(tmp_path / 'elsewhere' / 'a')
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'link').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'runs' / 'loop').symlink_to(tmp_path / 'runs')
  notes = []
  assert not list(formats.find(tmp_path / 'runs', notes)) and not notes


class Terminal(io.StringIO):

  def isatty(self):
    return True


@pytest.mark.parametrize('stream, shown', [(Terminal, True), (
    io.StringIO, False)])
def test_runs_that_are_read_are_shown_on_a_terminal_only(
    stream, shown, tmp_path, monkeypatch, capsys):
  write_v2(tmp_path / 'first')
  write_v2(tmp_path / 'second')
  monkeypatch.setenv('COLUMNS', '80')
  monkeypatch.setattr(sys, 'stderr', stream())
  assert len(read(tmp_path)[0]) == 2
  text = sys.stderr.getvalue()
  for words in ('first', 'second', '2/2 runs'):
    assert (words in text) == shown
  assert not capsys.readouterr().out


@pytest.mark.parametrize('tool, argv, name', [
    (tables, ['FILE'], 'a.md'), (scores, ['--scores', 'FILE'], 'a.json'),
    (figures, ['curves', 'FILE'], 'a.png'),
    (figures, ['profiles', 'FILE', '--steps', '1000'], 'a.svg'),
    (figures, ['dashboard', 'FILE'], 'a.html')])
@pytest.mark.parametrize('kind', ['link', 'directory', 'fifo'])
def test_out_replaces_no_link_and_no_directory(
    kind, tool, argv, name, tmp_path, capsys):
  path, kept = tmp_path / 'curves.json', tmp_path / 'kept'
  path.write_text(json.dumps([make_curve(command='a')]))
  kept.write_text('precious')
  out = tmp_path / name
  {'link': lambda: out.symlink_to(kept), 'directory': out.mkdir,
   'fifo': lambda: os.mkfifo(out)}[kind]()
  with pytest.raises(SystemExit) as error:
    tool.main([*(str(path) if x == 'FILE' else x for x in argv),
               '--out', str(out)])
  assert 'will not be replaced' in f'{error.value} {capsys.readouterr().err}'
  assert kept.read_text() == 'precious' and sorted(
      x.name for x in tmp_path.iterdir()) == sorted(
          ['curves.json', 'kept', name])
