"""Tests that a GPU has a kernel for every operation of every system."""

import pytest
import tensorflow as tf

from dreamingv2.common import tfutils
from dreamingv2.tools import benchmark
from dreamingv2.tools import kernels
from tests import test_house

PAPER = ['dreamer', 'dreamerpro', 'dreamerv2', 'dreaming', 'dreamingv2', 'tpc']
QUICK = ['dreamingv2']  # The others are slow tests.
EXTRAS = 'dreamingv2+probe=True+expl_behavior=Plan2Explore'
OTHERS = sorted({*test_house.METHODS} - {*PAPER}) + [EXTRAS]

# What may cross the bus in every turn of a loop, and why it must.
IN_LOOPS = {
    ('Less@host', 'LogicalAnd'): "TensorFlow's own test for the last turn",
    ('LogicalAnd', 'LoopCond@host'): "TensorFlow's own test, read by the CPU",
    ('Identity', 'LoopCond@host'): 'the same, in the loop of gradients',
    ('Less@host', 'Identity'): 'the same, in the loop of gradients',
    ('Placeholder@host', 'TensorListPushBack'): 'the index of the turn',
    ('TensorListElementShape@host', 'TensorListPushBack'): 'a shape',
    ('TensorListLength@host', 'TensorListPushBack'): 'a length',
    ('TensorListPopBack', 'TensorListGetItem@host'): 'the index of the turn',
    ('TensorListPopBack', 'TensorListReserve@host'): 'a shape',
    ('TensorListPopBack', 'TensorListSetItem@host'): 'the index of the turn'}


def trace(spec, precision, *blocks):
  """Returns the graphs of an agent of the smallest size by their names."""
  config = benchmark.load(spec, [*blocks, 'debug'], precision)
  config = config.update({'jit': True})
  return kernels.trace(*benchmark.make_agent(config))


def check(spec, precision, *blocks):
  """Checks all graphs of an agent; returns the number of operations."""
  graphs = trace(spec, precision, *blocks)
  assert graphs.keys() == {
      'train', 'report', 'policy_eval', 'policy_explore', 'policy_train'}
  for graph in graphs.values():
    assert kernels.missing(graph) == {}
    crossing = kernels.transfers(graph, loops=True)
    assert {x[:2] for x in crossing} <= {*IN_LOOPS}, crossing
  half = tfutils.PRECISIONS[precision].removeprefix('mixed_')
  products = [
      op for op, _ in kernels.walk(graphs['train']) if op.type == 'MatMul']
  assert half in {op.get_attr('T').name for op in products}
  return sum(len([*kernels.walk(x)]) for x in graphs.values())


@pytest.mark.parametrize('method', QUICK)
def test_gpu_has_every_kernel_in_float16(method):
  assert check(method, '16') > 5000


@pytest.mark.slow
@pytest.mark.parametrize('method', ['dreamerv2', 'dreamingv2'])
def test_gpu_has_every_kernel_of_the_recipe(method):
  assert check(f'{method}+imag_starts=10', '16', 'robust') > 4500


@pytest.mark.slow
@pytest.mark.parametrize('method, precision', [
    *((x, '16') for x in PAPER + OTHERS if x not in QUICK),
    *((x, y) for x in PAPER + OTHERS for y in ('bf16', '32'))])
def test_gpu_has_every_kernel(method, precision):
  count = check(method, precision)
  print(f'| {method} | {precision} | {count} | 0 |')  # Shown by pytest -rP.
  assert count > 5000


def graph_of(fn, *args):
  return tfutils.compile(fn).get_concrete_function(*args).graph


def test_missing_kernel_is_named_with_its_types_and_line():
  roll = lambda x: tf.roll(x, 1, 0)
  assert not kernels.missing(graph_of(roll, tf.ones([3])))
  (name, types, line), = kernels.missing(graph_of(roll, tf.ones([3], bool)))
  assert name == 'Roll' and types == 'T=bool, Taxis=int32, Tshift=int32'
  number = roll.__code__.co_firstlineno
  assert line == f'tests/dreamingv2/tools/test_kernels.py:{number}'


@pytest.mark.parametrize('wrap', [
    lambda fn: tfutils.compile(fn)(tf.ones([3], bool)),
    lambda fn: tf.cond(
        tf.random.uniform([]) > 0.5, lambda: fn(tf.ones([3], bool)),
        lambda: tf.ones([3], bool)),
    lambda fn: tf.while_loop(
        lambda x: x[0], lambda x: [fn(x)], [tf.ones([3], bool)])])
def test_missing_kernel_is_found_in_functions_branches_and_loops(wrap):
  graph = graph_of(lambda: wrap(lambda x: tf.roll(x, 1, 0)))
  assert [x[0] for x in kernels.missing(graph)] == ['Roll']


def test_int32_in_a_loop_is_a_transfer_of_every_turn():
  def loop(dtype, x):
    body = lambda x: tf.one_hot(
        tf.reduce_sum(tf.cast(x > 0, dtype), -1), 3)
    turn = lambda t, x: (t + 1, body(x))
    return tf.while_loop(lambda t, x: t < 5, turn, (0, x))
  crossing = lambda dtype: kernels.transfers(
      graph_of(lambda x: loop(dtype, x), tf.ones([3, 3])), loops=True)
  # The sum of int32 runs on the host, between two operations on the GPU.
  counts = crossing(tf.int32), crossing(tf.int64)
  assert {x[:3] for x in counts[0].keys() - counts[1]} == {
      ('Cast', 'Sum@host', 'int32'), ('Sum@host', 'OneHot', 'int32')}
  assert {x[:2] for x in counts[1]} <= {*IN_LOOPS}


def test_transfer_outside_of_a_loop_is_told_apart():
  graph = graph_of(lambda x: tf.reshape(x, tf.cast(x, tf.int32)), tf.ones([1]))
  assert {x[:2] for x in kernels.transfers(graph)} == {
      ('Cast', 'Reshape@host')}
  assert kernels.transfers(graph, loops=True) == {}
