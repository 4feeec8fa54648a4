"""What watches over a run: lock, signals, watchdog, updates not finite."""

import contextlib
import fcntl
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import types
import warnings

import numpy as np

from . import command
from . import files
from .checkpoint import write_npz
from .files import write_atomic

COLLAPSED = 1e-4  # Below this, code_spread says that the code is constant.


class Lock:
  """Holds a folder against other processes, until `release`.

  The kernel holds the lock, and drops it when the process ends in whatever
  way: a file `lock` that a dead process has left is taken over.

  Raises:
    FileExistsError: `lock` is no regular file.
    ValueError: Another process holds the folder.
  """

  def __init__(self, folder):
    self._path = pathlib.Path(folder) / 'lock'
    files.check(self._path)
    self._file = None
    while not self._file:
      file = self._path.open('a+')
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or 'process unknown'
        file.close()
        raise ValueError(
            f'{folder} is in use by another run ({owner}); end that one, or '
            f'choose another --logdir') from None
      except OSError as error:  # Some network file systems have no locks.
        warnings.warn(
            f'{self._path} cannot be locked ({error}); see to it that no '
            f'other run uses this folder.', stacklevel=2)
      # The one before may have removed the file that was opened here.
      if self._path.exists() and os.path.samestat(
          os.fstat(file.fileno()), self._path.stat()):
        self._file = file
      else:
        file.close()
    self._file.truncate(0)
    self._file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    self._file.flush()

  def release(self):
    """Gives the folder back; may be called twice."""
    if self._file:
      self._path.unlink(missing_ok=True)
      self._file.close()
      self._file = None

  def __enter__(self):
    return self

  def __exit__(self, *args):
    self.release()


class Stopped(Exception):
  """Ends a run that a signal asked to stop, after it was saved."""

  def __init__(self, number):
    super().__init__(signal.Signals(number).name)
    self.number = number


@contextlib.contextmanager
def user_errors(kinds=(ImportError, OSError, RuntimeError, ValueError)):
  """Turns what a user can cause into one line and exit code 2."""
  try:
    yield
  except BrokenPipeError:
    raise  # The reader of our output may go, see command.entry.
  except kinds as error:
    if command.is_interrupt(error):
      raise KeyboardInterrupt from error
    text = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.filename and error.strerror:
      text = f'{error.filename}: {error.strerror}'
    command.fail(text)


class Signals:
  """Notes signals that ask a run to stop, so that it can choose when.

  Used as a context manager, in the main thread; elsewhere it does nothing. A
  second SIGINT ends the process at once, also inside of a long operation.
  Handlers are installed even where SIGINT is ignored, as it is in the
  background of a shell script; an ignored SIGHUP (nohup) stays ignored.
  """

  STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

  def __init__(self):
    self._received = None
    self._before = {}

  def check(self, gather=lambda number: [number]):
    """Raises Stopped if a signal came.

    Args:
      gather: Function that returns an integer of every process of a run; a
        signal to any of them counts.
    """
    number = max(gather(self._received or 0))
    if number:
      raise Stopped(number)

  def __enter__(self):
    if threading.current_thread() is not threading.main_thread():
      return self
    for number in self.STOPPING:
      ignored = signal.getsignal(number) == signal.SIG_IGN
      if number != signal.SIGHUP or not ignored:
        self._before[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *args):
    for number, handler in self._before.items():
      # None: a handler that was not installed from Python.
      signal.signal(number, handler or signal.SIG_DFL)
    self._before.clear()

  def _note(self, number, frame):
    self._received = self._received or number
    if number == signal.SIGINT:
      signal.signal(number, signal.SIG_DFL)


class Watchdog:
  """Says what a run waits for, when nothing has happened for long.

  Args:
    timer: Object whose `section(name)` measures, see other.Timer.
    seconds: Without a beat and without opening a file, after which a line is
      said, and again after each further such time; 0 switches it off.
    say: Function of the line.
    details: Function that returns more words, such as what environments have
      not answered, or ''.
  """

  def __init__(self, timer, seconds, say, details=lambda: ''):
    self._timer = timer
    self._seconds = seconds
    self._say = say
    self._details = details
    self._sections = []
    self._beat = time.monotonic()
    self._end = threading.Event()
    self._owner = None
    self._thread = None

  @contextlib.contextmanager
  def section(self, name):
    """Measures the body of a with statement, whose name a line then says."""
    self._sections.append(name)
    self.beat()
    try:
      with self._timer.section(name):
        yield
    finally:
      self._sections.pop()
      self.beat()

  def result(self, reset=False):
    """Returns the timer's shares."""
    return self._timer.result(reset)

  def beat(self):
    """Notes that something has happened."""
    self._beat = time.monotonic()

  def __enter__(self):
    self.beat()
    self._owner = threading.get_ident()
    if self._seconds:
      self._thread = threading.Thread(target=self._watch, daemon=True)
      self._thread.start()
    return self

  def __exit__(self, *args):
    self._end.set()
    if self._thread:
      self._thread.join()

  def _watch(self):
    said, uses = 0, files.uses()
    while not self._end.wait(min(1, self._seconds / 4)):
      if files.uses() != uses:
        uses = files.uses()
        self.beat()
      stalled = int((time.monotonic() - self._beat) / self._seconds)
      if stalled > said:
        self._say(self._describe())
      said = stalled

  def _describe(self):
    section = self._sections[-1] if self._sections else 'the next step'
    age = time.monotonic() - self._beat
    parts = self._details(), files.waiting(), self._place()
    waiting = [x for x in parts if x]
    return ', '.join([f'Stalled for {age:.0f} s in {section!r}', *waiting])

  def _place(self):
    """Returns the innermost line of this package in the watched thread."""
    frame = sys._current_frames().get(self._owner)
    package = str(pathlib.Path(__file__).resolve().parents[1])
    while frame:
      _, ours, rest = frame.f_code.co_filename.partition(package)
      if ours and 'site-packages' not in rest:  # A checkout may hold .venv.
        break
      frame = frame.f_back
    if not frame:
      return ''
    name = pathlib.Path(frame.f_code.co_filename).name
    return f'at {name}:{frame.f_lineno} ({frame.f_code.co_name})'


@contextlib.contextmanager
def starting(seconds, envs=(), say=lambda text: print(text, file=sys.stderr)):
  """Says for which file or environment a start waits, if it stalls.

  Args:
    seconds, say: See Watchdog.
    envs: Environments that are being started.
  """
  section = contextlib.nullcontext
  timer = types.SimpleNamespace(section=section)
  with Watchdog(timer, seconds, say, lambda: waiting(envs)) as watchdog:
    with watchdog.section('start'):
      yield


def waiting(envs):
  """Returns what environments have not answered, and since when, or ''."""
  return '; '.join(x.waiting for x in envs if getattr(x, 'waiting', ''))


def warn_of_end(episode, learned):
  """Warns, once in a process, of an end that the agent cannot learn.

  Args:
    episode: Arrays [T, ...] with 'is_terminal'.
    learned: Whether the agent has a model of ends.
  """
  if not learned and episode['is_terminal'].any():
    # Python shows the warning of one line of code once.
    warnings.warn(
        'An episode ended in a terminal state, but the agent does not learn '
        'where episodes end. Set pred_discount to True, and let the '
        "environment's obs_space say that is_terminal can be True.",
        stacklevel=1)


def warn_of_collapse(spread):
  """Warns, once in a process, of a latent code that tells nothing.

  Args:
    spread: The metric code_spread: share of the code's mean square that is
      variance, 0 if the code is the same for all frames.
  """
  if spread < COLLAPSED:
    warnings.warn(
        f'The latent code is the same for all frames (code_spread is below '
        f'{COLLAPSED}): the policy sees nothing. If it stays so, lower '
        f'loss_scales.kl and loss_scales.overshooting, or raise the weights '
        f'of the losses that train the code.', stacklevel=1)


class NotFinite(RuntimeError):
  """Too many updates in a row were skipped, as they were not finite."""


class Skips:
  """Counts updates in a row that optimisers skipped.

  Args:
    limit: The run stops at so many in a row; 0 for never. With float16 some
      15 in a row are normal, until the loss scale fits.
    folder: Where batch and state are written then.
  """

  def __init__(self, limit, folder):
    self._limit = limit
    self._folder = pathlib.Path(folder)
    self._totals = {}
    self._rows = {}

  def check(self, metrics, data, state, name):
    """Looks at the metrics of an update.

    Args:
      metrics: With `<part>_skipped`, the number of updates skipped so far.
      data: Dict of arrays, the batch.
      state: Function that returns a dict of arrays, the agent's variables.
      name: Of the file to write, if need be.

    Raises:
      NotFinite: The limit is reached.
    """
    for key, value in metrics.items():
      if key.endswith('_skipped'):
        total = int(value)
        # The first update of a process has nothing to compare with.
        more = total > self._totals.get(key, total)
        self._rows[key] = self._rows.get(key, 0) + 1 if more else 0
        self._totals[key] = total
    worst = max(self._rows, key=self._rows.get, default=None)
    if not self._limit or not worst or self._rows[worst] < self._limit:
      return
    numbers = {k: float(v) for k, v in metrics.items()}
    bad = sorted(k for k, v in numbers.items() if v - v)  # NaN, infinite
    raise NotFinite(
        f'{self._limit} updates in a row were not finite '
        f'({worst} {self._totals[worst]}; not finite: '
        f"{', '.join(bad) or 'gradients only'}); "
        f'{self._dump(data, state(), numbers, name)}')

  def _dump(self, data, state, numbers, name):
    path = self._folder / f'{name}.npz'
    members = {
        **{f'batch/{k}': v for k, v in data.items()},
        **{f'metrics/{k}': v for k, v in numbers.items()},
        **{f'state/{k}': v for k, v in state.items()}}
    members = {k: np.asarray(v) for k, v in members.items()}
    try:
      write_atomic(path, lambda file: write_npz(file, members, level=1))
    except OSError as error:
      return f'batch and state could not be written: {error}'
    return f'batch and state are in {path}'
