import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types
import warnings

import numpy as np
import pytest

from dreamingv2.common import files
from dreamingv2.common import guards

ROOT = pathlib.Path(__file__).parents[2]


class Sections:
  """Has the interface of a timer but measures nothing."""

  def section(self, name):
    return contextlib.nullcontext()


def run(code, *args, **kwargs):
  """Starts Python code that can use `guards`, with its output in a pipe."""
  head = 'import os, signal, sys, time\nfrom dreamingv2.common import guards\n'
  return subprocess.Popen(
      [sys.executable, '-c', head + code, *map(str, args)], cwd=ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


HOLD = 'lock = guards.Lock(sys.argv[1]); print(1, flush=True); time.sleep(60)'


def test_lock_refuses_a_second_run_and_names_the_first(tmp_path):
  with run(HOLD, tmp_path) as process:
    process.stdout.readline()
    with pytest.raises(ValueError) as error:
      guards.Lock(tmp_path)
    process.kill()
  assert f'(process {process.pid} on ' in str(error.value)
  assert str(tmp_path) in str(error.value) and '--logdir' in str(error.value)


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
  with run(HOLD, tmp_path) as process:
    process.stdout.readline()
    process.kill()
  assert str(process.pid) in (tmp_path / 'lock').read_text()
  with guards.Lock(tmp_path):
    assert f'process {os.getpid()} ' in (tmp_path / 'lock').read_text()


def test_lock_leaves_nothing_behind_and_can_be_taken_again(tmp_path):
  for _ in range(2):
    with guards.Lock(tmp_path) as lock:
      with pytest.raises(ValueError, match='in use'):
        guards.Lock(tmp_path)
    assert not list(tmp_path.iterdir())
    lock.release()


def test_lock_is_not_inherited_by_child_processes(tmp_path):
  with guards.Lock(tmp_path):
    child = subprocess.Popen(['sleep', '30'])
  try:
    guards.Lock(tmp_path).release()
  finally:
    child.kill()
    child.wait()


def test_lock_warns_where_the_file_system_has_none(tmp_path, monkeypatch):
  def refuse(file, flags):
    raise OSError(37, 'No locks available')
  monkeypatch.setattr(guards.fcntl, 'flock', refuse)
  with pytest.warns(UserWarning, match='No locks available'):
    guards.Lock(tmp_path).release()


@pytest.mark.parametrize('number', guards.Signals.STOPPING)
def test_signal_is_noted_until_the_run_asks(number):
  before = signal.signal(number, signal.SIG_DFL)  # Tests may run in nohup.
  try:
    with guards.Signals() as signals:
      signals.check()
      os.kill(os.getpid(), number)
      with pytest.raises(guards.Stopped, match=number.name) as stop:
        signals.check()
      assert stop.value.number == number
    assert signal.getsignal(number) == signal.SIG_DFL
  finally:
    signal.signal(number, before)


def test_signal_to_another_process_of_the_run_counts():
  signals = guards.Signals()
  signals.check(lambda number: [number, 0])
  with pytest.raises(guards.Stopped, match='SIGTERM'):
    signals.check(lambda number: [number, signal.SIGTERM])


WAIT = '''
with guards.Signals() as signals:
  print(1, flush=True)
  begin = time.time()
  while time.time() - begin < 20:
    time.sleep(0.01)
    if len(sys.argv) == 1:
      signals.check()
'''


def test_sigint_stops_a_run_in_the_background_of_a_shell_script():
  """Such a shell makes its children ignore SIGINT."""
  ignore = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
  with run(WAIT, preexec_fn=ignore) as process:
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert 'Stopped: SIGINT' in process.communicate(timeout=10)[1]


def test_second_sigint_ends_the_process_at_once():
  with run(WAIT, 'never asks') as process:
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=2) == -signal.SIGINT


def test_nohup_stays_in_force():
  ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
  with run(WAIT, preexec_fn=ignore) as process:
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert 'Stopped: SIGTERM' in process.communicate(timeout=10)[1]


def linger(seconds):
  time.sleep(seconds)


def test_watchdog_says_where_a_run_stalls_and_what_it_waits_for():
  said = []
  dog = guards.Watchdog(Sections(), 0.2, said.append, lambda: 'worker 3')
  with dog, dog.section('env'):
    linger(0.5)
  assert re.fullmatch(
      r"Stalled for \d s in 'env', worker 3, at test_guards.py:\d+ \(linger\)",
      said[0])


def test_watchdog_is_silent_while_things_happen_and_when_switched_off():
  said = []
  for seconds in (1, 0):
    dog = guards.Watchdog(Sections(), seconds, said.append)
    with dog:
      for _ in range(12):
        time.sleep(0.1)
        dog.beat()
  assert not said


def test_start_that_stalls_names_file_and_environment(tmp_path, capfd):
  (tmp_path / 'x').write_text('1')
  env = types.SimpleNamespace(waiting='environment worker 3 to answer')
  with guards.starting(0.2, [env, object()]):
    with files.open_regular(tmp_path / 'x', 9):  # As if the disk hung.
      linger(0.5)
  line = capfd.readouterr().err.splitlines()[0]
  assert re.fullmatch(
      rf"Stalled for \d s in 'start', environment worker 3 to answer, "
      rf'file {tmp_path}/x for \d s, at .*', line), line


def test_start_that_opens_file_after_file_does_not_stall(tmp_path, capfd):
  (tmp_path / 'x').write_text('1')
  with guards.starting(0.8):
    for _ in range(12):
      files.read_bytes(tmp_path / 'x', 9)
      time.sleep(0.1)
  assert not capfd.readouterr().err


@pytest.mark.parametrize('make', [
    pathlib.Path.mkdir, os.mkfifo, lambda path: path.symlink_to('metrics')])
def test_lock_is_a_file_of_its_own(make, tmp_path):
  (tmp_path / 'metrics').write_text('1')
  make(tmp_path / 'lock')
  with pytest.raises(FileExistsError, match='lock is a'):
    guards.Lock(tmp_path)
  assert (tmp_path / 'metrics').read_text() == '1'


def test_watchdog_thread_ends_with_the_run():
  dog = guards.Watchdog(Sections(), 100, print)
  begin = time.time()
  with dog:
    pass
  assert time.time() - begin < 1 and not dog._thread.is_alive()


def feed(skips, totals, **metrics):
  for total in totals:
    skips.check(
        {'model_skipped': np.float64(total), **metrics},
        {'reward': np.float32([1, np.nan])}, lambda: {'w': np.ones(2)}, 'x')


def test_skips_in_a_row_stop_the_run_and_leave_batch_and_state(tmp_path):
  skips = guards.Skips(3, tmp_path / 'bad')
  feed(skips, [7, 8, 9, 9, 10, 11])
  with pytest.raises(guards.NotFinite) as error:
    feed(skips, [12], model_loss=np.float32(np.nan))
  message = str(error.value)
  path = tmp_path / 'bad' / 'x.npz'
  for words in ('3 updates in a row', 'model_skipped 12', str(path),
                'not finite: model_loss'):
    assert words in message
  with np.load(path) as dump:
    np.testing.assert_array_equal(dump['batch/reward'], [1, np.nan])
    np.testing.assert_array_equal(dump['state/w'], [1, 1])
    assert np.isnan(dump['metrics/model_loss'])


def test_skips_with_good_updates_between_them_stop_nothing(tmp_path):
  skips = guards.Skips(2, tmp_path)
  feed(skips, [0, 1, 1, 2, 2, 3])
  feed(guards.Skips(0, tmp_path), range(100))
  assert not list(tmp_path.iterdir())


def test_skips_stop_the_run_on_a_full_disk_too(tmp_path, monkeypatch):
  def full(path, write):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(guards, 'write_atomic', full)
  skips = guards.Skips(1, tmp_path)
  with pytest.raises(guards.NotFinite, match='No space left on device'):
    feed(skips, [0, 1])


def test_end_that_nobody_learns_is_told_once():
  ends = {'is_terminal': np.array([False, True])}
  cut = {'is_terminal': np.array([False, False])}
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('default')
    for episode, learned in (
        (cut, False), (ends, True), (ends, False), (ends, False)):
      guards.warn_of_end(episode, learned)
  assert [str(x.message) for x in told] == [
      'An episode ended in a terminal state, but the agent does not learn '
      'where episodes end. Set pred_discount to True, and let the '
      "environment's obs_space say that is_terminal can be True."]


def test_code_that_tells_nothing_is_told_once():
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('default')
    for spread in (0.01, np.nan, 2e-4, 1e-6, 0.0):
      before = len(told)
      guards.warn_of_collapse(spread)
      assert len(told) - before == (spread == 1e-6)
  assert 'same for all frames (code_spread is below 0.0001)' in str(
      told[0].message)
