"""Draws what a trained model makes of stored episodes.

Shape letters: T time, S categoricals, C classes, P phases, N frames.
"""

import numpy as np
import tensorflow as tf

from . import evaluate
from . import formats
from . import text
from .. import probe as probes
from ..common import envs
from ..common import logger
from ..common import plot as plots
from ..common import tfutils

SHIFTS = 50  # By which chance is told from information.
FRAMES = 64  # Of a batch when a decoder is fitted.
LIBRARY = 40  # Episodes that a decoder is fitted to.


def reconstructions(logdirs, path, frames=6, updates=0, best=False):
  """Draws an episode's frames, and each model's reconstruction and error.

  All models see the newest episode of the first run.

  Args:
    logdirs: Paths of runs.
    path: Picture to write.
    frames: Columns.
    updates: Of a decoder, fitted here to a run that has none; 0: none is.
    best: Take the checkpoints of the best evaluations.

  Returns:
    Notes: errors, in words.

  Raises:
    ValueError: A run has no decoder, or cannot take the others' episodes.
  """
  if frames < 1:
    raise ValueError(f'--frames is {frames}; it must be at least 1')
  episode, = evaluate.read_episodes(logdirs[0], 1)
  if 'image' not in episode:
    raise ValueError(
        f'{logdirs[0]} observes no image, only {", ".join(sorted(episode))}')
  length = len(episode['is_first'])
  # The first frame is of the reset, before the model has seen anything.
  index = np.linspace(1, length - 1, min(frames, length - 1)).astype(int)
  truth = episode['image'][index] / 255.0
  rows, notes = {'observation': truth}, []
  with logger.Progress(len(logdirs), 0, 'reading', 'runs') as bar:
    for logdir in logdirs:
      bar.describe(formats.reading(logdir))
      agent = load(logdir, episode, best)
      decoder = _decoder(agent, logdir, updates)
      feat = observer(agent)(episode)[1]
      image = decoder(tf.gather(feat, index))['image']
      image = np.clip(tfutils.to_arrays(image.mode()) + 0.5, 0, 1)
      name = _name(agent, logdir, rows)
      rows[name] = image
      rows[f'{name}: error'] = np.abs(image - truth)
      notes.append(
          f'{name} ({logdir}): mean squared error '
          f'{np.mean((image - truth) ** 2):.5f} on these frames, pixels in '
          f'0..1')
      bar.update(1)
  _draw_rows(rows, index, path)
  return notes


def _name(agent, logdir, taken):
  kind = 'decoder' if 'decoder' in agent.wm.heads else 'probe'
  name = f'{agent.config.method}, {kind}'
  return name if name not in taken else f'{name} ({logdir.name})'


def _decoder(agent, logdir, updates):
  """Returns a run's own decoder, its probe's, or one that is fitted here."""
  if 'decoder' in agent.wm.heads:
    return agent.wm.heads['decoder']
  if agent.probe:
    return agent.probe.decoder
  if not updates:
    raise ValueError(
        f'{logdir} has no decoder; train with --probe True, or fit one to '
        f'its frozen features by --fit 1000')
  return fit(agent, logdir, updates).decoder


def load(logdir, episode, best=False):
  """Returns the agent of a run, which can take that episode.

  Raises:
    ValueError: It cannot be read, or its observations are others.
  """
  config = evaluate.load_config(logdir)
  snapshot = evaluate.read_checkpoint(logdir, best)
  own, = evaluate.read_episodes(logdir, 1)
  for key, value in own.items():
    shape = episode[key].shape[1:] if key in episode else 'absent'
    if shape != value.shape[1:]:
      raise ValueError(
          f'{logdir} has {key} of shape {value.shape[1:]}, the episode to '
          f'draw has {shape}: the runs are of different tasks')
  obs_space, act_space = evaluate.spaces(own)
  if not any(x.startswith('wm/heads/discount/') for x in snapshot.arrays):
    obs_space.update(envs.ENDLESS)  # Episodes do not tell; the model does.
  return evaluate.load_agent(config, snapshot, obs_space, act_space)


def observer(agent):
  """Returns a function that infers the states of a whole episode.

  It maps arrays [T, ...] to the posterior, a dict of [T, ...], and features
  [T, F], and leaves the generator of noise where it was.
  """
  wm = agent.wm

  @tfutils.compile
  def infer(data):
    data = wm.preprocess({k: v[None] for k, v in data.items()})
    post, _ = wm.rssm.observe(
        wm.encoder(data), data['action'], data['is_first'])
    return {k: v[0] for k, v in post.items()}, wm.rssm.get_feat(post)[0]

  def observe(episode):
    with tfutils.keep_generator():
      return infer({k: tf.constant(v) for k, v in episode.items()})

  return observe


def fit(agent, logdir, updates):
  """Trains a probe on the features of a frozen agent; see probe.Probe.

  The newest episode is left out, as that is what is drawn.
  """
  count = len(list((logdir / 'train_episodes').glob('*.npz'))) - 1
  observe, feats, data = observer(agent), [], []
  for episode in evaluate.read_episodes(logdir, min(LIBRARY, count), skip=1):
    feats.append(observe(episode)[1])
    data.append(episode['image'])
  feats, images = tf.concat(feats, 0), tf.constant(np.concatenate(data))
  probe = probes.Probe(
      agent.config.update({'decoder.cnn_keys': 'image'}),
      {'image': agent.wm.shapes['image']})

  def batch(index):
    image = tfutils.cast(tf.gather(images, index)) / 255.0 - 0.5
    return {'feat': tf.gather(feats, index), 'data': {'image': image}}

  rng = np.random.default_rng(0)
  draw = lambda: tf.constant(rng.integers(0, len(feats), FRAMES))
  probe.build(batch(draw()))
  step = tfutils.compile(lambda index: probe.train(batch(index)))
  with logger.Progress(updates, 0, 'fitting a decoder', 'updates') as bar:
    for _ in range(updates):
      step(draw())
      bar.update(1)
  return probe


def _draw_rows(rows, index, path):
  """Writes pictures [N, H, W, 3] in labelled rows."""
  width = plots.WIDTH
  fig = plots.library().Figure(
      (width, width / (len(index) + 1.3) * len(rows)), layout='constrained')
  axes = fig.subplots(len(rows), len(index), squeeze=False)
  for line, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, image in zip(line, images, strict=True):
      ax.imshow(image, interpolation='nearest')
      ax.set(xticks=[], yticks=[])
      for spine in ax.spines.values():
        spine.set_visible(False)
    line[0].set_ylabel(
        '\n'.join(map(text.plot, name.replace(': ', ', ').split(', '))),
        rotation=0, ha='right', va='center', fontsize='small')
  for ax, number in zip(axes[0], index, strict=True):
    ax.set_title(f'step {number}', fontsize='small')
  plots.save(fig, path)


def latents(
    logdir, path, episodes=10, phases=3, by='reward', best=False):
  """Draws the categorical that tells each phase best, above the reward.

  Args:
    logdir: Path of a run.
    path: Picture to write.
    episodes: Newest stored ones, all of which count when choosing; the one
      with the most even phases is drawn.
    phases: Number of phases.
    by: 'reward': equal shares of all rewards, from the least to the most;
      'time': equal parts of the episode.
    best: Take the checkpoint of the best evaluation.

  Returns:
    Notes: what was chosen and how much it tells, in words.

  Raises:
    ValueError: The run has no categoricals, or its rewards no phases.
  """
  for name, value, least in (
      ('episodes', episodes, 1), ('phases', phases, 2)):
    if value < least:
      raise ValueError(f'--{name} is {value}; it must be at least {least}')
  found = evaluate.read_episodes(logdir, episodes)
  agent = load(logdir, found[0], best)
  kind = agent.config.rssm.latent
  if 'logit' not in agent.wm.rssm.initial(1):
    raise ValueError(
        f'{logdir} has rssm.latent {kind}, which has no categoricals')
  # What the reset shows earned nothing.
  observe = observer(agent)
  classes = []
  with logger.Progress(len(found), 0, 'inferring', 'episodes') as bar:
    for number, episode in enumerate(found, 1):
      bar.describe(f'episode {number} of {len(found)}')
      classes.append(
          tf.argmax(observe(episode)[0]['logit'], -1).numpy()[1:])
      bar.update(1)
  rewards = [x['reward'][1:] for x in found]
  labels = split(rewards, phases, by)
  chosen = choose(classes, labels)
  shown = int(np.argmax([information(x, x) for x in labels]))
  _draw_classes(
      classes[shown], rewards[shown], labels[shown], chosen,
      agent.config.rssm.discrete, path)
  return [
      f'phase {phase}: variable {variable} tells {nats:.3f} of {most:.3f} '
      f'nats, chance taken off'
      for phase, (variable, nats, most) in enumerate(chosen, 1)] + [
          f'drawn: of the {len(found)} newest episodes, by which the '
          f'variables were chosen, the one with the most even phases, of '
          f'return {rewards[shown].sum():.1f}']


def split(rewards, phases, by='reward'):
  """Numbers the phase of every step, lists of [T] from 0.

  Raises:
    ValueError: The rewards take too few values.
  """
  if by == 'time':
    return [np.arange(len(x)) * phases // len(x) for x in rewards]
  together = np.concatenate(rewards)
  edges = np.quantile(together, np.arange(1, phases) / phases)
  # Above every edge there is a reward, where many are the greatest too.
  edges = np.unique(np.minimum(edges, np.unique(together)[-2:][0]))
  labels = [np.searchsorted(edges, x, 'left') for x in rewards]
  if len(np.unique(np.concatenate(labels))) < phases:
    raise ValueError(
        f'the rewards of these episodes do not fall into {phases} phases of '
        f'like size; ask for fewer, or for --by time')
  return labels


def information(one, two):
  """Computes the mutual information of two arrays of small integers, nats."""
  joint = np.zeros((one.max() + 1, two.max() + 1))
  np.add.at(joint, (one, two), 1)
  joint /= joint.sum()
  outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
  mask = joint > 0
  return float((joint[mask] * np.log(joint[mask] / outer[mask])).sum())


def choose(classes, labels, seed=0):
  """Finds for each phase the variable that tells best whether it is on.

  Variables of many classes seem to tell something by chance, and more so
  where both change slowly: the mean over circular shifts of each episode is
  taken off. No variable is chosen twice.

  Args:
    classes: List of int [T, S].
    labels: List of int [T], phases from 0.
    seed: Of the shifts.

  Returns:
    For each phase: variable, nats, and the nats of one that tells all.
  """
  rng = np.random.default_rng(seed)
  together = np.concatenate(classes)
  shifted = [
      np.concatenate([
          np.roll(x, rng.integers(1, max(2, len(x))), 0) for x in classes])
      for _ in range(SHIFTS)]
  found, taken = [], []
  for phase in range(max(x.max() for x in labels) + 1):
    now = (np.concatenate(labels) == phase).astype(int)
    nats = np.array([
        information(together[:, s], now)
        - np.mean([information(x[:, s], now) for x in shifted])
        for s in range(together.shape[1])])
    nats[taken] = -np.inf
    taken.append(int(np.argmax(nats)))
    found.append((taken[-1], float(nats[taken[-1]]), information(now, now)))
  return found


def _draw_classes(classes, reward, labels, chosen, count, path):
  """Draws class indices [T] of the chosen variables above the reward."""
  fig = plots.library().Figure(
      (plots.WIDTH, 1.1 * len(chosen) + 1.6), layout='constrained')
  axes = fig.subplots(len(chosen) + 1, 1, sharex=True)
  steps = np.arange(1, len(reward) + 1)
  colors = [x['color'] for x in plots.palette(range(len(chosen))).values()]
  for ax, (phase, (variable, nats, most)) in zip(
      axes, enumerate(chosen), strict=False):
    now = labels == phase
    for mask, color in ((now, colors[phase]), (~now, '0.55')):
      ax.plot(steps[mask], classes[mask, variable], '.', color=color, ms=4)
    ax.set(
        ylim=(-1, count), yticks=[0, count - 1], ylabel='class',
        title=f'variable {variable}: phase {phase + 1} '
              f'({nats:.2f} of {most:.2f} nats)')
  for phase, color in enumerate(colors):
    axes[-1].fill_between(
        steps, 0, 1, where=labels == phase, color=color, alpha=0.25, lw=0,
        step='mid', transform=axes[-1].get_xaxis_transform(),
        label=f'phase {phase + 1}')
  axes[-1].plot(steps, reward, color='0.1', lw=1.2)
  axes[-1].set(xlabel='agent steps', ylabel='reward')
  axes[-1].legend(
      ncols=len(chosen), loc='lower center', bbox_to_anchor=(0.5, 1))
  plots.save(fig, path)
