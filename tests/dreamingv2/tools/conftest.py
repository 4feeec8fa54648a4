"""Trains the short runs that several tests of the tools read.

TensorFlow is imported late, because the fast tier loads this file as well.
"""

import shutil

import pytest

from dreamingv2 import settings
from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import counter
from dreamingv2.common import episodes
from dreamingv2.common import logdir as logdirs
from dreamingv2.tools import evaluate
from tests.helpers import run_toy


@pytest.fixture(scope='session')
def logdir(tmp_path_factory):
  """Returns the logdir of a run whose best checkpoint is not its newest."""
  folder = tmp_path_factory.mktemp('run') / 'logdir'
  run_toy(folder)
  best = folder / 'checkpoints' / checkpoints.BEST
  best.unlink()  # It is the same file as the newest.
  shutil.copy(best.with_name(f'{50:012d}.npz'), best)
  return folder


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
  """Returns a folder with a short run and two untrained models.

  The run, named probe, has a probe. The models, named decoder and none, have
  copies of its episodes.
  """
  from dreamingv2 import agent as agents
  folder = tmp_path_factory.mktemp('runs')
  run_toy(folder / 'probe', '--configs', 'debug', '--probe', 'True')
  obs, act = episodes.spaces(evaluate.read_episodes(folder / 'probe', 1))
  meta = evaluate.read_checkpoint(folder / 'probe').meta
  for name, method in {'decoder': 'dreamerv2', 'none': 'dreaming'}.items():
    for part in ('metrics.jsonl', 'train_episodes'):
      path = folder / 'probe' / part
      copy = shutil.copytree if path.is_dir() else shutil.copy
      (folder / name).mkdir(exist_ok=True)
      copy(path, folder / name / part)
    config = settings.load_config([
        '--configs', 'debug', method, '--task', 'toy_reach'])
    logdirs.save_config(config, folder / name, [
        'dreamingv2 0, commit a, a CPU, python 3', 'train.py'])
    agent = agents.Agent(config, obs, act, counter.Counter())
    checkpoints.Checkpoint(folder / name / 'checkpoints').save(
        100, agent.save(), meta)
  return folder
