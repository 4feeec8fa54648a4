"""Tests that several replicas learn the same as one from equal batches."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from dreamingv2.common import checkpoint as checkpoints
from tests.dreamingv2.tools.test_sweep import wait_for

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / 'replicas.py'
PROGRAM = SCRIPT.parents[1] / 'train.py'
# No contrastive system: its candidates come from one replica only.
ALONE = ['loss_scales.nce=0', 'loss_scales.aux=0']


def start(kind, out, *args, env=()):
  return subprocess.Popen(
      [sys.executable, str(SCRIPT), kind, str(out), *args],
      env={**os.environ, **dict(env)}, stderr=subprocess.PIPE, text=True)


def finish(process, out):
  err = process.communicate(timeout=900)[1]
  assert process.returncode == 0, err[-3000:]
  with np.load(out) as file:
    return dict(file)


def run(kind, tmp_path, *args):
  out = tmp_path / f'{kind}.npz'
  return finish(start(kind, out, *args), out)


def pair():
  """Returns the environment variables of two connected processes."""
  sockets = [socket.socket() for _ in range(2)]
  for each in sockets:
    each.bind(('localhost', 0))
  cluster = {'worker': [
      f'localhost:{x.getsockname()[1]}' for x in sockets]}
  for each in sockets:
    each.close()
  return [{
      'TF_CONFIG': json.dumps({
          'cluster': cluster, 'task': {'type': 'worker', 'index': i}})}
      for i in range(2)]


def run_workers(tmp_path, *args):
  """Runs two processes that are connected by ports of this machine."""
  outs = [tmp_path / f'worker{i}.npz' for i in range(2)]
  processes = [
      start('multiworker', out, *args, env=env)
      for out, env in zip(outs, pair(), strict=True)]
  return [finish(*x) for x in zip(processes, outs, strict=True)]


def weights(arrays, replica=0):
  """Returns the weights, moments and statistics of a replica."""
  prefix = f'{replica}/'
  return {
      k[len(prefix):]: v for k, v in arrays.items()
      if k.startswith(prefix) and 'generator' not in k}


def assert_close(result, expected):
  """Asserts that metrics and weights agree up to rounding.

  Float32 sums have another order, so gradients agree to about 1e-6. Adam
  divides them by their magnitude, which amplifies the error of small ones.
  """
  names = [
      k for k in expected
      if k.startswith('metrics/') and 'nce_' not in k and 'aux_' not in k]
  assert len([k for k in names if k.endswith('_grad_norm')]) == 9
  for key in names:
    if key.endswith(('_loss', '_grad_norm')):
      np.testing.assert_allclose(
          result[key], expected[key], rtol=2e-4, atol=2e-5, err_msg=key)
  mine, theirs = weights(result), weights(expected)
  assert mine.keys() == theirs.keys()
  for key in theirs:
    np.testing.assert_allclose(
        mine[key], theirs[key], rtol=1e-3, atol=5e-5, err_msg=key)
  np.testing.assert_allclose(
      result['action'], expected['action'], atol=1e-3)


def assert_same(lhs, rhs):
  assert lhs.keys() == rhs.keys() and len(lhs) > 50
  for key in lhs:
    np.testing.assert_array_equal(lhs[key], rhs[key], err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize('args', [
    ['dreamerv2', 'replay_reward_norm.momentum=0.9',
     'reward_norm.momentum=0.9', 'actor_grad=both'],
    ['dreamerv2', 'jit=True'],
    ['dreamer'], ['blast_kl'],
    # Constant noise makes all samples of categoricals equal, and what is
    # normalised over the batch then is rounding.
    ['byol', 'rssm.latent=gaussian'],
    ['dreamingv2', *ALONE],
])
def test_two_mirrored_replicas_learn_what_one_learns(tmp_path, args):
  result = run('mirrored', tmp_path, *args)
  assert_close(result, run('none', tmp_path, *args))
  assert_same(weights(result, 0), weights(result, 1))


@pytest.mark.slow
@pytest.mark.parametrize('method', ['dreamingv2', 'dreamerpro', 'tpc'])
def test_replicas_that_draw_their_own_noise_stay_in_step(tmp_path, method):
  result = run(
      'mirrored', tmp_path, method, 'seed=1',
      'replay_reward_norm.momentum=0.9', 'prototypes.freeze=1')
  assert_same(weights(result, 0), weights(result, 1))
  assert all(np.isfinite(x).all() for x in result.values())


@pytest.mark.slow
def test_two_worker_processes_learn_what_one_learns(tmp_path):
  args = ['dreamerv2', 'replay_reward_norm.momentum=0.9']
  one, two = run_workers(tmp_path, *args)
  assert_same(weights(one), weights(two))
  assert_close(one, run('none', tmp_path, *args))


def train_pair(folder, steps, *argv):
  """Starts two processes of one run, with logdirs 0 and 1."""
  return [subprocess.Popen(
      [sys.executable, str(PROGRAM), '--configs', 'debug', '--task',
       'toy_reach', '--distribute', 'multiworker', '--seed', str(i),
       '--eval_eps', '0', '--outputs', 'jsonl', '--save_every', '50',
       '--steps', str(steps), '--logdir', str(folder / str(i)), *argv],
      env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)
      for i, env in enumerate(pair())]


def saved(folder):
  return [
      sorted(x for x in (folder / str(i) / 'checkpoints').glob('0*.npz'))
      for i in range(2)]


def end(processes, code):
  errors = [x.communicate(timeout=900)[1] for x in processes]
  assert [x.returncode for x in processes] == [code] * 2, errors
  return errors


@pytest.mark.slow
def test_two_processes_of_a_run_stop_and_go_on_together(tmp_path):
  processes = train_pair(tmp_path, 1e6)
  wait_for(lambda: all(saved(tmp_path)), processes[0])
  processes[1].send_signal(signal.SIGTERM)
  for err in end(processes, 128 + signal.SIGTERM):
    assert 'Stopped by SIGTERM; saved' in err
  steps = {
      checkpoints.peek(tmp_path / str(i) / 'checkpoints')[0] for i in (0, 1)}
  assert len(steps) == 1
  # As if one of them had been killed before it saved.
  saved(tmp_path)[0][-1].unlink()
  common = int(saved(tmp_path)[0][-1].stem)
  for err in end(train_pair(tmp_path, max(steps) + 60), 0):
    assert f'Resumed at step {common} ' in err
  one, two = (
      checkpoints.Checkpoint(tmp_path / str(i) / 'checkpoints').load().arrays
      for i in (0, 1))
  assert_same(*({
      k: v for k, v in x.items() if 'generator' not in k}
      for x in (one, two)))


@pytest.mark.slow
def test_processes_killed_in_the_prefill_go_on_together(tmp_path):
  processes = train_pair(tmp_path, 100, '--prefill', '2000')
  wait_for(lambda: all(saved(tmp_path)), processes[0])
  for process in processes:
    process.kill()
  for process in processes:
    process.communicate()
  for path in saved(tmp_path)[1]:
    path.unlink()  # As if one of them had been killed before it saved.
  end(train_pair(tmp_path, 100), 0)
  assert {x[-1].stem for x in saved(tmp_path)} == {f'{100:012d}'}


@pytest.mark.slow
def test_process_of_a_run_gives_up_when_the_other_is_killed(tmp_path):
  processes = train_pair(tmp_path, 1e6)
  wait_for(lambda: all(saved(tmp_path)), processes[0])
  processes[1].kill()
  err = processes[0].communicate(timeout=300)[1]
  assert processes[0].returncode == 3
  assert 'Error: another process of this run is gone; start all' in err
  processes[1].communicate()
