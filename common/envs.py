"""Environments: their interface, wrappers, and running them elsewhere.

An environment has `obs_space` and `act_space`, dicts of Gymnasium spaces,
`reset() -> obs`, `step(action) -> obs` with `action['action']`, and `close()`.
`obs` holds the observations (vectors float32, images uint8 [H, W, C]) and
`reward` (float32), `is_first`, `is_last`, `is_terminal` (bool). After an
observation with `is_last`, `reset` must be called. `is_terminal` means that no
reward can follow; an episode cut by a time limit is last but not terminal.

Three methods are optional. After `seed(number)`, the next episode depends only
on that number and on the actions, to the bit. `success()` returns whether the
task was solved at any control step of the newest agent step, or None if the
task has no such criterion. `truth()` tells the simulator's state, which agents
never see, as named vectors float32 [n]: names of positions in metres end in
`_m`, and angles without a limit are cosines and sines. It changes nothing.
`Diverged` is raised when an episode cannot go on.
"""

import functools
import inspect

import gymnasium
import numpy as np

from . import identity
from . import spaces
from . import worker
from .worker import BadAction
from .wrappers import CheckAction
from .wrappers import CheckSpaces
from .wrappers import Wrapper
from .wrappers import as_mark
from .wrappers import success

FLAGS = {
    'reward': gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32),
    **{f'is_{x}': gymnasium.spaces.Box(0, 1, (), bool)
       for x in ('first', 'last', 'terminal')}}
# Flags of tasks whose episodes are cut but never terminate.
ENDLESS = {**FLAGS, 'is_terminal': gymnasium.spaces.Box(0, 0, (), bool)}


def flags(reward=0.0, is_first=False, is_last=False, is_terminal=False):
  """Returns the entries of an observation that every environment has."""
  return {
      'reward': np.float32(reward), 'is_first': bool(is_first),
      'is_last': bool(is_last), 'is_terminal': bool(is_terminal)}


def image_space(size, channels=3):
  """Returns the space of an image of `size` (H, W)."""
  return gymnasium.spaces.Box(0, 255, (*size, channels), np.uint8)


def ready(env, time_limit=0, bound=0.0):
  """Wraps an environment so that the driver can use it.

  Observations are compared with their spaces. Actions become one-hot or lie in
  -1..1, malformed actions raise BadAction, and episodes are cut after
  `time_limit` agent steps unless that is 0.

  Args:
    env: Environment.
    time_limit: Agent steps.
    bound: Largest absolute value of action entries without bounds; 0 refuses
      them.

  Raises:
    ValueError: An observation has a reserved name, or an action no bounds.
  """
  given = env
  if not hasattr(env, 'identity'):  # GymWrapper checks by itself.
    env = CheckSpaces(env)
  if isinstance(env.act_space['action'], gymnasium.spaces.Discrete):
    env = OneHotAction(env)
  else:
    env = NormalizeAction(env, bound=bound)
  if time_limit:
    env = TimeLimit(env, time_limit)
  return CheckAction(env, given)


class GymWrapper(Wrapper):
  """Adapts an environment of Gymnasium or of the older `gym`.

  What it returns is compared with its spaces: range and type at the first
  reset and in the first step of every episode, the shape always. A part of a
  Dict within a Dict has both names, as in pixels/top.

  Args:
    obs_key: Name of the observation if the space is not a Dict.
    act_key: Name of the action.
    seed: Passed to the environment at its first reset. The method `seed` sets
      the one of the next reset.
    always: Whether to check range and type in every step.

  Attributes:
    left_out: {key: reason} of observations that the agent does not get.

  Raises:
    BadReturn: The environment returned what its spaces do not declare.
    ValueError: An observation or action space is not supported, or it is a
      vector of environments.
  """

  def __init__(
      self, env, obs_key='image', act_key='action', seed=None, always=False):
    super().__init__(env)
    if {x.__name__ for x in type(env).__mro__} & {'VectorEnv', 'VecEnv'}:
      raise ValueError(
          f'{type(env).__name__} is several environments in one; give a '
          f'function that makes one of them, and set --envs to their number')
    self._act_key = act_key
    self._seed = seed
    space = env.observation_space
    is_dict = spaces.kind(space) == 'Dict'
    parts = spaces.leaves(space) if is_dict else {obs_key: ((), space)}
    spaces.check_reserved(parts)
    self._codecs, self._paths, self.left_out = {}, {}, {}
    for key, (path, part) in parts.items():
      try:
        self._codecs[key] = spaces.observation(key, part)
        self._paths[key] = path
      except spaces.NotSupported:
        if not is_dict or key.startswith('image'):
          raise
        self.left_out[key] = {
            'Box': 'Box without finite bounds',
            'Discrete': f'more than {spaces.MOST_CHOICES} values',
        }.get(kind := spaces.kind(part), f'{kind}, which is not supported')
    if not self._codecs:
      raise ValueError(f'No observation of {space} is supported')
    self._read = spaces.Reader(self._codecs, always)
    self._act_space, self._decode = spaces.action(act_key, env.action_space)
    self._info = {}

  @property
  def identity(self):
    return {**identity.describe(self.env), 'left_out': dict(self.left_out)}

  @property
  def obs_space(self):
    return {**{k: v.space for k, v in self._codecs.items()}, **FLAGS}

  @property
  def act_space(self):
    return {self._act_key: self._act_space}

  def leave_out(self, reasons):
    """Drops the observations {key: reason} from now on."""
    for key, reason in reasons.items():
      self._codecs.pop(key), self._paths.pop(key)
      self.left_out[key] = reason

  def seed(self, number):
    self._seed = number

  def step(self, action):
    obs, reward, *ends, info = spaces.step_values(
        self.env.step(self._decode(action[self._act_key])))
    self._info = info
    terminated, truncated = bool(ends[0]), bool(ends[-1])
    if len(ends) == 1:
      limit = info.get('TimeLimit.truncated', False)
      terminated = terminated and info.get('is_terminal', not limit)
    return self._obs(obs, 'step', flags(
        reward, False, terminated or truncated, terminated))

  def reset(self):
    result, self._info = self._seeded_reset(), {}
    obs = result[0] if isinstance(result, tuple) else result
    return self._obs(obs, 'reset', flags(is_first=True))

  def success(self):
    """Returns what the environment's `success()` or the step's info tells.

    Gymnasium-Robotics calls it is_success, Meta-World success.
    """
    marks = [success(_owner(self.env, 'success')), *(
        as_mark(self._info.get(key)) for key in ('is_success', 'success'))]
    return next((x for x in marks if x is not None), None)

  def _seeded_reset(self):
    seed, self._seed = self._seed, None
    if seed is None:
      return self.env.reset()
    if not isinstance(self.env, gymnasium.Env):
      if callable(getattr(self.env, 'seed', None)):
        self.env.seed(seed)
        return self.env.reset()
      if 'seed' not in inspect.signature(self.env.reset).parameters:
        return self.env.reset()
    return self.env.reset(seed=seed)

  def _obs(self, obs, method, ends):
    obs = spaces.pick(obs, self._paths)
    return {**self._read(obs, method), **ends}


class Dummy:
  """Returns random observations, for tests without a simulator.

  Args:
    mode: 'continuous' or 'discrete' actions.
    size: Height and width of the image in pixels.
    length: Steps of an episode; every second episode ends terminally.
  """

  SPACES = {
      'continuous': gymnasium.spaces.Box(-1, 1, (6,), np.float32),
      'discrete': gymnasium.spaces.Discrete(5),
  }

  def __init__(self, mode='continuous', size=(64, 64), length=100, seed=0):
    if mode not in self.SPACES:
      raise ValueError(f'Dummy mode {mode!r} is none of {list(self.SPACES)}')
    self._space, self._size = self.SPACES[mode], tuple(size)
    self._length = length
    self._random = np.random.default_rng(seed)
    self._episode = self._step = 0

  @property
  def obs_space(self):
    return {
        'image': gymnasium.spaces.Box(0, 255, (*self._size, 3), np.uint8),
        'vector': gymnasium.spaces.Box(-1, 1, (7,), np.float32), **FLAGS}

  @property
  def act_space(self):
    return {'action': self._space}

  def seed(self, number):
    self._random = np.random.default_rng(number)
    self._episode = number

  def step(self, action):
    self._step += 1
    last = self._step >= self._length
    return self._obs(flags(
        self._random.random(), False, last, last and self._episode % 2 == 0))

  def reset(self):
    self._episode, self._step = self._episode + 1, 0
    return self._obs(flags(is_first=True))

  def close(self):
    pass

  def _obs(self, ends):
    image = self._random.integers(0, 256, (*self._size, 3), np.uint8)
    vector = self._random.uniform(-1, 1, 7).astype(np.float32)
    return {'image': image, 'vector': vector, **ends}


class TimeLimit(Wrapper):
  """Cuts an episode after `duration` agent steps, without terminating it."""

  def __init__(self, env, duration):
    super().__init__(env)
    self._duration = duration
    self._step = None

  def step(self, action):
    assert self._step is not None, 'reset() comes before step()'
    obs = self.env.step(action)
    self._step += 1
    if self._step >= self._duration:
      obs = {**obs, 'is_last': True}
    self._step = None if obs['is_last'] else self._step
    return obs

  def reset(self):
    self._step = 0
    return self.env.reset()


class NormalizeAction(Wrapper):
  """Scales actions from [-1, 1] to their bounds.

  Args:
    env: Environment.
    key: Name of the action.
    bound: See spaces.bounds.

  Raises:
    ValueError: An entry lacks a bound, and `bound` is 0.
  """

  def __init__(self, env, key='action', bound=0.0):
    super().__init__(env)
    self._key = key
    space = env.act_space[key]
    low, high = spaces.bounds(key, space, bound)
    self._scale, self._shift = (high - low) / 2, (high + low) / 2
    self._space = gymnasium.spaces.Box(-1, 1, space.shape, np.float32)

  @property
  def act_space(self):
    return {**self.env.act_space, self._key: self._space}

  def step(self, action):
    value = action[self._key] * self._scale + self._shift
    return self.env.step({**action, self._key: value})


class OneHotAction(Wrapper):
  """Converts one-hot vectors to discrete actions.

  The space is a Box whose attribute `discrete` is True.

  Raises:
    BadAction: An action is not one-hot.
  """

  def __init__(self, env, key='action'):
    super().__init__(env)
    self._key = key
    self._space = gymnasium.spaces.Box(
        0, 1, (int(env.act_space[key].n),), np.float32)
    self._space.discrete = True

  @property
  def act_space(self):
    return {**self.env.act_space, self._key: self._space}

  def step(self, action):
    index = int(np.argmax(action[self._key]))
    if not np.allclose(action[self._key], np.eye(self._space.shape[0])[index]):
      raise BadAction(f'Action {action[self._key]} is not one-hot')
    return self.env.step({**action, self._key: index})


class ResizeImage(Wrapper):
  """Resizes every uint8 image of the observation to `size` (H, W)."""

  def __init__(self, env, size=(64, 64)):
    super().__init__(env)
    self._size = tuple(size)
    self._keys = [
        k for k, v in env.obs_space.items()
        if len(v.shape) == 3 and v.dtype == np.uint8
        and v.shape[:2] != self._size]

  @property
  def obs_space(self):
    return {
        k: image_space(self._size, v.shape[2]) if k in self._keys else v
        for k, v in self.env.obs_space.items()}

  def step(self, action):
    return self._resize(self.env.step(action))

  def reset(self):
    return self._resize(self.env.reset())

  def _resize(self, obs):
    return {
        k: resize(v, self._size) if k in self._keys else v
        for k, v in obs.items()}


class RenderImage(Wrapper):
  """Adds the output of `env.render()` as an image of `size` (H, W).

  Raises:
    BadReturn: `env.render()` returns no image.
  """

  def __init__(self, env, key='image', size=(64, 64)):
    super().__init__(env)
    self._key = key
    self._size = tuple(size)

  @property
  def obs_space(self):
    return {**self.env.obs_space, self._key: image_space(self._size)}

  def step(self, action):
    return self._render(self.env.step(action))

  def reset(self):
    return self._render(self.env.reset())

  def _render(self, obs):
    image = self.env.render()
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8
            and image.ndim == 3 and image.shape[2] in (3, 4)):
      given = f'{image.dtype} {list(image.shape)}' if isinstance(
          image, np.ndarray) else type(image).__name__
      raise spaces.BadReturn(
          f'env.render() gave {given}, not an image uint8 [H, W, 3]; make the '
          f"environment with render_mode='rgb_array'")
    # A fourth channel is the opacity.
    return {**obs, self._key: resize(image[..., :3], self._size)}


def _owner(env, name):
  """Returns the environment that has a method, below Gymnasium's wrappers.

  Since Gymnasium 1.0, these do not forward what they do not know.
  """
  while isinstance(env, gymnasium.Wrapper) and not hasattr(env, name):
    env = env.env
  return env


def resize(image, size):
  """Resizes a uint8 image [H, W, C] to `size` (H, W)."""
  from PIL import Image
  channels = [
      np.asarray(Image.fromarray(np.ascontiguousarray(x)).resize(
          size[::-1], Image.Resampling.BOX if image.shape[0] >= size[0]
          else Image.Resampling.BILINEAR))
      for x in np.moveaxis(image, -1, 0)]
  return np.stack(channels, -1)


class Async:
  """Runs an environment in another process; methods return promises.

  A promise is a function without arguments that waits for the result. The
  process is a fresh interpreter that imports neither the script that started
  it nor TensorFlow: TensorFlow and Mesa's software OpenGL both contain LLVM
  and crash in one process. Its output does not reach the terminal.

  Args:
    constructor: Returns the environment; any function that cloudpickle can
      send.
    strategy: 'process', or 'none' for an environment in this process, or
      'kept' for one that its owner made and closes.
    environ: Environment variables set before the simulator is imported; None
      removes one.
    restarts: Most restarts of a crashed or hung environment within an hour.
    timeout: Seconds without an answer after which the environment counts as
      hung; 0 waits forever.

  Raises:
    ValueError, ImportError, KeyError: Raised by the environment; raised here
      when a space is read or a promise is called.
    Lost: The environment was restarted, or diverged; call reset next.
    RuntimeError: Any other error of the environment, with its traceback.
  """

  def __init__(
      self, constructor, strategy='process', environ=None, restarts=0,
      timeout=0):
    hosts = worker.STRATEGIES
    if strategy not in hosts:
      raise ValueError(f'Strategy {strategy!r} is none of {sorted(hosts)}')
    self._host = worker.Restarting(
        hosts[strategy], constructor, dict(environ or {}), restarts, timeout)

  @property
  def waiting(self):
    """The pending request and how long it has waited, or ''."""
    return self._host.waiting

  def call(self, name, *args):
    """Returns a promise of an attribute, or of a method's result."""
    return self._host.call(name, *args)

  def close(self):
    self._host.close()

  @functools.cached_property
  def obs_space(self):
    return self.call('obs_space')()

  @functools.cached_property
  def act_space(self):
    return self.call('act_space')()

  @functools.cached_property
  def identity(self):
    return self.call('identity')()

  def seed(self, number):
    return self.call('seed', number)

  def success(self):
    return self.call('success')

  def truth(self):
    return self.call('truth')

  def step(self, action):
    return self.call('step', action)

  def reset(self):
    return self.call('reset')
