"""Loads and calls the user's code; what it does wrong becomes one line."""

import importlib
import importlib.util
import inspect
import os
import sys
import traceback


def call(factory, task, offered, args):
  """Calls the user's function.

  Args:
    factory: Function or class.
    task: Its name, for messages.
    offered: Arguments that it gets if its signature names them.
    args: Arguments that it gets anyway.

  Returns:
    What it returned, and the names of the offered arguments that it took.

  Raises:
    ValueError: It does not take the arguments, or raised an error.
  """
  try:
    signature = inspect.signature(factory)
  except (TypeError, ValueError):  # Not callable, or written in C.
    raise ValueError(
        f'--task {task} is {type(factory).__name__}, which cannot be called '
        f'with named arguments') from None
  taken = {
      k: v for k, v in offered.items()
      if k in signature.parameters and k not in args}
  try:
    signature.bind(**taken, **args)
  except TypeError as error:
    raise ValueError(
        f'--task {task} takes {signature}, but: {error}; set '
        f"--env_args '{{name: value}}'") from None
  try:
    return factory(**taken, **args), taken
  except Exception as error:
    raise ValueError(f'--task {task} raised {describe(error)}') from error


def find(name):
  """Checks that a module exists, without importing it.

  The working directory counts, as it does for `python -m`.

  Raises:
    ImportError: It does not.
  """
  here = os.getcwd()
  if here not in sys.path:
    sys.path.append(here)
  try:
    spec = importlib.util.find_spec(name.partition('.')[0])
  except ValueError:  # The name is empty, or of a module without a spec.
    spec = None
  if not spec:
    raise ImportError(
        f'There is no module {name!r} in {here} or on the Python path; start '
        f'in its folder, or set PYTHONPATH')


def load(name):
  """Returns a module of the user.

  Raises:
    ImportError: It cannot be imported; the message says why and where.
  """
  find(name)
  try:
    return importlib.import_module(name)
  except Exception as error:
    raise ImportError(
        f'Module {name!r} does not import: {describe(error)}') from error


def describe(error):
  """Returns an error of the user's code in one line, with its place."""
  frames = [
      x for x in traceback.extract_tb(error.__traceback__)
      if 'site-packages' not in x.filename and x.filename[0] != '<'
      and x.filename != __file__]
  place = f' ({frames[-1].filename}:{frames[-1].lineno})' if frames else ''
  if isinstance(error, SyntaxError):
    place = f' ({error.filename}:{error.lineno})'
  text = (str(error).strip().splitlines() or [''])[0]
  return f'{type(error).__name__}: {text}{place}'
