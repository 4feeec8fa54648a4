"""A step count that several owners share."""

import functools


@functools.total_ordering
class Counter:
  """Counts steps; compares and converts like the int it holds."""

  def __init__(self, initial=0):
    self.value = int(initial)

  def __int__(self):
    return self.value

  __index__ = __int__

  def __eq__(self, other):
    return self.value == other

  def __lt__(self, other):
    return self.value < other

  # A count changes while others hold it, so it cannot be the key of a dict.
  __hash__ = None

  def __repr__(self):
    return f'Counter({self.value})'

  def increment(self, amount=1):
    """Adds `amount`, which must be a whole number."""
    self.value += int(amount)

  def state(self):
    """Returns the count as plain data for a checkpoint."""
    return self.value

  def restore(self, state):
    """Restores what `state` returned."""
    self.value = int(state)
