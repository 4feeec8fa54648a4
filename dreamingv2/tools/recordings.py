"""Records episodes with the simulator's state beside the frames.

A recording is one file that is made once and used again by every system with
the same environment. Half of its episodes have random actions; in the other
half, a scripted policy takes over after some random actions, see
common/suites/scripted.py, if the task has one. A recording also holds the
first moments of many episodes, to see what a model makes of a place at rest.
"""

import dataclasses
import functools
import hashlib
import json

import numpy as np

from ..common import checkpoint
from ..common import driver as drivers
from ..common import envs
from ..common import files
from ..common import logger as loggers
from ..common import suites
from ..common import truth as truths
from ..common.suites import scripted

FORMAT = 1  # Changed whenever the same settings would record other data.
# Parts of a recording, and their seeds.
PARTS = {'train': 0, 'test': 1, 'rest': 2, 'rest_test': 3}
KINDS = ('random', 'scripted')
SUCCESS = 'log_success'
KIND = 'log_scripted'


@dataclasses.dataclass(frozen=True)
class Size:
  """How much is recorded.

  Attributes:
    train, test: Episodes to learn from, and held out.
    rest, rest_test: First moments to fit a readout on, and held out.
    noise: Standard deviation of the noise on scripted actions.
    lead: Largest number of random actions before the script takes over.
    seed: Seed of everything that is drawn.
  """

  train: int = 48
  test: int = 16
  rest: int = 200
  rest_test: int = 50
  noise: float = 0.3
  lead: int = 20
  seed: int = 0


def load(config, size, folder):
  """Returns a recording, after making it if its file does not exist.

  Args:
    config: Config, of which the keys of the environment count.
    size: Size.
    folder: Folder of the files.

  Returns:
    Path of the file.

  Raises:
    ValueError: The simulator tells no state.
    OSError: The file cannot be read or written.
  """
  path = locate(config, size, folder)
  if not path.exists():
    loggers.say(f'Recording {config.task} into {path}.')
    members = pack(record(config, size))
    members['settings.json'] = json.dumps(
        describe(config, size), indent=1, default=str).encode()
    files.write_atomic(
        path, lambda file: checkpoint.write_npz(file, members, level=1))
  return path


def locate(config, size, folder):
  """Returns the path of a recording; its name depends on all settings."""
  settings = json.dumps(describe(config, size), sort_keys=True, default=str)
  digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
  return folder / f'{config.task}-{digest}.npz'


def describe(config, size):
  """Returns all that decides what is recorded."""
  suite, task = suites.parse(config.suite, config.task)
  return {
      'format': FORMAT, 'suite': suite, 'task': task,
      'options': suites.options(suite, config),
      **{k: config[k] for k in ('action_repeat', 'render_size', 'time_limit')},
      **dataclasses.asdict(size)}


def read(path):
  """Returns {part: list of episodes} of a file, dicts of arrays [T, ...].

  Raises:
    ValueError: The file is damaged.
  """
  try:
    with files.open_regular(path, checkpoint.memory()) as file:
      members = checkpoint.read_npz(file, checkpoint.memory())
    return unpack(members)
  except MemoryError:
    raise
  except Exception as error:  # Flipped bits raise almost anything.
    raise ValueError(
        f'{path} is damaged ({type(error).__name__}: {error}); delete it, and '
        f'it is recorded again') from None


def pack(parts):
  """Returns {path: array} of {part: list of episodes}."""
  return {
      f'{part}/{index:04d}/{key}': value for part, rows in parts.items()
      for index, row in enumerate(rows) for key, value in row.items()}


def unpack(members):
  """Reverses `pack`; leaves out what is no array."""
  parts = {part: {} for part in PARTS}
  for path, value in sorted(members.items()):
    if isinstance(value, np.ndarray):
      part, index, key = path.split('/')
      parts[part].setdefault(index, {})[key] = value
  return {part: list(rows.values()) for part, rows in parts.items()}


def check(config):
  """Checks that the simulator of a config tells its state.

  Raises:
    ValueError: It does not.
    ImportError, RuntimeError: It cannot be started.
  """
  env = _start(config)
  try:
    _check(config, env)
  finally:
    env.close()


def record(config, size):
  """Plays all parts of a recording; returns {part: list of episodes}."""
  env = _start(config)
  try:
    _check(config, env)
    suite, task = suites.parse(config.suite, config.task)
    script = f'{suite}_{task}' in scripted.POLICIES
    make = functools.partial(
        scripted.make, suite, task, env.act_space['action'].shape[0]
    ) if script else None
    result = {}
    for part, seed in PARTS.items():
      count = getattr(size, part)
      with loggers.Progress(count, 0, part, 'episodes') as bar:
        if part.startswith('rest'):
          result[part] = look(env, count, (size.seed, seed), bar)
        else:
          result[part] = play(env, make, count, size, seed, bar)
    return result
  finally:
    env.close()


def _start(config):
  make, environ = suites.constructor(config)
  return envs.Async(
      functools.partial(make, seed=config.seed, truth=True), environ=environ,
      timeout=config.env_timeout)


def _check(config, env):
  env.reset()()
  if not env.truth()():
    raise ValueError(
        f'{config.task}: its simulator tells no state to read out of features '
        f'(the environment has no truth(), see common/envs.py); choose '
        f'another task with --tasks')


def look(env, count, seed, bar):
  """Returns first moments of `count` episodes, as episodes of one row."""
  episodes = []
  zero = np.zeros(env.act_space['action'].shape, np.float32)
  for index in range(count):
    env.seed(_draw(*seed, index))()
    row = {**env.reset()(), 'action': zero}
    episodes.append({k: np.asarray(v)[None] for k, v in row.items()})
    bar.update(1)
  return episodes


def play(env, make, count, size, seed, bar):
  """Plays episodes, first those with random actions.

  Args:
    env: Environment, an Async.
    make: Function that makes a scripted policy, or None.
    count: Number of episodes.
    size: Size.
    seed: Seed of the part.
    bar: Progress.

  Returns:
    Episodes with two more keys [T]: whether the task is solved, and whether
    the script has acted.
  """
  episodes, marks = [], []
  note = lambda row, worker: marks.append(bool(env.success()()))
  driver = drivers.Driver([env], seed=(size.seed, seed))
  driver.on_reset(lambda row, worker: (marks.clear(), note(row, worker)))
  driver.on_step(note)
  driver.on_episode(lambda episode: episodes.append({
      **episode, SUCCESS: np.array(marks)}))
  for index in range(count):
    script = make and index >= count // 2
    rng = np.random.default_rng([size.seed, seed, index])
    driver(_policy(env, make() if script else None, size, rng), episodes=1)
    episodes[-1][KIND] = np.full(len(marks), bool(script))
    bar.update(1)
  return episodes


def _policy(env, script, size, rng):
  """Returns a policy of the driver for one episode."""
  space = env.act_space['action']
  lead = rng.integers(size.lead + 1) if script else np.inf
  steps = 0

  def act(obs, state):
    nonlocal steps
    steps += 1
    if steps > lead:
      action = script(env.truth()())
      action = action + size.noise * rng.normal(size=action.shape)
    elif getattr(space, 'discrete', False):
      action = np.eye(space.shape[0])[rng.integers(space.shape[0])]
    else:
      action = rng.uniform(-1, 1, space.shape)
    return {'action': np.clip(action, -1, 1).astype(np.float32)[None]}, state

  return act


def _draw(*seed):
  return int(np.random.SeedSequence(seed).generate_state(1)[0])


def solved(episodes):
  """Returns how many scripted episodes end solved, and their number."""
  marks = [x[SUCCESS][-1] for x in episodes if x[KIND][0]]
  return int(np.sum(marks)), len(marks)


def observations(episode):
  """Returns the keys of an episode that an agent may see."""
  return {k: v for k, v in episode.items() if not k.startswith('log_')}


def told(episodes):
  """Returns what the simulator told, {name: [T, n]} for each episode."""
  return [truths.of(x) for x in episodes]
