"""The paper's fifteen tasks by their names there: `--task Reacher-hard`."""

import functools
import pathlib

from .common import config as configs


@functools.lru_cache(None)
def load():
  """Maps the paper's name of a task to its preset, see tasks.yaml."""
  return configs.read_yaml(pathlib.Path(__file__).parent / 'tasks.yaml')


def expand(task, names):
  """Replaces a task by its preset, where it is one of the paper's.

  Args:
    task: Value of --task, '' if it was not given.
    names: Blocks of --configs.

  Returns:
    Task and blocks; the preset's block comes first, so that others may
    change it.
  """
  preset = load().get(task)
  if not preset:
    return task, names
  others = [x for x in names if x != 'defaults']  # It would undo the block.
  return preset['task'], [preset['block'], *others]


def table():
  """Lists the presets, one line each."""
  lines = [
      f"{'--task':<19} {'configs':<11} {'steps':>5} {'s':>3} {'action':>6} "
      f"{'limit':>5}  source"]
  for name, x in load().items():
    lines.append(
        f"{name:<19} {x['block']:<11} {x['steps']:>5} {x['seconds']:>3} "
        f"{x['action']:>6} {x['limit']:>5}  {x['source']}")
  lines += [
      '', 'All observe one image (render_size 64 64) and get 500,000 steps. '
      'Units: steps, control',
      'steps per episode; s, simulated seconds; action, entries in -1..1; '
      'limit, most return.',
      'Any other task: --configs robosuite --task Stack, '
      '--configs dmc_vision --task dmc_hopper_hop.']
  return '\n'.join(lines)
