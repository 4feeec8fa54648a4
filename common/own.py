"""Adapts environments of users, which have the interface of Gymnasium or gym.

`convert` gives them our interface, see envs. `fit` chooses what the encoder
reads.
"""

import re

import numpy as np

from . import envs
from . import spaces
from . import wrappers

# Patterns of observations as configs.yaml sets them, and those of all.
USUAL = {'cnn_keys': 'image.*', 'mlp_keys': '$^'}
ALL = '.*'


def fit(config, obs_space):
  """Chooses observations if the usual patterns match no image.

  These take images whose name begins with image. If there is none, all images
  are taken, or else all vectors.

  Returns:
    A config whose encoder and decoder have something to read.
  """
  found = images(obs_space)
  if any(re.fullmatch(USUAL['cnn_keys'], k) for k in found):
    return config
  pattern = 'cnn_keys' if found else 'mlp_keys'
  for part in ('encoder', 'decoder'):
    if config[part][pattern] == USUAL[pattern]:
      config = config.update({f'{part}.{pattern}': ALL})
  return config


def images(obs_space):
  """Returns the names of the images, without those for the log alone."""
  return [
      k for k, v in obs_space.items()
      if len(v.shape) == 3 and not k.startswith('log_')]


def videos(config, obs_space):
  """Returns the images that are shown as videos.

  They are those of log_keys_video, or all if its default names none.
  """
  chosen = [
      k for k in config.log_keys_video
      if k in obs_space and len(obs_space[k].shape) == 3]
  return chosen or (images(obs_space) if config.log_keys_video else [])


def unread(config, obs_space):
  """Returns {key: reason} of the observations that nothing reads."""
  config = fit(config, obs_space)
  logged = [*config.log_keys_video] + [
      config[f'log_keys_{x}'] for x in ('sum', 'mean', 'max')]
  kinds = {3: 'cnn_keys'}
  reasons = {}
  for key, space in obs_space.items():
    pattern = kinds.get(len(space.shape), 'mlp_keys')
    read = [config.encoder[pattern], config.decoder[pattern], *logged]
    if not any(re.fullmatch(x, key) for x in read) and not (
        key in envs.FLAGS or key.startswith('log_')):
      reasons[key] = (
          f"not matched by encoder.{pattern} '{config.encoder[pattern]}'")
  return reasons


def leave_out(env, config):
  """Returns an environment without the observations that nothing reads."""
  reasons = unread(config, env.obs_space)
  drop = getattr(env, 'leave_out', None)  # Where `convert` made it.
  if drop:
    drop(reasons)
  return wrappers.LeaveOut(env, reasons) if reasons and not drop else env


def convert(env, size, action_repeat=1, seed=None, always=False):
  """Gives an environment of Gymnasium or gym the interface of envs.

  Images are resized. An environment that observes no image but was made with
  render_mode 'rgb_array' gets its rendered frame as 'image'. A single
  observation is called 'image' or 'vector'.

  Args:
    env: Environment.
    size: Height and width of images, pixels.
    action_repeat: Steps of `env` per agent step.
    seed: Seed of the first episode.
    always: See envs.GymWrapper.

  Raises:
    ValueError: A space that cannot be handled.
  """
  name = 'image' if spaces.is_image(env.observation_space) else 'vector'
  env = envs.ResizeImage(
      envs.GymWrapper(env, name, seed=seed, always=always), size)
  images = [k for k, v in env.obs_space.items() if len(v.shape) == 3]
  if not images and getattr(env, 'render_mode', None) == 'rgb_array':
    env = envs.RenderImage(env, 'image', size)
  if action_repeat > 1:
    env = wrappers.ActionRepeat(env, action_repeat)
  return env


def adapt(env, config, seed=None, always=False):
  """Returns an environment that is ready for the driver; see `convert`."""
  env = convert(
      env, config.render_size, config.action_repeat, seed, always)
  env = envs.ready(env, config.time_limit, config.action_bound)
  return leave_out(env, config)


def try_out(env: envs.Async, seed: int):
  """Takes one step, so that what is wrong is told before anything expensive.

  After that, the next episode is the one of the seed.

  Raises:
    ValueError: Something is wrong.
  """
  space = env.act_space['action']
  value = np.zeros(space.shape, np.float32)
  if hasattr(space, 'discrete'):
    value[0] = 1
  try:
    env.reset()()
    reward = env.step({'action': value})()['reward']
    if not np.isfinite(reward):
      raise ValueError(
          f'The first step() returned the reward {reward}, which is not '
          f'finite in float32; correct it in the environment')
    wrappers.success(env)
    env.seed(seed)()
  except (ImportError, ValueError):
    raise
  except Exception as error:
    cause = error
    while cause.__cause__:
      cause = cause.__cause__
    text = str(cause).partition('\n')[0]
    raise ValueError(f'The environment does not work: {text}') from error


def keep(env, config) -> envs.Async:
  """Hosts an environment in this process, which its owner made and closes.

  What is wrong with it cuts its episode, within the same budget as a crash.
  """
  return envs.Async(lambda: env, 'kept', restarts=config.env_restarts)
