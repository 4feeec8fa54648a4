"""Conditions on a step count: at intervals, once, or until a step."""


class Every:
  """Fires at the first call and then once per `every` steps.

  The firing steps lie on a grid that starts at the first call. A late call
  does not delay the next firing. Grid points that were skipped are not made up
  for.

  Args:
    every: Steps between two firings; 0 means never, negative means always.
    initial: Whether the first call fires.
  """

  def __init__(self, every, initial=True):
    self._every = every
    self._initial = initial
    self._last = None

  def __call__(self, step):
    """Returns whether to fire at `step`, an int or a Counter."""
    step = int(step)
    if self._every <= 0:
      return self._every < 0
    if self._last is None:
      self._last = step
      return self._initial
    periods = (step - self._last) // self._every
    if periods < 1:
      return False
    self._last += periods * self._every
    return True

  def state(self):
    """Returns the last grid point (None before the first call)."""
    return self._last

  def restore(self, state):
    """Restores what `state` returned."""
    self._last = state


class Once:
  """Is true at the first call only."""

  def __init__(self):
    self._fresh = True

  def __call__(self):
    """Returns whether this is the first call."""
    fresh, self._fresh = self._fresh, False
    return fresh

  def state(self):
    """Returns whether the first call is still to come."""
    return self._fresh

  def restore(self, state):
    """Restores what `state` returned."""
    self._fresh = state


class Until:
  """Is true while the step is below `until`, or always if `until` is 0."""

  def __init__(self, until):
    self._until = until

  def __call__(self, step):
    """Returns whether `step`, an int or a Counter, is below the end."""
    return not self._until or int(step) < self._until
