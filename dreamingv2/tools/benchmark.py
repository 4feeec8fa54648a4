"""Times updates and their parts, and compares them with a lower bound.

dreamingv2 benchmark --configs small --methods dreamerv2 dreamingv2
dreamingv2 benchmark --methods dreamingv2 dreamingv2+precision=bf16

Every system is trained on random images in a separate process. Times are CPU
seconds of that process: the median over the rounds, in each of which all
systems take turns. The floor is the time that the matrix products and
convolutions of the graph would take at the peak rates, which are measured in
the same rounds; an update of 1.0 floors has no other cost. Each part is
compiled alone and runs forward and backward. The times of policy (one
observation) and environment are per agent step.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import os
import re
import resource
import statistics
import sys
import tempfile
import time

import dreamingv2

from .. import settings
from ..common import command
from ..common import envs
from ..common import files
from ..common import guards
from ..common import machine
from ..common import suites
from . import text

ACTIONS = 6
VECTOR = 24  # Size of the observation where there is no image.
COLUMNS = ('CPU-s', 'ratio', 'floors', 'updates/s', 'first call, CPU-s',
           'peak GB', 'parameters')
PARTS = ('augment', 'encoder', 'rssm', 'objective', 'actor', 'critic',
         'optimizer', 'data', 'policy')
STEPS = 20  # Timed together for policy and environment: one is too short.


@command.entry()
def main(argv=None):
  """Times what the command line names; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    configs = {x: load(x, args.configs, args.precision) for x in args.methods}
    if args.out:
      files.check_writable(args.out)
    if args.rounds < 1:
      raise ValueError(f'--rounds is {args.rounds}; it must be >= 1')
    env = args.task and suites.constructor(settings.load_config([
        '--configs', *(args.configs or ['defaults']), '--task', args.task]))
    if args.out:
      args.out.parent.mkdir(parents=True, exist_ok=True)
  results = {
      'machine': machine.versions(dreamingv2.__version__, settings.ROOT),
      'options': vars(args), **measure(configs, args.rounds, args.parts, env)}
  print(table(results))
  if args.out:
    files.write_text(
        args.out, json.dumps(results, indent=2, default=str) + '\n')


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser('dreamingv2 benchmark', __doc__)
  add = parser.add_argument
  add('--configs', nargs='*', default=[], metavar='BLOCK',
      help="blocks of configs.yaml (default: the paper's size)")
  add('--methods', nargs='+', default=['dreamerv2', 'dreamingv2'],
      metavar='METHOD', help='blocks, also with settings such as '
      'dreamingv2+contrastive.horizon=0; times are divided by those of the '
      'first')
  add('--rounds', type=int, default=7, metavar='N',
      help='number of timed updates of each method')
  add('--precision', default='auto',
      help='16, bf16 or 32; auto: 16 on a GPU, 32 on a CPU')
  add('--parts', action=argparse.BooleanOptionalAction, default=True,
      help='also time the parts of an update (default: yes)')
  add('--task', help='also time the steps of this environment')
  add('--out', metavar='FILE', type=command.path,
      help='JSON file to write, with all measurements')
  return parser


def load(spec, blocks=(), precision='auto', flags=()):
  """Returns the config of a method's block, further blocks and settings.

  Args:
    spec: Block and settings, such as 'dreamingv2+rssm.deter=1024'.
    blocks: Names of further blocks.
    precision: As in configs.yaml.
    flags: Further flags, which the settings of `spec` override.

  Raises:
    ValueError: Unknown block or key.
  """
  method, *rest = spec.split('+')
  own = [x for item in rest for x in f'--{item}'.split('=', 1)]
  return settings.load_config([
      '--configs', method, *blocks, '--precision', precision, *flags, *own])


def measure(configs, rounds, parts=False, env=None):
  """Times updates of all systems, which take turns in every round.

  Args:
    configs: Maps names to configs.
    rounds: Number of timed updates of each system.
    parts: Also time the parts of an update.
    env: Arguments of `_Environment`, to time its steps as well.

  Returns:
    Dict with 'peaks' (operations per CPU second of 'matmul' and 'conv'),
    'environment' (CPU seconds per step, or None) and 'systems', which maps a
    name to a dict with 'first' (CPU seconds), 'updates' (pairs of CPU and wall
    seconds), 'bytes' (peak memory), 'parameters', 'operations', and 'parts',
    which maps a name to 'times' and 'operations'.
  """
  with contextlib.ExitStack() as stack:
    start = lambda *args: stack.enter_context(_Process(*args))
    systems, results = {}, {}
    for name, config in configs.items():
      systems[name] = start(_System, config)
      # Only one compiles at a time, because they share the cores.
      results[name] = {'first': systems[name]('update')[0], 'updates': []}
    peaks = start(_Peaks)
    env, steps, rates = env and start(_Environment, *env), [], []
    for _ in range(rounds):
      rates.append(peaks('measure'))
      steps.append(env('step') if env else 0.0)
      for name, system in systems.items():
        results[name]['updates'].append(system('update'))
    for name, system in systems.items():
      results[name].update(system('costs'))
      results[name]['parts'] = system('compile') if parts else {}
    for _ in range(rounds):
      for name, system in systems.items():
        for part, values in results[name]['parts'].items():
          values['times'].append(system('part', part))
  median = statistics.median
  return {
      'peaks': {k: median(x[k] for x in rates) for k in rates[0]},
      'environment': median(steps) if env else None, 'systems': results}


def table(results):
  """Formats the results of `measure` as Markdown."""
  peaks, systems = results['peaks'], results['systems']
  floor = lambda x: sum(n / peaks[k] for k, n in x['operations'].items())
  middle = lambda x, i: statistics.median(y[i] for y in x['updates'])
  base = middle(next(iter(systems.values())), 0)
  rows = []
  for name, x in systems.items():
    cpu, wall = middle(x, 0), middle(x, 1)
    rows.append([
        name, f'{cpu:.3g}', f'{cpu / base:.2f}', f'{cpu / floor(x):.2f}',
        f'{1 / wall:.2g}', f"{x['first']:.1f}", f"{x['bytes'] / 1e9:.2f}",
        f"{x['parameters'] / 1e6:.2f} M"])
  lines = text.table(['system', *COLUMNS], rows)
  if any(x['parts'] for x in systems.values()):
    lines += ['', 'CPU-ms of each part (floors):', '']
    rows = []
    for part in PARTS:
      cells = [part]
      for x in systems.values():
        ms = 1e3 * statistics.median(x['parts'][part]['times'])
        least = 1e3 * floor(x['parts'][part])
        cells.append(f'{ms:.3g}' + (f' ({ms / least:.1f})' if least else ''))
      rows.append(cells)
    lines += text.table(['part', *systems], rows)
  lines += ['', 'Peaks: ' + ', '.join(
      f'{k} {v / 1e9:.0f} GFLOP/CPU-s' for k, v in peaks.items()) + '.']
  if results['environment']:
    lines += [f"Environment: {1e3 * results['environment']:.1f} CPU-ms per "
              f'agent step.']
  return '\n'.join(lines)


class _Process:
  """Runs methods of an object that lives in a separate process."""

  def __init__(self, *args):
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(
        target=_serve, args=(theirs, *args), daemon=True)
    self._process.start()
    theirs.close()

  def __call__(self, *request):
    self._pipe.send(request)
    try:
      return self._pipe.recv()
    except EOFError:
      sys.exit('Error: a process died; its message is above')

  def __enter__(self):
    return self

  def __exit__(self, *error):
    self._pipe.close()
    self._process.join()


def _serve(pipe, kind, *args):
  server = kind(*args)
  with contextlib.suppress(EOFError):
    while True:
      name, *args = pipe.recv()
      pipe.send(getattr(server, name)(*args))


def _cpu(fn):
  """Returns the CPU seconds of this process that a function takes."""
  start = time.process_time()
  fn()
  return time.process_time() - start


class _Environment:
  """Steps an environment with random actions."""

  def __init__(self, make, environ):
    import numpy as np
    os.environ.update({k: v for k, v in environ.items() if v is not None})
    self._env = make()
    self._rng = np.random.default_rng(0)
    self._last = True

  def step(self):
    """Returns the mean CPU seconds of a step."""
    return sum(_cpu(self._step) for _ in range(STEPS)) / STEPS

  def _step(self):
    size = self._env.act_space['action'].shape
    action = {'action': self._rng.uniform(-1, 1, size).astype('float32')}
    obs = self._env.reset() if self._last else self._env.step(action)
    self._last = obs['is_last']


class _Peaks:
  """Measures peak rates with large products and convolutions."""

  def __init__(self):
    with machine.quiet():
      import tensorflow as tf
    from ..common import tfutils
    from . import operations
    conv = lambda x, kernel: tf.nn.conv2d(x, kernel, 2, 'VALID')
    kinds = {
        'matmul': [
            (tf.matmul, [n, 1024], [1024, 1024]) for n in (1024, 8192)],
        'conv': [
            (conv, [400, n, n, c], [4, 4, c, 2 * c])
            for n, c in ((31, 48), (14, 96))]}
    self._products = {kind: [] for kind in kinds}
    for kind, entries in kinds.items():
      for product, *shapes in entries:
        args = [tf.Variable(tf.ones(x)) for x in shapes]
        fn = tfutils.compile(functools.partial(product, *args))
        self._products[kind].append((fn, operations.count(fn)))

  def measure(self):
    """Returns the most operations per CPU second of each kind."""
    return {
        kind: max(sum(ops.values()) / _cpu(fn) for fn, ops in entries)
        for kind, entries in self._products.items()}


class _System:
  """Trains an agent on one random batch."""

  def __init__(self, config):
    with machine.quiet():
      import tensorflow as tf
    from ..common import tfutils
    from . import operations
    self._tf, self._count = tf, operations.count
    self._graph, self._variables = tfutils.compile, tfutils.trainable
    self._agent, self._data = make_agent(config)
    self._state = self._agent.wm.rssm.initial(config.dataset.batch)
    self._config = config
    self._parts = {}

  def update(self):
    """Takes one update and returns its CPU and wall seconds."""
    def run():
      _, metrics = self._agent.train(self._data, self._state)
      metrics['model_loss'].numpy()  # Waits for a GPU.
    start = time.perf_counter()
    return _cpu(run), time.perf_counter() - start

  def costs(self):
    """Returns peak memory, trained parameters and operations of an update."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wm, behavior = self._agent.wm, self._agent.parts['task_behavior']
    modules = [wm.modules, behavior.actor, behavior.critic]
    return {
        'bytes': 1024 * size,
        'parameters': sum(
            x.shape.num_elements() for x in self._variables(modules)),
        'operations': self._count(
            lambda: self._agent.train(self._data, self._state))}

  def compile(self):
    """Builds and runs all parts, and returns their operations."""
    self._parts = {
        k: self._graph(v) for k, v in self._tensor_parts().items()}
    counts = {k: self._count(fn) for k, fn in self._parts.items()}
    self._parts.update(self._host_parts())
    with machine.quiet():  # TensorFlow warns of loops it cannot optimise.
      for part in PARTS:
        self.part(part)
    return {
        k: {'times': [], 'operations': counts.get(k, {})} for k in PARTS}

  def part(self, name):
    """Returns the CPU seconds of a part."""
    times = STEPS if name == 'policy' else 1
    return sum(_cpu(self._parts[name]) for _ in range(times)) / times

  def _tensor_parts(self):
    """Returns functions of the parts of an update, forward and backward."""
    wm, ac = self._agent.wm, self._agent.parts['task_behavior']
    _, _, out, _ = wm.loss(self._data)
    data, embed, post, prior = [
        out[k] for k in ('data', 'embed', 'post', 'prior')]
    dream = lambda: ac.dream(
        wm, post, data['is_terminal'],
        lambda seq: wm.heads['reward'](seq['feat']).mode())
    seq, target, _ = dream()

    def rssm():
      post, prior = wm.rssm.observe(embed, data['action'], data['is_first'])
      kl, _ = wm.objective.kl_loss(wm, data, post, prior)
      return kl + self._tf.reduce_mean(wm.rssm.get_feat(post))

    def objective():
      terms, _ = wm.likelihoods(wm.rssm.get_feat(post), data)
      extra, _ = wm.objective.loss(wm, data, embed, post, prior)
      return self._tf.add_n([*terms.values(), *extra.values()])

    grad = self._gradient
    return {
        'augment': lambda: wm.objective.augment(wm.preprocess(self._data)),
        'encoder': lambda: grad(
            lambda: self._tf.reduce_mean(wm.encoder(data)), wm.encoder),
        'rssm': lambda: grad(rssm, wm.rssm, embed),
        'objective': lambda: grad(objective, wm.modules, embed, post, prior),
        'actor': lambda: grad(
            lambda: ac.actor_loss(*dream()[:2])[0], ac.actor),
        'critic': lambda: grad(
            lambda: ac.critic_loss(seq, target)[0], ac.critic),
        'optimizer': self._optimize}

  def _optimize(self):
    """Updates all optimisers (all gradients are 1) and all slow copies."""
    wm, ac = self._agent.wm, self._agent.parts['task_behavior']
    for opt, modules in (
        (wm.model_opt, wm.modules), (ac.actor_opt, [ac.actor]),
        (ac.critic_opt, [ac.critic])):
      with self._tf.GradientTape() as tape:
        loss = self._tf.add_n([
            self._tf.reduce_sum(x) for x in self._variables(modules)])
      opt(tape, loss, modules)
    wm.objective.update(wm)
    ac.update_slow_target()

  def _gradient(self, fn, modules, *inputs):
    variables = self._variables(modules)
    with self._tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch([variables, inputs])
      loss = fn()
    return tape.gradient(loss, [variables, inputs])

  def _host_parts(self):
    from ..common import replay as replays
    config = self._config
    self._folder = tempfile.TemporaryDirectory()
    memory = replays.Replay(
        self._folder.name, ongoing=True, maxlen=config.replay.maxlen)
    rows = {k: v.numpy().reshape(-1, *v.shape[2:])
            for k, v in self._data.items()}
    for i in range(len(rows['reward'])):
      memory.add_step({k: v[i] for k, v in rows.items()})
    batches = memory.dataset(**config.dataset)
    obs = {k: v[:1, 0] for k, v in self._data.items() if k != 'action'}
    state = self._agent.policy(obs)[1]
    return {
        'data': lambda: [
            self._tf.convert_to_tensor(x) for x in next(batches).values()],
        'policy': lambda: self._agent.policy(obs, state)}


def make_agent(config):
  """Returns an agent, and a random batch as tensors."""
  with machine.quiet():
    import tensorflow as tf

    from ..agent import Agent
  from ..common import counter
  from ..common import tfutils
  tfutils.setup(config.precision)
  obs, act, data = make_batch(config)
  agent = Agent(config, obs, {'action': act}, counter.Counter(0))
  return agent, {k: tf.convert_to_tensor(v) for k, v in data.items()}


def make_batch(config):
  """Returns spaces of observations and actions, and a random batch."""
  import gymnasium
  import numpy as np
  box = gymnasium.spaces.Box
  cameras = ['image'] + ['image_2'] * (config.objective == 'cross_modal')
  size = (*config.render_size, 3)
  vectors = []
  if not re.fullmatch(config.encoder.cnn_keys, 'image'):
    cameras, vectors = [], ['vector']
  obs = {
      **{key: box(0, 255, size, np.uint8) for key in cameras},
      **{key: box(-9, 9, (VECTOR,), np.float32) for key in vectors},
      # Only a task that can terminate has a discount to learn.
      **(envs.ENDLESS if config.loss_scales.discount == 1 else envs.FLAGS)}
  act = box(-1, 1, (ACTIONS,), np.float32)
  rng = np.random.default_rng(0)
  shape = (config.dataset.batch, config.dataset.length)
  data = {
      **{key: rng.integers(0, 256, (*shape, *size), np.uint8)
         for key in cameras},
      **{key: rng.normal(size=(*shape, VECTOR)).astype(np.float32)
         for key in vectors},
      'reward': rng.normal(size=shape).astype(np.float32),
      'action': rng.uniform(-1, 1, (*shape, ACTIONS)).astype(np.float32),
      **{key: np.zeros(shape, bool)
         for key in ('is_first', 'is_last', 'is_terminal')}}
  data['is_first'][:, 0] = True
  return obs, act, data


if __name__ == '__main__':
  main()
