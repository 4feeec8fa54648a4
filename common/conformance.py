"""Tries out a user's environment and reports what is wrong with it."""

import collections
import dataclasses
import re
import time

import numpy as np

from . import envs
from . import loading
from . import own
from . import suites
from . import wrappers
from .spaces import HELP
from .spaces import BadReturn

MOST_FAULTS = 5  # Kinds of faults after which a check ends.
REPEATED = 10  # Steps that are compared after the same seed.


@dataclasses.dataclass
class Report:
  """What a check found; str() is for people.

  Attributes:
    lines: List of (verdict, text); a verdict is 'ok', 'note' or 'FAULT'.
  """

  lines: list = dataclasses.field(default_factory=list)

  @property
  def faults(self):
    """The texts of the faults."""
    return [text for verdict, text in self.lines if verdict == 'FAULT']

  @property
  def ok(self):
    """Whether there is no fault."""
    return not self.faults

  def add(self, verdict, text):
    """Adds a line."""
    self.lines.append((verdict, text))

  def __str__(self):
    count = len(self.faults)
    end = (f'{count} fault{"s" * (count > 1)}' if count
           else 'No fault: the agent can train on it.')
    return '\n'.join([*(f'{v:<6}{text}' for v, text in self.lines), end])


def check(env, config, steps=300):
  """Plays random actions and compares everything with the spaces.

  Args:
    env: Environment of Gymnasium or gym, or with our interface. It is not
      closed.
    config: Config; its keys decide what the agent would read.
    steps: Agent steps to play.

  Returns:
    Report.
  """
  report = Report()
  try:
    env = _wrap(env, config)
    _describe(env, report)
  except Exception as error:
    report.add('FAULT', _text(error, ValueError))
    return report
  trial = Trial(env)
  trial.play(steps)
  _values(trial, report)
  _rewards(trial, report)
  _ends(trial, config, report)
  if not trial.faults:
    try:
      _repeat(env, report)
    except Exception as error:
      trial.fail(_text(error))
  for text, count in trial.faults.items():
    report.add('FAULT', f'{text} ({count} times)' if count > 1 else text)
  return report


class Trial:
  """Random episodes, and what was seen in them.

  Args:
    env: Environment that is ready for the driver, and raises BadReturn.

  Attributes:
    faults: {text: how often}.
    lengths: Agent steps of each whole episode.
    terminal: How many of these ended for good.
    rewards: Rewards of all steps.
    spans: {key: (least, greatest)} of the observations.
    moving: Keys of the observations that changed.
    seconds, resets: Seconds of each step, and of each reset.
  """

  def __init__(self, env):
    self._env = env
    self._actions = _actions(env.act_space['action'])
    self._first, self._texts = {}, {}
    self.faults = collections.Counter()
    self.lengths, self.terminal, self.rewards = [], 0, []
    self.spans, self.moving = {}, set()
    self.seconds, self.resets = [], []

  def play(self, steps):
    """Takes steps, and begins again after each fault."""
    length = None
    for _ in range(steps):
      try:
        if length is None:
          self._note(self._timed(self.resets, self._env.reset), True)
          length = 0
        obs = self._timed(
            self.seconds, lambda: self._env.step(next(self._actions)))
        length += 1
        self._note(obs, False)
        self.rewards.append(float(obs['reward']))
        if obs['is_last']:
          self.lengths.append(length)
          self.terminal += bool(obs['is_terminal'])
          length = None
      except Exception as error:
        length = None
        self.fail(_text(error))
        if len(self.faults) >= MOST_FAULTS:
          return

  def fail(self, text):
    """Counts a fault; those that differ in numbers alone are one."""
    kind = re.sub(r'-?\d\S*', '#', text)
    self.faults[self._texts.setdefault(kind, text)] += 1

  def _timed(self, seconds, fn):
    begin = time.monotonic()
    value = fn()
    seconds.append(time.monotonic() - begin)
    return value

  def _note(self, obs, first):
    for key in self._env.obs_space.keys() - envs.FLAGS:
      value = np.array(obs[key])
      least, most = self.spans.get(key, (np.inf, -np.inf))
      self.spans[key] = min(least, value.min()), max(most, value.max())
      if not np.array_equal(self._first.setdefault(key, value), value):
        self.moving.add(key)
    if bool(obs['is_first']) != first:
      method = 'reset' if first else 'step'
      raise BadReturn(f'{method}() returned is_first {not first}')
    if obs['is_terminal'] and not obs['is_last']:
      raise BadReturn('step() returned is_terminal without is_last')


def _wrap(env, config):
  if hasattr(env, 'observation_space'):
    return own.adapt(env, config, 0, always=True)
  if not hasattr(env, 'obs_space'):  # One of dm_control, or none at all.
    env = suites.make('module', lambda: env, size=config.render_size)
  if not isinstance(env, envs.CheckAction):
    env = envs.ready(env, config.time_limit, config.action_bound)
  return own.leave_out(wrappers.CheckSpaces(env, always=True), config)


def _describe(env, report):
  for key, space in env.obs_space.items():
    if key not in envs.FLAGS:
      size = 'x'.join(map(str, space.shape)) or 'one number'
      report.add('ok', f'observation {key}: {space.dtype} {size}')
  space = env.act_space['action']
  words = 'choices' if hasattr(space, 'discrete') else 'values in -1..1'
  report.add('ok', f'action: {space.shape[0]} {words}')
  left_out = getattr(env, 'identity', {}).get('left_out', {})
  for key, reason in left_out.items():
    report.add('note', f'observation {key} is left out: {reason}')


def _actions(space, seed=0):
  """Yields random actions."""
  random = np.random.default_rng(seed)
  while True:
    if hasattr(space, 'discrete'):
      value = np.eye(*space.shape)[random.integers(space.shape[0])]
    else:
      value = random.uniform(space.low, space.high)
    yield {'action': value.astype(np.float32)}


def _values(trial, report):
  """Says which observations never change, such as black images."""
  for key, (least, most) in sorted(trial.spans.items()):
    if key not in trial.moving and trial.rewards:
      report.add('note', (
          f'observation {key} never changed; its values are {least:g} to '
          f'{most:g}'))


def _rewards(trial, report):
  rewards, seconds = trial.rewards, trial.seconds
  if not rewards:
    return
  if not np.isfinite(rewards).all():
    trial.fail('a reward is not finite')
  verdict = 'ok' if np.ptp(rewards) or not np.isfinite(rewards).all() else (
      'note')
  report.add(verdict, (
      f'rewards: {min(rewards):g} to {max(rewards):g} in {len(rewards)} '
      f'steps'))
  report.add('ok', (
      f'speed: {len(seconds) / max(sum(seconds), 1e-9):.0f} agent steps a '
      f'second, {np.mean(trial.resets):.3f} s for a reset'))


def _ends(trial, config, report):
  lengths = trial.lengths
  if lengths:
    report.add('ok', (
        f'episodes: {len(lengths)}, of {min(lengths)} to {max(lengths)} '
        f'agent steps; {trial.terminal} ended for good, the others were cut'))
  elif trial.rewards:
    report.add('note', (
        f'no episode ended; one is cut after {config.endless_after} agent '
        f'steps (--endless_after, --time_limit)'))


def _repeat(env, report):
  """Says whether a seed repeats an episode, which resuming needs."""
  if not hasattr(env, 'seed'):
    return report.add('note', (
        'seeds: it has no seed(number); a resumed run begins a new episode'))
  runs = []
  for _ in range(2):
    actions = _actions(env.act_space['action'], 1)
    env.seed(7)
    rows = [_copy(env.reset())]
    while len(rows) <= REPEATED and not rows[-1]['is_last']:
      rows.append(_copy(env.step(next(actions))))
    runs.append(rows)
  same = len(runs[0]) == len(runs[1]) and all(
      np.array_equal(a[k], b[k], equal_nan=k.startswith('log_'))
      for a, b in zip(*runs, strict=True) for k in a)
  if same:
    return report.add('ok', 'seeds: the same seed repeats an episode')
  return report.add('note', (
      'seeds: the same seed and actions give another episode; a resumed run '
      'does not continue it'))


def _copy(obs):
  return {k: np.array(v) for k, v in obs.items()}


def _text(error, ours=BadReturn):
  """Returns one line; errors that are not ours get their place."""
  if isinstance(error, ours):
    return str(error).partition('\n')[0].removesuffix(f'; {HELP}')
  return loading.describe(error)
