import json

import pytest

from dreamingv2.common.counter import Counter
from dreamingv2.common.when import Every
from dreamingv2.common.when import Once
from dreamingv2.common.when import Until


def fired(every, steps):
  return [step for step in steps if every(step)]


def test_every_fires_at_once_and_then_once_per_period():
  assert fired(Every(3), range(1, 12)) == [1, 4, 7, 10]
  assert fired(Every(3, initial=False), range(1, 12)) == [4, 7, 10]


def test_every_keeps_its_grid_when_calls_come_late():
  assert fired(Every(10), range(0, 60, 4)) == [0, 12, 20, 32, 40, 52]


def test_every_does_not_make_up_for_a_long_gap():
  assert fired(Every(10), [0, 55, 56, 59, 60, 61]) == [0, 55, 60]


def test_every_zero_never_and_negative_always_fires():
  assert fired(Every(0), [0, 1, 2]) == []
  assert fired(Every(-1), [0, 0, 2]) == [0, 0, 2]


def test_every_reads_a_counter():
  counter, every = Counter(), Every(2)
  assert every(counter)
  counter.increment(2)
  assert every(counter) and not every(counter)


@pytest.mark.parametrize('make, calls', [
    (lambda: Every(10), [(0,), (7,), (12,), (19,), (20,), (31,)]),
    (lambda: Every(10, initial=False), [(3,), (12,), (13,), (23,)]),
    (Once, [(), (), ()]),
])
def test_restored_condition_goes_on_like_the_saved_one(make, calls):
  for split in range(len(calls) + 1):
    one, other = make(), make()
    [one(*call) for call in calls[:split]]
    other.restore(json.loads(json.dumps(one.state())))
    rest = calls[split:]
    assert [one(*call) for call in rest] == [other(*call) for call in rest]


def test_once_is_true_once():
  once = Once()
  assert [once(), once(), once()] == [True, False, False]


def test_until_ends_at_its_step_and_never_at_zero():
  assert [Until(3)(Counter(step)) for step in (0, 2, 3, 4)] == [
      True, True, False, False]
  assert Until(0)(0) and Until(0)(10 ** 9)
