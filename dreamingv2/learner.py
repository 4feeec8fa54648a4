"""Updates of the agent on replayed batches, and the metrics they give."""

import collections
import time

import numpy as np

from .common import guards


class Learner:
  """Updates the agent and keeps its metrics until they are logged.

  Args:
    agent: agent.Agent.
    dataset: Iterator over batches of the replay.
    timer: Watchdog or timer whose sections measure the parts of an update.
    guard: Function that gives the context in which all processes of a run
      update together, see distribute.Processes.guard.
    skips: guards.Skips, which ends a run of too many skipped updates.
    console: console.Console, which is told how long an update took.

  Attributes:
    updates: Number of updates so far.
    metrics: {name: values since the last log}, values as the agent gave them.
  """

  def __init__(self, agent, dataset, timer, guard, skips, console):
    self._agent = agent
    self._dataset = dataset
    self._timer = timer
    self._guard = guard
    self._skips = skips
    self._console = console
    self.updates = 0
    self.metrics = collections.defaultdict(list)

  def compile(self, data):
    """Compiles and times the update, then undoes it.

    With these times, a run that will take days says so before it begins.

    Args:
      data: Batch of zeros in the shapes of the replay's batches.
    """
    before, times = self._agent.save(), []
    with self._timer.section('compile'), self._guard():
      for _ in range(2):
        start = time.monotonic()
        _, metrics = self._agent.train(data)
        float(metrics['model_loss'])  # Waits for the update.
        times.append(time.monotonic() - start)
    self._agent.load(before)
    self._console.compiled(times)

  def update(self, env_step):
    """Updates the agent once.

    Args:
      env_step: Environment steps so far, for the name of a batch that is kept.

    Raises:
      NotFinite: Too many updates in a row were not finite.
    """
    start = time.monotonic()
    with self._timer.section('data'):
      data = next(self._dataset)
    with self._timer.section('train'), self._guard():
      _, metrics = self._agent.train(data)
    for name, value in metrics.items():  # Fetched only when logged.
      self.metrics[name].append(value)
    self.updates += 1
    # This check costs little, as the next action waits for the update anyway.
    self._skips.check(
        metrics, data, self._agent.save, f'{env_step:012d}_{self.updates}')
    self._console.measured('update', time.monotonic() - start)
    self._console.updated()

  def report(self):
    """Returns the agent's images and videos of a replayed batch."""
    return self._agent.report(next(self._dataset))

  def log(self, logger, clocks):
    """Writes the means of all metrics since the last log, if there are any.

    Args:
      logger: Logger.
      clocks: {name: seconds} that the run has trained; NaN is left out.
    """
    if not self.metrics:
      return
    shares = self._timer.result(reset=True)
    means = {
        name: np.mean([float(x) for x in values])
        for name, values in self.metrics.items()}
    for name, value in means.items():
      logger.scalar(name, value)
    guards.warn_of_collapse(means.get('code_spread', np.nan))
    self.metrics.clear()
    logger.add(shares, prefix='share')
    logger.add({'updates': self.updates, **{
        k: v for k, v in clocks.items() if not np.isnan(v)}})
    logger.write(fps=True)
