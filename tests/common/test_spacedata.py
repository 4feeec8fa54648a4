"""Spaces become plain data and come back."""

import json

import gymnasium
import numpy as np
import pytest

from dreamingv2.common import spacedata

Box = gymnasium.spaces.Box


class Mine(Box):
  """A subclass, as packages define them."""


@pytest.mark.parametrize('space', [
    Box(0, 255, (8, 8, 3), np.uint8), Box(-np.inf, np.inf, (), np.float32),
    Box(np.float32([-1, -np.inf]), np.float32([1, 2])), Box(0, 1, (0,)),
    Box(0, 1, (2,), np.int64), gymnasium.spaces.Discrete(3, start=5),
    gymnasium.spaces.MultiBinary(4), gymnasium.spaces.MultiDiscrete([6, 2]),
    gymnasium.spaces.MultiDiscrete([3, 2], start=[1, 5]),
    gymnasium.spaces.Dict(
        a=Box(0, 1, (2,)), b=gymnasium.spaces.Dict(
            c=gymnasium.spaces.Discrete(2)))], ids=str)
def test_space_comes_back_through_json(space):
  data = json.loads(json.dumps(spacedata.to_data(space)))
  assert spacedata.from_data(data) == space


def test_marks_of_encoded_actions_come_back():
  space = Box(0, 1, (3,), np.float32)
  space.discrete = True
  again = spacedata.from_data(json.loads(json.dumps(spacedata.to_data(space))))
  assert again.discrete and not hasattr(spacedata.from_data(spacedata.to_data(
      Box(0, 1, (3,)))), 'discrete')


def test_subclass_comes_back_as_what_it_is():
  data = spacedata.to_data(Mine(0, 1, (2,)))
  assert spacedata.from_data(data) == Box(0, 1, (2,))


@pytest.mark.parametrize('data', [
    {}, {'kind': 'Sequence'}, {'kind': 'Discrete', 'n': -1, 'start': 0}, [],
    {'kind': 'Box', 'shape': [2], 'dtype': 'no', 'low': 0, 'high': 1},
    {'kind': 'Box', 'shape': [2], 'dtype': 'f4', 'low': [0] * 3, 'high': 1}])
def test_data_that_describe_no_space_are_refused(data):
  with pytest.raises(ValueError, match='describes no space'):
    spacedata.from_data(data)
