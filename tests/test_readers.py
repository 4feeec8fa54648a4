"""Reads what a run writes in the ways of DreamerV2's own tools.

The functions here imitate what its plots and its replay do with files: which
names they split, which columns they take and how, and what they assert.
"""

import json

import gymnasium
import numpy as np
import pytest

from dreamingv2.common import replay as replays
from tests import helpers

TYPES = {
    'image': np.uint8, 'action': np.float32, 'reward': np.float32,
    'is_first': bool, 'is_last': bool, 'is_terminal': bool}


@pytest.fixture(scope='module')
def indir(tmp_path_factory):
  """Returns a folder with the logdir of a run of two episodes."""
  folder = tmp_path_factory.mktemp('indir')
  helpers.run_toy(folder / 'toy_reach/dreamingv2/0')
  return folder


def load_curve(indir, xaxis='step', yaxis='eval_return'):
  """Returns task, method, seed, xs and ys of the only run, as plots do."""
  path, = indir.glob('**/*.jsonl')
  task, method, seed = path.relative_to(indir).parts[:-1]
  # A data frame has a column for each name, with NaN where a line lacks it.
  rows = [json.loads(x) for x in path.read_text().splitlines()]
  rows = [(x.get(xaxis), x.get(yaxis)) for x in rows]
  xs, ys = np.array([x for x in rows if None not in x], float).T
  return task, method, seed, xs, ys


@pytest.mark.parametrize('yaxis, xs', [
    ('eval_return', [100]), ('train_return', [100]),
    ('train_total_steps', [50, 100]), ('kl_loss', [100]),
    ('model_loss', [100]), ('actor_ent', [100])])
def test_plots_find_task_method_seed_and_columns(yaxis, xs, indir):
  task, method, seed, found, ys = load_curve(indir, yaxis=yaxis)
  assert (task, method, seed) == ('toy_reach', 'dreamingv2', '0')
  assert task.split('_', 1)[1].replace('_', ' ').title() == 'Reach'
  assert set(found) == set(xs) and np.isfinite(ys).all()


def test_every_line_is_a_flat_object_of_numbers(indir):
  path, = indir.glob('**/*.jsonl')
  for line in path.read_text().splitlines():
    # NaN is no JSON.
    row = json.loads(line, parse_constant=pytest.fail)
    assert isinstance(row['step'], int)
    assert all(isinstance(x, (int, float)) for x in row.values())


def test_scores_can_be_binned(indir):
  """Each bin is left-open; all runs of a task need the same borders."""
  _, _, _, xs, ys = load_curve(indir, yaxis='train_total_steps')
  borders = np.arange(0, xs.max() + 1e-8, 50)
  order = np.argsort(xs)
  assert (order == np.arange(len(xs))).all() and ys.tolist() == [50, 100]
  assert borders.tolist() == [0, 50, 100]


def test_replay_of_dreamerv2_loads_and_counts_our_episodes(indir):
  paths = sorted((indir / 'toy_reach/dreamingv2/0/train_episodes').glob(
      '*.npz'))
  assert len(paths) == 2  # Sorted by name is sorted by time.
  for path in paths:
    assert int(str(path).split('-')[-1][:-4]) == 50
    with path.open('rb') as file:
      stored = np.load(file)  # Pickled objects would raise.
      episode = {k: stored[k] for k in stored.keys()}
    assert {k: v.dtype for k, v in episode.items()} == TYPES
    assert len(episode['action']) - 1 == 50
    assert episode['reward'].shape == (51,)
    assert episode['is_first'].tolist() == [True] + [False] * 50
    assert episode['is_last'].tolist() == [False] * 50 + [True]
    assert not episode['action'][0].any()


def test_we_load_episodes_of_dreamerv2(tmp_path):
  """Of Crafter: scalar counts, one-hot actions; its names have no fraction."""
  rows = 8
  np.savez_compressed(
      tmp_path / f'20210101T000000-{"ab" * 16}-{rows - 1}.npz',
      image=np.zeros((rows, 4, 4, 3), np.uint8),
      health=np.arange(rows, dtype=np.int32),
      action=np.eye(5, dtype=np.float32)[np.zeros(rows, int)],
      reward=np.ones(rows, np.float32), is_first=np.arange(rows) == 0,
      is_last=np.arange(rows) == rows - 1,
      is_terminal=np.zeros(rows, bool))
  box = gymnasium.spaces.Box
  spaces = {
      'image': box(0, 255, (4, 4, 3), np.uint8),
      'health': box(0, 9, (1,), np.float32), 'action': box(0, 1, (5,)),
      **{k: box(0, 1, (), v) for k, v in TYPES.items() if k[:2] == 'is'},
      'reward': box(-9, 9, (), np.float32)}
  replay = replays.Replay(tmp_path, spaces=spaces)
  batch = replay.sample(2, 8)
  assert batch['health'].shape == (2, 8, 1)
  assert replay.stats['total_steps'] == rows - 1
  assert replay.stats['damaged_episodes'] == 0

