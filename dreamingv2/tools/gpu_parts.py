"""What gpu_check measures; each function runs in a process of its own.

Each takes a config and returns plain data. On a machine without a GPU they
measure the CPU.
"""

import collections
import contextlib
import itertools
import pathlib
import re
import statistics
import tempfile
import time

import numpy as np

from ..common import machine
from ..common import suites
from . import benchmark

WARM_UP = 2  # Updates before those that are profiled: compiling, allocating.
PROFILED = 3
LONGEST = 10
# Operations without work of their own: wherever they are costs nothing.
FREE = {
    '_Arg', '_Retval', '_Send', '_Recv', '_HostSend', '_HostRecv', 'Const',
    'Enter', 'Exit', 'Identity', 'IdentityN', 'LoopCond', 'Merge',
    'NextIteration', 'NoOp', 'Switch', 'VarHandleOp'}
COPIES = {'to the GPU': 'MemcpyH2D', 'to the CPU': 'MemcpyD2H'}


def describe_gpus():
  """Returns the GPUs, and what TensorFlow was built for."""
  import tensorflow as tf
  gpus = tf.config.list_physical_devices('GPU')
  details = [tf.config.experimental.get_device_details(x) for x in gpus]
  if gpus:
    tf.constant(1.0) + 1.0  # Loads the libraries.
  build = tf.sysconfig.get_build_info()
  return {
      'gpus': [{k: str(v) for k, v in x.items()} for x in details],
      'built for': {
          k: str(build[k]) for k in ('cuda_version', 'cudnn_version')
          if k in build},
      'foreign libraries': find_foreign(
          pathlib.Path('/proc/self/maps').read_text())}


def find_foreign(maps):
  """Returns CUDA's libraries that do not come from this Python's packages.

  The driver's own library must come from the system. Others there, often put
  into LD_LIBRARY_PATH by a module system, may have another version than the
  one that TensorFlow was built for.

  Args:
    maps: Text of /proc/self/maps.
  """
  names = {line.split(maxsplit=5)[-1] for line in maps.splitlines()}
  return sorted(
      x for x in names
      if re.search(r'/lib(cu(blas|dart|dnn|fft|pti|rand|solver|sparse)|nccl)',
                   x) and '/site-packages/' not in x)


def place(config):
  """Returns which operations of an update run where, and how many copies.

  Returns:
    'devices': {device: {operation: number}}; 'copies': number of tensors that
    the graph of an update sends from one device to another.
  """
  from tensorflow.python.eager import context
  agent, data = benchmark.make_agent(config)
  context.context().enable_graph_collection()
  agent.train(data)
  graphs = context.context().export_run_metadata().function_graphs
  context.context().disable_graph_collection()
  devices = collections.defaultdict(collections.Counter)
  copies = 0
  for node in itertools.chain.from_iterable(
      part.node for graph in graphs for part in graph.partition_graphs):
    copies += node.op == '_Send'
    if node.op not in FREE:
      devices[node.device.rpartition('device:')[2]][node.op] += 1
  return {
      'devices': {k: dict(v.most_common()) for k, v in devices.items()},
      'copies': copies}


def update(config, weights=None):
  """Takes one update and returns its numbers.

  Args:
    config: Config.
    weights: Arrays of Agent.save() to start from.

  Returns:
    'weights' before the update, 'metrics', and 'gradients': clipped, each
    one flat array, of model, actor and critic.
  """
  agent, data = benchmark.make_agent(config)
  if weights:
    agent.load(weights)
  weights = agent.save()
  _, metrics = agent.train(data)
  behavior = agent.parts['task_behavior']
  # Adam's first moment after one update is a tenth of the gradient.
  flat = lambda opt: np.concatenate([
      slot['m'].numpy().ravel() for _, slot in sorted(opt.slots.items())])
  return {
      'weights': weights,
      'metrics': {k: float(v) for k, v in metrics.items()},
      'gradients': {
          'model': flat(agent.wm.model_opt),
          'actor': flat(behavior.actor_opt),
          'critic': flat(behavior.critic_opt)}}


def compare(reference, other):
  """Compares two results of `update`.

  Returns:
    'losses': relative differences of all losses and gradient norms, by name;
    'gradients': cosine between the two, of model, actor and critic.
  """
  cosine = lambda x, y: float(np.dot(x, y) / max(
      np.linalg.norm(x) * np.linalg.norm(y), 1e-30))
  metrics, others = reference['metrics'], other['metrics']
  return {
      'losses': {
          k: abs(others[k] - metrics[k]) / max(abs(metrics[k]), 1e-8)
          for k in sorted(metrics) if k.endswith(('_loss', '_grad_norm'))},
      'gradients': {
          k: cosine(x.astype(float), other['gradients'][k].astype(float))
          for k, x in reference['gradients'].items()}}


def repeat(config, updates, seconds):
  """Takes many updates on one batch, as many as the time allows.

  Returns:
    'updates', 'skipped' (of all optimisers), 'scales' (of the losses, by
    optimiser, at the end), 'losses' (of the model, first and last), 'seconds'
    per update without the first, and 'memory' (peak of the GPU in bytes).
  """
  import tensorflow as tf
  agent, data = benchmark.make_agent(config)
  state, losses = None, []
  for count in range(updates):
    state, metrics = agent.train(data, state)
    losses.append(float(metrics['model_loss']))
    if not count:  # Compiled.
      start = time.perf_counter()
    elif time.perf_counter() - start > seconds:
      break
  numbers = {k: float(v) for k, v in metrics.items()}
  memory = None
  if tf.config.list_physical_devices('GPU'):
    memory = tf.config.experimental.get_memory_info('GPU:0')['peak']
  pick = lambda end: {
      k.removesuffix(end): v for k, v in numbers.items() if k.endswith(end)}
  return {
      'updates': len(losses), 'skipped': sum(pick('_skipped').values()),
      'scales': pick('_loss_scale'), 'losses': [losses[0], losses[-1]],
      'seconds': (time.perf_counter() - start) / max(count, 1),
      'memory': memory}


def profile(config):
  """Profiles updates.

  Returns:
    'longest': the operations that take longest, (name, ms per update);
    'copies': {direction: number per update} between CPU and GPU.
  """
  import tensorflow as tf
  from tensorflow.tsl.profiler.protobuf import xplane_pb2
  agent, data = benchmark.make_agent(config)
  for _ in range(WARM_UP):
    agent.train(data)
  with tempfile.TemporaryDirectory() as folder:
    tf.profiler.experimental.start(folder)
    for _ in range(PROFILED):
      _, metrics = agent.train(data)
      float(metrics['model_loss'])  # Waits for a GPU.
    tf.profiler.experimental.stop()
    path, = pathlib.Path(folder).rglob('*.xplane.pb')
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
  return summarize(space.planes, PROFILED)


def summarize(planes, updates):
  """Sums up the planes of a profile, see `profile`."""
  gpus = [x for x in planes if x.name.startswith('/device:GPU')]
  times, counts = collections.Counter(), collections.Counter()
  for plane in gpus or planes:
    for line in plane.lines:
      for event in line.events:
        name = plane.event_metadata[event.metadata_id].name
        for direction, word in COPIES.items():
          counts[direction] += word in name
        # On a CPU, an operation is '<name>:<type>'; the rest is bookkeeping.
        kind = name if gpus else re.search(r'[\w/]:(_?[A-Z]\w+)$', name)
        if kind:
          times[kind if gpus else kind[1]] += event.duration_ps / 1e9
  return {
      'longest': [
          [k, v / updates] for k, v in times.most_common(LONGEST)],
      'copies': {k: counts[k] / updates for k in COPIES}}


def time_updates(configs, rounds):
  """Times updates of systems in turns, as `dreamingv2 benchmark` does.

  Returns:
    {system: 'seconds' (median of the wall time), 'first' (CPU seconds of the
    first call)}.
  """
  systems = benchmark.measure(configs, rounds)['systems']
  return {
      name: {'seconds': statistics.median(wall for _, wall in x['updates']),
             'first': x['first']} for name, x in systems.items()}


def step(config, number, seconds):
  """Returns environment steps per second of several environments at once."""
  rng, steps = np.random.default_rng(0), 0
  with contextlib.ExitStack() as stack:
    envs = suites.start(config, range(number))
    for env in envs:
      stack.callback(env.close)
    shape = envs[0].act_space['action'].shape
    last = [True] * number
    start = time.perf_counter() + 1e9
    while time.perf_counter() - start < seconds:
      waiting = [
          env.reset() if end else env.step({
              'action': rng.uniform(-1, 1, shape).astype(np.float32)})
          for env, end in zip(envs, last, strict=True)]
      last = [bool(x()['is_last']) for x in waiting]
      if steps == 0:  # Not the first reset.
        start = time.perf_counter()
      steps += number
  return (steps - number) * config.action_repeat / (
      time.perf_counter() - start)


def render():
  """Returns how MuJoCo renders here: back end, device, description."""
  from ..common.renderers import mujoco
  backend, device = mujoco.probe()
  return {
      'backend': backend, 'device': device,
      'text': mujoco.describe(backend, device)}


def serve(pipe, name, args):
  """Runs a function of this module by its name and sends what it returns."""
  with machine.quiet():
    try:
      pipe.send((globals()[name](*args), None))
    except Exception as error:  # Reported by the other process.
      pipe.send((None, f'{type(error).__name__}: {error}'[:500]))
