"""Counts the operations of the matrix products and convolutions of a graph."""

import collections
import math

from ..common import tfutils

# PRODUCTS maps an operation to the attribute that says whether its first
# matrix is transposed. CONVOLUTIONS maps an operation to a function that picks
# the kernel and the pixels beyond the convolution from its inputs; '' stands
# for the result.
PRODUCTS = {'BatchMatMulV2': 'adj_x', 'MatMul': 'transpose_a'}
CONVOLUTIONS = {
    'Conv2D': lambda x, kernel: (kernel, ''),
    'Conv2DBackpropFilter': lambda x, sizes, grad: ('', grad),
    'Conv2DBackpropInput': lambda sizes, kernel, grad: (kernel, grad)}


def count(function):
  """Counts the operations of a function without arguments, run as a graph.

  Only matrix products and convolutions count, with two operations for each
  multiply-add. A loop counts as often as it runs. Nodes that no result and no
  variable needs do not count, because TensorFlow removes them.

  Returns:
    Dict with 'matmul' and 'conv'.
  """
  # Only functions that are called from a graph have all their shapes.
  inner = tfutils.compile(lambda: function())
  graph = tfutils.compile(lambda: inner()).get_concrete_function().graph
  graph = graph.as_graph_def(add_shapes=True)
  functions = {x.signature.name: x for x in graph.library.function}
  total = collections.Counter()
  for node in graph.node:
    if 'f' in node.attr:
      total += _count(functions, node.attr['f'].func.name)
  return dict(total)


def _count(functions, name):
  """Counts the operations of a function in a library."""
  function, total, seen = functions[name], collections.Counter(), set()
  nodes = {x.name: x for x in function.node_def}
  shapes = {k: x.attr['_output_shapes'] for k, x in nodes.items()}
  shapes.update({
      x.name: function.arg_attr[i].attr['_output_shapes']
      for i, x in enumerate(function.signature.input_arg)})

  def size(name):
    name, *output = name.split(':')
    index = int(output[-1]) if output else 0
    if output[:1] == ['tensor']:  # An element, which follows its list.
      index = -1
    return [x.size for x in shapes[name].list.shape[index].dim]

  def visit(node):
    attr = lambda key: node.attr[key].func.name
    if node.op in PRODUCTS:
      x, transposed = size(node.input[0]), node.attr[PRODUCTS[node.op]].b
      total['matmul'] += 2 * math.prod(size(node.name)) * x[-1 - transposed]
    elif node.op in CONVOLUTIONS:
      kernel, pixels = [
          size(x or node.name) for x in CONVOLUTIONS[node.op](*node.input)]
      total['conv'] += 2 * math.prod(pixels) * math.prod(kernel[:3])
    elif node.op in ('StatelessWhile', 'While'):
      times = nodes[node.input[1].split(':')[0]].attr['value'].tensor
      for key, value in _count(functions, attr('body')).items():
        total[key] += times.int_val[0] * value
    for key in ('f', 'then_branch'):
      if key in node.attr:
        total.update(_count(functions, attr(key)))

  todo = [*function.ret.values(), *function.control_ret.values()]
  while todo:
    name = todo.pop().lstrip('^').split(':')[0]
    if name in nodes and name not in seen:
      seen.add(name)
      todo += nodes[name].input
      visit(nodes[name])
  return total
