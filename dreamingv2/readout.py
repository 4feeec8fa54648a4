"""Reads the simulator's state out of a world model by linear regression.

Shape letters: T rows of an episode, F features, E embedding, M the largest
number of steps ahead.
"""

import collections

import numpy as np
import tensorflow as tf

from .common import ridge
from .common import tfutils
from .objectives.base import measure_variety

AHEAD = (5, 15)  # Steps to predict without observations.
CHECK = 4  # One in so many episodes chooses the penalty of a regression.
FLAGS = ('action', 'reward', 'is_first', 'is_last', 'is_terminal')
GROUP = 8  # Episodes that are encoded together.
METRES = '_m'  # End of the names of positions, see envs.


def represent(wm, episodes, ahead=AHEAD):
  """Infers and predicts the states of whole episodes.

  Args:
    wm: World model; neither it nor the noise generator is changed.
    episodes: Dicts of arrays [T, ...], as the driver hands them on.
    ahead: Numbers of steps k.

  Returns:
    For each episode a dict of float32 arrays: 'embed' [T, E], 'feat' [T, F]
    and 'code' [T, Z] of the posterior, its 'entropy' [T], the 'target' [T]
    that the reward head learns; 'reward' [T], its prediction; and for each k
    'feat_k' [T-M, F] and 'reward_k' [T-M], see `predict`. Those of an episode
    with T <= M are empty.
  """
  groups = collections.defaultdict(list)
  for index, episode in enumerate(episodes):
    groups[len(episode['action'])].append(index)
  result = [{} for _ in episodes]
  with tfutils.keep_generator():
    for indices in groups.values():
      for begin in range(0, len(indices), GROUP):
        part = indices[begin: begin + GROUP]
        batch = tfutils.to_arrays(_represent(wm, {
            k: tf.convert_to_tensor(np.stack([episodes[i][k] for i in part]))
            for k in [*wm.shapes, *FLAGS]}, ahead))
        for row, index in enumerate(part):
          result[index] = {
              k: np.asarray(v[row], np.float32) for k, v in batch.items()}
  return result


def _represent(wm, data, ahead):
  data = wm.preprocess(data)
  embed = wm.encoder(data)
  post, _ = wm.rssm.observe(embed, data['action'], data['is_first'])
  feats = {'': wm.rssm.get_feat(post)}
  feats.update({
      f'_{k}': v for k, v in predict(
          wm.rssm, post, data['action'], ahead).items()})
  return {
      'embed': embed, 'code': wm.rssm.latent.mean(post),
      'entropy': wm.rssm.get_dist(post).entropy(), 'target': data['reward'],
      **{f'feat{k}': v for k, v in feats.items()},
      **{f'reward{k}': wm.heads['reward'](v).mode()
         for k, v in feats.items()}}


def predict(rssm, post, action, ahead):
  """Predicts features from every state under the recorded actions.

      state[t] --action[t+1]--> . --action[t+2]--> . ... --action[t+k]--> .
                                                   feature k, entry t, is
                                                   about row t+k of the episode

  All k have the same starts t = 0, ..., T-M-1, so that they compare.

  Args:
    rssm: RSSM.
    post: Posterior states [B, T, ...].
    action: Actions [B, T, A] that led to the rows.
    ahead: Numbers of steps k; M is the largest.

  Returns:
    {k: features [B, T-M, F]}.
  """
  B, T = action.shape[:2]
  starts = max(0, T - max(ahead))
  flat = lambda x: tf.reshape(x, [B * starts, *x.shape[2:]])
  state, result = {k: flat(v[:, :starts]) for k, v in post.items()}, {}
  for k in range(1, max(ahead) + 1):
    state = rssm.img_step(state, flat(action[:, k: k + starts]))
    if k in ahead:
      feat = rssm.get_feat(state)
      result[k] = tf.reshape(feat, [B, starts, feat.shape[-1]])
  return result


def shift(values, ahead, most):
  """Returns the rows t+k of arrays [T, ...] for t = 0, ..., T-most-1."""
  return values[ahead: ahead + max(0, len(values) - most)]


def score(name, train, test):
  """Fits and scores a linear readout.

  Args:
    name: Name of the vector; whether it is a position in metres.
    train, test: Lists of (inputs [N, F], vectors [N, P]), one per episode.
      Every fourth one of `train` chooses the penalty.

  Returns:
    Dict: 'r2' of the held-out rows, 'entries' (the same of each entry; None if
    it does not vary), and for positions 'mm', the mean distance. None if there
    are no rows.
  """
  train = [x for x in train if len(x[0])]
  test = [x for x in test if len(x[0])]
  if len(train) < 2 or not test:
    return None
  (x, y), (new, truth) = [
      [np.concatenate(z) for z in zip(*part, strict=True)]
      for part in (train, test)]
  every = min(CHECK, len(train))
  check = np.concatenate([
      np.full(len(z), i % every == every - 1)
      for i, (z, _) in enumerate(train)])
  predicted = ridge.Ridge(x, y, check)(new)
  pooled, entries = ridge.r2(truth, predicted)
  plain = lambda x: None if np.isnan(x) else round(x, 6)
  result = {'r2': plain(pooled), 'entries': [plain(x) for x in entries]}
  if name.endswith(METRES):
    gaps = np.linalg.norm(truth - predicted, axis=-1)
    result['mm'] = float(1000 * gaps.mean())
  return result


def state_scores(train, test, ahead=AHEAD):
  """Scores the readouts of all that a simulator told.

  Args:
    train, test: Lists of (what `represent` returned, {name: [T, P]}), one per
      episode.
    ahead: Numbers of steps k.

  Returns:
    {name: {'embed': score, 'now': score, '5': score, ...}}; see `score`.
  """
  most = max(ahead)
  result = {}
  for name in train[0][1] if train else ():
    pick = lambda key, k=0, most=0, name=name: [
        [(x[key], shift(truth[name], k, most)) for x, truth in part]
        for part in (train, test)]
    scores = {
        'embed': score(name, *pick('embed')),
        'now': score(name, *pick('feat')),
        **{str(k): score(name, *pick(f'feat_{k}', k, most)) for k in ahead}}
    result[name] = {k: v for k, v in scores.items() if v}
  return result


def reward_error(parts, key='reward', ahead=0, most=0, where=None):
  """Returns the squared error of predicted rewards over their variance.

  The first row of an episode, a reset, has no reward and does not count.

  Args:
    parts: What `represent` returned for each episode.
    key: Which prediction.
    ahead, most: As in `shift`.
    where: For each episode, bool [T]: the rows that count.

  Returns:
    A number, or None if the rewards do not vary.
  """
  truth, error = [], []
  for index, part in enumerate(parts):
    keep = np.ones(len(part['target']), bool)
    keep = keep if where is None else where[index].copy()
    keep[0] = False
    target, keep = [shift(x, ahead, most) for x in (part['target'], keep)]
    truth.append(target[keep])
    error.append((part[key] - target)[keep])
  truth, error = [
      np.concatenate(x).astype(np.float64) for x in (truth, error)]
  if not len(truth) or truth.var() < 1e-12:
    return None
  return float(np.square(error).mean() / truth.var())


def variety(parts):
  """Returns spread and rank of the codes, and their mean entropy in nats."""
  codes = np.concatenate([x['code'] for x in parts])
  spread, rank = measure_variety(codes)
  entropy = np.concatenate([x['entropy'] for x in parts]).mean()
  return {
      'spread': float(spread), 'rank': float(rank), 'entropy': float(entropy)}
