"""Gymnasium: every registered environment by its id, such as CarRacing-v3."""

import gymnasium

from .. import loading
from .. import own

OPTIONS = {
    'draw': False,
    'env_args': {},
}


def tasks():
  return []  # Any registered id is possible.


def validate(task, options):
  name, colon, _ = task.rpartition(':')
  if colon:  # The module registers it, in the environment's process.
    return loading.find(name)
  try:
    gymnasium.spec(task)
  except gymnasium.error.Error as error:
    raise ValueError(
        f'{error}; if a module registers it, write --task '
        f'gym_MODULE:{task}') from None


def limit(task, options):
  return None


def make(task, seed=0, size=(64, 64), action_repeat=1, **options):
  options = {**OPTIONS, **options}
  name, colon, _ = task.rpartition(':')
  if colon:
    loading.load(name)
  mode = {'render_mode': 'rgb_array'} if options['draw'] else {}
  try:
    env = gymnasium.make(task, **{**mode, **options['env_args']})
  except Exception as error:
    raise ValueError(
        f'Gymnasium cannot make {task!r}: '
        f'{loading.describe(error)}') from error
  return own.convert(env, size, action_repeat, seed=seed)
