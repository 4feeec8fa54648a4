"""Fixtures that several tests of common/ use."""

import pytest

from dreamingv2.common import envs


@pytest.fixture
def half():
  """Returns a function that switches to float16 until the test ends."""
  from dreamingv2.common import tfutils
  yield lambda: tfutils.setup('16')
  tfutils.setup('32')


@pytest.fixture
def seed():
  """Seeds all random generators, so that each test repeats its draws."""
  from dreamingv2.common import tfutils
  tfutils.generator().reset_from_seed(0)


@pytest.fixture
def start():
  """Makes Async environments and closes them after the test."""
  made = []

  def start(*args, **kwargs):
    made.append(envs.Async(*args, **kwargs))
    return made[-1]
  yield start
  for env in made:
    env.close()
