"""Trains an agent: python train.py --configs robosuite --task Lift

TensorFlow is imported inside functions only, after the environments have been
started: they live in processes of their own that must never load it.
"""

import collections
import contextlib
import functools
import importlib.metadata
import os
import pathlib
import platform
import random
import shlex
import subprocess
import sys
import tempfile
import time

import numpy as np
import tqdm

import dreamingv2
from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import config as configs
from dreamingv2.common import counter
from dreamingv2.common import driver as drivers
from dreamingv2.common import envs
from dreamingv2.common import flags
from dreamingv2.common import logger as loggers
from dreamingv2.common import replay as replays
from dreamingv2.common import suites
from dreamingv2.common import when

ROOT = pathlib.Path(__file__).parent
# Keys that may change when a run is resumed.
RESUMABLE = (
    'deterministic', 'envs', 'eval_eps', 'eval_every', 'jit', 'log_every',
    'log_keys_video', 'logdir', 'save_every', 'steps')
# Keys that shape the episodes in the logdir; without a checkpoint there, only
# these must stay.
DATA = (
    'action_repeat', 'dmc', 'render_size', 'robosuite', 'suite', 'task',
    'time_limit')
# Least and greatest values, of which nothing else would complain early.
RANGES = {
    'action_repeat': (1, 1e9),
    'contrastive.momentum': (0, 1),
    'dataset.batch': (1, 1e9),
    'dataset.length': (2, 1e9),
    'disag_models': (1, 1e9),
    'discount': (0, 1),
    'discount_lambda': (0, 1),
    'envs': (1, 1e9),
    'eval_eps': (0, 1e9),
    'imag_horizon': (2, 1e9),
    'kl.balance': (0, 1),
    'prefill': (0, 1e9),
    'pretrain': (0, 1e9),
    'rssm.deter': (1, 1e9),
    'rssm.discrete': (2, 1e9),
    'rssm.ensemble': (1, 1e9),
    'rssm.hidden': (1, 1e9),
    'rssm.stoch': (1, 1e9),
    'seed': (0, 2 ** 31 - 1),
    'train_every': (1, 1e9),
    'train_steps': (1, 1e9),
}
PACKAGES = (
    'dm_control', 'mujoco', 'numpy', 'robosuite', 'tensorflow',
    'tensorflow-cpu', 'tensorflow-probability', 'tf_keras')

# Scalars shown on the terminal; all of them are in metrics.jsonl.
TERMINAL = (
    r'(train|eval)_(return|length|return_mean|return_std)|fps|updates|'
    r'train_(model|reward|kl|nce|overshooting|aux|image|actor|critic)_loss')


def main(argv=None):
  """Trains as the command line says; see --help."""
  with user_errors():
    config = load_config(argv)
    suite, task = suites.parse(config.suite, config.task)
    options = suites.options(suite, config)
    suites.validate(suite, task, options)
    logdir = prepare_logdir(config, suite, task)
    environ = suites.prepare(suite)
  make = functools.partial(
      suites.make, suite, task, size=config.render_size,
      action_repeat=config.action_repeat, time_limit=config.time_limit,
      **options)
  start = lambda seed: envs.Async(
      functools.partial(make, seed=seed), environ=environ)
  train_envs = [start(config.seed + 1000 * i) for i in range(config.envs)]
  eval_envs = [start(config.seed + 999)] if config.eval_eps else []
  try:
    with user_errors():
      run = Run(config, logdir, train_envs, eval_envs)
    with user_errors(replays.TooShort):
      run.train()
  except KeyboardInterrupt:
    sys.exit(130)
  finally:
    for env in train_envs + eval_envs:
      env.close()


@contextlib.contextmanager
def user_errors(kinds=(ImportError, OSError, RuntimeError, ValueError)):
  """Turns what a user can cause into one line and exit code 2."""
  try:
    yield
  except kinds as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    print(f'Error: {lines[0]}', *lines[1:], sep='\n', file=sys.stderr)
    sys.exit(2)


def load_config(argv=None):
  """Returns the config that blocks and flags select.

  Raises:
    ValueError: Unknown block or key, wrong type or size of a value.
  """
  blocks = configs.read_yaml(ROOT / 'configs.yaml')
  chosen, remaining = flags.Flags(configs=['defaults']).parse(
      argv, known_only=True)
  config = configs.Config(blocks['defaults'])
  for name in chosen.configs:
    configs.known('config block', name, blocks)
    config = config.update(blocks[name])
  config = flags.Flags(config).parse(remaining)
  for key, (low, high) in RANGES.items():
    if not low <= config[key] <= high:
      raise ValueError(
          f'{key} is {config[key]}, but must lie in {low:g}..{high:g}; set '
          f'--{key}')
  if len(config.render_size) != 2:
    raise ValueError(
        f'render_size is {config.render_size}, but must be height and width; '
        f'set --render_size 64 64')
  return config


def prepare_logdir(config, suite, task):
  """Makes the logdir and checks that it can serve this config.

  Raises:
    ValueError: It cannot be written, or holds a run of another config.
  """
  logdir = pathlib.Path(config.logdir or os.path.join(
      'logdir', f'{suite}_{task}', config.method, str(config.seed)))
  logdir = logdir.expanduser()
  path = logdir / 'config.yaml'
  if path.exists():
    started = any((logdir / 'checkpoints').glob('*.npz'))
    diff = {
        k: v for k, v in config.diff(configs.Config.load(path)).items()
        if k not in RESUMABLE and (started or k.split('.')[0] in DATA)}
    if diff:
      differ = ', '.join(
          f'{k} {old} there and {new} here'
          for k, (new, old) in list(diff.items())[:5])
      raise ValueError(
          f'{logdir} holds a run of another config ({len(diff)} keys differ: '
          f'{differ}); choose another --logdir, or the same settings')
  try:
    logdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=logdir):
      pass
  except OSError as error:
    raise ValueError(
        f'logdir {logdir} cannot be written ({error}); choose another '
        f'--logdir') from None
  return logdir


def save_config(config, logdir):
  """Writes the config; who ran it and how stands on top, two lines each."""
  path = logdir / 'config.yaml'
  lines = path.read_text().splitlines() if path.exists() else []
  heads = [x for x in lines if x.startswith('# ')]
  program = pathlib.Path(sys.argv[0]).name
  run = [f'# {versions()}', f'# {shlex.join([program, *sys.argv[1:]])}']
  if heads[-2:] != run:
    heads += run
  config.save(path)
  text = '\n'.join([*heads, path.read_text()])
  checkpoints.write_atomic(path, lambda file: file.write(text.encode()))


def versions():
  """Returns one line with commit, machine and versions."""
  try:
    commit = subprocess.run(
        ['git', 'describe', '--always', '--dirty', '--abbrev=40'], cwd=ROOT,
        capture_output=True, text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    commit = 'unknown'
  found = [
      f'dreamingv2 {dreamingv2.__version__}', f'commit {commit}',
      f'{len(os.sched_getaffinity(0))} x {processor()}',
      f'python {platform.python_version()}']
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found.append(f'{name} {importlib.metadata.version(name)}')
  return ', '.join(found)


def processor():
  """Returns the name of the CPU."""
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip().replace(',', ' ')
  return platform.machine()


@contextlib.contextmanager
def quiet():
  """Keeps what libraries print while they load off the terminal."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  sys.stderr.flush()
  saved = os.dup(2)
  with open(os.devnull, 'w') as null:
    os.dup2(null.fileno(), 2)
  try:
    yield
  finally:
    sys.stderr.flush()
    os.dup2(saved, 2)
    os.close(saved)


class Run:
  """Owns time: when to act, train, log, evaluate and save.

  The counter `step` counts agent steps; everything shown or configured in
  environment steps is that times the action repeat.

  Args:
    config: Config.
    logdir: Path that exists.
    train_envs: Environments, see common.envs.
    eval_envs: Environments for evaluation; none switches it off.
    outputs: Outputs of the logger; the usual ones by default.

  Raises:
    ImportError, RuntimeError, ValueError: Something the user can mend.
  """

  def __init__(self, config, logdir, train_envs, eval_envs, outputs=None):
    self.config = config
    self.logdir = logdir
    self.updates = 0
    self._started = time.time()  # Minus what earlier processes took.
    self.step = counter.Counter()
    self._repeat = config.action_repeat
    random.seed(config.seed)
    np.random.seed(config.seed)
    self._load_libraries()
    spaces = train_envs[0].obs_space, train_envs[0].act_space
    self._say_memory(*spaces)
    self.replay = replays.Replay(
        logdir / 'train_episodes', seed=config.seed, **config.replay)
    self._random_agent = self._other.RandomAgent(spaces[1], config.seed)
    self.agent = self._agents.Agent(config, *spaces, self.step)
    self._logger = loggers.Logger(
        self.step, outputs or default_outputs(logdir), self._repeat)
    self._checkpoint = checkpoints.Checkpoint(logdir / 'checkpoints')
    self._metrics = collections.defaultdict(list)
    self._every = {'train': when.Every(config.train_every)}
    for name in ('log', 'eval', 'save'):
      every = config[f'{name}_every'] // self._repeat
      self._every[name] = when.Every(every)
      self._every[name].restore(0)  # Fire at multiples, but not at 0.
    self._explore = when.Until(config.expl_until)
    self._dataset = self.replay.dataset(**config.dataset)
    self._make_drivers(train_envs, eval_envs)
    self._restore()
    # Last, so that a run that could not start leaves nothing in the way.
    save_config(config, logdir)

  def _make_drivers(self, train_envs, eval_envs):
    self._train_driver = drivers.Driver(train_envs, self._timer)
    self._prefill_driver = drivers.Driver(train_envs, self._timer)
    drivers_ = {'train': self._train_driver, 'random': self._prefill_driver}
    for name, driver in drivers_.items():
      driver.on_reset(self.replay.add_step)
      driver.on_step(self.replay.add_step)
      driver.on_episode(functools.partial(self._log_episode, name))
    self._train_driver.on_step(self._on_step)
    self._prefill_driver.on_step(self._count)
    self._eval_driver = drivers.Driver(eval_envs) if eval_envs else None
    self._eval_episodes = []
    self._evaluated = None
    if eval_envs:
      self._eval_driver.on_episode(self._eval_episodes.append)

  def train(self):
    """Trains until `steps`, from wherever the logdir stands."""
    total = int(self.config.steps)
    if self._env_step >= total:
      self._print(f'Nothing to do: step {self._env_step} of {total}.')
      return
    with tqdm.tqdm(
        total=total, initial=self._env_step, unit='step',
        dynamic_ncols=True, smoothing=0.05, desc='prefill',
        disable=None) as self._bar:  # None: off where nobody watches.
      try:
        self._prefill()
        self._pretrain()
        self._bar.set_description('train')
        while self._env_step < total:
          self._train_driver(self._policy, steps=1)
        self._finish()
      except KeyboardInterrupt:
        self._save()
        self._print(f'Interrupted; saved at step {self._env_step}.')
        sys.exit(130)

  @property
  def _env_step(self):
    return int(self.step) * self._repeat

  def _seconds(self):
    return time.time() - self._started

  def _load_libraries(self):
    with quiet():
      import tensorflow as tf
      from dreamingv2 import agent
      from dreamingv2.common import other
      from dreamingv2.common import tfutils
    tf.get_logger().setLevel('ERROR')
    self._agents, self._other = agent, other
    self._timer = other.Timer()
    gpus, precision = tfutils.setup(
        self.config.precision, self.config.deterministic, self.config.seed)
    where = ', '.join(gpus) or f'no GPU found: {os.cpu_count()} CPU cores'
    self._print(f'Training on {where}, precision {precision}.')

  def _say_memory(self, obs_space, act_space):
    capacity = min(
        self.config.replay.capacity or self.config.steps,
        self.config.steps / self._repeat)
    size = replays.estimate_bytes(obs_space, act_space, int(capacity))
    self._print(
        f'Logdir {self.logdir}. Replay of {capacity:.0f} steps will take '
        f'{size / 2 ** 30:.1f} GiB of memory.')

  def _restore(self):
    """Loads the newest checkpoint, if there is one."""
    snapshot = self._checkpoint.load()
    if not snapshot:
      # What a run that was killed early has collected counts.
      self.step.restore(self.replay.stats['total_steps'])
      return
    self.agent.load(snapshot.arrays)
    meta = snapshot.meta
    self.step.restore(meta['step'])
    self.updates = meta['updates']
    self._started -= meta['seconds']
    for name, state in meta['every'].items():
      self._every[name].restore(state)
    self.replay.load_state_dict(meta['replay'])
    self._print(
        f'Resumed at step {self._env_step} after {self.updates} updates, '
        f'{self.replay.stats["loaded_episodes"]} episodes.')

  def _save(self):
    meta = {
        'step': self.step.state(), 'updates': self.updates,
        'seconds': self._seconds(),
        'every': {k: v.state() for k, v in self._every.items()},
        'replay': self.replay.state_dict()}
    try:
      self._checkpoint.save(self._env_step, self.agent.save(), meta)
    except OSError as error:
      self._print(f'Warning: no checkpoint was written: {error}')

  def _prefill(self):
    missing = self.config.prefill - self.replay.stats['total_steps']
    if missing <= 0:
      return
    self._print(f'Prefill: {missing} steps with random actions.')
    self._prefill_driver(self._random_agent, steps=missing, episodes=1)

  def _pretrain(self):
    missing = self.config.pretrain - self.updates
    if missing <= 0:
      return
    self._print(f'Pretraining: {missing} updates.')
    for _ in range(missing):
      self._update()

  def _policy(self, obs, state):
    explore = self._explore(self.step)
    return self.agent.policy(obs, state, 'explore' if explore else 'train')

  def _count(self, transition, worker):
    self.step.increment()
    self._bar.update(self._repeat)

  def _on_step(self, transition, worker):
    self._count(transition, worker)
    if self._every['train'](self.step):
      for _ in range(self.config.train_steps):
        self._update()
    if self._every['log'](self.step):
      self._log()
    if self._every['eval'](self.step):
      self._evaluate()
    if self._every['save'](self.step):
      self._save()

  def _update(self):
    with self._timer.section('data'):
      data = next(self._dataset)
    with self._timer.section('train'):
      _, metrics = self.agent.train(data)
    for name, value in metrics.items():  # Fetched only when logged.
      self._metrics[name].append(value)
    self.updates += 1
    self._bar.set_postfix_str(
        f'updates {self.updates}, ' + ' '.join(
            f'{k} {v:.0%}' for k, v in self._timer.shares().items()),
        refresh=False)

  def _log(self):
    if not self._metrics:
      return
    shares = self._timer.shares(reset=True)
    for name, values in self._metrics.items():
      self._logger.scalar(f'train_{name}', np.mean([float(x) for x in values]))
    self._metrics.clear()
    self._logger.add(shares, prefix='share')
    stats = self.replay.stats
    self._logger.add({
        'updates': self.updates, 'seconds': self._seconds(),
        'episodes': stats['total_episodes'],
        'replay_gib': stats['bytes'] / 2 ** 30})
    self._logger.write(fps=True)

  def _log_episode(self, name, episode):
    self._logger.add({
        f'{name}_return': float(episode['reward'].astype(np.float64).sum()),
        f'{name}_length': (len(episode['reward']) - 1) * self._repeat})
    self._logger.write()

  def _evaluate(self):
    """Runs `eval_eps` episodes; every return gets a line of its own."""
    if not self._eval_driver or not self.config.eval_eps:
      return
    self._evaluated = self._env_step
    with self._timer.section('eval'):
      self._eval_driver.reset()
      self._eval_episodes.clear()
      policy = functools.partial(self.agent.policy, mode='eval')
      self._eval_driver(policy, episodes=self.config.eval_eps)
      report = self.agent.report(next(self._dataset))
    returns = [
        float(ep['reward'].astype(np.float64).sum())
        for ep in self._eval_episodes]
    for ep, value in zip(self._eval_episodes, returns, strict=True):
      self._logger.add({
          'eval_return': value,
          'eval_length': (len(ep['reward']) - 1) * self._repeat})
      self._logger.write()
    self._logger.add({
        'eval_return_mean': np.mean(returns),
        'eval_return_std': np.std(returns)})
    for key in self.config.log_keys_video:
      if key in self._eval_episodes[0]:
        self._logger.video(f'eval_{key}', self._eval_episodes[0][key])
    self._logger.add(report)
    self._logger.write()

  def _finish(self):
    self._log()
    if self._evaluated != self._env_step:
      self._evaluate()
    self._save()

  def _print(self, text):
    tqdm.tqdm.write(text, file=sys.stderr)


def default_outputs(logdir):
  """Returns the outputs that every run has."""
  return [
      loggers.TerminalOutput(TERMINAL), loggers.JSONLOutput(logdir),
      loggers.TensorBoardOutput(logdir), loggers.GIFOutput(logdir)]


if __name__ == '__main__':
  main()
