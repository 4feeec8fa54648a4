"""Runs an object in a fresh Python process, or in this one.

The process runs `serve`. It imports this module and what the object needs. It
never imports the script that started it, and so never TensorFlow.
"""

import collections
import functools
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from multiprocessing import connection

import cloudpickle

from . import identity
from . import loading
from .spaces import BadReturn

HOUR = 60 * 60  # seconds
STDERR_BYTES = 2 ** 20  # Most that is kept of what a process prints.


class BadAction(ValueError):
  """The environment refuses this action; the environment is not at fault."""


class Lost(RuntimeError):
  """The episode cannot go on; the environment can be reset."""


class Diverged(Lost):
  """The simulator reached a state that it cannot simulate."""


class GaveUp(RuntimeError):
  """An environment, or another process of the run, failed permanently."""


def check_mujoco(data):
  """Raises Diverged if MuJoCo reset a state that it could not simulate."""
  import mujoco
  kinds = mujoco.mjtWarning
  for kind in (
      kinds.mjWARN_BADQACC, kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL):
    if data.warning[kind].number:
      raise Diverged(f'MuJoCo: {kind.name} after {data.time:.3f} s')


class Restarting:
  """Hosts an environment and restarts it after a crash or a hang.

  There are no restarts before the first observation: an environment that fails
  so early would fail again. After that, the call of the promise that failed
  raises Lost.

  Args:
    kind: Class of the host, Here or Process.
    constructor, environ: See envs.Async.
    restarts: Most restarts within an hour; one more failure raises GaveUp.
    timeout: Seconds without an answer after which a process counts as hung and
      is killed; 0 waits forever.
  """

  def __init__(self, kind, constructor, environ, restarts=0, timeout=0):
    self._start = functools.partial(kind, constructor, environ, timeout)
    self._host = self._start()
    self._restarts = restarts
    self._times = collections.deque()
    self._proven = self._stepped = False  # A reset, a step has succeeded.

  @property
  def waiting(self):
    """The pending request and how long it has waited, or ''."""
    return self._host.waiting

  def call(self, name, *args):
    """Returns a promise of an attribute, or of a method's result."""
    host = self._host
    try:
      promise = host.call(name, *args)
    except Exception as error:
      promise = functools.partial(_raise, error)
    return functools.partial(self._wait, host, name, promise)

  def close(self):
    self._host.close()

  def _wait(self, host, name, promise):
    if host is not self._host:
      raise Lost('the environment was restarted in the meantime')
    try:
      value = promise()
    except (BadAction, Diverged):
      raise
    except Exception as error:
      # An environment that never fitted its spaces would not do so later.
      if not (self._stepped if isinstance(
          error, BadReturn) else self._proven):
        raise
      self._restart(error)
      raise Lost('the environment was restarted') from error
    self._proven = self._proven or name == 'reset'
    self._stepped = self._stepped or name == 'step'
    return value

  def _restart(self, error):
    now = time.monotonic()
    while self._times and now - self._times[0] > HOUR:
      self._times.popleft()
    if len(self._times) >= self._restarts:
      raise GaveUp(
          f'an environment failed after {self._restarts} restarts within an '
          f'hour (--env_restarts): {error}') from error
    self._times.append(now)
    warnings.warn(
        f'{error}\nRestarting the environment, '
        f'{len(self._times)} of at most {self._restarts} times within an hour '
        f'(--env_restarts); its episode ends here', stacklevel=2)
    self._host.close()
    self._host = self._start()


class Here:
  """Hosts an environment in this process, where a timeout is not possible."""

  waiting = ''

  def __init__(self, constructor, environ, timeout=0):
    for key, value in environ.items():
      os.environ.pop(key, None)
      os.environ.update({} if value is None else {key: value})
    self._env = constructor()

  def call(self, name, *args):
    result = _call(self._env, name, *args)
    return lambda: result

  def close(self):
    self._env.close()


class Kept(Here):
  """Hosts an environment in this process that is never made again.

  Its owner made it, and closes it. A restart means that it is reset.
  """

  def close(self):
    pass


class Process:
  """Hosts an environment in a process of its own.

  The process starts at once, so that several processes start in parallel; the
  first promise waits for it. The process ends with `close` or with this
  interpreter, even if that is killed: then the process reads the end of its
  socket.
  """

  # Each environment gets one core: parallelism comes from their number.
  _ENVIRON = {
      'MKL_NUM_THREADS': '1', 'NUMBA_NUM_THREADS': '1',
      'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
  # A signal to the whole group is meant for the run, which ends its workers.
  _MAIN = (
      'import signal as s, sys, importlib; '
      '[s.signal(x, s.SIG_IGN) for x in '
      '(s.SIGHUP, s.SIGINT, s.SIGTERM, s.SIGUSR1)]; '
      'sys.path[:] = {path!r}; '
      'importlib.import_module({module!r}).serve({fd})')
  _count = itertools.count()

  def __init__(self, constructor, environ, timeout=0):
    self._name = f'environment worker {next(self._count)}'
    self._timeout = timeout or None
    self._asked = collections.deque()  # [(name, when)] of pending requests.
    constructor = _dump(constructor)
    self._stderr = tempfile.TemporaryFile()
    ours, theirs = socket.socketpair()
    with theirs:
      self._process = self._start(theirs.fileno(), environ)
    self._pipe = connection.Connection(ours.detach())
    self._sent = self._received = 0
    self._replies = {}
    self._stop = weakref.finalize(self, _stop, self._process, self._pipe)
    self._send(constructor)

  @property
  def waiting(self):
    if not self._asked:
      return ''
    name, begin = self._asked[0]
    return (
        f'{self._name} (process {self._process.pid}) to answer {name!r} for '
        f'{time.monotonic() - begin:.0f} s')

  def call(self, name, *args):
    self._send((name, args))
    self._sent += 1
    self._asked.append((name, time.monotonic()))
    return functools.partial(self._result, self._sent)

  def close(self):
    self._stop()
    self._stderr.close()

  def _start(self, fd, environ):
    environ = {**os.environ, **self._ENVIRON, **environ}
    main = self._MAIN.format(path=sys.path, module=__name__, fd=fd)
    return subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', main], pass_fds=[fd],
        env={k: v for k, v in environ.items() if v is not None},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=self._stderr)

  def _send(self, message):
    try:
      self._pipe.send(message)
    except OSError:
      raise self._death() from None

  def _result(self, number):
    while self._received < number:
      try:
        if not self._pipe.poll(self._timeout):
          raise self._hang()
        self._replies[self._received + 1] = self._pipe.recv()
      except (EOFError, OSError):
        raise self._death() from None
      self._received += 1
      self._asked.popleft()
    self._shorten()
    kind, value, trace = self._replies.pop(number)
    if not kind:
      return value
    cause = RuntimeError(f'{self._name} failed: {trace}')
    if kind in ERRORS:
      raise ERRORS[kind](value) from cause
    raise cause

  def _shorten(self):
    """Empties the file of warnings before it fills the disk."""
    if os.fstat(self._stderr.fileno()).st_size > STDERR_BYTES:
      os.ftruncate(self._stderr.fileno(), 0)
      # Both processes write at one position.
      os.lseek(self._stderr.fileno(), 0, os.SEEK_SET)

  def _hang(self):
    waiting = self.waiting
    self._process.kill()
    return RuntimeError(
        f'gave up waiting for {waiting} (--env_timeout {self._timeout:g}) and '
        f'killed it')

  def _death(self):
    if not self._stop.alive:
      return RuntimeError(f'{self._name} is closed')
    try:
      code = self._process.wait(timeout=5)
    except subprocess.TimeoutExpired:
      return RuntimeError(f'{self._name} closed its socket')
    cause = (
        f'signal {signal.Signals(-code).name}' if code < 0
        else f'exit code {code}')
    self._stderr.seek(0)
    words = self._stderr.read().decode(errors='replace').strip()
    return RuntimeError(
        f'{self._name} died with {cause}' + (words and f':\n{words[-2000:]}'))


STRATEGIES = {'kept': Kept, 'none': Here, 'process': Process}
OPTIONAL = ('seed', 'success', 'truth')  # Methods that may be absent.

# Exception types rebuilt in the parent process; most are user errors.
ERRORS = {x.__name__: x for x in (
    BadAction, BadReturn, Diverged, ImportError, KeyError, ValueError)}


def _dump(constructor):
  try:
    return cloudpickle.dumps(constructor)
  except Exception as error:  # It runs code of the objects that it stores.
    raise ValueError(
        f'The constructor cannot be sent to the environment\'s process '
        f'({type(error).__name__}: {error}); make what it uses inside of it, '
        f'or give the environment itself') from error


def _call(env, name, *args):
  if name in OPTIONAL and not hasattr(env, name):
    return None
  if name == 'identity':
    return identity.of(env)
  value = getattr(env, name)
  return value(*args) if callable(value) else value


def _raise(error):
  raise error


def _stop(process, pipe):
  pipe.close()
  try:
    process.wait(timeout=2)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()


def serve(fd):
  """Runs the environment whose constructor arrives first on socket `fd`."""
  pipe, env, failure = connection.Connection(fd), None, None
  # A process that the environment starts may outlive this one. Held there too,
  # the socket would not tell the run that this process has died.
  os.set_inheritable(fd, False)
  os.register_at_fork(after_in_child=pipe.close)
  try:
    constructor = pipe.recv()
    try:
      env = cloudpickle.loads(constructor)()
    except Exception as error:
      failure = _failure(error)
    while True:
      name, args = pipe.recv()
      pipe.send(failure or _reply(env, name, args))
  except (EOFError, OSError):
    pass
  if env:
    env.close()
  os._exit(0)  # OpenGL prints harmless errors in a normal exit.


def _reply(env, name, args):
  try:
    return '', _call(env, name, *args), ''
  except Exception as error:
    return _failure(error)


def _failure(error):
  kinds = [k for k, v in ERRORS.items() if isinstance(error, v)]
  text = error.args[0] if len(error.args) == 1 else error
  trace = f'{loading.describe(error)}\n{traceback.format_exc()}'
  return (kinds or ['other'])[0], str(text), trace
