"""Episodes without exploration, and what a run logs of them."""

import re

import numpy as np

from .common import driver as drivers
from .common import guards
from .common import own
from .common import wrappers
from .common.worker import Lost

# Maps the ends of log_keys_* to what they do with values [T, ...]. As in
# DreamerV2, 'max' is the mean over entries of the largest value of each.
TOTALS = {
    'sum': np.nansum, 'mean': np.nanmean,
    'max': lambda x: np.nanmean(np.fmax.reduce(x, 0))}


def totals(episode, config, mode):
  """Sums up observations over an episode as log_keys_* says.

  NaN means that there is no value.

  Args:
    episode: Arrays [T, ...].
    config: Config.
    mode: Part of the names, such as train in mean_train_log_height.

  Returns:
    {name: number}.
  """
  result = {}
  for key, values in episode.items():
    kinds = [
        x for x in TOTALS if re.fullmatch(config[f'log_keys_{x}'], key)]
    if not kinds:  # Images would become eight times as large.
      continue
    values = np.asarray(values, np.float64)
    for kind in kinds:
      total = TOTALS[kind]
      if np.isfinite(values).any():
        result[f'{kind}_{mode}_{key}'] = float(total(values))
  return result


class Successes:
  """Notes of every complete episode whether its task was solved at any step.

  Args:
    driver: Driver of the environments.
    envs: The environments; see `success` in envs.py.

  Attributes:
    episodes: True or False for each, None if the task has no criterion.
  """

  def __init__(self, driver, envs):
    self.episodes = []
    self._driver = driver
    self._envs = envs
    self._marks = [[] for _ in envs]
    driver.on_reset(self._begin)
    driver.on_step(self._note)

  def _begin(self, transition, worker):
    self._marks[worker] = []

  def _note(self, transition, worker):
    try:
      self._marks[worker].append(wrappers.success(self._envs[worker]))
    except Lost as error:
      if not transition['is_last']:  # A new environment knows no episode.
        self._driver.lose(worker, error)
    if transition['is_last']:
      self.episodes.append(wrappers.any_known(self._marks[worker]))


class Evaluation:
  """Plays whole episodes with the policy's mode and logs their returns.

  It is false where there is nothing to play.

  Args:
    envs: Environments of their own, which no training step uses.
    config: Config.

  Attributes:
    driver: Driver of the environments, None without any.
    episodes: Those of the last evaluation, dicts of arrays [T, ...].
  """

  def __init__(self, envs, config):
    self._config = config
    self.episodes = []
    self.driver, self._successes = None, None
    if envs:
      self._videos = own.videos(config, envs[0].obs_space)
      self.driver = drivers.Driver(
          envs, seed=(config.seed, 1), longest=config.endless_after)
      self._successes = Successes(self.driver, envs)
      self.driver.on_episode(self.episodes.append)

  def __bool__(self):
    return bool(self.driver and self._config.eval_eps)

  def play(self, policy, say):
    """Plays `eval_eps` episodes; a stop in between leaves no trace.

    Args:
      policy: Function of the driver.
      say: Function that is told in words which episode begins.

    Raises:
      Stopped: The policy asked for it.
    """
    assert self.driver, 'play() of an evaluation that is false'
    begun, count = list(self.driver.begun), self._config.eval_eps
    self.driver.reset()
    self.episodes.clear()
    self._successes.episodes.clear()
    try:
      for index in range(count):
        say(f'evaluate, episode {index + 1} of {count}')
        self.driver(policy, episodes=1)
    except guards.Stopped:
      self.driver.begun[:] = begun
      raise

  def log(self, logger, report, metrics=()):
    """Writes each return in a line of its own, then mean, videos and report.

    Args:
      logger: Logger.
      report: Images and videos that the agent made of replayed episodes.
      metrics: {name: number} of the evaluation's episodes.

    Returns:
      The mean return.
    """
    returns = [
        float(episode['reward'].astype(np.float64).sum())
        for episode in self.episodes]
    found = self._successes.episodes
    for episode, value, success in zip(
        self.episodes, returns, found, strict=True):
      steps = len(episode['reward']) - 1
      logger.add({
          'eval_return': value,
          'eval_length': steps * self._config.action_repeat,
          **({} if success is None else {'eval_success': float(success)}),
          **totals(episode, self._config, 'eval')})
      logger.write()
    known = [x for x in found if x is not None]
    logger.add({
        'eval_return_mean': np.mean(returns),
        'eval_return_std': np.std(returns),
        **({'eval_success_rate': np.mean(known)} if known else {})})
    logger.add(dict(metrics), prefix='eval')
    logger.add(report, prefix='train')  # Shows replayed episodes.
    for key in self._videos:
      logger.video(f'eval_policy_{key}', self.episodes[0][key])
    logger.write()
    return float(np.mean(returns))
