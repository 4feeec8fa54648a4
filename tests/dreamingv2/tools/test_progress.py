"""Tests how far a sweep's runs are said to be, and what the rest costs."""

import os

import pytest

from dreamingv2.tools import progress
from tests.dreamingv2.tools.test_sweep import plan
from tests.dreamingv2.tools.test_sweep import pretend


def test_run_is_finished_at_its_last_step_with_nothing_due(tmp_path):
  job, = plan(tmp_path)
  assert progress.read(job) == progress.Progress()
  pretend(job, 399)
  assert not progress.read(job).finished
  pretend(job, 400, due=['eval'])
  assert not progress.read(job).finished
  pretend(job, 400)
  state = progress.read(job)
  assert state.finished
  assert (state.step, state.timed, state.seconds, state.result) == (
      400, 400, 10, 7)


@pytest.mark.parametrize('make', [
    os.mkfifo, os.mkdir, lambda path: path.symlink_to('/dev/zero'),
    lambda path: path.write_text('[' * 60_000),
    lambda path: path.write_text('\n'.join([
        '[]', '3', '{}', '{"step": "x"}', '{"step": 1e400}',
        '{"step": 50, "seconds": "x", "fps": [], "eval_return_mean": {}}',
        '{"step": null, "seconds": 3}']))])
def test_progress_of_an_odd_log_is_what_its_good_lines_say(make, tmp_path):
  job, = plan(tmp_path)
  job.logdir.mkdir(parents=True)
  path = job.logdir / 'metrics.jsonl'
  make(path)
  state = progress.read(job)
  assert state.step == (50 if path.is_file() and '50' in path.read_text(
      ) else 0)
  assert (state.timed, state.seconds, state.fps) == (0, 0, 0)


def test_dry_run_prices_by_what_was_measured(tmp_path, capsys):
  jobs = plan(tmp_path, ['dreamingv2', 'dreamerv2'], seeds=2)
  pretend(jobs[0], 400, seconds=40.0, size=400 * 2 ** 20)
  progress.show_plan(jobs)
  out = capsys.readouterr().out
  row, other = [x.split() for x in out.splitlines() if 'toy_reach/' in x]
  # 400 steps left at 10 steps per second and 1 MiB per step.
  assert row[1:] == '1 of 2 400 10.0 0.01 0.39 seed 0 at 100%'.split()
  assert other[1:6] == '0 of 2 800 ?'.split()
  assert 'at least 0.01 hours' in out and 'give --fps' in out
  progress.show_plan(jobs, fps=0.1)
  out = capsys.readouterr().out
  # 0.01 + 800 / 0.1 / 3600
  assert '--fps, raw images' in out and '2.23 hours' in out
