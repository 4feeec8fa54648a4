"""Trains until a timer kills the process within a phase, for test_kills.py.

Every order is a JSON object: `argv` of train.py, `log` (file of the output),
`marks` (file of the phases), `phase`, `number` (how often the phase must have
begun) and `delay` (seconds from then on; -1: never). With an order as its
argument this script is a program from its first line on. Without one it reads
orders from its standard input, forks for each, so that TensorFlow is imported
once, and prints the process and how it ended.

SIGALRM without a handler ends a process as SIGKILL does: at once, in the
kernel. Unlike a signal of another process it comes on time.
"""

import functools
import importlib
import json
import os
import pathlib
import signal
import sys
import time

BEGIN = time.monotonic()
ROOT = pathlib.Path(__file__).resolve().parents[1]
# Phase: module, class and method.
PHASES = {
    'resume': ('train', 'Run', '_restore'),
    'compilation': ('train', 'Run', '_compile'),
    'prefill': ('train', 'Run', '_prefill'),
    'pretraining': ('train', 'Run', '_pretrain'),
    'update': ('learner', 'Learner', 'update'),
    'evaluation': ('train', 'Run', '_evaluate'),
    'checkpoint': ('resume', 'State', 'save'),
    'episode': ('common.replay', 'Replay', '_store'),
    'log': ('common.logger', 'Logger', 'write'),
}


def load():
  """Imports what a run needs, but computes nothing."""
  sys.path.insert(0, str(ROOT))
  for name in ('train', 'agent', 'common.distribute', 'common.outputs'):
    importlib.import_module(f'dreamingv2.{name}')


def watch(order, marks):
  """Notes when phases begin and end, and arms the timer in one of them."""
  counts = dict.fromkeys(PHASES, 0)

  def wrap(name, method):
    @functools.wraps(method)
    def inner(*args, **kwargs):
      counts[name] += 1
      start = time.monotonic()
      os.write(marks, f'begin {name} 0\n'.encode())
      if (name, counts[name]) == (order['phase'], order['number']):
        arm(order['delay'])
      try:
        return method(*args, **kwargs)
      finally:
        spent = time.monotonic() - start
        os.write(marks, f'end {name} {spent}\n'.encode())
    return inner

  for name, (module, kind, method) in PHASES.items():
    owner = getattr(importlib.import_module(f'dreamingv2.{module}'), kind)
    setattr(owner, method, wrap(name, getattr(owner, method)))


def arm(delay):
  if delay >= 0:
    signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))


def play(order, start):
  """Trains as an order says.

  Args:
    order: Dict, see above.
    start: Time at which the process started.
  """
  marks = os.open(order['marks'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.write(marks, b'begin start 0\n')
  if order['phase'] == 'start':
    arm(order['delay'])
  log = os.open(order['log'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(log, 1)
  os.dup2(log, 2)
  load()
  watch(order, marks)
  from dreamingv2 import train
  inner = train.Run.train

  def begin(run):
    os.write(marks, f'end start {time.monotonic() - start}\n'.encode())
    inner(run)
  train.Run.train = begin
  sys.argv = ['train.py', *order['argv']]
  train.main()


def serve():
  """Plays orders one after the other, each in a process of its own."""
  load()
  for line in sys.stdin:
    process = os.fork()
    if not process:
      try:
        os.setsid()
        play(json.loads(line), time.monotonic())
      except SystemExit as ending:
        os._exit(ending.code or 0)
      except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
      os._exit(0)
    _, status = os.waitpid(process, 0)
    print(process, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == '__main__':
  play(json.loads(sys.argv[1]), BEGIN) if len(sys.argv) > 1 else serve()
