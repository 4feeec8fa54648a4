"""Trains on the user's own environment.

    import gymnasium
    from dreamingv2 import api
    env = gymnasium.make('CarRacing-v3')
    config = api.load('small').update({'logdir': 'logdir/car', 'steps': 1e5})
    api.train(env, config)

As with DreamerV2, `api.defaults.update({...}).parse_flags()` gives a config
that the command line has the last word on.
"""

import signal
from collections.abc import Callable

import gymnasium
import numpy as np

from . import settings
from . import train as training
from .common import envs
from .common import guards
from .common import logdir as logdirs
from .common.config import Config


defaults = settings.defaults()


def load(*names: str) -> Config:
  """Returns the config of blocks in configs.yaml over the defaults.

  Raises:
    ValueError: Unknown block.
  """
  return settings.load_config(['--configs', *names] if names else [])


def wrap(env, config: Config) -> envs.Wrapper:
  """Makes a Gymnasium or old gym environment one that the agent can use.

  Images are resized to `render_size`. An environment that observes no image
  but was made with render_mode 'rgb_array' gets its rendered frame as
  'image'. A single vector observation is called 'vector'. The agent models
  where episodes end (pred_discount); an environment of our own interface
  whose episodes never do says so by envs.ENDLESS in its obs_space.

  Raises:
    ValueError: A space that cannot be handled.
  """
  if hasattr(env, 'obs_space'):  # Has our interface already.
    if not isinstance(env.act_space['action'], gymnasium.spaces.Box):
      raise ValueError(
          f"Action space {env.act_space['action']} is not ready for the "
          f'agent; pass common.envs.ready(env)')
    return env
  space = env.observation_space
  is_image = space.dtype == np.uint8 and len(space.shape) > 1
  env = envs.GymWrapper(
      env, 'image' if is_image else 'vector', seed=config.seed)
  images = [k for k, v in env.obs_space.items() if len(v.shape) == 3]
  if images:
    env = envs.ResizeImage(env, config.render_size)
  elif getattr(env, 'render_mode', None) == 'rgb_array':
    env = envs.RenderImage(env, 'image', config.render_size)
  if config.action_repeat > 1:
    env = envs.ActionRepeat(env, config.action_repeat)
  return envs.ready(env, config.time_limit)


def train(
    env, config: Config, outputs: list[Callable] | None = None, eval_env=None):
  """Trains on `env` until `config.steps`, or resumes the run in the logdir.

  The environment lives in this process, where TensorFlow is loaded too: one
  that renders with software OpenGL may crash; pass
  `envs.Async(constructor)` to run it in a process of its own.

  Args:
    env: Gymnasium environment, old gym environment, or one of common.envs,
      made ready by envs.ready.
    config: Config; `config.logdir` must be set.
    outputs: Outputs of the logger; terminal, JSON lines, TensorBoard and GIF
      files by default.
    eval_env: Environment for evaluation, which is off without one.

  Returns:
    The trained agent.

  Raises:
    ValueError: A space or a config that cannot be handled.
    KeyboardInterrupt: SIGINT came; the run was saved. Other signals that end
      a process do so after saving, too, unless the caller handles them.
    Stopped: The same, where the caller ignores the signal or has handled it.
    NotFinite: Too many updates in a row were not, see guards.Skips.
  """
  if not config.logdir:
    raise ValueError("logdir is ''; set it: config.update({'logdir': ...})")
  if eval_env is env:
    raise ValueError(
        'eval_env is env: evaluating would cut its episodes short; pass '
        'another environment')
  train_envs, eval_envs = [wrap(env, config)], []
  if eval_env is not None:
    other = config.update({'seed': config.seed + 999})
    eval_envs = [wrap(eval_env, other)]
  logdir = logdirs.prepare(config, 'gym', 'env')
  with guards.Lock(logdir):
    run = training.Run(config, logdir, train_envs, eval_envs, outputs)
    try:
      run.train()
    except guards.Stopped as stop:
      # The run is saved; what the signal means else is the caller's affair.
      signal.raise_signal(stop.number)
      raise
  return run.agent
