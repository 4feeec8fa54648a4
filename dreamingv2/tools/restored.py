"""Acts with a trained agent on plain observations, such as a robot's.

    from dreamingv2 import api
    agent = api.restore('logdir/run')
    action, state = agent.act(observation, None)
    action, state = agent.act(observation, state)

Neither a simulator nor the replay is loaded.
"""

import contextlib
import pathlib

import gymnasium
import numpy as np

from ..common import envs
from ..common import identity
from ..common import own
from ..common import spacedata
from ..common import spaces
from . import evaluate

MODES = ('eval', 'train', 'explore')


def load(folder, best=False, step=None, seed=0):
  """Returns the policy of a run, or an exported policy, as a Restored.

  Args:
    folder: Folder of the run, or one that `evaluate --export` wrote.
    best: Take the checkpoint of the best evaluation, not the newest.
    step: Take the checkpoint of so many environment steps.
    seed: Seed of the policy's noise; an exported policy has its own.

  Raises:
    ValueError: The folder holds no run, or one of another version.
  """
  folder = pathlib.Path(folder).expanduser()
  config, made = evaluate.load_config(folder), identity.read(folder)
  if not made:
    raise ValueError(
        f'{folder} has no {identity.FILE}, which tells the spaces: an older '
        f'version wrote this run; resume it once, which adds the file')
  obs_space, act_space = identity.agent_spaces(made)
  if evaluate.is_policy(folder):
    evaluate.check_policy(folder)
    policy = evaluate.load_policy(folder, obs_space, act_space)
    return Restored(policy, config, made, MODES[:1])
  snapshot = evaluate.read_checkpoint(folder, best, step)
  policy = Seeded(
      evaluate.restore(config, snapshot, obs_space, act_space))
  restored = Restored(policy, config, made, MODES)
  restored.act(restored.observation_space.sample())  # Compiles the policy.
  policy.reset(seed)
  return restored


class Seeded:
  """An agent with noise of its own: all agents of a process share theirs."""

  def __init__(self, agent):
    self.keys = [*agent.wm.encoder.cnn_keys, *agent.wm.encoder.mlp_keys]
    self._agent = agent
    self.reset(0)

  def reset(self, seed):
    """Begins the noise that belongs to a seed."""
    with self._noise():
      self._agent.generator.reset_from_seed(seed)

  def policy(self, obs, state=None, mode='eval'):
    """Acts; see Agent.policy."""
    with self._noise():
      return self._agent.policy(obs, state, mode)

  @contextlib.contextmanager
  def _noise(self):
    from ..common import tfutils
    now = self._agent.generator.state
    with tfutils.keep_generator():
      now.assign(getattr(self, '_state', now))
      yield
      self._state = now.numpy()


class Restored:
  """A policy that acts on what its environment observes, step by step.

  Args:
    policy: Seeded or export.Exported.
    config: Config of its run.
    made: What identity.read returned.
    modes: Modes that the policy has.

  Attributes:
    config: Config of its run.
    task: Name of its environment.
    observation_space: Dict of the spaces of the observations that it reads.
    action_space: Space of its actions, in the environment's own units.
  """

  def __init__(self, policy, config, made, modes):
    self.config = config
    self.task = made['task']
    self._policy, self._modes = policy, modes
    self._stand_in = StandIn(made)
    self._env = self._stand_in.wrap(config)
    self._env.reset()  # Wrappers check ranges at the first reset.
    self.observation_space = gymnasium.spaces.Dict({
        k: self._stand_in.declared[k] for k in policy.keys})
    self.action_space = self._stand_in.action_space

  def act(self, observation, state=None, mode='eval'):
    """Chooses an action.

    Args:
      observation: Dict with the keys of `observation_space`, each value as the
        environment observes it, without a batch axis; other keys are ignored.
        A Dict within a Dict may be given as it is. If it has one key, the
        value alone will do.
      state: What the last call returned; None begins an episode.
      mode: 'eval' as in evaluations, or 'train' or 'explore' with noise.

    Returns:
      An action in `action_space`, and the next state.

    Raises:
      ValueError: A key is missing, a value is not in its space, or the policy
        has no such mode.
    """
    if mode not in self._modes:
      raise ValueError(
          f'mode is {mode!r}; this policy has {", ".join(self._modes)}')
    self._stand_in.values.update(self._read(observation))
    obs = {**self._env.reset(), 'is_first': state is None}
    obs = {k: np.asarray(obs[k])[None] for k in (
        *self.observation_space, *envs.FLAGS)}
    outputs, state = self._policy.policy(obs, state, mode)
    self._env.step({'action': outputs['action'][0]})
    return self._stand_in.action, state

  def _read(self, observation):
    """Returns {key: array} of an observation that is in its space."""
    space = self.observation_space
    if not hasattr(observation, 'keys') and len(space) == 1:
      observation = dict.fromkeys(space, observation)
    paths = self._stand_in.paths
    observation = spaces.pick(
        observation, {k: paths.get(k, (k,)) for k in space})
    if not hasattr(observation, 'keys') or not space.keys() <= {*observation}:
      came = (', '.join(map(str, observation)) if hasattr(observation, 'keys')
              else type(observation).__name__)
      raise ValueError(
          f'The observation must be a dict with {", ".join(space)}; came '
          f'{came or "nothing"}')
    return {k: _check(k, space[k], observation[k]) for k in space}


class StandIn(gymnasium.Env):
  """Stands in for the environment of a run.

  It observes `values` and keeps the last `action`, so that the wrappers of the
  run convert both as they did in training.

  Args:
    made: What identity.read returned.

  Attributes:
    declared: Spaces of all observations by name, as the environment has them.
    paths: Where each is in an observation of the environment, if that is a
      Dict; see spaces.leaves.
    values: Observations by name.
    action: The last action.
  """

  def __init__(self, made):
    observed = spacedata.from_data(made['observations'])
    self.action_space = spacedata.from_data(made['action'])
    if hasattr(self.action_space, 'discrete'):  # Of stored episodes.
      self.action_space = gymnasium.spaces.Discrete(
          self.action_space.shape[0])
    self.action = None
    seen = identity.agent_spaces(made)[0]
    leaves = spaces.leaves(observed) if (
        spaces.kind(observed) == 'Dict') else {}
    self._ours = 'reward' in leaves  # A reserved name elsewhere.
    self.paths = {k: path for k, (path, _) in leaves.items()}
    parts = {
        k: v for k, (_, v) in leaves.items()
        if k not in envs.FLAGS and spaces.kind(v) != 'Text'}
    self._key = None
    self.observation_space = gymnasium.spaces.Dict(parts)
    if spaces.kind(observed) != 'Dict':
      self.observation_space = observed
      self._key = next(
          k for k in own.convert(self, (64, 64)).obs_space
          if k not in envs.FLAGS)
      parts = {self._key: observed}
    self.values = {k: v.sample() for k, v in parts.items()}
    drawn = {k: v for k, v in seen.items() if k == 'image' and k not in parts}
    self.render_mode = 'rgb_array' if drawn else None
    self.declared = {**parts, **drawn}
    self.values.update({k: v.sample() for k, v in drawn.items()})
    self._samples = dict(self.values)

  def wrap(self, config):
    """Returns it with the wrappers that convert observations and actions."""
    env = _Plain(self) if self._ours else own.convert(
        self, config.render_size)
    return envs.ready(env, bound=config.action_bound)

  def reset(self, *, seed=None, options=None):
    return self._pick(self.values), {}

  def step(self, action):
    self.action = action
    # Nothing reads it. Wrappers check ranges after a step, but a sensor may
    # leave its range a little.
    return self._pick(self._samples), 0.0, False, False, {}

  def _pick(self, values):
    if self._key:
      return values[self._key]
    return {k: values[k] for k in self.observation_space}

  def render(self):
    return self.values['image']


class _Plain(envs.Wrapper):
  """Gives a StandIn the interface of envs without any conversion."""

  @property
  def obs_space(self):
    return {**self.env.observation_space.spaces, **envs.FLAGS}

  @property
  def act_space(self):
    return {'action': self.env.action_space}

  def step(self, action):
    self.env.step(action['action'])
    return self.reset()

  def reset(self):
    return {**self.env.reset()[0], **envs.flags(is_first=True)}


def _check(key, space, value):
  """Returns a value as an array if it is in its space."""
  array = np.asarray(value)
  words = lambda shape, dtype: f'{np.dtype(dtype).name} {list(shape)}'
  if array.shape != space.shape or not np.can_cast(
      array.dtype, space.dtype, 'same_kind'):
    raise ValueError(
        f'Observation {key!r}: declared {words(space.shape, space.dtype)}, '
        f'came {words(array.shape, array.dtype)}')
  if array.dtype.kind == 'f' and not np.isfinite(array).all():
    raise ValueError(f'Observation {key!r} is not finite')
  return array.astype(space.dtype)
