"""Times one update of each system, in turns, and tells what memory it takes.

python -m dreamingv2.benchmark --configs small --methods dreamerv2 dreamingv2

Every system is trained in a process of its own on random images. A table in
Markdown gives CPU seconds of the process per update (the median), the ratio
to the first method, the CPU seconds of the first call (which compiles), the
peak memory of the process and the number of trained parameters.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time

from . import api

ROWS = ('CPU-s', 'ratio', 'first call, CPU-s', 'peak GB', 'parameters')
ACTIONS = 6


def main(argv=None):
  """Times what the command line names; see --help."""
  parser = argparse.ArgumentParser(
      prog='python -m dreamingv2.benchmark',
      description='Times one update of each system.')
  parser.add_argument(
      '--configs', nargs='*', default=[], help='blocks of configs.yaml')
  parser.add_argument(
      '--methods', nargs='+', default=['dreamerv2', 'dreamingv2'],
      help='method blocks; the first is what the others are divided by')
  parser.add_argument(
      '--rounds', type=int, default=7, help='timed updates of each method')
  parser.add_argument(
      '--precision', default='auto', help='16, bf16 or 32')
  args = parser.parse_args(argv)
  try:
    for name in (*args.methods, *args.configs):
      api.load(name)
    if args.rounds < 1:
      raise ValueError(f'--rounds is {args.rounds}; it must be >= 1')
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
  print(table(measure(
      args.configs, args.methods, args.rounds, args.precision)))


def measure(blocks, methods, rounds, precision='auto'):
  """Times updates of each method, one after another in every round.

  Args:
    blocks: Names of blocks of configs.yaml that all methods share.
    methods: Names of method blocks.
    rounds: Timed updates of each.
    precision: As in configs.yaml.

  Returns:
    Method to dict with 'first' (CPU seconds), 'updates' (list of CPU
    seconds), 'bytes' (peak) and 'parameters'.
  """
  context = multiprocessing.get_context('spawn')
  workers = {}
  for name in methods:  # One compiles at a time: they would share the cores.
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, [name, *blocks], precision), daemon=True)
    process.start()
    theirs.close()
    workers[name] = ours
    ours.send('first')
    found = {'first': _answer(ours, name)}
    workers[name] = ours, {**found, 'updates': []}
  for _ in range(rounds):
    for name, (pipe, found) in workers.items():
      pipe.send('update')
      found['updates'].append(_answer(pipe, name))
  for name, (pipe, found) in workers.items():
    pipe.send('close')
    found.update(_answer(pipe, name))
  return {name: found for name, (_, found) in workers.items()}


def table(results):
  """Formats the results of `measure` as Markdown."""
  base = statistics.median(next(iter(results.values()))['updates'])
  lines = ['| method | ' + ' | '.join(ROWS) + ' |', '|---' * 6 + '|']
  for name, x in results.items():
    value = statistics.median(x['updates'])
    lines.append(
        f"| {name} | {value:.3g} | {value / base:.2f} | {x['first']:.1f} | "
        f"{x['bytes'] / 1e9:.2f} | {x['parameters'] / 1e6:.2f} M |")
  return '\n'.join(lines)


def _answer(pipe, name):
  try:
    return pipe.recv()
  except EOFError:
    sys.exit(f'Error: the process of {name} died; its message is above')


def _serve(pipe, names, precision):
  """Answers requests by CPU seconds, and ends with what it took."""
  agent, data = _build(names, precision)
  state = None
  while pipe.recv() != 'close':
    start = time.process_time()
    state, metrics = agent.train(data, state)
    metrics['model_loss'].numpy()  # Waits for a GPU.
    pipe.send(time.process_time() - start)
  from .common import tfutils
  slots = [
      x.slots for x in (agent.wm.model_opt, agent.task_behavior.actor_opt,
                        agent.task_behavior.critic_opt)]
  variables = tfutils.named_variables(slots).values()
  pipe.send({
      'bytes': 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
      # Two moments for each.
      'parameters': sum(int(v.shape.num_elements()) for v in variables) // 2})


def _build(names, precision):
  import gymnasium
  import numpy as np
  from .agent import Agent
  from .common import counter
  from .common import tfutils
  config = api.load(*names)
  tfutils.setup(precision)
  box, flag = gymnasium.spaces.Box, gymnasium.spaces.Box(0, 1, (), bool)
  cameras = ['image'] + ['image_2'] * (config.objective == 'cross_modal')
  size = (*config.render_size, 3)
  obs = {
      **{key: box(0, 255, size, np.uint8) for key in cameras},
      'reward': box(-np.inf, np.inf, (), np.float32),
      'is_first': flag, 'is_last': flag, 'is_terminal': flag}
  act = box(-1, 1, (ACTIONS,), np.float32)
  rng = np.random.default_rng(0)
  shape = (config.dataset.batch, config.dataset.length)
  data = {
      **{key: rng.integers(0, 256, (*shape, *size), np.uint8)
         for key in cameras},
      'reward': rng.normal(size=shape).astype(np.float32),
      'action': rng.uniform(-1, 1, (*shape, ACTIONS)).astype(np.float32),
      **{key: np.zeros(shape, bool)
         for key in ('is_first', 'is_last', 'is_terminal')}}
  data['is_first'][:, 0] = True
  return Agent(config, obs, {'action': act}, counter.Counter(0)), data


if __name__ == '__main__':
  main()
