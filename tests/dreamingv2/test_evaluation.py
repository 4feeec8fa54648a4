"""Evaluations of a policy that needs no agent."""

import signal

import numpy as np
import pytest

from dreamingv2 import evaluation
from dreamingv2 import settings
from dreamingv2.common import counter
from dreamingv2.common import guards
from dreamingv2.common import logger as loggers
from dreamingv2.common import suites
from dreamingv2.common import worker


def make(*flags, envs=1):
  config = settings.load_config(
      ['--configs', 'debug', '--task', 'toy_reach', '--eval_eps', '3', *flags])
  made = [suites.make('toy', 'reach', seed=i) for i in range(envs)]
  return evaluation.Evaluation(made, config)


def still(obs, state):
  return {'action': np.zeros((len(obs['is_first']), 2), np.float32)}, state


def test_every_return_has_a_line_before_their_mean_and_videos():
  logs, said = [], []
  logger = loggers.Logger(
      counter.Counter(5), [lambda step, entries: logs.append(dict(entries))])
  evaluated = make('--action_repeat', '2')
  evaluated.play(still, said.append)
  mean = evaluated.log(logger, {'openl': np.zeros((2, 4, 4, 3), np.uint8)})
  assert said == [f'evaluate, episode {i} of 3' for i in (1, 2, 3)]
  *lines, last = logs
  returns = [x['eval_return'] for x in lines]
  assert len(returns) == 3 and len(set(returns)) == 3
  assert {x['eval_length'] for x in lines} == {100}
  assert last['eval_return_mean'] == mean == pytest.approx(np.mean(returns))
  assert last['eval_return_std'] == pytest.approx(np.std(returns))
  assert last['eval_policy_image'].shape == (51, 64, 64, 3)
  assert 'train_openl' in last


def play_marked(marks):
  """Returns the logs of three episodes whose steps have these marks."""
  logs = []
  logger = loggers.Logger(
      counter.Counter(5), [lambda step, entries: logs.append(dict(entries))])
  config = settings.load_config(
      ['--configs', 'debug', '--task', 'toy_reach', '--eval_eps', '3'])
  env, marks = suites.make('toy', 'reach'), iter(marks)
  env.success = lambda: mark(next(marks))

  def mark(value):
    if value == 'lost':
      raise worker.Lost('it has just ended')
    return value

  evaluated = evaluation.Evaluation([env], config)
  evaluated.play(still, lambda text: None)
  evaluated.log(logger, {})
  return logs


def test_success_of_each_episode_is_logged_and_their_rate():
  """It counts at any of the 50 steps."""
  *lines, last = play_marked([True] + [False] * 99 + [None] * 50)
  assert [x.get('eval_success') for x in lines] == [1, 0, None]
  assert last['eval_success_rate'] == 0.5


def test_environment_that_fails_to_tell_success_begins_another_episode():
  """A new process knows nothing of the old one's episode."""
  with pytest.warns(UserWarning, match='Episode 1 of .* was cut: it has just'):
    *lines, last = play_marked(
        [True] * 7 + ['lost'] + [False] * 100 + [True] * 49 + ['lost'])
  assert [x['eval_length'] for x in lines] == [50] * 3
  # One that is lost at the end of an episode costs nothing.
  assert [x['eval_success'] for x in lines] == [0, 0, 1]


def test_task_without_success_logs_none():
  logs = play_marked([None] * 150)
  assert not any('success' in key for line in logs for key in line)


def test_second_evaluation_plays_and_logs_new_episodes():
  logs = []
  logger = loggers.Logger(
      counter.Counter(5), [lambda step, entries: logs.append(dict(entries))])
  evaluated = make()
  for _ in range(2):
    evaluated.play(still, lambda text: None)
    evaluated.log(logger, {})
  returns = [x['eval_return'] for x in logs if 'eval_return' in x]
  assert len(returns) == 6 and returns[:3] != returns[3:]


def test_evaluation_that_is_stopped_begins_with_the_same_episodes():
  whole, stopped = make(), make()
  whole.play(still, lambda text: None)
  calls = []

  def stop(obs, state):
    calls.append(obs)
    if len(calls) > 60:
      raise guards.Stopped(signal.SIGTERM)
    return still(obs, state)

  with pytest.raises(guards.Stopped):
    stopped.play(stop, lambda text: None)
  assert stopped.driver.begun == [0]
  stopped.play(still, lambda text: None)
  for one, two in zip(whole.episodes, stopped.episodes, strict=True):
    np.testing.assert_array_equal(one['image'], two['image'])


@pytest.mark.parametrize('flags, envs, expected', [
    ((), 1, True), ((), 0, False), (('--eval_eps', '0'), 1, False)])
def test_evaluation_is_false_without_anything_to_play(flags, envs, expected):
  assert bool(make(*flags, envs=envs)) == expected


def test_observations_for_the_log_are_summed_up_over_an_episode():
  config = settings.defaults().update({
      'log_keys_sum': '^log_reward$', 'log_keys_max': '^log_(hit|pair)$'})
  episode = {
      'image': np.ones((3, 4, 4, 3), np.uint8),
      'log_reward': np.float32([1, 2, 6]),
      'log_hit': np.float32([np.nan, 0, 1]),
      'log_pair': np.float32([[0, 5], [3, 1], [2, 2]]),
      'log_none': np.full(3, np.nan, np.float32)}
  assert evaluation.totals(episode, config, 'train') == {
      'sum_train_log_reward': 9, 'mean_train_log_reward': 3,
      'mean_train_log_hit': 0.5, 'max_train_log_hit': 1,
      'mean_train_log_pair': pytest.approx(13 / 6), 'max_train_log_pair': 4}


def test_totals_touch_only_what_they_are_asked_for():
  class Untouched:
    def __array__(self, *args, **kwargs):
      raise AssertionError('converted')

  config = settings.load_config([
      '--configs', 'debug', '--task', 'toy_reach', '--log_keys_max', 'log_x',
      '--log_keys_mean', '$^'])
  assert evaluation.totals(
      {'image': Untouched(), 'log_x': [1, 4, 2]}, config, 'train') == {
          'max_train_log_x': 4}
