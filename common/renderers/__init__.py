"""Renderers: one file each; a renderer draws a compiled MuJoCo model.

A renderer's module has `QUALITIES` (with the keys full, medium and light),
`REFUSED` (options of `distractors` that it cannot draw), `validate()` (raises
ImportError if the renderer is not installed), `prepare()` (returns the
environment variables of the processes that render; prints which device
renders; raises RuntimeError if this machine cannot render) and `Renderer`, see
`base.Renderer`.
"""

import importlib

from ..config import check_known
from . import distractors as distractorlib

RENDERERS = {
    'filament': '.filament',
    'igibson': '.igibson',
    'mujoco': '.mujoco',
}


def validate(name, key, quality, distractors=None):
  """Checks a renderer's name and its quality, which config key `key` sets.

  Raises:
    ValueError: A name or quality is unknown, or the renderer cannot draw the
      distractors.
    ImportError: The renderer is not installed.
  """
  check_known('renderer', name, RENDERERS)
  check_known(key, quality, _module(name).QUALITIES)
  for option in _module(name).REFUSED:
    if (distractors or {}).get(option):
      others = [x for x in RENDERERS if option not in _module(x).REFUSED]
      raise ValueError(
          f'renderer {name} cannot draw distractors.{option}; those that can: '
          f'{", ".join(others)}')
  _module(name).validate()


def prepare(name):
  """Returns the environment variables of the processes that render.

  Raises:
    RuntimeError: This machine cannot render.
  """
  return _module(name).prepare()


def make(name, size, quality, hide=(), seed=0, distractors=None):
  """Makes a renderer, with the distractors that are switched on.

  Args:
    size, quality, hide: See `base.Renderer`.
    seed: Seed of the distractors.
  """
  return distractorlib.wrap(
      _module(name).Renderer(size, quality, hide), seed,
      distractors or distractorlib.OPTIONS)


def cameras(names):
  """Maps observation keys to the cameras in `names`.

  Args:
    names: One camera, or several separated by commas.

  Returns:
    'image' for the first, 'image_<name>' for each of the others.
  """
  first, *others = [x.strip() for x in str(names).split(',')]
  return {'image': first, **{f'image_{x}': x for x in others}}


def _module(name):
  return importlib.import_module(RENDERERS[name], __package__)
