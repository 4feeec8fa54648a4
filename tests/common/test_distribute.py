"""Tests replicas; two logical devices need a separate process."""

import subprocess
import sys

import pytest
import tensorflow as tf

from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import config as configs
from dreamingv2.common import distribute
from dreamingv2.common import losses
from dreamingv2.common import tfutils
from dreamingv2.common import worker

TWO = '''
import numpy as np
import tensorflow as tf
from dreamingv2.common import distribute, losses, other, tfutils

cpu, = tf.config.list_physical_devices('CPU')
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
tfutils.setup('32')
x = np.arange(12, dtype=np.float32).reshape(4, 3)
mask = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1], bool).reshape(4, 3)
batch = {'x': tf.constant(x), 'mask': tf.constant(mask)}

def step(data, state):
  seeds.append(tfutils.next_seed())
  with tf.GradientTape() as tape:
    y = data['x'] * weight
    loss = tf.maximum(losses.masked_mean(y ** 2, data['mask']), 1.0)
    loss += distribute.mean(tf.reduce_mean(y)) ** 2
  grad = distribute.mean(tape.gradient(loss, weight))
  norm.update(data['x'])
  most = distribute.maximum(tf.reduce_max(data['x']))
  spread = returns(data['x'] ** 2)
  row = other.draw({'x': tf.ones_like(data['x'])}, 6)['x']
  return {'rows': data['x'] + state['rows']}, {
      'loss': loss, 'grad': grad, 'most': most, 'spread': spread,
      'drawn': distribute.total(tf.reduce_sum(row))}

def run():
  function = tfutils.split(step)
  return function(batch, {'rows': tf.ones([4, 1])})

make = lambda: (
    tf.Variable(1.5), other.StreamNorm(0.9), other.ReturnNorm(0.5))
seeds = []
weight, norm, returns = make()
expected, metrics = run()
with distribute.scope(strategy):
  weight, norm, returns = make()
  found = run()
seeds = []
for key, value in metrics.items():
  np.testing.assert_allclose(found[1][key], value, rtol=1e-6, err_msg=key)
assert metrics['spread'] > 9 and metrics['drawn'] == 6
np.testing.assert_array_equal(found[0]['rows'], expected['rows'])
right = 0.9 + 0.1 * x[x != 0].mean()  # One half has a 0, which is no value.
np.testing.assert_allclose(norm.mag.numpy(), right, rtol=1e-6)
with distribute.scope(strategy):
  run(), run()
seeds = [tuple(x.numpy()) for x in seeds]
assert len(seeds) == len(set(seeds)) == 4, seeds
'''


def test_two_devices_share_means_masks_gradients_and_statistics():
  done = subprocess.run(
      [sys.executable, '-c', TWO], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]


def test_one_replica_is_left_alone():
  step = lambda data, state: (state, {})
  assert tfutils.split(step) is step
  assert distribute.seed() is None
  x = tf.constant([1.0, 3.0])
  assert distribute.mean(x) is x and distribute.total(x) is x
  assert distribute.maximum(x) is x and distribute.gather(x) is x
  assert distribute.part(7) == 7
  with distribute.scope(distribute.make('none')):
    assert tf.Variable(1.0, trainable=False).synchronization == (
        tf.VariableSynchronization.AUTO)
  assert float(losses.masked_mean(x, [True, False])) == 1.0


@pytest.mark.parametrize('update, message', [
    ({'dataset.batch': 5}, 'dataset.batch 5 cannot be split among 2'),
    ({'rssm.ensemble': 2}, 'rssm.ensemble 2 needs --distribute none'),
])
def test_what_cannot_be_split_is_refused(monkeypatch, update, message):
  class Two:
    num_replicas_in_sync = 2

  config = configs.Config({
      'dataset': {'batch': 4}, 'rssm': {'ensemble': 1}})
  monkeypatch.setitem(distribute.STRATEGIES, 'mirrored', Two)
  assert distribute.make('mirrored', config)
  with pytest.raises(ValueError, match=message):
    distribute.make('mirrored', config.update(update))


def test_unknown_strategy_offers_the_known_ones():
  with pytest.raises(ValueError, match="'mirorred'; known: mirrored"):
    distribute.make('mirorred')


class Pair(distribute.Processes):
  """Stands for one of two processes and fakes the answers of the other."""

  def __init__(self, *answers):
    self.alone = False
    self.answers = list(answers)

  def gather(self, number):
    return [number, self.answers.pop(0)]


def save(folder, steps):
  store = checkpoints.Checkpoint(folder)
  for step in steps:
    store.save(step, {}, {'updates': step // 10})
  return store


@pytest.mark.parametrize('steps, answers, expected', [
    ((100, 200), (200, 200, 20), 200), ((100, 200), (100, 100, 10), 100),
    ((100,), (200, 100, 10), 100), ((), (-1, -1, -1), None)])
def test_processes_go_on_from_the_newest_checkpoint_that_all_have(
    tmp_path, steps, answers, expected):
  snapshot = Pair(*answers).load(save(tmp_path, steps))
  assert snapshot.step == expected if expected else snapshot is None


@pytest.mark.parametrize('steps, answers', [
    ((100, 200), (-1, 0, -1, -1)), ((), (100, 10, -1, -1)),
    ((200,), (100, 100, 10)), ((100,), (100, 100, 11))])
def test_processes_without_a_checkpoint_in_common_are_refused(
    tmp_path, steps, answers):
  with pytest.raises(ValueError, match='none in common'):
    Pair(*answers).load(save(tmp_path, steps))


@pytest.mark.parametrize('steps, answers', [
    ((0, 8), (-1, 0)), ((), (0, 0)), ((), (8, 0))])
def test_processes_begin_anew_if_one_was_killed_before_it_saved(
    tmp_path, steps, answers):
  store = save(tmp_path, steps)  # Without an update.
  assert Pair(*answers).load(store) is None and store.load() is None


def test_run_gives_up_without_another_process_but_not_alone():
  error = tf.errors.UnavailableError(None, None, 'Collective ops is aborted')
  with pytest.raises(worker.GaveUp, match='another process of this run is'):
    with Pair().guard():
      raise error
  alone = distribute.Processes(tf.distribute.get_strategy())
  assert alone.alone and alone.gather(7) == [7]
  with pytest.raises(tf.errors.UnavailableError):
    with alone.guard():
      raise error
