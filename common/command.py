"""What all programs share: how they read their words, and how they end.

Imports little, as SIGINT during imports is handled by nothing here.
"""

import argparse
import contextlib
import os
import select
import sys


@contextlib.contextmanager
def entry():
  """Ends a program as a shell expects: `@command.entry()` above its main.

  SIGINT ends it with one line and exit code 130. If the reader of its output
  has gone, as `head` does when it has enough, it ends quietly with 0.
  """
  try:
    yield
  except KeyboardInterrupt:
    print('Stopped by SIGINT.', file=sys.stderr)
    sys.exit(130)
  except BrokenPipeError:
    if not _is_deserted(sys.stdout):
      raise  # It was another pipe.
    sys.exit(0)
  finally:
    try:
      sys.stdout.flush()
    except BrokenPipeError:
      # Python flushes once more at its end, and would complain.
      with open(os.devnull, 'w') as null:
        os.dup2(null.fileno(), sys.stdout.fileno())


def _is_deserted(file):
  """Returns whether a file is a pipe that nobody reads."""
  poll = select.poll()
  poll.register(file, 0)  # Errors are told without being asked for.
  return any(event & select.POLLERR for _, event in poll.poll(0))


def fail(text):
  """Says what a user has to mend, and exits with code 2."""
  print(f'Error: {text}', file=sys.stderr)
  sys.exit(2)


class Parser(argparse.ArgumentParser):
  """Parses the words of a program, whose docstring is its help.

  An unknown flag is answered with the nearest ones, every mistake in one line
  with exit code 2.

  Args:
    prog: Words that start the program, such as 'dreamingv2 tables'.
    text: Docstring; its paragraphs that begin with the first word of `prog`
      are examples.
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
    found, unknown = super().parse_known_args(args, namespace)
    if unknown:
      flag = unknown[0].partition('=')[0]
      if not flag.startswith('-'):
        self.error(f'unexpected argument {flag!r}')
      from .config import check_known
      try:
        check_known('flag', flag, [
            x for action in self._actions for x in action.option_strings])
      except ValueError as error:
        self.error(str(error).rstrip('.'))
    return found, unknown

  def error(self, message):
    fail(f'{message}; see {self.prog} --help')


class _Formatter(argparse.RawDescriptionHelpFormatter):
  """Adds the defaults that say something, unless the text tells them."""

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
