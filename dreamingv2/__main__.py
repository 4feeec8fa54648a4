"""One command for everything: dreamingv2 train, evaluate, tables, ..."""

import importlib
import shlex
import sys

from .common import command

# Command -> module with main(argv), and what it does.
COMMANDS = {
    'train': ('.train', 'train an agent, or resume its run'),
    'import': ('.tools.importer', 'turn demonstrations into episodes'),
    'evaluate': ('.tools.evaluate', 'play a saved agent; export its policy'),
    'tables': ('.tools.tables', "the paper's tables from logdirs"),
    'figures': ('.tools.figures', "the paper's figures, and a dashboard"),
    'scores': ('.tools.scores', 'collect the learning curves of logdirs'),
    'sweep': ('.tools.sweep', 'train methods x tasks x seeds'),
    'benchmark': ('.tools.benchmark', 'time an update and its parts'),
    'features': (
        '.tools.features', 'measure what world models know of a task'),
    'gpu-check': ('.tools.gpu_check', 'check numbers and speed on a GPU'),
    'sheet': ('.tools.sheet', "draw and time the paper's tasks"),
}


@command.entry()
def main(argv=None):
  """Runs the command that `argv` begins with; see --help."""
  words = sys.argv[1:] if argv is None else list(argv)
  if not words or words[0] in ('-h', '--help'):
    return print(usage())
  if words == ['--list']:
    words = ['train', '--list']
  from .common.config import check_known  # Late, so that SIGINT is handled.
  name, *rest = words
  try:
    if name.startswith('-'):
      raise ValueError(
          f'{name} needs a command before it; did you mean: '
          f'dreamingv2 train {shlex.join(words)}')
    check_known('command', name, COMMANDS)
  except ValueError as error:
    command.fail(error)
  module, _ = COMMANDS[name]
  importlib.import_module(module, 'dreamingv2').main(rest)


def usage():
  """Returns the commands, one line each."""
  return '\n'.join([
      'usage: dreamingv2 COMMAND [--help] ...', '', 'Commands:',
      *(f'  {name:<10} {text}' for name, (_, text) in COMMANDS.items()), '',
      'Examples:',
      '  dreamingv2 train --configs robosuite small --task Lift',
      '  dreamingv2 train --help  # Every block, task and flag.',
      '  dreamingv2 --list        # The tasks of the paper.',
      '  dreamingv2 tables --indir logdir'])


if __name__ == '__main__':
  main()
