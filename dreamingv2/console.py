"""What a run prints for the user: phases, a progress bar, the time left."""

import os
import statistics

from .common import envs
from .common import episodes
from .common import logger
from .common import own
from .common.forecast import Forecast
from .common.forecast import in_words

DAY = 24 * 60 * 60  # seconds


class Console:
  """Prints lines and a progress bar about what a run does and has left.

  All steps are environment steps.

  Args:
    config: Config.
    logdir: Folder of the run.
    run: Object with `env_step`, `updates`, `prefilled` and `replay`, which
      show the progress of the run.
  """

  say = staticmethod(logger.say)

  def __init__(self, config, logdir, run):
    self._config = config
    self._logdir = logdir
    self._run = run
    self._forecast = Forecast()
    self._bar = None

  def devices(self, gpus, precision):
    """Prints the devices that train, and the precision."""
    head = 'Training' if gpus else 'No GPU found; training'
    where = ', '.join(gpus) or f'{os.cpu_count()} CPU cores'
    self.say(f'{head} on {where} in {precision}.')

  def spaces(self, obs_space, act_space):
    """Prints the observations, the actions and the memory that they need."""
    config = self._config
    hidden = {*envs.FLAGS, *own.unread(config, obs_space)}
    seen = sorted(
        (k for k in obs_space if k not in hidden and k[:4] != 'log_'),
        key=lambda k: len(obs_space[k].shape) < 3)  # Images first.
    seen = [
        f'{k} {"x".join(map(str, obs_space[k].shape)) or 1}' for k in seen]
    head = (
        'The episodes have' if config.offline else 'The environment is ready:')
    self.say(
        f'{head} {", ".join(seen) or "no observations"}, '
        f'{act_space["action"].shape[0]} action values.')
    capacity = min(
        config.replay.capacity or config.steps,
        config.steps / config.action_repeat)
    size = episodes.describe_size(
        obs_space, act_space, capacity, config.replay.max_gib, self._logdir)
    self.say(f'Logdir {self._logdir}. The replay needs {size}.')

  def seeds(self, stats):
    """Prints what the replay samples besides the run's own episodes.

    Args:
      stats: Statistics of the replay.
    """
    if 'seed_episodes' in stats:
      self.say(
          f'Batches also come from {stats["seed_episodes"]} episodes in '
          f'{self._config.replay.seed_from} with {stats["seed_steps"]} agent '
          f'steps, which do not count as steps of this run.')

  def left_out(self, reasons):
    """Prints the observations {key: reason} that the agent does not get."""
    if not reasons:
      return
    hint = any('mlp_keys' in x for x in reasons.values())
    groups = {
        reason: ', '.join(sorted(k for k, v in reasons.items() if v == reason))
        for reason in sorted(reasons.values())}
    self.say(
        'Observations that are left out: ' + '; '.join(
            f'{names} ({reason})' for reason, names in groups.items())
        + ". To use vectors beside images, set encoder.mlp_keys to '.*'."
        * hint)

  def resumed(self, meta, stats, drivers):
    """Prints the state from which a run continues.

    Args:
      meta: Metadata of the checkpoint.
      stats: Statistics of the replay.
      drivers: resume.Drivers.
    """
    later = stats['total_episodes'] - meta['replay']['total_episodes']
    self.say(
        f'Resumed at step {self._run.env_step} after {self._run.updates} '
        f'updates, {stats["loaded_episodes"]} episodes, {later} of them '
        f'later than the checkpoint.')
    if drivers.again or drivers.cut:
      cut = ', as the simulator did not repeat itself' * bool(drivers.cut)
      self.say(
          f'Episodes in progress: {len(drivers.again)} made again to the '
          f'bit, {len(drivers.cut)} cut{cut}.')

  def waiting(self, episodes):
    """Says that training waits for the end of the first episode."""
    if not episodes:
      self.say(
          f'No episode has ended within the prefill; training waits for the '
          f'first one, for at most {self._config.endless_after} agent steps '
          f'(--endless_after). To cut episodes, set --time_limit.')

  def compiled(self, times):
    """Prints how long compiling took; warns if the run will take days.

    Args:
      times: Seconds of the first update and of some later ones.
    """
    update = statistics.median(times[1:])
    self.say(f'Compiled the update in {in_words(times[0] - update)}.')
    left = self._left()['update'] * update
    if left > DAY:
      self.say(
          f'Warning: the updates alone will take about {in_words(left)} here. '
          f'The block `small` is made for CPUs: with --configs robosuite '
          f'small --steps 15000, Lift takes a quarter of an hour.')
    self.measured('update', update)

  def measured(self, kind, seconds):
    """Records how long an agent step ('step') or an 'update' took."""
    self._forecast.add(kind, seconds)

  def begin(self, phase):
    """Opens the bar; returns a context manager that closes it."""
    self._bar = logger.Progress(
        int(self._config.steps), self._run.env_step, phase)
    return self._bar

  def phase(self, name):
    """Shows the current phase in the bar."""
    self._bar.describe(name)

  def stepped(self, steps):
    """Advances the bar by environment steps."""
    self._bar.update(steps)
    if not self._run.prefilled:
      self.updated()

  def updated(self):
    """Shows in the bar the time left, with all phases ahead included."""
    left = self._forecast.left(self._left())
    ahead = '' if left is None else f'{in_words(left)} left, '
    self._bar.note(f'{ahead}{self._run.updates} updates')

  def done(self, seconds):
    """Prints where the results are and which commands show them."""
    self.say(
        f'Done: {self._run.env_step} steps and {self._run.updates} updates in '
        f'{in_words(seconds)}. The results are in {self._logdir}. Next:\n'
        f'  dreamingv2 evaluate --logdir {self._logdir}\n'
        f'  tensorboard --logdir {self._logdir}')

  def _left(self):
    """Returns how many agent steps and updates are left."""
    config, run = self._config, self._run
    repeat = config.action_repeat
    steps = max(0, int(config.steps) - run.env_step)
    prefill = 0 if run.prefilled else max(
        0, config.prefill * repeat - run.env_step)
    after = max(0, steps - prefill)
    stats = run.replay.stats
    length = stats['total_steps'] / max(1, stats['total_episodes'])
    evaluations = after // config.eval_every if config.eval_every > 0 else 0
    return {
        'step': steps / repeat + evaluations * config.eval_eps * length,
        'update': max(0, config.pretrain - run.updates)
        + after / repeat / config.train_every * config.train_steps}
