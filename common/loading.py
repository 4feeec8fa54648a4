"""Loads and calls the user's code; what it does wrong becomes one line."""

import functools
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback


def call(factory, name, offered, args):
  """Calls the user's function.

  Args:
    factory: Function or class.
    name: What messages call it.
    offered: Arguments that it gets if its signature names them, unless a
      functools.partial has set them.
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
        f'{name} is {type(factory).__name__}, which cannot be called '
        f'with named arguments') from None
  fixed = {*args, *getattr(factory, 'keywords', ())}
  taken = {
      k: v for k, v in offered.items()
      if k in signature.parameters and k not in fixed}
  try:
    signature.bind(**taken, **args)
  except TypeError as error:
    raise ValueError(
        f'{name} takes {signature}, but: {error}; set '
        f"--env_args '{{name: value}}'") from None
  try:
    return factory(**taken, **args), taken
  except Exception as error:
    raise ValueError(f'{name} raised {describe(error)}') from error


def folder(package, advice):
  """Returns the folder of an installed package, without importing it.

  Raises:
    ImportError: It is not installed; says the advice.
  """
  spec = importlib.util.find_spec(package)
  if spec is None:
    raise ImportError(advice)
  return pathlib.Path(spec.submodule_search_locations[0])


def find(name):
  """Checks that a module exists, without importing it.

  The working directory counts, as it does for `python -m`.

  Raises:
    ImportError: It does not.
    ValueError: It belongs to Python.
  """
  root = name.partition('.')[0]
  if root in sys.stdlib_module_names:
    raise ValueError(
        f'Module {name!r} belongs to Python and has no environments; a module '
        f'of your own needs another name')
  here = os.getcwd()
  if here not in sys.path:
    sys.path.append(here)
  try:
    spec = importlib.util.find_spec(root)
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


def resolve(name, attribute):
  """Returns what a module of the user defines.

  Logdirs and configs of others name functions, too. What a module merely
  imports, such as `os.system`, is therefore refused.

  Args:
    name: Module.
    attribute: Function or class; dots lead into classes.

  Raises:
    ImportError: The module cannot be imported.
    ValueError: It does not define that.
  """
  try:
    found = functools.reduce(getattr, attribute.split('.'), load(name))
  except AttributeError as error:
    raise ValueError(f'{name}:{attribute} does not exist: {error}') from None
  inner = found
  while isinstance(inner, functools.partial):
    inner = inner.func
  home = getattr(inner, '__module__', None) or type(inner).__name__
  if home.partition('.')[0] != name.partition('.')[0]:
    raise ValueError(
        f'{name}:{attribute} is not defined by {name}, but by {home}; name '
        f'the module that defines it, or a function of your own')
  return found


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
