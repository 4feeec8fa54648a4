import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import critics
from dreamingv2.common import nets
from dreamingv2.common.tfutils import named_variables

MLP = dict(layers=1, units=8, dist='mse')


def test_one_critic_is_a_plain_network():
  """So checkpoints of one critic keep their names."""
  assert isinstance(critics.make(1, **MLP), nets.MLP)


@pytest.mark.parametrize('dist', ['mse', 'symlog', 'twohot'])
def test_smallest_value_and_sum_of_losses(dist):
  net = critics.make(3, **{**MLP, 'dist': dist})
  rng = np.random.default_rng(0)
  feat = tf.constant(rng.normal(size=(4, 5, 6)), tf.float32)
  net(feat)
  for var in named_variables(net).values():  # A two-hot layer starts at zero.
    var.assign_add(tf.constant(rng.normal(size=var.shape), tf.float32))
  members = [member(feat) for member in net._members]
  values = np.stack([x.mode() for x in members])
  assert {*values.argmin(0).flat} == {0, 1, 2}, 'each is smallest somewhere'
  np.testing.assert_allclose(net(feat).mode(), values.min(0))
  target = rng.normal(size=(4, 5)).astype('f')
  np.testing.assert_allclose(
      net(feat).log_prob(target),
      sum(x.log_prob(target).numpy() for x in members), rtol=1e-5)


def test_gradient_reaches_the_smallest_alone():
  """An actor follows the critic that promises least."""
  net = critics.make(2, **MLP)
  feat = tf.constant(np.random.default_rng(0).normal(size=(9, 6)), tf.float32)
  net(feat)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(feat)
    first, second = [member(feat).mode() for member in net._members]
    smallest = net(feat).mode()
  grads = [tape.gradient(x, feat).numpy() for x in (first, second, smallest)]
  lower = (first < second).numpy()
  assert lower.any() and not lower.all()
  np.testing.assert_allclose(
      grads[2], np.where(lower[:, None], *grads[:2]), rtol=1e-5)
