"""Tests ridge regression and R^2 on data whose answer is known."""

import numpy as np
import pytest

from dreamingv2.common import ridge


def split(rows):
  return np.arange(rows) >= 0.75 * rows


def make(noise, rows=2000, inputs=20, seed=0):
  """Draws x, and y = 3 + x W + noise in units of y's standard deviation."""
  rng = np.random.default_rng(seed)
  weight = rng.normal(size=(inputs, 3))
  weight /= np.linalg.norm(weight, axis=0)
  x = rng.normal(size=(2 * rows, inputs))
  y = 3 + x @ weight + noise * rng.normal(size=(2 * rows, 3))
  return (x[:rows], y[:rows]), (x[rows:], y[rows:])


def test_solution_is_that_of_numpy_with_the_penalty_as_rows():
  """The penalty is the same as rows sqrt(penalty N) I with targets of 0."""
  (x, y), (new, _) = make(1.0, rows=60)
  model = ridge.Ridge(x, y, split(60))
  mean, std = x.mean(0), x.std(0)
  rows = np.sqrt(model.penalty * 60) * np.eye(20)
  weight, *_ = np.linalg.lstsq(
      np.concatenate([(x - mean) / std, rows]),
      np.concatenate([y - y.mean(0), np.zeros((20, 3))]), rcond=None)
  expected = (new - mean) / std @ weight + y.mean(0)
  np.testing.assert_allclose(model(new), expected, rtol=1e-8)


def test_penalty_is_the_best_one_on_the_rows_to_check():
  (x, y), _ = make(3.0, rows=80, seed=1)
  check = split(80)
  errors = []
  for penalty in ridge.PENALTIES:
    predict, = ridge._solve(x[~check], y[~check], [penalty])
    errors.append(np.square(predict(x[check]) - y[check]).mean())
  assert ridge.Ridge(x, y, check).penalty == (
      ridge.PENALTIES[np.argmin(errors)])
  assert 0 < np.argmin(errors) < len(errors) - 1


def test_linear_map_is_recovered():
  (x, y), (new, truth) = make(0.0)
  model = ridge.Ridge(x * [1e3] + 7, y, split(2000))
  pooled, entries = ridge.r2(truth, model(new * 1e3 + 7))
  assert pooled > 1 - 1e-6 and min(entries) > 1 - 1e-6


@pytest.mark.parametrize('noise', [0.5, 1.0, 2.0])
def test_known_r2_is_found(noise):
  """With noise of variance s^2 beside a signal of 1, R^2 is 1 / (1 + s^2)."""
  (x, y), (new, truth) = make(noise)
  pooled, _ = ridge.r2(truth, ridge.Ridge(x, y, split(2000))(new))
  # The standard error of a variance of 6,000 numbers is 2%, twice.
  assert pooled == pytest.approx(1 / (1 + noise ** 2), abs=0.03)


def test_noise_gives_about_zero_though_it_can_be_memorised():
  rng = np.random.default_rng(0)
  x, new = rng.normal(size=(2, 300, 250))
  y, truth = rng.normal(size=(2, 300, 2))
  pooled, _ = ridge.r2(truth, ridge.Ridge(x, y, split(300))(new))
  assert -0.1 < pooled < 0.05


def test_constant_inputs_and_targets_do_no_harm():
  (x, y), (new, truth) = make(0.0)
  x[:, 4] = 2.0
  x[0, 4] += 1e-9  # Rounding; another value later must not explode.
  model = ridge.Ridge(x, np.c_[y[:, :1], np.ones(2000)], split(2000))
  new[:, 4] = 3.0
  predicted = model(new)
  np.testing.assert_allclose(predicted[:, 1], 1)
  assert np.abs(predicted).max() < 20


def test_r2_is_that_of_its_definition():
  truth = np.array([[0., 5.], [2., 5.], [4., 5.]])
  predicted = np.array([[1., 5.], [2., 4.], [3., 5.]])
  pooled, entries = ridge.r2(truth, predicted)
  assert entries[0] == pytest.approx(1 - 2 / 8) and np.isnan(entries[1])
  assert pooled == pytest.approx(1 - 3 / 8)
  assert ridge.r2(truth, truth)[0] == 1
  assert ridge.r2(truth, truth.mean(0))[0] == 0


@pytest.mark.parametrize('check', [np.ones(9, bool), np.zeros(9, bool)])
def test_rows_to_fit_and_to_check_are_both_needed(check):
  with pytest.raises(ValueError, match='rows to choose a penalty'):
    ridge.Ridge(np.ones((9, 2)), np.ones((9, 1)), check)
