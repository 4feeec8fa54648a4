"""Draws what a trained model infers from stored episodes.

Shape letters: T time, S categoricals, C classes, P phases, N frames.
"""

import numpy as np
import tensorflow as tf

from .. import probe as probes
from ..common import envs
from ..common import episodes as episodelib
from ..common import logger as loggers
from ..common import plot as plots
from ..common import tfutils
from . import evaluate
from . import formats
from . import text as texts

SHIFTS = 50  # Random shifts used to estimate chance level.
FRAMES = 64  # Frames of a batch when a decoder is fitted.
LIBRARY = 40  # Most episodes that a decoder is fitted to.


def reconstructions(logdirs, path, frames=6, updates=0, best=False):
  """Draws an episode's frames, and each model's reconstruction and error.

  All models see the newest episode of the first run.

  Args:
    logdirs: Paths of runs.
    path: Picture to write.
    frames: Number of frames, one per column.
    updates: Updates to fit a decoder to a run that has none; 0 fits none.
    best: Take the checkpoints of the best evaluations.

  Returns:
    Notes that state the errors, as text.

  Raises:
    ValueError: A run has no decoder, or its observations have other shapes.
  """
  if frames < 1:
    raise ValueError(f'--frames is {frames}; it must be at least 1')
  episode, = evaluate.read_episodes(logdirs[0], 1)
  if 'image' not in episode:
    raise ValueError(
        f'{logdirs[0]} observes no image, only {", ".join(sorted(episode))}')
  length = len(episode['is_first'])
  # The first frame shows the reset, before the model has seen anything.
  index = np.linspace(1, length - 1, min(frames, length - 1)).astype(int)
  truth = episode['image'][index] / 255.0
  rows, notes = {'observation': truth}, []
  with loggers.Progress(len(logdirs), 0, 'reading', 'runs') as bar:
    for logdir in logdirs:
      bar.describe(formats.reading(logdir))
      agent = load(logdir, episode, best)
      decoder = _decoder(agent, logdir, updates)
      feat = observer(agent)(episode)[1]
      drawn = decoder(tf.gather(feat, index))
      if 'image' not in drawn:
        raise ValueError(
            f"{logdir}: its decoder does not draw 'image'; decoder.cnn_keys "
            f"is '{agent.config.decoder.cnn_keys}'")
      image = drawn['image']
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
  parts = logdir.absolute().parts
  ends = ('/'.join(parts[-i:]) for i in range(1, len(parts)))
  names = [name, *(f'{name} ({x})' for x in ends)]
  return next((x for x in names if x not in taken), names[-1])


def _decoder(agent, logdir, updates):
  """Returns a run's own decoder, its probe's, or one that is fitted here."""
  if 'decoder' in agent.wm.heads:
    return agent.wm.heads['decoder']
  if agent.probe:
    return agent.probe.decoder
  if not updates:
    raise ValueError(
        f'{logdir} has no decoder; train with --probe True, or fit one to '
        f'its frozen features with --fit 1000')
  return fit(agent, logdir, updates).decoder


def load(logdir, episode, best=False):
  """Returns the agent of a run, after checking that the episode fits it.

  Raises:
    ValueError: The run cannot be read, or its observations have other shapes.
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
  obs_space, act_space = episodelib.spaces([own])
  ends = any(x.startswith('wm/heads/discount/') for x in snapshot.arrays)
  # Only the model shows if episodes end.
  obs_space.update(envs.FLAGS if ends else envs.ENDLESS)
  return evaluate.load_agent(config, snapshot, obs_space, act_space)


def observer(agent):
  """Returns a function that infers the states of a whole episode.

  The function maps arrays [T, ...] to the posterior, a dict of [T, ...], and
  to features [T, F]. It leaves the state of the noise generator unchanged.
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

  The newest episode is left out, because it is the one that is drawn.
  """
  count = len(list((logdir / 'train_episodes').glob('*.npz'))) - 1
  count = max(1, min(LIBRARY, count))
  observe, feats, data = observer(agent), [], []
  for episode in evaluate.read_episodes(logdir, count, skip=1):
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
  with loggers.Progress(updates, 0, 'fitting a decoder', 'updates') as bar:
    for _ in range(updates):
      step(draw())
      bar.update(1)
  return probe


def _draw_rows(rows, index, path):
  """Draws images [N, H, W, 3] in labelled rows and saves the picture."""
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
        '\n'.join(map(texts.plot, name.replace(': ', ', ').split(', '))),
        rotation=0, ha='right', va='center', fontsize='small')
  for ax, number in zip(axes[0], index, strict=True):
    ax.set_title(f'step {number}', fontsize='small')
  plots.save(fig, path)


def latents(
    logdir, path, episodes=10, phases=3, by='reward', best=False):
  """Draws the categoricals that indicate the phases best, above the reward.

  Args:
    logdir: Path of a run.
    path: Picture to write.
    episodes: Number of newest stored episodes that the choice is based on;
      the one with the most even phases is drawn.
    phases: Number of phases.
    by: 'reward' sorts all steps by reward and cuts them into equal shares;
      'time' cuts each episode into equal parts.
    best: Take the checkpoint of the best evaluation.

  Returns:
    Notes, as text: the chosen categoricals and how much each one tells.

  Raises:
    ValueError: The run has no categoricals, or its rewards form no phases.
  """
  for name, value, least in (
      ('episodes', episodes, 1), ('phases', phases, 2)):
    if value < least:
      raise ValueError(f'--{name} is {value}; it must be at least {least}')
  stored = evaluate.read_episodes(logdir, episodes)
  agent = load(logdir, stored[0], best)
  kind = agent.config.rssm.latent
  if 'logit' not in agent.wm.rssm.initial(1):
    raise ValueError(
        f'{logdir} has rssm.latent {kind}, which has no categoricals')
  if phases > agent.config.rssm.stoch:
    raise ValueError(
        f'--phases is {phases}, but each has a categorical of its own, of '
        f'which {logdir} has {agent.config.rssm.stoch}')
  # The first row of an episode is the reset, which has no reward.
  observe = observer(agent)
  classes = []
  with loggers.Progress(len(stored), 0, 'inferring', 'episodes') as bar:
    for number, episode in enumerate(stored, 1):
      bar.describe(f'episode {number} of {len(stored)}')
      classes.append(
          tf.argmax(observe(episode)[0]['logit'], -1).numpy()[1:])
      bar.update(1)
  rewards = [x['reward'][1:] for x in stored]
  labels = split(rewards, phases, by)
  chosen = choose(classes, labels)
  shown = int(np.argmax([information(x, x) for x in labels]))
  _draw_classes(
      classes[shown], rewards[shown], labels[shown], chosen,
      agent.config.rssm.discrete, path)
  return [
      f'phase {phase}: variable {variable} tells {nats:.3f} of {most:.3f} '
      f'nats, after subtracting the chance level'
      for phase, (variable, nats, most) in enumerate(chosen, 1)] + [
          f'the variables were chosen by the {len(stored)} newest episodes; '
          f'the one with the most even phases is drawn, its return is '
          f'{rewards[shown].sum():.1f}']


def split(rewards, phases, by='reward'):
  """Returns the phase of every step, a list of arrays [T] that start at 0.

  Raises:
    ValueError: The rewards have too few different values.
  """
  if by == 'time':
    return [np.arange(len(x)) * phases // len(x) for x in rewards]
  together = np.concatenate(rewards)
  edges = np.quantile(together, np.arange(1, phases) / phases)
  # Some reward must lie above every edge, even if many are the greatest.
  edges = np.unique(np.minimum(edges, np.unique(together)[-2:][0]))
  labels = [np.searchsorted(edges, x, 'left') for x in rewards]
  if len(np.unique(np.concatenate(labels))) < phases:
    raise ValueError(
        f'the rewards of these episodes do not fall into {phases} phases of '
        f'similar size; use fewer --phases, or --by time')
  return labels


def information(one, two):
  """Computes the mutual information in nats of two arrays of classes."""
  joint = np.zeros((one.max() + 1, two.max() + 1))
  np.add.at(joint, (one, two), 1)
  joint /= joint.sum()
  outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
  mask = joint > 0
  return float((joint[mask] * np.log(joint[mask] / outer[mask])).sum())


def choose(classes, labels, seed=0):
  """Finds, for each phase, the variable that tells best whether it is on.

  A variable with many classes has some information by chance, and more if the
  variable and the phase change slowly. So the mean information after random
  circular shifts of each episode is subtracted. No variable is chosen twice.

  Args:
    classes: List of int [T, S].
    labels: List of int [T], phases from 0.
    seed: Seed of the shifts.

  Returns:
    For each phase: the variable, its nats, and the nats of a perfect one.
  """
  rng = np.random.default_rng(seed)
  together = np.concatenate(classes)
  shifted = [
      np.concatenate([
          np.roll(x, rng.integers(1, max(2, len(x))), 0) for x in classes])
      for _ in range(SHIFTS)]
  chosen, taken = [], []
  for phase in range(max(x.max() for x in labels) + 1):
    now = (np.concatenate(labels) == phase).astype(int)
    nats = np.array([
        information(together[:, s], now)
        - np.mean([information(x[:, s], now) for x in shifted])
        for s in range(together.shape[1])])
    nats[taken] = -np.inf
    taken.append(int(np.argmax(nats)))
    chosen.append((taken[-1], float(nats[taken[-1]]), information(now, now)))
  return chosen


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
