"""Tests the estimates of the time left."""

import pytest

from dreamingv2.common import forecast


def test_forecast_adds_up_all_kinds_of_work_that_are_left():
  ahead = forecast.Forecast()
  for seconds in (1.0, 2.0, 90.0):  # One slow part does not count.
    ahead.add('step', seconds)
  ahead.add('update', 10.0)
  assert ahead.left({'step': 5, 'update': 3}) == 5 * 2 + 3 * 10


def test_forecast_knows_nothing_of_work_that_was_never_done():
  ahead = forecast.Forecast()
  ahead.add('step', 1.0)
  assert ahead.left({'step': 1, 'update': 1}) is None
  assert ahead.left({'step': 1, 'update': 0}) == 1


def test_forecast_follows_the_newest_measurements():
  ahead = forecast.Forecast(window=3)
  for seconds in (9, 9, 9, 1, 1, 1):
    ahead.add('step', seconds)
  assert ahead.left({'step': 1}) == 1


@pytest.mark.parametrize('seconds, words', [
    (0.4, '0 s'), (25, '25 s'), (100, '1.7 min'), (840, '14 min'),
    (3600 * 3.5, '3.5 h'), (3600 * 47, '47 h'), (86400 * 5.2, '5 d'),
    (float('nan'), 'an unknown time')])
def test_duration_in_words(seconds, words):
  assert forecast.in_words(seconds) == words
