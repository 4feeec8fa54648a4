"""Adapts environments of users, which have the interface of Gymnasium or gym.

`adapt` gives them our interface, see envs.
"""

import numpy as np

from . import envs


def adapt(env, size=(64, 64), action_repeat=1, time_limit=0, seed=None):
  """Returns an environment that is ready for the driver.

  Images are resized. An environment that observes no image but was made with
  render_mode 'rgb_array' gets its rendered frame as 'image'. A single vector
  observation is called 'vector'.

  Args:
    env: Environment of Gymnasium or gym.
    size: Height and width of images, pixels.
    action_repeat: Steps of `env` per agent step.
    time_limit: Agent steps after which an episode is cut; 0: none.
    seed: Seed of the first episode.

  Raises:
    ValueError: A space that cannot be handled.
  """
  space = env.observation_space
  is_image = space.dtype == np.uint8 and len(space.shape) > 1
  env = envs.GymWrapper(env, 'image' if is_image else 'vector', seed=seed)
  images = [k for k, v in env.obs_space.items() if len(v.shape) == 3]
  if images:
    env = envs.ResizeImage(env, size)
  elif getattr(env, 'render_mode', None) == 'rgb_array':
    env = envs.RenderImage(env, 'image', size)
  if action_repeat > 1:
    env = envs.ActionRepeat(env, action_repeat)
  return envs.ready(env, time_limit)


def options(config, seed: int) -> dict:
  """Returns the keywords of `adapt` that a config holds."""
  return {
      'size': tuple(config['render_size']), 'seed': seed,
      'action_repeat': config['action_repeat'],
      'time_limit': config['time_limit']}
