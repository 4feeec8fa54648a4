"""Networks: RSSM, encoder, decoder and MLP heads."""

import math

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from . import distribute
from . import dists
from . import latents
from . import losses
from . import other
from . import spaces
from . import tfutils
from .config import check_known
from .layers import Conv2D, Conv2DTranspose, Dense, get_act
from .tfutils import Module


class EnsembleRSSM(Module):
  """Recurrent state-space model, its prior optionally an ensemble.

  A state is a dict: 'deter' [..., D] (the paper's h), 'stoch' [..., S*C], a
  flat sample (the paper's z), and the statistics of its distribution in
  float32 ('logit', or 'mean' and 'std').

  Time: action[t] is the action that led into embed[t].

      action[t] ----v
      state[t-1] -> deter[t] -> prior[t]
                       |   embed[t]
                       v      v
                     posterior[t] -> state[t]

  With `posterior` 'embed', the posterior's mean depends on embed[t] alone, and
  its standard deviation is the prior's (TPC).

  Source: Okada & Taniguchi 2022, Eq. 1; Hafner et al. 2021.
  """

  def __init__(
      self, ensemble=5, latent='gaussian', stoch=30, deter=200, hidden=200,
      discrete=32, continuous=16, posterior='filter', act='elu', norm='none',
      std_act='softplus', min_std=0.1, unimix=0.0):
    check_known('rssm.posterior', posterior, ('embed', 'filter'))
    if posterior == 'embed' and latent != 'gaussian':
      raise ValueError(
          f'rssm.posterior embed predicts only means; it needs rssm.latent '
          f'gaussian, not {latent}')
    self._ensemble = ensemble
    self._deter = deter
    self._filters = posterior == 'filter'
    self.latent = latents.make(
        latent, stoch, discrete, continuous, std_act, min_std, unimix)
    self._cell = GRUCell(deter, norm='layer')
    layer = dict(act=act, norm=norm)
    self._img_in = Dense(hidden, **layer)
    self._img_out = [Dense(hidden, **layer) for _ in range(ensemble)]
    self._img_dist = [Dense(self.latent.outputs) for _ in range(ensemble)]
    self._obs_out = Dense(hidden, **layer)
    self._obs_dist = Dense(
        self.latent.outputs if self._filters else self.latent.size)

  def initial(self, batch_size):
    """Returns the zero state for a batch of that size."""
    dtype = tfutils.compute_dtype()
    return {
        'deter': tf.zeros([batch_size, self._deter], dtype),
        'stoch': tf.zeros([batch_size, self.latent.size], dtype),
        **self.latent.zeros([batch_size])}

  def observe(self, embed, action, is_first, state=None):
    """Infers the posterior states of sequences.

    Where `is_first` is true, the state before that step and the action into it
    are set to zero. Everything that does not depend on the state is computed
    before or after the scan, for all steps at once.

    Args:
      embed: [B, T, E].
      action: [B, T, A].
      is_first: [B, T] bool.
      state: State before the first step; zeros by default.

    Returns:
      Posterior and prior, dicts of [B, T, ...]. The prior holds statistics
      and 'deter' but no sample.
    """
    B, T = embed.shape[:2]
    state = self.initial(B) if state is None else state
    keep = tfutils.cast(~is_first)[..., None]  # [B, T, 1]
    inputs = {
        'embed': self._project_embed(embed),
        'action': self._project_action(tfutils.cast(action) * keep),
        'keep': keep}
    inputs = {k: _swap(v) for k, v in inputs.items()}
    inputs['noise'] = self.latent.noise([T, B])

    def step(prev, x):
      deter = self._step(
          prev['stoch'] * x['keep'], prev['deter'] * x['keep'], x['action'])
      stats, stoch = self._posterior(deter, x['embed'], x['noise'])
      return {'deter': deter, 'stoch': stoch, **stats}

    post = other.static_scan(step, inputs, state)
    post = {k: _swap(v) for k, v in post.items()}
    prior = {'deter': post['deter'], **self._prior(post['deter'])}
    return post, prior

  def imagine(self, action, state):
    """Predicts states [B, T, ...] from `state` and actions [B, T, A]."""
    action = _swap(action)
    noise = self.latent.noise(action.shape[:2])
    states = other.static_scan(
        lambda prev, x: self.img_step(prev, x['action'], noise=x['noise']),
        {'action': action, 'noise': noise}, state)
    return {k: _swap(v) for k, v in states.items()}

  def get_feat(self, state):
    """Concatenates stoch and deter to [..., F], the input of every head."""
    return tf.concat([state['stoch'], state['deter']], -1)

  def get_dist(self, state):
    """Returns the distribution of 'stoch' given its statistics."""
    return latents.Dist(self.latent, state)

  def obs_step(self, prev_state, prev_action, embed, is_first, sample=True):
    """Updates states by one action and one observation.

    Args:
      prev_state: State of [B, ...].
      prev_action: Action that led into `embed`, [B, A].
      embed: [B, E].
      is_first: [B] bool; where true, previous state and action become zero.
      sample: Whether to sample the stochastic state or to take its mode.

    Returns:
      Posterior state of [B, ...].
    """
    keep = tfutils.cast(~is_first)[:, None]
    deter = self._step(
        prev_state['stoch'] * keep, prev_state['deter'] * keep,
        self._project_action(tfutils.cast(prev_action) * keep))
    noise = self.latent.noise(deter.shape[:-1]) if sample else None
    stats, stoch = self._posterior(deter, self._project_embed(embed), noise)
    return {'deter': deter, 'stoch': stoch, **stats}

  def img_step(self, prev_state, prev_action, sample=True, noise=None):
    """Predicts the next states without observations.

    Args:
      prev_state: State of [N, ...].
      prev_action: Action taken in that state, [N, A].
      sample: Whether to sample the stochastic state or to take its mode.
      noise: Noise for the sample; drawn here by default.

    Returns:
      Prior state of [N, ...].
    """
    deter = self._step(
        prev_state['stoch'], prev_state['deter'],
        self._project_action(tfutils.cast(prev_action)))
    state = {'deter': deter, **self._prior(deter)}
    if sample:
      return self.sample(state, noise)
    return {**state, 'stoch': self.get_dist(state).mode()}

  def sample(self, stats, noise=None):
    """Adds a sample to statistics and 'deter' of [N, ...]; returns states."""
    if noise is None:
      noise = self.latent.noise(stats['deter'].shape[:-1])
    return {**stats, 'stoch': self.get_dist(stats).sample(noise)}

  @property
  def posterior_modules(self):
    """The layers that `posterior` uses, by name."""
    return {'dist': self._obs_dist, 'out': self._obs_out}

  def posterior(self, deter, embed):
    """Computes posterior statistics from [..., D] and [..., E]."""
    stats, _ = self._posterior(deter, self._project_embed(embed), None)
    return stats

  def kl_loss(
      self, post, prior, forward, balance, free, free_avg, dyn=0.0, rep=0.1):
    """Computes the weighted KL divergence in nats.

    dyn * max(KL(sg(post) || prior), free) +
    rep * max(KL(post || sg(prior)), free)

    Args:
      post: Statistics [B, T, ...].
      prior: Statistics [B, T, ...].
      forward: Swap the arguments of the divergence.
      balance: If dyn is 0, the weights are balance and 1 - balance. Then 0.5
        gives the plain divergence, clipped entry by entry, as in DreamerV2.
      free: Free nats of each family of variables.
      free_avg: Clip the mean over the batch instead of each entry.
      dyn: Weight of the side that trains the prior, or 0.
      rep: Weight of the side that trains the posterior.

    Returns:
      Loss, and the divergences [B, T].

    Source: Hafner et al. 2021, Algorithm 2; see `losses.kl_weights`.
    """
    kls, sg = self.latent.kls, _stop
    plain = balance == 0.5 and not dyn
    weights = losses.kl_weights(balance, dyn, rep)
    lhs, rhs = post, prior
    if forward:
      lhs, rhs, weights = prior, post, weights[::-1]

    def clip(parts):
      if free_avg and not plain:
        parts = [distribute.mean(tf.reduce_mean(x)) for x in parts]
      return tf.add_n([tf.reduce_mean(tf.maximum(x, free)) for x in parts])

    if plain:
      return clip(kls(lhs, rhs)), self.latent.kl(lhs, rhs)
    right, left = clip(kls(sg(lhs), rhs)), clip(kls(lhs, sg(rhs)))
    loss = weights[0] * right + weights[1] * left
    return loss, self.latent.kl(lhs, rhs)

  def _project_action(self, action):
    self._img_in.build(self.latent.size, action.shape[-1])
    return self._img_in.part(action, 1)

  def _project_embed(self, embed):
    sizes = [self._deter] if self._filters else []
    self._obs_out.build(*sizes, embed.shape[-1])
    return self._obs_out.part(embed, len(sizes))

  def _step(self, stoch, deter, action):
    """Computes the next deter; `action` is already projected."""
    x = self._img_in.finish(self._img_in.part(stoch, 0) + action)
    return self._cell(x, deter)

  def _posterior(self, deter, embed, noise):
    """Computes statistics and a sample; `embed` is already projected."""
    if self._filters:
      x = self._obs_out.finish(self._obs_out.part(deter, 0) + embed)
      stats = self.latent.stats(self._obs_dist(x))
    else:
      mean = self._obs_dist(self._obs_out.finish(embed))
      std = tf.stop_gradient(self._prior(deter)['std'])
      stats = {'mean': tf.cast(mean, tf.float32), 'std': std}
    dist = self.get_dist(stats)
    return stats, dist.mode() if noise is None else dist.sample(noise)

  def _prior(self, deter):
    """Computes the statistics of a random member, drawn for every step.

    Takes deterministic states of one step, [N, D], or of all, [B, T, D].
    """
    stats = self.prior_ensemble(deter)
    if self._ensemble == 1:
      return stats[0]
    axis = deter.shape.rank - 1
    member = tf.broadcast_to(tf.random.stateless_uniform(
        deter.shape[1:-1], tfutils.next_seed(), 0, self._ensemble, tf.int32),
        deter.shape[:-1])
    return {
        k: tf.gather(tf.stack([s[k] for s in stats], axis), member,
                     axis=axis, batch_dims=axis) for k in stats[0]}

  def prior_ensemble(self, deter):
    """Computes the prior statistics of every member of the ensemble."""
    return [
        self.latent.stats(dist(out(deter)))
        for out, dist in zip(self._img_out, self._img_dist, strict=True)]


class Encoder(Module):
  """Embeds images and vectors into one vector per time step."""

  def __init__(
      self, shapes, cnn_keys='.*', mlp_keys='.*', act='elu', norm='none',
      cnn_depth=48, cnn_kernels=(4, 4, 4, 4),
      mlp_layers=(400, 400, 400, 400)):
    self._shapes = shapes
    self.cnn_keys, self.mlp_keys = spaces.match(
        'encoder', shapes, cnn_keys, mlp_keys)
    self._cnn_depth, self._cnn_kernels = cnn_depth, cnn_kernels
    self._mlp_layers = mlp_layers
    self._layer = dict(act=act, norm=norm)

  def __call__(self, data):
    """Returns embeddings [..., E] of images in [-0.5, 0.5] and vectors."""
    outs = []
    if self.cnn_keys:
      images = tf.concat([data[k] for k in self.cnn_keys], -1)
      batch_shape = images.shape[:-3]
      x = self._cnn(tf.reshape(images, [-1, *images.shape[-3:]]))
      outs.append(tf.reshape(x, [*batch_shape, x.shape[-1]]))
    if self.mlp_keys:
      outs.append(self._mlp([
          tfutils.cast(data[k]) if self._shapes[k]
          else tfutils.cast(data[k])[..., None] for k in self.mlp_keys]))
    return tf.concat(outs, -1)

  def _cnn(self, x):
    x = tfutils.cast(x)
    for i, kernel in enumerate(self._cnn_kernels):
      depth = 2 ** i * self._cnn_depth
      x = self.get(f'conv{i}', Conv2D, depth, kernel, 2, **self._layer)(x)
    return tf.reshape(x, [x.shape[0], -1])

  def _mlp(self, vectors):
    x = tf.concat(vectors, -1)
    for i, width in enumerate(self._mlp_layers):
      x = self.get(f'dense{i}', Dense, width, **self._layer)(x)
    return x


class Decoder(Module):
  """Predicts images and vectors from features: a dict of distributions."""

  def __init__(
      self, shapes, cnn_keys='.*', mlp_keys='.*', act='elu', norm='none',
      cnn_depth=48, cnn_kernels=(5, 5, 6, 6),
      mlp_layers=(400, 400, 400, 400)):
    self._shapes = shapes
    self.cnn_keys, self.mlp_keys = spaces.match(
        'decoder', shapes, cnn_keys, mlp_keys)
    self._cnn_depth, self._cnn_kernels = cnn_depth, cnn_kernels
    self._mlp_layers = mlp_layers
    self._layer = dict(act=act, norm=norm)

  def __call__(self, features):
    """Returns {key: distribution over [..., *shape of the key]}."""
    features = tfutils.cast(features)
    outputs = {}
    if self.cnn_keys:
      outputs.update(self._cnn(features))
    if self.mlp_keys:
      outputs.update(self._mlp(features))
    return outputs

  def _cnn(self, features):
    sizes = [self._shapes[k][-1] for k in self.cnn_keys]
    kernels, depth = self._cnn_kernels, self._cnn_depth
    x = self.get('conv_in', Dense, 32 * depth)(features)
    x = tf.reshape(x, [-1, 1, 1, 32 * depth])
    for i, kernel in enumerate(kernels):
      last = i == len(kernels) - 1
      width = sum(sizes) if last else 2 ** (len(kernels) - i - 2) * depth
      layer = {} if last else self._layer
      x = self.get(f'conv{i}', Conv2DTranspose, width, kernel, 2, **layer)(x)
    shape = self._shapes[self.cnn_keys[0]]
    if tuple(x.shape[1:3]) != tuple(shape[:2]):
      raise ValueError(
          f'decoder.cnn_kernels {tuple(kernels)} produce images of '
          f'{tuple(x.shape[1:3])}, but the environment gives '
          f'{tuple(shape[:2])}; change decoder.cnn_kernels or render_size')
    x = tf.reshape(x, [*features.shape[:-1], *x.shape[1:]])
    means = tf.split(tf.cast(x, tf.float32), sizes, -1)
    return {
        key: tfd.Independent(tfd.Normal(mean, 1.0), 3)
        for key, mean in zip(self.cnn_keys, means, strict=True)}

  def _mlp(self, x):
    for i, width in enumerate(self._mlp_layers):
      x = self.get(f'dense{i}', Dense, width, **self._layer)(x)
    return {
        key: self.get(f'dense_{key}', DistLayer, self._shapes[key])(x)
        for key in self.mlp_keys}


class MLP(Module):
  """Applies dense layers, then a distribution over `shape`."""

  def __init__(self, shape, layers, units, act='elu', norm='none', **out):
    self._layers = layers
    self._units = units
    self._layer = dict(act=act, norm=norm)
    self._out = DistLayer(
        (shape,) if isinstance(shape, int) else tuple(shape), **out)

  def __call__(self, features):
    """Returns the distribution [...] given features [..., F]."""
    return self.dist(self.params(features))

  def params(self, features):
    """Computes the parameters [..., P] of the distribution in float32."""
    x = tfutils.cast(features)
    for i in range(self._layers):
      x = self.get(f'dense{i}', Dense, self._units, **self._layer)(x)
    return self._out.params(x)

  def dist(self, params):
    """Turns parameters into the distribution."""
    return self._out.dist(params)


class GRUCell(Module):
  """GRU with one matrix for all gates, and normalisation before the gates.

  The update gate has a bias of -1 by default, so that it keeps the old state.
  """

  def __init__(self, size, norm='none', act='tanh', update_bias=-1):
    self._size = size
    self._act = get_act(act)
    self._update_bias = update_bias
    self._layer = Dense(3 * size, norm=norm)

  def __call__(self, inputs, state):
    """Computes the next state [N, D] from inputs [N, X] and state [N, D]."""
    layer = self._layer
    layer.build(inputs.shape[-1], self._size)
    gates = layer.finish(layer.part(inputs, 0) + layer.part(state, 1))
    reset, cand, update = tf.split(gates, 3, -1)
    cand = self._act(tf.sigmoid(reset) * cand)
    update = tf.sigmoid(update + self._update_bias)
    return update * cand + (1 - update) * state


class DistLayer(Module):
  """Linear layer whose outputs parameterise a distribution.

  Args:
    shape: Event shape.
    dist: Entry of DISTS.
    min_std: Smallest standard deviation.
    init_std: Added to the output that gives the standard deviation, before it
      is made positive.
    unimix: Share of the uniform distribution in a one-hot one.

  Raises:
    ValueError: `dist` is unknown.
  """

  def __init__(
      self, shape, dist='mse', min_std=0.1, init_std=0.0, unimix=0.0):
    check_known('dist', dist, self.DISTS)
    self._shape = tuple(shape)
    self._count, self._make = self.DISTS[dist]
    self._bins = dist == 'twohot'
    self._min_std = min_std
    self._init_std = init_std
    self._unimix = unimix

  def __call__(self, inputs):
    """Returns the distribution given inputs [..., X]."""
    return self.dist(self.params(inputs))

  def params(self, inputs):
    """Computes the parameters [..., count * size] in float32."""
    size = self._count * math.prod(self._shape)
    out = self.get('out', Dense, size, zero=self._bins)(inputs)
    return tf.cast(out, tf.float32)

  def dist(self, params):
    """Turns parameters into the distribution over the event shape."""
    shape = [*params.shape[:-1], *self._shape]
    if self._bins:  # One tensor instead of one for each bin.
      return self._make(self, tf.reshape(params, [*shape, self._count]))
    parts = tf.split(params, self._count, -1)
    return self._make(self, *[tf.reshape(x, shape) for x in parts])

  def _independent(self, dist):
    return tfd.Independent(dist, len(self._shape))

  def _normal(self, x, std):
    std = tf.nn.softplus(std + self._init_std) + self._min_std
    return self._independent(tfd.Normal(x, std))

  def _tanh_normal(self, x, std):
    # The mean stays within -5..5; beyond that, tanh has almost no gradient.
    std = tf.nn.softplus(std + self._init_std) + self._min_std
    return dists.TanhNormal(5 * tf.tanh(x / 5), std)

  def _trunc_normal(self, x, std):
    std = 2 * tf.sigmoid((std + self._init_std) / 2) + self._min_std
    return dists.TruncNormalDist(tf.tanh(x), std)

  DISTS = {
      'binary': (1, lambda self, x: self._independent(tfd.Bernoulli(x))),
      'mse': (1, lambda self, x: self._independent(tfd.Normal(x, 1.0))),
      'normal': (2, _normal),
      'onehot': (1, lambda self, x: dists.OneHotDist(
          dists.mix_uniform(x, self._unimix))),
      'symlog': (1, lambda self, x: dists.SymlogDist(x, len(self._shape))),
      'tanh_normal': (2, _tanh_normal),
      'trunc_normal': (2, _trunc_normal),
      'twohot': (dists.TwoHotDist.BINS, lambda self, x: dists.TwoHotDist(
          x, len(self._shape))),
  }


def _stop(state):
  return {k: tf.stop_gradient(v) for k, v in state.items()}


def _swap(x):
  """Exchanges batch and time, the first two axes."""
  return tf.transpose(x, [1, 0, *range(2, len(x.shape))])
