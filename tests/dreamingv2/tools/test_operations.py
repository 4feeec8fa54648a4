import tensorflow as tf

from dreamingv2.common import tfutils
from dreamingv2.tools import operations


def count(fn):
  return operations.count(tfutils.compile(fn))


def test_operations_of_products_and_convolutions_and_their_gradients():
  x, w = tf.Variable(tf.ones([5, 7])), tf.Variable(tf.ones([7, 3]))
  assert count(lambda: x @ w) == {'matmul': 2 * 5 * 7 * 3}
  image, kernel = tf.Variable(tf.ones([2, 8, 8, 3])), tf.Variable(
      tf.ones([4, 4, 3, 6]))
  conv = lambda: tf.nn.conv2d(image, kernel, 2, 'VALID')
  once = 2 * (2 * 3 * 3) * (4 * 4 * 3 * 6)
  assert count(conv) == {'conv': once}

  def grad(inputs):
    def run():
      with tf.GradientTape() as tape:
        loss = tf.reduce_sum(conv()) + tf.reduce_sum(tf.transpose(w) @ w)
      return tape.gradient(loss, inputs)
    return run

  # The forward pass is not needed, because the loss is not returned.
  assert count(grad([kernel])) == {'conv': once}
  assert count(grad([image, kernel])) == {'conv': 2 * once}
  assert count(grad([w])) == {'matmul': 2 * 2 * 3 * 7 * 3}


def test_operations_count_a_loop_as_often_as_it_runs():
  w = tf.Variable(tf.ones([4, 4]))

  def loop():
    with tf.GradientTape() as tape:
      _, x = tf.while_loop(
          lambda t, _: t < 6, lambda t, x: (t + 1, x @ w),
          (tf.constant(0), tf.ones([2, 4])), maximum_iterations=6)
      loss = tf.reduce_sum(x)
    return tape.gradient(loss, w)

  assert count(loop) == {'matmul': 6 * 3 * 2 * 2 * 4 * 4}
