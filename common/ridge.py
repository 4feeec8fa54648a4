"""Linear regression with a penalty, to see what vectors contain."""

import numpy as np

# Penalties to choose from, in units of the number of rows.
PENALTIES = tuple(10.0 ** x for x in range(-6, 2))
SMALLEST = 1e-6  # Entries of inputs that vary less are constant.


class Ridge:
  """Predicts vectors from vectors by ridge regression in closed form.

  Inputs are standardised, targets are centred:

      y = mean(y) + ((x - mean(x)) / std(x)) W
      W = (X'X + penalty N I)^-1 X'Y    X standardised, Y centred

  Args:
    x: Inputs [N, F].
    y: Targets [N, P].
    check: Rows [N] bool on which the penalty is chosen, after a fit on the
      other rows; W is then fitted on all rows.

  Attributes:
    penalty: The chosen one of PENALTIES, the same for all entries of y.

  Raises:
    ValueError: `check` holds all rows, or none.
  """

  def __init__(self, x, y, check):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    check = np.asarray(check, bool)
    if check.all() or not check.any():
      raise ValueError(
          'ridge regression needs rows to fit and rows to choose a penalty')
    errors = [
        np.square(predict(x[check]) - y[check]).sum()
        for predict in _solve(x[~check], y[~check], PENALTIES)]
    self.penalty = PENALTIES[int(np.argmin(errors))]
    self._predict, = _solve(x, y, [self.penalty])

  def __call__(self, x):
    """Returns predictions [N, P] from inputs [N, F]."""
    return self._predict(np.asarray(x, np.float64))


def _solve(x, y, penalties):
  """Yields a function from inputs to predictions for each penalty."""
  mean, scale = x.mean(0), x.std(0)
  scale[scale < SMALLEST] = np.inf
  offset = y.mean(0)
  x = (x - mean) / scale
  values, vectors = np.linalg.eigh(x.T @ x / len(x))
  target = vectors.T @ (x.T @ (y - offset)) / len(x)
  for penalty in penalties:
    weight = vectors @ (target / (values + penalty)[:, None])
    yield lambda x, w=weight: (x - mean) / scale @ w + offset


def r2(truth, predicted):
  """Computes how much of the variance of vectors is predicted.

      1 - sum (y - p)^2 / sum (y - mean y)^2    mean over the rows of y

  Args:
    truth: Vectors [N, P].
    predicted: Vectors [N, P].

  Returns:
    The value with sums over all entries, and the values of each entry; NaN
    where nothing varies. 1 is perfect; to predict the mean gives 0.
  """
  truth = np.asarray(truth, np.float64)
  error = np.square(truth - predicted).sum(0)
  variance = np.square(truth - truth.mean(0)).sum(0)
  return _share(error.sum(), variance.sum()), [
      _share(*x) for x in zip(error, variance, strict=True)]


def _share(error, variance):
  return float(1 - error / variance) if variance > 0 else float('nan')
