"""One command for everything: dreamingv2 train, evaluate, tables, ..."""

import importlib
import sys

from .common import guards
from .common.config import known

# Command -> module with main(argv), and what it does.
COMMANDS = {
    'train': ('.train', 'train an agent, or resume its run'),
    'evaluate': ('.tools.evaluate', 'play a saved agent; export its policy'),
    'tables': ('.tools.tables', "the paper's tables from logdirs"),
    'figures': ('.tools.figures', "the paper's figures, and a dashboard"),
    'scores': ('.tools.scores', 'collect the learning curves of logdirs'),
    'sweep': ('.tools.sweep', 'train methods x tasks x seeds'),
    'benchmark': ('.tools.benchmark', 'time an update and its parts'),
    'sheet': ('.tools.sheet', "draw and time the paper's tasks"),
}


def main(argv=None):
  """Runs the command that comes first in `argv`; see --help."""
  name, *rest = (sys.argv[1:] if argv is None else argv) or ['--help']
  if name in ('-h', '--help'):
    return print(usage())
  if name == '--list':
    name, rest = 'train', ['--list']
  with guards.user_errors():
    known('command', name, COMMANDS)
  module, _ = COMMANDS[name]
  importlib.import_module(module, 'dreamingv2').main(rest)


def usage():
  """Returns the commands, one line each."""
  return '\n'.join([
      'usage: dreamingv2 COMMAND [--help] ...', '',
      *(f'  {name:<10} {text}' for name, (_, text) in COMMANDS.items())])


if __name__ == '__main__':
  main()
