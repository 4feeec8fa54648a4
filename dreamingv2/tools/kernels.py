"""Finds out, on any machine, what a GPU cannot do in a graph.

TensorFlow's package registers the kernels of a GPU even where there is none.
Here, a graph and all functions that it calls are compared with this register.
An operation without a kernel for its types would run on the CPU, and its
tensors would cross the bus between CPU and GPU. Tensors also cross because
some kernels want an argument in the memory of the host, and because TensorFlow
keeps most int32 tensors there. The graphs are those before TensorFlow's
optimiser, which removes some of these transfers.
"""

import collections
import functools
import pathlib

import tensorflow as tf
from tensorflow.python.framework import kernels

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVICES = ('GPU', 'DEFAULT')  # DEFAULT kernels are those of every device.
LOOPS = ('StatelessWhile', 'While')
# Operations for which TensorFlow keeps int32 on the host, and nothing else.
CALLS = (*LOOPS, 'PartitionedCall', 'Placeholder', 'StatefulPartitionedCall')
HANDLES = (tf.resource, tf.string, tf.variant)  # These are never copied.


def trace(agent, data):
  """Builds the graphs of all that an agent computes, without running them.

  Args:
    agent: Agent with `jit` set.
    data: Batch [B, T, ...] of tensors.

  Returns:
    {'train', 'report', 'policy_eval', ...: graph}.
  """
  obs = {k: v[:1, 0] for k, v in data.items() if k != 'action'}
  state = agent.wm.rssm.initial(len(data['is_first']))
  calls = {
      'train': (agent.functions['train'], data, state),
      'report': (agent.functions['report'], data),
      **{f'policy_{mode}': (policy, obs, agent.initial_state(1))
         for mode, policy in agent.policies.items()}}
  return {
      name: function.get_concrete_function(*args).graph
      for name, (function, *args) in calls.items()}


def walk(graph):
  """Yields the operations of a graph and of the functions that it calls.

  Yields:
    Operation, whether it is in a loop.
  """
  for part, loop, _ in _walk_graphs(graph):
    for op in part.get_operations():
      yield op, loop


def missing(graph):
  """Lists what a GPU lacks: {(operation, types, line): number of nodes}."""
  return dict(collections.Counter(
      (op.type, _types(op), _line(op))
      for op, _ in walk(graph) if _kernel(op) is None))


def transfers(graph, loops=False):
  """Lists the tensors that cross the bus.

  A constant that only the host needs does not cross: it is made there.

  Args:
    graph: Graph.
    loops: Only those that cross in every turn of a loop.

  Returns:
    {(from, to, type, line): number of tensors}. `from` and `to` are types of
    operations; the one on the host has the suffix '@host'.
  """
  crossing = collections.Counter()
  for part, loop, owner in _walk_graphs(graph):
    if loops and not loop:
      continue
    edges = [
        (tensor, op.type, host, op) for op in part.get_operations()
        for tensor, host in zip(op.inputs, _on_host(op, 'input'), strict=True)]
    if owner == 'cond':  # The host decides whether a loop goes on.
      edges += [(x, 'LoopCond', True, x.op) for x in part.outputs]
    for tensor, target, host, op in edges:
      source = tensor.op
      there = _on_host(source, 'output')[tensor.value_index]
      if there != host and tensor.dtype not in HANDLES and (
          source.type != 'Const'):
        crossing[
            source.type + '@host' * there, target + '@host' * host,
            tensor.dtype.name, _line(op)] += 1
  return dict(crossing)


def _walk_graphs(graph):
  """Yields (graph, whether in a loop, attribute that names it)."""
  todo, seen = [(graph, False, '')], set()
  while todo:
    part, loop, owner = todo.pop()
    yield part, loop, owner
    for op in part.get_operations():
      inside = loop or op.type in LOOPS
      for key, value in op.node_def.attr.items():
        for name in [value.func.name, *(x.name for x in value.list.func)]:
          if name and (name, inside) not in seen:
            seen.add((name, inside))
            todo.append((part._get_function(name).graph, inside, key))


def _kernel(op):
  """Returns the definition of a GPU's kernel of an operation, or None."""
  attrs = op.node_def.attr
  for device in DEVICES:
    for entry in _register().get((op.type, device), ()):
      if all(_allows(rule, attrs[rule.name]) for rule in entry.constraint):
        return entry
  return None


@functools.cache
def _register():
  """Returns {(operation, device): kernels without a label}."""
  register = collections.defaultdict(list)
  for entry in kernels.get_all_registered_kernels().kernel:
    if entry.device_type in DEVICES and not entry.label:
      register[entry.op, entry.device_type].append(entry)
  return dict(register)


def _allows(rule, value):
  """Says whether a kernel takes an attribute of the given value."""
  chosen = value.list.type if value.HasField('list') else [value.type]
  return {*chosen} <= {*rule.allowed_values.list.type}


def _on_host(op, side):
  """Returns for each 'input' or 'output' whether it is in the host's memory.
  """
  dtypes = [x.dtype for x in getattr(op, f'{side}s')]
  entry = _kernel(op)
  if entry is None:  # Runs on the CPU.
    return [True] * len(dtypes)
  if op.type in CALLS:
    return [x == tf.int32 for x in dtypes]
  places, attrs = [], op.node_def.attr
  for arg in getattr(op.op_def, f'{side}_arg'):
    count = (
        attrs[arg.number_attr].i if arg.number_attr else
        len(attrs[arg.type_list_attr].list.type) if arg.type_list_attr else 1)
    places += [arg.name in entry.host_memory_arg] * count
  return places


def _types(op):
  """Returns the types of an operation, such as 'T=bool, Tshift=int32'."""
  return ', '.join(
      f'{key}={tf.as_dtype(value.type).name}'
      for key, value in sorted(op.node_def.attr.items())
      if value.WhichOneof('value') == 'type')


def _line(op):
  """Returns the innermost line of this project that made an operation."""
  for frame in reversed(op.traceback or ()):
    path = pathlib.Path(frame.filename).resolve()
    if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / '.venv'):
      return f'{path.relative_to(ROOT)}:{frame.lineno}'
  return 'unknown'
