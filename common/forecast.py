"""Estimates the remaining time of a run from its past measurements."""

import collections
import statistics


class Forecast:
  """Multiplies the remaining pieces of each kind of work by its median time.

  Args:
    window: Number of newest measurements of each kind that count.
  """

  def __init__(self, window=100):
    self._times = collections.defaultdict(
        lambda: collections.deque(maxlen=window))

  def add(self, kind, seconds):
    """Records the wall-clock seconds that one piece of work took."""
    self._times[kind].append(seconds)

  def left(self, pieces):
    """Returns the seconds that {kind: pieces} will take, None if unknown."""
    if any(n > 0 and not self._times[kind] for kind, n in pieces.items()):
      return None
    return sum(
        n * statistics.median(self._times[kind])
        for kind, n in pieces.items() if n > 0)


def in_words(seconds):
  """Returns a rounded duration, such as '25 s', '14 min', '3.5 h', '5 d'.

  NaN is an unknown time.
  """
  if seconds != seconds:
    return 'an unknown time'
  for size, unit, limit in (
      (1, 's', 100), (60, 'min', 100), (3600, 'h', 48)):
    if seconds < limit * size:
      value = seconds / size
      return f'{value:.0f} {unit}' if value >= 10 or size == 1 else (
          f'{value:.1f} {unit}')
  return f'{seconds / 86400:.0f} d'
