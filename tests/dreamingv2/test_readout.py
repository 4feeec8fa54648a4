"""Tests readouts on states whose content and future are known."""

import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import readout
from dreamingv2.common import tfutils
from dreamingv2.objectives import base
from tests.helpers import normal

T = 12


class Sums:
  """An RSSM whose state is the sum of all actions so far."""

  def img_step(self, state, action):
    return {'deter': state['deter'] + action}

  def get_feat(self, state):
    return state['deter']


def test_prediction_of_a_known_future_is_the_state_of_that_row():
  """Row t of feature k is about row t+k: no action too early or too late."""
  action = normal(3, T, 2)
  deter = np.cumsum(action, 1)
  found = readout.predict(
      Sums(), {'deter': tf.constant(deter)}, tf.constant(action), (1, 2, 5))
  assert found.keys() == {1, 2, 5}
  for k, feat in found.items():
    expected = np.stack([readout.shift(x, k, 5) for x in deter])
    assert feat.shape == (3, T - 5, 2)
    np.testing.assert_allclose(feat, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(expected, deter[:, k: T - 5 + k])


def make_episode(length, seed=0, state=5):
  rng = np.random.default_rng(seed)
  first = np.arange(length) == 0
  return {
      'image': rng.integers(0, 256, (length, 64, 64, 3), np.uint8),
      'state': rng.normal(size=(length, state)).astype(np.float32),
      'reward': rng.normal(size=length).astype(np.float32),
      'action': rng.uniform(-1, 1, (length, 2)).astype(np.float32),
      'is_first': first, 'is_last': first[::-1].copy(),
      'is_terminal': np.zeros(length, bool), 'log_success': first}


@pytest.mark.parametrize('method', ['dreamingv2', 'tpc'])
def test_episodes_of_all_lengths_are_represented(
    method, make_config, make_agent):
  agent = make_agent(make_config(method))
  lengths = [T, 7, T, 1]
  episodes = [make_episode(x, i) for i, x in enumerate(lengths)]
  before = agent.generator.state.numpy()
  parts = readout.represent(agent.wm, episodes, (2, 7))
  np.testing.assert_array_equal(agent.generator.state.numpy(), before)
  size = agent.wm.rssm.get_feat(agent.wm.rssm.initial(1)).shape[-1]
  for part, length in zip(parts, lengths, strict=True):
    starts = max(0, length - 7)
    assert part['feat'].shape == (length, size)
    assert part['feat_2'].shape == part['feat_7'].shape == (starts, size)
    assert part['reward_7'].shape == (starts,)
    assert part['entropy'].shape == part['target'].shape == (length,)
  embed = agent.wm.encoder(agent.wm.preprocess({
      k: tf.constant(v[None]) for k, v in episodes[1].items()}))
  np.testing.assert_allclose(parts[1]['embed'], embed[0], atol=1e-5)
  np.testing.assert_array_equal(parts[1]['target'], episodes[1]['reward'])


def test_prediction_follows_the_recorded_actions(make_config, make_agent):
  """Without noise, one step ahead is img_step by the next row's action."""
  agent = make_agent(make_config('dreamingv2'))
  episode = make_episode(T)
  wm, data = agent.wm, {
      k: tf.constant(v[None]) for k, v in episode.items()}
  with tfutils.keep_generator():
    post, _ = wm.rssm.observe(
        wm.encoder(wm.preprocess(data)), data['action'], data['is_first'])
  feat = readout.represent(wm, [episode], (1,))[0]['feat_1']
  last = {k: v[:, 3] for k, v in post.items()}
  deter = wm.rssm.img_step(last, data['action'][:, 4])['deter'].numpy()
  np.testing.assert_allclose(feat[3, -deter.shape[-1]:], deter[0], atol=1e-5)


def planted(episodes, rows=60, seed=0):
  """Makes pairs of features and states; the state is in some of them."""
  rng, pairs = np.random.default_rng(seed), []
  mix = np.random.default_rng(9).normal(size=(3, 8))
  for _ in range(episodes):
    state = rng.normal(size=(rows, 3))
    noise = lambda n=rows: rng.normal(size=(n, 8))
    pairs.append(({
        'embed': state @ mix, 'feat': state @ mix + noise(),
        'feat_2': state[2:-3] @ mix, 'feat_5': noise(rows - 5)},
        {'cube_m': state}))
  return pairs


def test_scores_tell_what_the_features_contain():
  found = readout.state_scores(planted(12), planted(4, seed=1), (2, 5))
  scores = found['cube_m']
  assert scores.keys() == {'embed', 'now', '2', '5'}
  assert scores['embed']['r2'] > 0.999 and scores['2']['r2'] > 0.999
  assert 0.5 < scores['now']['r2'] < 0.99
  assert -0.1 < scores['5']['r2'] < 0.05
  assert scores['embed']['mm'] < 1
  # The mean length of a standard normal vector with three entries.
  assert scores['5']['mm'] == pytest.approx(1000 * 1.596, rel=0.05)
  assert len(scores['now']['entries']) == 3


def test_scores_shift_the_state_and_not_the_features():
  """The planted feature 2 fits rows t+2; read one row off, it knows less."""
  pairs = [
      ({**x, 'feat_2': np.roll(x['feat_2'], 1, 0)}, y) for x, y in planted(12)]
  found = readout.state_scores(pairs[:9], pairs[9:], (2, 5))
  assert found['cube_m']['2']['r2'] < 0.2


def test_what_does_not_vary_and_what_is_too_short_has_no_score():
  pair = ({'x': normal(9, 4)}, np.c_[normal(9, 1), np.ones(9)])
  part = [(pair[0]['x'], pair[1])] * 3
  score = readout.score('joints', part, part)
  assert score['entries'][1] is None and 'mm' not in score
  empty = [(np.zeros((0, 4)), np.zeros((0, 2)))] * 3
  assert readout.score('joints', empty, part) is None
  assert readout.score('joints', part, empty) is None
  assert readout.score('joints', part[:1], part) is None


def test_reward_error_is_that_of_a_loop():
  rng = np.random.default_rng(0)
  parts = [
      {'target': rng.normal(size=9), 'reward': rng.normal(size=9),
       'reward_2': rng.normal(size=5)} for _ in range(3)]
  where = [rng.integers(2, size=9).astype(bool) for _ in range(3)]

  def loop(key, ahead, rows, where):
    pairs = [
        (part['target'][t + ahead], part[key][t])
        for part, keep in zip(parts, where, strict=True) for t in range(rows)
        if t + ahead and keep[t + ahead]]
    truth, predicted = np.array(pairs).T
    return np.square(truth - predicted).mean() / truth.var()

  everywhere = [np.ones(9, bool)] * 3
  assert readout.reward_error(parts) == pytest.approx(
      loop('reward', 0, 9, everywhere))
  assert readout.reward_error(parts, where=where) == pytest.approx(
      loop('reward', 0, 9, where))
  assert readout.reward_error(parts, 'reward_2', 2, 4, where) == (
      pytest.approx(loop('reward_2', 2, 5, where)))
  constant = [{**x, 'target': np.ones(9)} for x in parts]
  assert readout.reward_error(constant) is None


def test_perfect_and_mean_rewards_have_errors_of_0_and_1():
  target = np.r_[0, normal(200)]
  assert readout.reward_error([{'target': target, 'reward': target}]) == 0
  mean = np.full(201, target[1:].mean())
  assert readout.reward_error(
      [{'target': target, 'reward': mean}]) == pytest.approx(1)


def test_variety_is_that_of_the_training_metrics():
  parts = [
      {'code': normal(20, 6, seed=i), 'entropy': np.full(20, i)}
      for i in range(2)]
  found = readout.variety(parts)
  spread, rank = base.measure_variety(
      np.concatenate([x['code'] for x in parts]))
  assert found == {
      'spread': float(spread), 'rank': float(rank), 'entropy': 0.5}
