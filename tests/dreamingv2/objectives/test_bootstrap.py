import numpy as np
import pytest

from dreamingv2.common import tfutils


def test_prior_chases_the_slow_posterior(make_model, pieces):
  wm, data = make_model('blast_kl', kl__free=0.0, model_opt__lr=1e-2)
  for _ in range(3):  # Makes slow and online differ.
    wm.train(data)
  data, embed, post, prior = pieces(wm, data)
  loss, value = wm.objective.kl_loss(wm, data, post, prior)
  slow = wm.objective._slow_rssm.posterior(
      post['deter'], wm.objective._slow_encoder(data))
  right = wm.rssm.latent.kl(slow, prior)
  np.testing.assert_allclose(value, right, rtol=1e-5)
  np.testing.assert_allclose(loss, np.mean(right), rtol=1e-5)
  online = wm.rssm.latent.kl(post, prior)
  assert np.abs(online - right).max() > 1e-4


def test_slow_posterior_takes_the_weight_of_the_prior_alone(
    make_model, pieces):
  wm, data = make_model('blast_kl', kl__free=0.0)
  args = pieces(wm, data)
  plain, _ = wm.objective.kl_loss(wm, args[0], *args[2:])
  wm.config = wm.config.update({'kl.dyn': 0.5, 'kl.rep': 7.0})
  loss, _ = wm.objective.kl_loss(wm, args[0], *args[2:])
  np.testing.assert_allclose(loss, 0.5 * plain, rtol=1e-6)


def test_posterior_of_a_copy_is_the_posterior(make_model, pieces):
  wm, data = make_model('blast_kl')
  data, embed, post, _ = pieces(wm, data)
  stats = wm.objective._slow_rssm.posterior(post['deter'], embed)
  np.testing.assert_allclose(stats['logit'], post['logit'], atol=1e-5)


def test_gradient_map(make_model, moved_by):
  """The posterior gets gradient only through its samples in later priors."""
  wm, data = make_model('blast_kl', kl__free=0.0)
  assert moved_by(wm, data, 'kl_loss') == {
      'encoder', 'gru', 'posterior', 'prior'}
  first = {k: v[:, :1] for k, v in data.items()}
  assert moved_by(wm, first, 'kl_loss') == {'gru', 'prior'}


def test_slow_posterior_copies_and_then_follows(make_model):
  wm, data = make_model('blast_kl', bootstrap__momentum=0.25)

  def find():
    slow, online = [
        tfutils.named_variables(x.posterior_modules)
        for x in (wm.objective._slow_rssm, wm.rssm)]
    assert slow.keys() == online.keys() and len(slow) == 5
    return [{k: v.numpy() for k, v in x.items()} for x in (slow, online)]

  wm.train(data)
  before, online = find()
  for key in before:
    np.testing.assert_array_equal(before[key], online[key])
  wm.train(data)
  slow, online = find()
  for key in slow:
    right = 0.75 * before[key] + 0.25 * online[key]
    np.testing.assert_allclose(slow[key], right, rtol=1e-5, atol=1e-7)


def test_nothing_slow_is_optimised(make_model):
  wm, _ = make_model('blast_kl')
  assert wm.objective.modules == ()
  assert not [k for k in tfutils.named_variables(wm.modules) if 'slow' in k]


def test_posterior_with_the_width_of_a_prior_is_refused(make_model):
  """The slow copy has no prior that learns."""
  with pytest.raises(ValueError, match="rssm.posterior of objective 'bootst"):
    make_model('blast_kl', rssm__latent='gaussian', rssm__posterior='embed')
