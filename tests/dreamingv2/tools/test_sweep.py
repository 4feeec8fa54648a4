"""Tests which runs a sweep plans, refuses, repeats and finishes."""

import _thread
import concurrent.futures as futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import guards
from dreamingv2.tools import engines
from dreamingv2.tools import progress
from dreamingv2.tools import sweep

ROOT = pathlib.Path(__file__).resolve().parents[3]
GRID = ['--methods', 'dreamingv2', 'dreamerv2', '--tasks', 'toy_reach']
DEBUG = ['--configs', 'debug', '--outputs', 'jsonl']
QUICK = [
    *DEBUG, '--steps', '70', '--prefill', '60', '--eval_eps', '1',
    '--eval_every', '70', '--save_every', '20', '--log_every', '10']


def plan(indir, methods=('dreamingv2',), tasks=('toy_reach',), seeds=1,
         extra=DEBUG):
  return sweep.plan(methods, tasks, seeds, indir, extra)


def pretend(job, step, due=(), seconds=10.0, size=0):
  """Writes the files that the run of a job has at a step."""
  saver = checkpoints.Checkpoint(job.logdir / 'checkpoints')
  saver.save(step, {}, {'due': list(due)})
  job.config.save(job.logdir / 'config.yaml')
  (job.logdir / 'metrics.jsonl').write_text(
      f'cut off"}}\n{json.dumps({"step": step, "seconds": seconds})}\n'
      f'{json.dumps({"step": step, "eval_return_mean": 7.0})}\n')
  with (job.logdir / 'filling').open('wb') as file:
    file.truncate(size)


class Fake:
  """Replaces a job: fails a given number of times, then is finished."""

  def __init__(self, folder, failures=0, code=1):
    self.name = folder.name
    self.logdir = folder
    self.config = plan(folder)[0].config
    self.codes = [code] * failures
    self.calls = 0

  def __call__(self):
    self.calls += 1
    if self.codes:
      code = self.codes.pop()
      if code == 'lost':
        raise ConnectionError('the worker is gone\nand more')
      return code, 'Error: oh'
    pretend(self, int(self.config.steps))
    return 0, ''


class Pool:
  """Is an engine that runs jobs in threads."""

  def __init__(self):
    self.pool = futures.ThreadPoolExecutor(2)
    self.stopped = threading.Event()

  def submit(self, jobs):
    return [self.pool.submit(job) for job in jobs]

  def stop(self):
    self.stopped.set()


def run(jobs, retries=1, engine=None):
  made = sweep.Sweep(jobs, retries, interval=0.01)
  made.run(engine or Pool())
  return made


def test_plan_begins_with_the_first_seed_of_everything(tmp_path):
  jobs = plan(
      tmp_path, ['dreamer', 'tpc'], ['Lift', 'toy_reach'], 2,
      ['--steps', '1e3', '--configs', 'small'])
  assert [job.name for job in jobs[:5]] == [
      'robosuite_Lift/dreamer/0', 'robosuite_Lift/tpc/0',
      'toy_reach/dreamer/0', 'toy_reach/tpc/0', 'robosuite_Lift/dreamer/1']
  config = jobs[5].config
  assert (config.seed, config.objective, config.steps, config.dataset.batch
          ) == (1, 'predictive', 1000, 8)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('argv, message', [
    (['--methods', 'dreamerv3', '--tasks', 'Lift'], 'known: dreamerv2'),
    (['--methods', 'small', '--tasks', 'Lift'], "Unknown method 'small'"),
    (['--methods', 'tpc', '--tasks', 'toy_reech'], 'known: reach'),
    ([*GRID, '--seeds', '0'], '--seeds is 0; it must be >= 1'),
    ([*GRID, '--retries', '-1'], '--retries is -1'),
    ([*GRID, '--first_seed', '-1'], '--first_seed is -1; it must be >= 0'),
    ([*GRID, '--first_seed', '2147483647', '--seeds', '2'],
     'the last seed is 2147483648'),
    ([*GRID, '--cpus', 'nan'], '--cpus is nan'),
    ([*GRID, '--', '--seed', '3'], 'use --seeds'),
    ([*GRID, '--', '--logdir=x'], 'use --indir'),
    ([*GRID, '--', '--configs', 'hybrid'], 'and dreamingv2 are methods'),
    ([*GRID, '--', '--rsm.deter', '3'], 'nearest: rssm.deter'),
    ([*GRID, '--', '--outputs', 'wandbb'], "'wandbb'; known: wandb"),
    ([*GRID, '--', '--method', 'mine'], 'several runs would share'),
    ([*GRID, '--configs', 'small'], 'flags of the run follow --; see'),
    ([*GRID, ''], '--task is empty'),
    ([*GRID, 'lift'], "'lift' is none of the paper's"),
    ([*GRID, 'toy_reach'], 'several runs would share'),
    ([*GRID, '--slurm'], 'no sbatch'),
])
def test_mistakes_are_said_in_one_line_before_anything_starts(
    tmp_path, monkeypatch, capsys, argv, message):
  monkeypatch.setattr(engines.Ray, '__init__', lambda *args: pytest.fail())
  monkeypatch.setattr(engines, 'need', lambda name: None)
  monkeypatch.setattr(engines.shutil, 'which', lambda name: None)
  with pytest.raises(SystemExit) as ending:
    sweep.main(['--indir', str(tmp_path / 'runs'), *argv])
  assert ending.value.code == 2
  err = capsys.readouterr().err
  assert message in err and len(err.splitlines()) == 1, err
  assert not [x for x in tmp_path.rglob('*') if x.is_file()]


def test_plan_begins_with_the_seed_that_is_named(tmp_path):
  jobs = sweep.plan(
      ['tpc', 'dreamer'], ['toy_reach'], 2, tmp_path, DEBUG, first=3)
  assert [job.name for job in jobs] == [
      'toy_reach/tpc/3', 'toy_reach/dreamer/3', 'toy_reach/tpc/4',
      'toy_reach/dreamer/4']
  assert [job.config.seed for job in jobs] == [3, 3, 4, 4]
  assert jobs[0].words[jobs[0].words.index('--seed') + 1] == '3'


def test_folder_with_runs_of_another_config_is_refused(tmp_path):
  other = plan(tmp_path, seeds=6, extra=[*DEBUG, '--rssm.deter', '9'])[5]
  pretend(other, 100)
  with pytest.raises(ValueError, match='deter 9 there and 16 .* --indir'):
    plan(tmp_path)
  more = [*DEBUG, '--rssm.deter', '9', '--steps', '9000']
  assert plan(tmp_path, extra=more)  # More steps are allowed.


def test_damaged_newest_checkpoint_leaves_the_one_before(tmp_path):
  job, = plan(tmp_path)
  pretend(job, 400)
  pretend(job, 500)
  (job.logdir / 'checkpoints' / f'{500:012d}.npz').write_bytes(b'no zip')
  assert checkpoints.peek(job.logdir / 'checkpoints') == (400, {'due': []})


def test_log_of_a_job_follows_no_link(tmp_path):
  job, = plan(tmp_path)
  job.logdir.mkdir(parents=True)
  (job.logdir / 'train.log').symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(FileExistsError, match='train.log is a link'):
    job()
  assert not (tmp_path / 'elsewhere').exists()


def test_sweep_repeats_what_fails_within_its_budget(tmp_path, capsys):
  jobs = [
      Fake(tmp_path / 'well'), Fake(tmp_path / 'once', 1),
      Fake(tmp_path / 'lost', 1, 'lost'), Fake(tmp_path / 'ever', 9, 3),
      Fake(tmp_path / 'wrong', 9, sweep.TO_MEND)]
  made = run(jobs)
  assert [job.calls for job in jobs] == [1, 2, 2, 2, 1]
  assert {job.name: why for job, why in made.failed.items()} == {
      'ever': 'exit code 3: Error: oh', 'wrong': 'exit code 2: Error: oh'}
  made.summarize()
  err = capsys.readouterr().err
  assert '3 of 5 runs are done' in err
  assert 'ConnectionError: the worker is gone' in err
  again = run(jobs[:3])
  assert [job.calls for job in jobs[:3]] == [1, 2, 2] and not again.failed


def test_run_that_ends_without_its_last_checkpoint_is_no_success(tmp_path):
  job = Fake(tmp_path / 'full')
  job.config = job.config.update({'steps': 5})
  job.codes = [0, 0]
  made = run([job])
  assert job.calls == 2
  assert 'no checkpoint of its last step' in made.failed[job]


def test_signal_stops_all_runs_and_the_sweep(tmp_path):
  engine = Pool()

  class Slow(Fake):
    def __call__(self):
      os.kill(os.getpid(), signal.SIGTERM)
      engine.stopped.wait(20)
      return 143, ''

  made = sweep.Sweep([Slow(tmp_path / 'slow')], 5, interval=0.01)
  with pytest.raises(guards.Stopped):
    made.run(engine)
  assert engine.stopped.is_set() and not made.failed


def test_job_returns_exit_code_and_last_line(tmp_path, monkeypatch):
  (tmp_path / 'train.py').write_text(
      'import os, sys\nprint(sys.argv[1:3], os.environ["CUDA_VISIBLE_DEVICES"]'
      ', os.environ.get("TF_NUM_INTRAOP_THREADS"))\nsys.exit("Error: oh")')
  config = plan(tmp_path)[0].config
  monkeypatch.setattr(sweep.settings, 'ROOT', tmp_path)
  monkeypatch.delenv('TF_NUM_INTRAOP_THREADS', raising=False)
  job = sweep.Job(['--a', 'b'], config, tmp_path / 'x' / 'y' / '0', 2.0)
  for gpu, threads in (('', '2'), ('1', 'None')):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', gpu)
    assert job() == (1, 'Error: oh')
    log = (job.logdir / 'train.log').read_text()
    assert f"['--a', 'b'] {gpu} {threads}\n" in log
  assert job.name == 'x/y/0'


def test_job_that_is_interrupted_without_a_signal_lets_its_run_save(
    tmp_path, monkeypatch):
  """As Ray does it: this ends no call that waits."""
  (tmp_path / 'train.py').write_text(
      'import signal, time\ntry:\n'
      '  signal.signal(signal.SIGTERM, signal.default_int_handler)\n'
      '  print("ready")\n  time.sleep(60)\n'
      'except KeyboardInterrupt:\n  print("saved")')
  config = plan(tmp_path)[0].config
  monkeypatch.setattr(sweep.settings, 'ROOT', tmp_path)
  job = sweep.Job([], config, tmp_path / 'x' / 'y' / '0')
  log = job.logdir / 'train.log'

  def interrupt():
    wait_for(lambda: log.exists() and 'ready' in log.read_text())
    _thread.interrupt_main()

  thread = threading.Thread(target=interrupt)
  thread.start()
  begin = time.monotonic()
  with pytest.raises(KeyboardInterrupt):
    job()
  thread.join()
  assert log.read_text() == 'ready\nsaved\n'
  assert time.monotonic() - begin < 30


@pytest.mark.slow
def test_job_trains_and_is_stopped_with_its_parent(tmp_path):
  """A process that runs a job is killed; train.py saves and ends."""
  job, = plan(tmp_path, extra=[*QUICK, '--steps', '1e6'])
  code = (
      'import pathlib\nfrom dreamingv2.tools import sweep\nsweep.plan('
      f'["dreamingv2"], ["toy_reach"], 1, pathlib.Path({str(tmp_path)!r}), '
      f'{[*QUICK, "--steps", "1e6"]!r})[0]()')
  parent = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT)
  wait_for(lambda: list(job.logdir.glob('checkpoints/*.npz')), parent)
  parent.kill()
  parent.wait()
  log = job.logdir / 'train.log'
  wait_for(lambda: 'Stopped by SIGTERM; saved' in log.read_text())
  wait_for(lambda: not (job.logdir / 'lock').exists())
  job, = plan(tmp_path, extra=[*QUICK, '--steps', '100'])
  assert job()[0] == 0 and progress.read(job).finished
  assert 'Resumed at step' in log.read_text()


def wait_for(condition, process=None, seconds=600):
  until = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < until, 'Waited in vain.'
    assert not process or process.poll() is None, process.returncode
    time.sleep(0.05)


def worker_of(logdir):
  """Returns the id of the process that started the run in a folder."""
  train = int((logdir / 'lock').read_text().split()[1])
  stat = pathlib.Path(f'/proc/{train}/stat').read_text()
  return int(stat.rpartition(')')[2].split()[1])
