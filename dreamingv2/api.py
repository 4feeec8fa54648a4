"""Trains, evaluates and runs agents from Python.

    import gymnasium
    from dreamingv2 import api
    make = lambda: gymnasium.make('CarRacing-v3')
    config = api.load('small').update({'logdir': 'logdir/car', 'steps': 1e5})
    api.train(make, config)
    api.evaluate('logdir/car', make)
    agent = api.restore('logdir/car')

As in DreamerV2, `api.defaults.update({...}).parse_flags()` returns a config in
which the flags of the command line override the other values.
"""

import contextlib
import pathlib
import signal
from collections.abc import Callable

import gymnasium

from . import settings
from . import train as training
from .common import conformance
from .common import envs
from .common import guards
from .common import identity
from .common import logdir as logdirs
from .common import own
from .common import suites
from .common.config import Config
from .common.suites import module
from .tools import evaluate as evaluations
from .tools import restored

defaults = settings.defaults()


def load(*names: str) -> Config:
  """Returns the defaults, changed by the named blocks of configs.yaml.

  Raises:
    ValueError: Unknown block.
  """
  return settings.load_config(['--configs', *names] if names else [])


def wrap(env, config: Config) -> envs.Wrapper:
  """Wraps a Gymnasium or old gym environment for the agent; see own.convert.

  The agent predicts the ends of episodes (pred_discount). An environment with
  our interface whose episodes never end has envs.ENDLESS in its obs_space.

  Raises:
    ValueError: It is no environment, or a space cannot be handled.
  """
  if hasattr(env, 'obs_space'):  # Has our interface already.
    if not isinstance(env.act_space['action'], gymnasium.spaces.Box):
      raise ValueError(
          f"Action space {env.act_space['action']} is not ready for the "
          f'agent; pass common.envs.ready(env)')
    return env if isinstance(env, envs.Async) else own.leave_out(env, config)
  if not hasattr(env, 'observation_space'):
    raise ValueError(
        f'env is {type(env).__name__}, which is no environment: it has no '
        f'observation_space; give one, or a function that makes one')
  return own.adapt(env, config, config.seed)


def _makes(env):
  """Says whether it makes environments, and is none."""
  return isinstance(env, type) or callable(env) and not hasattr(env, 'reset')


def _host(env, config, seeds, stack):
  """Returns environments: as many as there are seeds if `env` makes them.

  These run in processes of their own, which end with the stack.
  """
  if not _makes(env):
    env = wrap(env, config.update({'seed': seeds[0]}))
    if not isinstance(env, envs.Async):
      env = own.keep(env, config)
      own.try_out(env, seeds[0])
    return [env]
  made = suites.start(config, seeds, env)
  for one in made:
    stack.callback(one.close)
  return made


def train(
    env, config: Config, outputs: list[Callable] | None = None, eval_env=None):
  """Trains on `env` until `config.steps`, or resumes the run in the logdir.

  The run is filed under the name of the environment: gym_ID if it is
  registered with Gymnasium, else module:Class; or under module:name of the
  constructor, if another program can import it.

  A constructor is called in a process without TensorFlow, once for each of
  `config.envs`. Prefer it: an environment that renders with Mesa's software
  OpenGL crashes in one process with TensorFlow 2.19 and newer.

  Args:
    env: Function or class that returns a Gymnasium or old gym environment, one
      of dm_control, or one with the interface of common.envs. It gets the
      arguments `seed`, `size` and `action_repeat` if it names them. Or such an
      environment itself, which then runs in this process; one with the
      interface of common.envs must be returned by envs.ready.
    config: Config; `config.logdir` must be set.
    outputs: Outputs of the logger; terminal, JSON lines, TensorBoard and GIF
      files by default.
    eval_env: The same for evaluation; without one, nothing is evaluated.

  Returns:
    The trained agent.

  Raises:
    ValueError: A space or a config that cannot be handled.
    KeyboardInterrupt: SIGINT came; the run was saved. Other signals also end
      the process once the run is saved, unless the caller handles them.
    Stopped: A signal came that the caller ignores or handles; the run was
      saved.
    NotFinite: Too many updates in a row were not finite, see guards.Skips.
  """
  if not config.logdir:
    raise ValueError("logdir is ''; set it: config.update({'logdir': ...})")
  if config.offline:
    raise ValueError(
        f'offline is {config.offline!r}, but there is an environment; use '
        f'dreamingv2 train --offline {config.offline}')
  settings.check(config)
  makes = _makes(env)
  if eval_env is env and not makes:
    raise ValueError(
        'eval_env is env: an evaluation would cut training episodes short; '
        'pass another environment, or a function that makes one')
  with contextlib.ExitStack() as stack:
    train_envs = _host(env, config, [
        config.seed + 1000 * i for i in range(config.envs)], stack)
    eval_envs = [] if eval_env is None else _host(
        eval_env, config, [config.seed + 999], stack)
    made = identity.recipe(env) if makes else {}
    made = made if made.get('make') else {}
    config = config.update({'suite': '', 'task': made.get('make') or (
        identity.of(train_envs[0])['task'])})
    logdir = logdirs.prepare(
        config, '', config.task, settings.reads, settings.defaults())
    stack.enter_context(guards.Lock(logdir))
    run = training.Run(
        config, logdir, train_envs, eval_envs, outputs,
        {**made, 'source': 'api'})
    try:
      run.train()
    except guards.Stopped as stop:
      # The run is saved; now the caller's own handler gets the signal.
      signal.raise_signal(stop.number)
      raise
  return run.agent


def check(env, config: Config | None = None, steps: int = 300):
  """Tries out an environment; `print(api.check(env))` shows what it found.

  Args:
    env: Environment or a function or class that makes one, see `train`; it
      runs in this process and is not closed.
    config: Config of the training, the defaults without one.
    steps: Steps with random actions to take.

  Returns:
    A conformance.Report: `ok`, `faults`, and its text.
  """
  config = config or defaults
  if _makes(env):
    env, repeat = module.build(
        env, 'The constructor', config.seed, tuple(config.render_size),
        config.action_repeat, suites.parse_args(config.env_args))
    config = config.update({'action_repeat': repeat})
  return conformance.check(env, config, steps)


def restore(
    folder, best: bool = False, step: int | None = None,
    seed: int = 0) -> restored.Restored:
  """Returns the agent of a run, which acts on plain observations.

  Neither an environment nor the replay is started. `restore` compiles the
  policy, so that no step is late.

      agent = api.restore('logdir/car')
      action, state = agent.act(observation)  # Begins an episode.
      action, state = agent.act(observation, state)

  Args:
    folder: Folder of the run, or an exported policy, which is a program: give
      only one that you trust.
    best: Take the checkpoint of the best evaluation, not the newest.
    step: Take the checkpoint of so many environment steps; the newest `keep`
      of a run exist.
    seed: Seed of the noise of the latent state.

  Returns:
    A restored.Restored: its `act` takes and returns what the environment
    observes and takes; `observation_space` and `action_space` describe both.

  Raises:
    ValueError: The folder holds no run, or one of another version.
  """
  return restored.load(folder, best, step, seed)


def evaluate(
    folder, env=None, episodes: int = 10, best: bool = False,
    seed: int = 0, step: int | None = None) -> dict:
  """Plays episodes with the mode of a policy, as `dreamingv2 evaluate` does.

  Args:
    folder: Folder of the run, or an exported policy, which is a program: give
      only one that you trust.
    env: Environment to play in, see `train`; by default the one that the run
      was trained on is made again, in a process of its own.
    episodes: Number of episodes.
    best: Take the checkpoint of the best evaluation, not the newest.
    seed: Seed of environment and agent; an exported policy has its own.
    step: Take the checkpoint of so many environment steps; the newest `keep`
      of a run exist.

  Returns:
    Dict, as `dreamingv2 evaluate --out` writes it: where it is from; the mean,
    std, median, least and most return; the success rate (or None); 'return',
    'length' and 'success' of each episode.

  Raises:
    ValueError: The folder holds no run, the environment cannot be made again,
      or has other spaces.
  """
  if episodes < 1:
    raise ValueError(f'episodes is {episodes}; it must be at least 1')
  folder = pathlib.Path(folder).expanduser()
  config = evaluations.load_config(folder)
  is_policy = evaluations.is_policy(folder)
  if is_policy and (best or step is not None):
    raise ValueError(
        f'best and step choose a checkpoint of a run; {folder} is an exported '
        f'policy')
  snapshot = None if is_policy else evaluations.read_checkpoint(
      folder, best, step)
  with contextlib.ExitStack() as stack:
    if env is None:
      env = stack.enter_context(
          contextlib.closing(evaluations.start_env(config, folder)))
    else:
      env, = _host(env, config, [config.seed], stack)
    spaces = evaluations.check_spaces(folder, env)
    if snapshot:
      agent = evaluations.restore(config, snapshot, *spaces, seed)
    else:
      agent = evaluations.load_policy(folder, *spaces)
    played = evaluations.play(
        agent, env, episodes, seed, config.endless_after)
  return evaluations.results(played, folder, snapshot, best, seed)
