"""Runs a policy at a fixed rate and says how many steps were late.

    taskset -c 0 python scripts/control.py --configs small
    taskset -c 0 python scripts/control.py --policy policy --rate 20

A stand-in for the robot observes noise and moves nothing. With --configs, the
policy is a new one of that size, for one camera and 7 action values: weights
do not change the time. It acts as an agent, then exported.
"""

import argparse
import pathlib
import tempfile
import time
import types

import gymnasium
import numpy as np

from dreamingv2 import api
from dreamingv2 import settings
from dreamingv2.common import counter
from dreamingv2.common import envs
from dreamingv2.common import identity
from dreamingv2.common import machine
from dreamingv2.tools import restored

ACTIONS = 7


def main(argv=None):
  """Measures what the command line names."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--policy', help='folder of a run or exported policy')
  parser.add_argument('--configs', nargs='*', default=[], help='blocks')
  parser.add_argument('--rate', type=float, default=20, help='steps a second')
  parser.add_argument('--steps', type=int, default=600)
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    agents = {'policy': api.restore(args.policy)} if args.policy else make(
        args.configs, pathlib.Path(folder))
    for name, agent in agents.items():
      late, cpu = control(agent, args.rate, args.steps)
      print(
          f'{name}: {late} of {args.steps} steps late at {args.rate:g} Hz, '
          f'{1000 * cpu / args.steps:.1f} CPU ms a step')


def control(agent, rate, steps):
  """Acts at a fixed rate.

  Returns:
    Number of steps whose action came after its time, and CPU seconds of all.
  """
  space = agent.observation_space
  agent.act(space.sample())  # The first call takes longer.
  images = [space.sample() for _ in range(20)]
  state, late, due = None, 0, time.monotonic()
  begin = time.process_time()
  for step in range(steps):
    _, state = agent.act(images[step % len(images)], state)
    due += 1 / rate
    late += time.monotonic() > due
    time.sleep(max(0, due - time.monotonic()))
  return late, time.process_time() - begin


def make(blocks, folder):
  """Returns a new agent of a size, itself and exported, as restored ones."""
  with machine.quiet():
    from dreamingv2 import agent as agents
    from dreamingv2.common import tfutils
    from dreamingv2.tools import export
  config = settings.load_config(['--configs', *blocks] if blocks else [])
  obs_space = {
      'image': gymnasium.spaces.Box(
          0, 255, (*config.render_size, 3), np.uint8), **envs.FLAGS}
  act_space = {
      'action': gymnasium.spaces.Box(-1, 1, (ACTIONS,), np.float32)}
  made = identity.of(types.SimpleNamespace(
      obs_space=obs_space, act_space=act_space))
  identity.write(folder, {**made, 'source': 'api'}, obs_space, act_space)
  made = identity.read(folder)
  tfutils.setup(config.precision, config.deterministic, config.seed)
  agent = agents.Agent(config, obs_space, act_space, counter.Counter())
  episode = {
      k: np.zeros((1, *v.shape), v.dtype) for k, v in obs_space.items()}
  export.save(agent, folder / 'policy', episode)
  return {
      'agent': restored.Restored(
          restored.Seeded(agent), config, made, restored.MODES),
      'exported': restored.Restored(
          export.Exported(folder / 'policy'), config, made, ['eval'])}


if __name__ == '__main__':
  main()
