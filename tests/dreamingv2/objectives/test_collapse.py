"""Systems without a decoder keep frames apart, on toy_reach."""

import pytest

# Like debug, but large enough to learn something in 200 updates.
TINY = {
    'dataset__batch': 8, 'encoder__cnn_depth': 4, 'rssm__deter': 32,
    'rssm__hidden': 32, 'rssm__stoch': 8, 'rssm__discrete': 8,
    'barlow_twins__size': 32, 'byol__size': 32, 'prototypes__count': 64,
    'prototypes__size': 16}
SLOW = [
    'barlow_twins', 'byol', 'cfm_nce', 'cvrl_nce', 'dreamerpro', 'dreaming',
    'dreamingv2', 'hybrid', 'mssm_nce', 'r2dreamer', 'tpc']


@pytest.mark.parametrize('method, updates', [
    ('byol', 60),
    *[pytest.param(x, 200, marks=pytest.mark.slow) for x in SLOW]])
def test_nothing_collapses(method, updates, learn):
  cameras = 2 if method == 'mssm_nce' else 1
  check(learn(
      method, 'small', 'debug', updates=updates, cameras=cameras, **TINY))


@pytest.mark.slow
def test_blast_does_not_collapse(learn):
  """Blast learns only from the reward, which needs larger networks."""
  check(learn('blast_kl', 'small', updates=200))


@pytest.mark.slow
def test_small_byol_predicts_within_200_updates(learn):
  """Loss and spread are 1.8 and .6; with a weight of 1, 4.6 and .1."""
  metrics = learn('byol', 'small', updates=200)
  check(metrics)
  assert metrics['byol_loss'] < 3, metrics
  assert metrics['code_spread'] > 0.3, metrics


def check(metrics):
  """Asserts a larger spread than BYOL had without its normalisation.

  Without it, the spread of targets was 0.03 after 20 updates and 0.0006 after
  200, that of codes 0.002; the systems have 0.1 to 0.9 and 0.015 to 0.7.
  """
  assert metrics['target_spread'] > 0.05, metrics
  assert metrics['code_spread'] > 0.005, metrics
  assert metrics['target_rank'] > 1.2, metrics
  assert metrics['code_rank'] > 1.2, metrics
