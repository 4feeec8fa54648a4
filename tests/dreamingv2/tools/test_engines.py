"""Runs jobs on Ray and on submitit."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import types

import pytest

from dreamingv2.tools import engines
from dreamingv2.tools import progress
from dreamingv2.tools import sweep
from tests.dreamingv2.tools.test_sweep import QUICK
from tests.dreamingv2.tools.test_sweep import ROOT
from tests.dreamingv2.tools.test_sweep import plan
from tests.dreamingv2.tools.test_sweep import wait_for
from tests.dreamingv2.tools.test_sweep import worker_of


def test_missing_package_names_the_extra():
  with pytest.raises(ImportError, match=r"pip install -e '\.\[sweep\]'"):
    engines.need('surely_not_there')


@pytest.mark.slow
def test_two_ray_workers_finish_a_grid_though_one_is_killed(tmp_path):
  pytest.importorskip('ray')
  argv = [
      sys.executable, '-m', 'dreamingv2', 'sweep', '--methods', 'dreamingv2',
      'dreamerv2', '--tasks', 'toy_reach', 'toy_dummy', '--seeds', '2',
      '--retries', '1', '--indir', str(tmp_path), '--', *QUICK,
      '--steps', '150']
  victim = tmp_path / 'toy_reach' / 'dreamerv2' / '0'
  process = subprocess.Popen(
      argv, cwd=ROOT, stderr=subprocess.PIPE, text=True)
  wait_for(lambda: list(victim.glob('checkpoints/*.npz')), process)
  os.kill(worker_of(victim), signal.SIGKILL)
  err = process.communicate(timeout=1500)[1]
  assert process.returncode == 0, err
  assert '8 of 8 runs are done' in err
  assert err.count('again: ') == 1 and 'WorkerCrashedError' in err
  log = (victim / 'train.log').read_text()
  assert 'Stopped by SIGTERM; saved' in log and 'Resumed at step' in log
  again = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
  assert again.returncode == 0 and '8 of 8 runs are done' in again.stderr


@pytest.mark.parametrize('gpus, error', [
    ('0.5', 'gpus is 0.5; Slurm gives whole'), ('2', None)])
def test_slurm_gets_whole_gpus_and_enough_cpus(gpus, error, monkeypatch):
  options = {}
  monkeypatch.setattr(engines.shutil, 'which', lambda name: name)
  monkeypatch.setattr(engines, 'need', lambda name: types.SimpleNamespace(
      SlurmExecutor=lambda *args, **kwargs: types.SimpleNamespace(
          update_parameters=lambda **words: options.update(words))))
  args = sweep.make_parser().parse_args([
      '--methods', 'a', '--tasks', 'b', '--gpus', gpus, '--cpus', '2.5',
      '--slurm'])
  if error:
    with pytest.raises(ValueError, match=error):
      engines._slurm_executor(args)
  else:
    engines._slurm_executor(args)
    assert options['gpus_per_node'] == 2 and options['cpus_per_task'] == 3


def ignore_interrupts():
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_worker_can_be_cancelled_though_interrupts_were_ignored():
  program = """
import _thread, time
from dreamingv2.tools import engines
def job():
  _thread.interrupt_main()
  time.sleep(60)
try:
  engines._call(job)
except KeyboardInterrupt:
  print('cancelled')
"""
  done = subprocess.run(
      [sys.executable, '-c', program], cwd=ROOT, capture_output=True,
      text=True, timeout=50, preexec_fn=ignore_interrupts)
  assert done.stdout == 'cancelled\n', done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_sweep_in_the_background_of_a_script_stops_its_runs(number, tmp_path):
  """There, interrupts are ignored by all that it starts."""
  pytest.importorskip('ray')
  run = tmp_path / 'toy_reach' / 'dreamingv2' / '0'
  process = subprocess.Popen(
      [sys.executable, '-m', 'dreamingv2', 'sweep', '--methods', 'dreamingv2',
       '--tasks', 'toy_reach', '--indir', str(tmp_path), '--', *QUICK,
       '--steps', '1e6'], cwd=ROOT, stderr=subprocess.PIPE, text=True,
      preexec_fn=ignore_interrupts)
  wait_for(lambda: list(run.glob('checkpoints/*.npz')), process)
  process.send_signal(number)
  err = process.communicate(timeout=100)[1]
  assert process.returncode == 128 + number, err
  assert f'Stopped by {signal.SIGTERM.name}; saved' in (
      run / 'train.log').read_text()


@pytest.mark.slow
def test_submitit_runs_jobs_and_queues_them_again_when_preempted(
    tmp_path, monkeypatch):
  monkeypatch.setenv('SUBMITIT_PREEMPT_SIGNAL', 'USR1')  # Read on import.
  submitit = pytest.importorskip('submitit')
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  jobs = plan(tmp_path / 'runs', seeds=2, extra=[*QUICK, '--steps', '300'])
  executor = submitit.LocalExecutor(tmp_path / 'slurm', max_num_timeout=9)
  executor.update_parameters(timeout_min=30)
  engine = engines.Slurm(executor)
  made = sweep.Sweep(jobs, 0, interval=0.1)
  preempted = []

  def preempt():
    wait_for(lambda: list(jobs[0].logdir.glob('checkpoints/*.npz')))
    log = jobs[0].logdir / 'train.log'
    os.kill(worker_of(jobs[0].logdir), signal.SIGUSR1)
    wait_for(lambda: 'Stopped by SIGUSR1; saved' in log.read_text())
    preempted.append(jobs[0])

  thread = threading.Thread(target=preempt)
  thread.start()
  with contextlib.closing(engine):
    made.run(engine)
  thread.join()
  assert preempted and not made.failed, made.failed
  assert all(progress.read(job).finished for job in jobs)
  assert 'Resumed at step' in (jobs[0].logdir / 'train.log').read_text()
