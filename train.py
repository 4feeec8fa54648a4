"""Trains an agent: python train.py --configs robosuite --task Lift

Only functions import TensorFlow, after the environments have been started:
each runs in its own process, which must never load TensorFlow.
"""

import sys

if __name__ == '__main__':  # Nothing else handles SIGINT during imports.
  from dreamingv2.common import command
  sys.excepthook = command.excepthook

import pathlib
import random
import shlex
import time
import types
import warnings

import numpy as np

import dreamingv2
from dreamingv2 import console
from dreamingv2 import evaluation
from dreamingv2 import learner
from dreamingv2 import resume
from dreamingv2 import settings
from dreamingv2.common import command
from dreamingv2.common import counter
from dreamingv2.common import driver as drivers
from dreamingv2.common import episodes
from dreamingv2.common import guards
from dreamingv2.common import identity
from dreamingv2.common import logdir as logdirs
from dreamingv2.common import logger as loggers
from dreamingv2.common import machine
from dreamingv2.common import outputs as outputlib
from dreamingv2.common import replay as replays
from dreamingv2.common import suites
from dreamingv2.common import when
from dreamingv2.common import worker

# Jobs that are due every so many environment steps, as NAME_every says.
PERIODIC = ('log', 'eval', 'save')


@command.entry()
def main(argv=None):
  """Trains as the command line says; see --help.

  Exit codes: 0 done; 1 an error in this code, with a traceback; 2 a mistake of
  the user, in one line; 3 the run gave up (environments keep failing, updates
  are not finite, or another process of the run is gone); 128 + n stopped by
  signal n, after saving.
  """
  argv = sys.argv[1:] if argv is None else argv
  with guards.user_errors():
    text = settings.answer(argv)
  if text:
    return print(text)
  warnings.formatwarning = lambda text, *args: f'Warning: {text}\n'
  with guards.user_errors():
    config = settings.load_config(argv)
    with guards.starting(config.stall_after):
      logdir = logdirs.prepare(
          config, *suites.check(config), settings.reads, settings.defaults())
      lock = guards.Lock(logdir)
  with lock:
    with guards.user_errors(), guards.starting(config.stall_after):
      envs, spaces = start(config)
    try:
      train(config, logdir, envs[:config.envs], envs[config.envs:], spaces)
    finally:
      for env in envs:
        env.close()


def start(config):
  """Starts the environments of a config, unless it trains offline.

  Returns:
    Environments for training and evaluation; spaces of stored episodes, or
    None if the environments have them.

  Raises:
    ImportError, RuntimeError, ValueError: A mistake that the user can correct.
  """
  if config.offline:
    loggers.say(f'Training from the episodes in {config.offline} alone.')
    return [], episodes.spaces(episodes.read_folder(config.offline))
  seeds = [config.seed + 1000 * i for i in range(config.envs)]
  seeds += [config.seed + 999] * bool(config.eval_eps)
  loggers.say(
      f'Starting the environments of {config.task}: {config.envs} for '
      f'training, {len(seeds) - config.envs} for evaluation, each in its '
      f'own process.')
  return suites.start(config, seeds), None


def train(config, logdir, train_envs, eval_envs, spaces=None):
  """Makes a Run and trains; turns expected errors into exit codes."""
  try:
    with guards.user_errors():
      run = Run(config, logdir, train_envs, eval_envs, spaces=spaces)
    with guards.user_errors((replays.TooShort, worker.BadReturn)):
      run.train()
  except guards.Stopped as stop:
    sys.exit(128 + stop.number)
  except (guards.NotFinite, worker.GaveUp) as error:
    loggers.say(f'Error: {error}')
    sys.exit(3)


def _shared_spaces(envs_):
  """Returns the spaces of observations and actions of all environments.

  Asking also waits until each of them has started.

  Raises:
    ValueError: One has other spaces than the first.
  """
  first, *others = [
      {**env.obs_space, 'action': env.act_space['action']} for env in envs_]
  for other in others:
    for key in [x for x in {**first, **other} if first.get(x) != other.get(x)]:
      raise ValueError(
          f'The environments of a run must be alike, those for evaluation '
          f'too; {key!r} has the space {first.get(key)} in one and '
          f'{other.get(key)} in another')
  return envs_[0].obs_space, envs_[0].act_space


class Run:
  """Decides when to act, train, log, evaluate and save.

  The counter `step` counts agent steps; everything shown or configured in
  environment steps is that times the action repeat.

  Args:
    config: Config.
    logdir: Path that exists.
    train_envs: Environments, see common.envs; [] trains from the episodes of
      `replay.seed_from` alone, where steps only count the time.
    eval_envs: Environments for evaluation; [] switches evaluations off.
    outputs: Outputs of the logger; the usual ones by default.
    made: What is known of the environments' origin, see common.identity; by
      default the config names them.
    spaces: Spaces of observations and actions; those of the environments by
      default.

  Raises:
    ImportError, RuntimeError, ValueError: A mistake that the user can correct.
  """

  def __init__(
      self, config, logdir, train_envs, eval_envs, outputs=None, made=None,
      spaces=None):
    self.config = config
    self.logdir = logdir
    self.step = counter.Counter()
    self._clock = resume.Clock()
    self._cpu_clock = resume.Clock(machine.cpu_seconds)
    self._console = console.Console(config, logdir, self)
    self._repeat = config.action_repeat
    with guards.starting(config.stall_after, train_envs + eval_envs):
      self._start(train_envs, eval_envs, outputs, made, spaces)

  def _start(self, train_envs, eval_envs, outputs, made, spaces):
    config, logdir = self.config, self.logdir
    random.seed(config.seed)
    np.random.seed(config.seed)
    scope = self._load_libraries()
    spaces = spaces or _shared_spaces(train_envs + eval_envs)
    settings.check_spaces(config, *spaces)
    self._console.spaces(*spaces)
    for env in train_envs[:1]:
      self._console.left_out(identity.of(env).get('left_out', {}))
    self._make_guards(train_envs + eval_envs)
    logdirs.forget_unlearned(config, logdir, settings.defaults())
    self._state = resume.State(
        logdir / 'checkpoints', config.keep, self._processes,
        resume.origin(config))
    self.replay = replays.Replay(
        logdir / 'train_episodes', seed=config.seed,
        # Episodes later than the checkpoint are played again, to the bit.
        until=self._state.newest if config.deterministic else None,
        spaces={**spaces[0], **spaces[1]}, **config.replay)
    self._console.seeds(self.replay.stats)
    self._random_agent = self._other.RandomAgent(spaces[1], config.seed)
    with scope:
      self.agent = self._agents.Agent(config, *spaces, self.step)
    self._logger = loggers.Logger(
        self.step, outputs or outputlib.make(logdir, config), self._repeat)
    self._make_schedules()
    self._learner = learner.Learner(
        self.agent, self.replay.dataset(**config.dataset), self._timer,
        self._processes.guard, guards.Skips(
            config.max_skipped, logdir / 'not_finite'), self._console)
    self._make_drivers(train_envs, eval_envs)
    self._parts = self._make_parts()
    self._restore()
    # Last, so that a run that could not start leaves no config behind.
    source = train_envs[0] if train_envs else types.SimpleNamespace(
        obs_space=spaces[0], act_space=spaces[1])
    made = made or {'source': 'suite'}
    self._write_config(
        source, made if train_envs else {**made, 'class': ''}, spaces)

  def _write_config(self, source, made, spaces):
    made = {**identity.of(source), 'task': self.config.task, **made}
    program = pathlib.Path(sys.argv[0]).name
    logdirs.save_config(self.config, self.logdir, [
        machine.versions(dreamingv2.__version__, settings.ROOT),
        shlex.join([program, *sys.argv[1:]])])
    identity.write(self.logdir, made, *spaces)

  def _make_guards(self, envs_):
    self._signals = guards.Signals()
    self._timer = guards.Watchdog(
        self._other.Timer(), self.config.stall_after, self._console.say,
        lambda: guards.waiting(envs_))

  def _make_schedules(self):
    self._every = {'train': when.Every(self.config.train_every)}
    for name in PERIODIC:
      every = self.config[f'{name}_every']  # 0 means never.
      self._every[name] = when.Every(every and max(1, every // self._repeat))
      self._every[name].restore(0)  # Fire at multiples, but not at 0.
    self._explore = when.Until(self.config.expl_until)
    self._jobs = {
        'train': self._update, 'log': self._log, 'eval': self._evaluate,
        'save': self._save}
    self._due = []  # Names of jobs; after a stop the next process does them.
    self.prefilled = False
    self._best = -float('inf')  # Best mean evaluation return so far.
    self._improved = False

  def _make_drivers(self, train_envs, eval_envs):
    seed = self.config.seed
    self._offline = not train_envs
    self._driver = drivers.Driver(
        train_envs, self._timer, (seed, 0), self.config.endless_after)
    self._driver.on_reset(self.replay.add_step)
    self._driver.on_step(self.replay.add_step)
    self._driver.on_step(self._count)
    self._driver.on_episode(self._log_episode)
    self._evaluation = evaluation.Evaluation(eval_envs, self.config)

  def _make_parts(self):
    """Returns {name: part} of the run's state besides weights and files."""
    return {
        'step': self.step,
        'updates': resume.Attribute(self._learner, 'updates'),
        'prefilled': resume.Attribute(self, 'prefilled'),
        'due': resume.Attribute(self, '_due'),
        'best': resume.Attribute(self, '_best'), 'seconds': self._clock,
        'cpu_seconds': self._cpu_clock,
        'every': resume.Every(self._every),
        'metrics': resume.Metrics(self._learner.metrics),
        'logger': self._logger,
        'random': resume.Random(self._random_agent, self.agent.generator),
        'replay': self.replay,
        'drivers': resume.Drivers(
            self._driver, self._evaluation.driver, self.agent, self.replay)}

  def train(self):
    """Trains until `steps`, continuing from the state in the logdir.

    Raises:
      Stopped: A signal asked for it; the run was saved.
      NotFinite: Too many updates in a row were not finite.
    """
    total = int(self.config.steps)
    if self.env_step >= total and not self._due:
      return self._console.say(
          f'Nothing to do: step {self.env_step} of {total}.')
    with (self._logger, self._signals, self._timer,
          self._console.begin('prefill')):
      try:
        self._compile()
        self._prefill()
        self._pretrain()
        self._console.phase('train')
        self._work()
        while self.env_step < total:
          ahead = self.env_step + self._repeat < total
          self._act(self._policy, ahead=ahead)
          self._plan(*self._every)
          self._work()
      except guards.Stopped as stop:
        saved = 'saved' if self._save() else 'not saved'
        self._console.say(
            f'Stopped by {stop}; {saved} at step {self.env_step}.')
        raise
    self._console.done(self._clock.state())

  def _plan(self, *names):
    """Adds those of the named jobs that are due at this step."""
    due = [name for name in names if self._every[name](self.step)]
    if self.prefilled and self.env_step >= int(self.config.steps):
      due = [x for x in due if x == 'train'] + [*PERIODIC]
    for name in due:
      self._due += [name] * (self.config.train_steps if name == 'train' else 1)

  def _work(self):
    while self._due:
      self._check(self._due[0])
      self._jobs[self._due.pop(0)]()
    self._check()

  def _check(self, job=''):
    """Raises Stopped before a job, when the state is consistent for saving.

    Processes that share updates all stop before the same update.
    """
    self._timer.beat()
    if self._processes.alone or not self.prefilled:
      self._signals.check()
    elif job == 'train':
      self._signals.check(self._processes.gather)

  @property
  def updates(self):
    """Number of updates so far."""
    return self._learner.updates

  @property
  def env_step(self):
    """Environment steps so far."""
    return int(self.step) * self._repeat

  def _load_libraries(self):
    with machine.quiet():
      from dreamingv2 import agent
      from dreamingv2.common import distribute
      from dreamingv2.common import other
      from dreamingv2.common import tfutils
    self._agents, self._other, self._tfutils = agent, other, tfutils
    strategy = distribute.make(self.config.distribute, self.config)
    self._processes = distribute.Processes(strategy)
    gpus, precision = tfutils.setup(
        self.config.precision, self.config.deterministic, self.config.seed)
    self._console.devices(gpus, tfutils.PRECISIONS[precision])
    return distribute.scope(strategy)

  def _compile(self):
    if self.config.jit:
      spaces = {**self.agent.obs_space, 'action': self.agent.act_space}
      self._learner.compile(
          self._tfutils.zeros(spaces, **self.config.dataset))

  def _act(self, policy, **kwargs):
    """Takes one agent step, or only counts it."""
    start = time.monotonic()
    if self._offline:
      self._count({}, 0)
    else:
      self._driver(policy, steps=1, **kwargs)
    self._console.measured('step', time.monotonic() - start)

  def _restore(self):
    """Continues from a checkpoint, if there is one."""
    meta = self._state.restore(self.agent, self._parts)
    for name in ('seconds', 'cpu_seconds'):
      if meta and name not in meta:  # Of an older version: unknown.
        self._parts[name].restore(float('nan'))
    self._fresh = not meta
    if self.replay.later:
      # Episodes that are kept are not played again.
      for name in ('random', 'drivers'):
        self._parts[name].skip(self.replay.later)
    if not self.prefilled:
      # Steps with random actions count, even if no checkpoint has them.
      self.step.restore(int(self.step) + self.replay.later_steps)
      for name in PERIODIC:
        self._every[name](self.step)
    if meta:
      self._console.resumed(meta, self.replay.stats, self._parts['drivers'])
    elif self._state.lost:
      self._console.say(
          f'Warning: no checkpoint in {self.logdir / "checkpoints"} can be '
          f'read, so that all weights are new; the episodes stay, with '
          f'{self.env_step} steps.')
    elif self.step > 0:
      self._console.say(
          f'No checkpoint; found episodes with {self.env_step} steps.')

  def _save(self):
    """Writes a checkpoint and returns True; False where the disk is full."""
    with self._timer.section('save'):
      for attempt in range(2):
        try:
          self._state.save(
              self.env_step, self.agent, self._parts, self._improved)
          self._improved = False
          break
        except OSError as error:
          self._console.say(f'Warning: no checkpoint was written: {error}')
          if attempt or not self.replay.forget():  # This makes room.
            return False
      self.replay.forget()
    return True

  def _prefill(self):
    if self.prefilled:
      return
    if self._fresh:
      self._save()  # From which a run that is killed early goes on.
    missing = self.config.prefill - int(self.step)
    if missing > 0:
      self._console.say(
          f'Prefill: {missing * self._repeat} steps with random actions.')
      while (int(self.step) < self.config.prefill
             or not self.replay.stats['total_episodes']):
        self._act(self._random_agent)
        if int(self.step) == self.config.prefill:
          self._console.waiting(self.replay.stats['total_episodes'])
        for name in PERIODIC:
          self._every[name](self.step)  # Nothing is learned yet.
        self._check()
    self._driver.reset()
    self.prefilled = True
    self._due.append('save')
    self._plan()

  def _pretrain(self):
    missing = self.config.pretrain - self.updates
    if missing <= 0:
      return
    self._console.say(f'Pretraining: {missing} updates.')
    with loggers.Progress(
        self.config.pretrain, self.updates, 'pretrain', 'updates') as bar:
      for _ in range(missing):
        self._check('train')
        self._update()
        bar.update(1)

  def _policy(self, obs, state):
    explore = self._explore(self.step)
    return self.agent.policy(obs, state, 'explore' if explore else 'train')

  def _count(self, transition, worker):
    self.step.increment()
    self._console.stepped(self._repeat)

  def _update(self):
    self._learner.update(self.env_step)

  def _log(self):
    self._learner.log(self._logger, {
        'seconds': self._clock.state(),
        'cpu_seconds': self._cpu_clock.state()})

  def _log_episode(self, episode):
    guards.warn_of_end(episode, 'discount' in self.agent.wm.heads)
    name = 'train' if self.prefilled else 'random'
    self._logger.add({
        f'{name}_return': float(episode['reward'].astype(np.float64).sum()),
        f'{name}_length': (len(episode['reward']) - 1) * self._repeat})
    self._logger.add(evaluation.totals(episode, self.config, name))
    self._logger.add(self.replay.stats, prefix='train')
    self._logger.write()

  def _evaluate(self):
    """Runs `eval_eps` episodes and logs each return in its own line."""
    if not self._evaluation:
      return
    noise = self.agent.generator.state
    before = noise.numpy()
    try:
      with self._timer.section('eval'):
        self._evaluation.play(self._eval_policy, self._console.phase)
        self._console.phase('train')
        report = self._learner.report()
        probe = self.agent.probe
        metrics = probe.measure(
            self.agent.wm, self._evaluation.episodes) if probe else {}
    except guards.Stopped:  # Undo the evaluation that has begun.
      noise.assign(before)
      self._due.insert(0, 'eval')
      raise
    mean = self._evaluation.log(self._logger, report, metrics)
    if mean > self._best:
      self._best, self._improved = mean, True
      self._due += [] if 'save' in self._due else ['save']

  def _eval_policy(self, obs, state):
    self._check()  # After a signal there is no time for many episodes.
    return self.agent.policy(obs, state, 'eval')


if __name__ == '__main__':
  main()
