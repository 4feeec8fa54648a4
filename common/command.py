"""Command-line programs: their arguments, errors and exit codes.

This module imports little, because nothing handles SIGINT during imports.
"""

import argparse
import contextlib
import os
import pathlib
import select
import sys


@contextlib.contextmanager
def entry():
  """Makes a program exit as a shell expects: `@command.entry()` on its main.

  After SIGINT the program prints one line and exits with code 130. If the
  reader of its output has closed the pipe, as `head` does, the program exits
  with code 0 and prints nothing more.
  """
  try:
    yield
  except BrokenPipeError:
    if not _is_deserted(sys.stdout):
      raise  # Another pipe was closed.
    sys.exit(0)
  except (Exception, KeyboardInterrupt) as error:
    if not is_interrupt(error):
      raise
    print('Stopped by SIGINT.', file=sys.stderr)
    sys.exit(130)
  finally:
    try:
      sys.stdout.flush()
    except BrokenPipeError:
      # Python flushes again when it exits, and would print an error.
      with open(os.devnull, 'w') as null:
        os.dup2(null.fileno(), sys.stdout.fileno())


def excepthook(kind, error, trace):
  """Prints one line for SIGINT, for `sys.excepthook` while a program loads."""
  if issubclass(kind, KeyboardInterrupt):
    print('Stopped by SIGINT.', file=sys.stderr)
  else:
    sys.__excepthook__(kind, error, trace)


def is_interrupt(error):
  """Says whether an error came from SIGINT, as inside of a lock's release."""
  while error and not isinstance(error, KeyboardInterrupt):
    error = error.__context__
  return bool(error)


def _is_deserted(file):
  """Returns whether a file is a pipe without a reader."""
  poll = select.poll()
  poll.register(file, 0)  # Errors are always reported.
  return any(event & select.POLLERR for _, event in poll.poll(0))


def fail(text):
  """Prints an error that the user can fix, and exits with code 2."""
  print(f'Error: {text}', file=sys.stderr)
  sys.exit(2)


def path(text):
  """Returns the path that an argument names.

  `~` means the home folder: shells leave it as it is in --out=~/x.
  """
  return pathlib.Path(os.path.expanduser(text))


class Parser(argparse.ArgumentParser):
  """Parses the arguments of a program; the program's docstring is its help.

  For an unknown flag, the error names the most similar flags. Every error is
  one line and exits with code 2.

  Args:
    prog: Command that starts the program, such as 'dreamingv2 tables'.
    text: Docstring; paragraphs that begin with the first word of `prog` are
      shown as examples.
  """

  def __init__(self, prog, text='', **kwargs):
    paragraphs = text.strip().split('\n\n')
    examples = [x for x in paragraphs if x.startswith(f'{prog.split()[0]} ')]
    lines = [f'  {y}' for x in examples for y in x.splitlines()]
    super().__init__(
        prog=prog, allow_abbrev=False, formatter_class=_Formatter,
        description='\n\n'.join(x for x in paragraphs if x not in examples),
        epilog='\n'.join(['Examples:', *lines]) if lines else None, **kwargs)

  def parse_known_args(self, args=None, namespace=None):
    parsed, unknown = super().parse_known_args(args, namespace)
    if unknown:
      flag = unknown[0].partition('=')[0]
      if not flag.startswith('-'):
        self.error(f'unexpected argument {flag!r}')
      from .config import check_known
      hint = '; flags of the run follow --' * any(
          x.dest == 'flags' for x in self._actions)
      try:
        check_known('flag', flag, [
            x for action in self._actions for x in action.option_strings])
      except ValueError as error:
        self.error(f'{error}{hint}')
    return parsed, unknown

  def error(self, message):
    fail(f'{message}; see {self.prog} --help')


class _Formatter(argparse.RawDescriptionHelpFormatter):
  """Appends informative defaults, unless the help text states them."""

  def __init__(self, prog):
    super().__init__(prog, max_help_position=30)

  def _get_help_string(self, action):
    text, value = action.help or '', action.default
    if '(default: ' in text or value in (None, argparse.SUPPRESS) or (
        action.nargs == 0 or value == []):
      return text
    if isinstance(value, (list, tuple)):
      value = ' '.join(map(str, value))
    return f'{text} (default: ' + str(value).replace('%', '%%') + ')'
