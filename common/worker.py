"""Hosts an object in a fresh Python process, or in this one.

The process runs `serve`. It imports this module and what the object needs,
never the script that started it, and so never TensorFlow.
"""

import functools
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import weakref
from multiprocessing import connection

import cloudpickle


class Here:
  """Hosts an environment in this process."""

  def __init__(self, constructor, environ):
    for key, value in environ.items():
      os.environ.pop(key, None)
      os.environ.update({} if value is None else {key: value})
    self._env = constructor()

  def call(self, name, *args):
    result = _call(self._env, name, *args)
    return lambda: result

  def close(self):
    self._env.close()


class Process:
  """Hosts an environment in a process of its own.

  The process starts at once, so that several start side by side; the first
  promise waits for it. It ends with `close`, with this interpreter, or when
  this interpreter dies, since it then reads the end of its socket.
  """

  # One core per environment: the parallelism is in their number.
  _ENVIRON = {
      'MKL_NUM_THREADS': '1', 'NUMBA_NUM_THREADS': '1',
      'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
  _MAIN = (
      'import signal, sys, importlib; '
      'signal.signal(signal.SIGINT, signal.SIG_IGN); '
      'sys.path[:] = {path!r}; '
      'importlib.import_module({module!r}).serve({fd})')
  _count = itertools.count()

  def __init__(self, constructor, environ):
    self._name = f'environment worker {next(self._count)}'
    self._stderr = tempfile.TemporaryFile()
    ours, theirs = socket.socketpair()
    with theirs:
      self._process = self._start(theirs.fileno(), environ)
    self._pipe = connection.Connection(ours.detach())
    self._sent = self._received = 0
    self._replies = {}
    self._stop = weakref.finalize(self, _stop, self._process, self._pipe)
    self._send(cloudpickle.dumps(constructor))

  def call(self, name, *args):
    self._send((name, args))
    self._sent += 1
    return functools.partial(self._result, self._sent)

  def close(self):
    self._stop()

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
        self._replies[self._received + 1] = self._pipe.recv()
      except (EOFError, OSError):
        raise self._death() from None
      self._received += 1
    kind, value, trace = self._replies.pop(number)
    if not kind:
      return value
    cause = RuntimeError(f'{self._name} failed:\n{trace}')
    if kind in ERRORS:
      raise ERRORS[kind](value) from cause
    raise cause

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


STRATEGIES = {'none': Here, 'process': Process}

# Those that a user can cause, and whose message is for the user.
ERRORS = {x.__name__: x for x in (ImportError, KeyError, ValueError)}


def _call(env, name, *args):
  value = getattr(env, name)
  return value(*args) if callable(value) else value


def _stop(process, pipe):
  pipe.close()
  try:
    process.wait(timeout=2)
  except subprocess.TimeoutExpired:
    process.kill()
    process.wait()


def serve(fd):
  """Runs the environment whose constructor comes first over socket `fd`."""
  pipe, env, failure = connection.Connection(fd), None, None
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
  os._exit(0)  # OpenGL's own clean-up at exit prints harmless errors.


def _reply(env, name, args):
  try:
    return '', _call(env, name, *args), ''
  except Exception as error:
    return _failure(error)


def _failure(error):
  kinds = [k for k, v in ERRORS.items() if isinstance(error, v)]
  text = error.args[0] if len(error.args) == 1 else error
  return (kinds or ['other'])[0], str(text), traceback.format_exc()
