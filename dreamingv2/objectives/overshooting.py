"""Multi-step predictions from every state of a batch.

Shapes: B batch, T time, N = B*T, Z flat latent (S*C for categoricals).
"""

import tensorflow as tf

from ..common import layers
from ..common import tfutils
from ..common.config import check_known


class RSSM(tfutils.Module):
  """Predicts with the world model's own prior; has no variables.

  Source: Okada & Taniguchi 2022, section III-B.
  """

  def __init__(self, latent):
    pass

  def __call__(self, stoch, action, states):
    """Returns the next samples [N, Z]: those that the RSSM has drawn.

    Args:
      stoch: Samples [N, Z] before the step.
      action: Actions [N, A] of the step.
      states: States [N, ...] that the RSSM predicts for after the step.
    """
    return states['stoch']


class Linear(tfutils.Module):
  """Predicts z' = A z + B a; for categoricals, these are logits of a sample.

  Source: Okada & Taniguchi 2022, Table III; the form for categoricals is
  ours, since the paper leaves it open.
  """

  def __init__(self, latent):
    self._latent = latent
    self._layer = layers.Dense(latent.size, bias=False)

  def __call__(self, stoch, action, states):
    """Returns the next samples [N, Z]; see RSSM."""
    x = tf.concat([stoch, tfutils.cast(action)], -1)
    return self._latent.from_vector(self._layer(x))


DYNAMICS = {'linear': Linear, 'rssm': RSSM}


def make(name, latent):
  """Returns the auxiliary dynamics called `name`.

  Raises:
    ValueError: Unknown name.
  """
  check_known('contrastive.dynamics', name, DYNAMICS)
  return DYNAMICS[name](latent)


def valid(is_first, horizon):
  """Returns which predictions stay within the chunk and the episode.

      t        t+1      t+2 ... t+d
      start -> a[t+1] -> a[t+2] -> ...  none of is_first[t+1..t+d] holds

  Args:
    is_first: [B, T] bool.
    horizon: Largest distance in steps.

  Returns:
    Bool [horizon + 1, B, T], indexed by distance d and start t.
  """
  T = is_first.shape[1]
  inside = tf.ones_like(is_first)
  first = tf.cast(is_first, tf.float32)  # A GPU cannot shift booleans.
  masks = [inside]
  for d in range(1, horizon + 1):
    inside = inside & (ahead(first, d) == 0) & (tf.range(T) < T - d)
    masks.append(inside)
  return tf.stack(masks)


def ahead(x, distance):
  """Shifts [B, T, ...] so that index t holds x[t + distance].

  The end wraps around to the start, since zeros are no valid statistics: a
  Gaussian of zero width makes gradients NaN even where they are masked.
  """
  # GPUs cannot roll bools.
  return tf.concat([x[:, distance:], x[:, :distance]], 1)


def predict(rssm, dynamics, post, action, horizon, prior=None):
  """Rolls out from all states of a batch at once, as one batch of B*T.

      t:   post[t] = z_0
      t+1: z_1, prior 1     consumes action[t+1]; given by `prior`
      ...
      t+K: z_K, prior K
      t+K+1:    prior K+1   for the divergence at overshooting index K

  Args:
    rssm: EnsembleRSSM.
    dynamics: Entry of DYNAMICS; the divergences always use the RSSM.
    post: States [B, T, ...] to start from.
    action: [B, T, A].
    horizon: K; with 0 nothing is rolled out.
    prior: Prior statistics [B, T, ...] of these states, each predicted from
      the step before. They save the first step of the roll-out: an update then
      takes 0.95 of the time with deter 1024.

  Returns:
    Latents [K+1] of [B, T, S*C], index d holding the prediction of frame t+d
    from start t; statistics of the priors, a list of K dicts for the
    distances 2..K+1. Entries beyond the chunk or an episode mean nothing, see
    `valid`.

  Source: Okada & Taniguchi 2022, Fig. 2a; Hafner et al. 2019 (PlaNet).
  """
  B, T = action.shape[:2]
  stoch = post['stoch']
  latents, priors = [stoch], []
  if not horizon:
    return latents, priors
  flatten = lambda x: tf.reshape(x, [B * T, *x.shape[2:]])
  restore = lambda x: tf.reshape(x, [B, T, *x.shape[1:]])
  state = {k: flatten(v) for k, v in post.items()}
  stoch = state['stoch']
  for d in range(1, horizon + 2):
    act = flatten(ahead(action, d))
    if d == 1 and prior is not None:
      state = rssm.sample({k: flatten(ahead(v, 1)) for k, v in prior.items()})
    else:
      state = rssm.img_step(state, act)
    if d > 1:
      priors.append({
          k: restore(v) for k, v in state.items()
          if k not in ('deter', 'stoch')})
    if d <= horizon:
      stoch = dynamics(stoch, act, state)
      latents.append(restore(stoch))
  return latents, priors
