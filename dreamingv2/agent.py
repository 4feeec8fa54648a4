"""The agent: world model, and behaviours learned in its imagination.

Shape letters: B batch, T time, A action, D deter, S stoch, C classes,
F = D + S*C feature, H imagination horizon, N = B*T starts.
"""

import functools

import numpy as np
import tensorflow as tf

from . import expl
from . import objectives
from . import probe
from .common import critics
from .common import losses
from .common import nets
from .common import other
from .common import own
from .common import spaces
from .common import tfutils
from .common.checkpoint import assign_report
from .common.config import check_known
from .common.tfutils import Module

HEADS = ('reward', 'discount')
CLIP_REWARDS = {'identity': lambda x: x, 'sign': tf.sign, 'tanh': tf.tanh}


class Agent(Module):
  """Acts, and learns from batches of replayed sequences.

  Args:
    config: Config.
    obs_space: Observation key to Gymnasium space.
    act_space: Dict with the space of 'action', a Box in -1..1, or one-hot
      with the attribute `discrete`.
    step: Counter of agent steps.
  """

  def __init__(self, config, obs_space, act_space, step):
    self.config = config = own.fit(config, obs_space)
    self.obs_space = obs_space
    self.act_space = act_space['action']
    self.step = step
    self.tfstep = tf.Variable(int(step), dtype=tf.int64, trainable=False)
    self.generator = tfutils.generator()
    self.wm = WorldModel(config, obs_space)
    self._task_behavior = ActorCritic(config, self.act_space, self.tfstep)
    self._expl_behavior = expl.make(
        config, self._task_behavior, self.act_space, self.wm, self.tfstep,
        self._reward)
    self.probe = probe.Probe(config, self.wm.shapes) if config.probe else None
    self.parts = {  # The names are those in checkpoints.
        'wm': self.wm, 'task_behavior': self._task_behavior,
        'expl_behavior': self._expl_behavior, 'probe': self.probe}
    wrap = tfutils.compile if config.jit else (lambda fn, xla=0: fn)
    self.functions = {
        'train': wrap(tfutils.split(self._train_step), xla=config.xla),
        'report': wrap(self._report_step)}
    self.policies = {
        mode: wrap(functools.partial(self._policy_step, mode=mode))
        for mode in ('eval', 'explore', 'train')}
    self._build()

  def policy(self, obs, state=None, mode='train'):
    """Chooses actions.

    Args:
      obs: Observations [N, ...], images uint8.
      state: State that the last call returned, or None at the start.
      mode: 'train' samples; 'explore' samples from the exploration behaviour;
        'eval' takes the mode.

    Returns:
      Dict with 'action', float32 NumPy [N, A], and the next state.
    """
    if state is None:
      state = self.initial_state(len(obs['is_first']))
    outputs, state = self.policies[mode](self._tensors(obs), state)
    return {k: v.numpy() for k, v in outputs.items()}, state

  def initial_state(self, batch_size):
    """Returns the acting state before the first observation."""
    action = tf.zeros([batch_size, *self.act_space.shape])
    return self.wm.rssm.initial(batch_size), action

  def train(self, data, state=None):
    """Takes one gradient step for the world model and for each behaviour.

    Args:
      data: Batch [B, T, ...], images uint8.
      state: Model state before the batch; zeros by default.

    Returns:
      Model state after the batch, and metrics as scalar tensors.
    """
    if state is None:
      state = self.wm.rssm.initial(len(data['is_first']))
    return self.functions['train'](self._tensors(data), state)

  def _tensors(self, arrays):
    # For schedules. TensorFlow keeps a tensor of each Python number it sees.
    self.tfstep.assign(np.int64(int(self.step)))
    return {k: tf.convert_to_tensor(v) for k, v in arrays.items()}

  def report(self, data):
    """Returns images and videos of the model's predictions, in NumPy."""
    return tfutils.to_arrays(self.functions['report'](self._tensors(data)))

  def save(self):
    """Returns {path: NumPy array} of all variables."""
    return {k: np.asarray(v.numpy()) for k, v in self._variables().items()}

  def load(self, arrays):
    """Assigns all variables, given what `save` returned.

    Raises:
      ValueError: Paths or shapes differ from this agent's.
    """
    variables = self._variables()
    shapes = {k: tuple(v.shape) for k, v in variables.items()}
    if report := assign_report(shapes, arrays):
      raise ValueError(
          f'the checkpoint belongs to another model ({report}); use the '
          f'config of the run that wrote it')
    for key, variable in variables.items():
      variable.assign(arrays[key])

  def _variables(self):
    """Maps paths to variables; a shared one has its world model path."""
    paths = {'generator': self.generator.state}
    for name, part in self.parts.items():
      known = {v.ref() for v in paths.values()}
      part = tfutils.named_variables(part, name)
      paths.update({k: v for k, v in part.items() if v.ref() not in known})
    return paths

  def _reward(self, seq):
    return self.wm.heads['reward'](seq['feat']).mode()

  def _policy_step(self, obs, state, mode):
    latent, action = state
    data = self.wm.preprocess(obs)
    embed = self.wm.encoder(data)
    sample = mode != 'eval' or not self.config.eval_state_mean
    latent = self.wm.rssm.obs_step(
        latent, action, embed, obs['is_first'], sample)
    feat = self.wm.rssm.get_feat(latent)
    explore = mode == 'explore'
    behavior = self._expl_behavior if explore else self._task_behavior
    dist = behavior.actor(feat)
    action = dist.mode() if mode == 'eval' else dist.sample(
        seed=tfutils.next_seed())
    noise = self.config[{'eval': 'eval_noise'}.get(mode, 'expl_noise')]
    if noise:
      action = other.action_noise(action, noise, self.act_space)
    action = tf.cast(action, tf.float32)
    return {'action': action}, (latent, action)

  def _train_step(self, data, state):
    state, outputs, metrics = self.wm.train(data, state)
    start, data = outputs['post'], outputs['data']
    metrics.update(self._task_behavior.train(
        self.wm, start, data['is_terminal'], self._reward))
    if self._expl_behavior is not self._task_behavior:
      expl_metrics = self._expl_behavior.train(start, outputs, data)
      metrics.update({f'expl_{k}': v for k, v in expl_metrics.items()})
    if self.probe:
      metrics.update(self.probe.train(outputs))
    return state, metrics

  def _report_step(self, data):
    videos = self.wm.objective.report(self.wm, data)
    if self.probe:
      videos.update(self.probe.report(self.wm, data))
    return videos

  def _build(self):
    """Creates all variables by one eager pass over a sequence of zeros."""
    outputs = self.wm.build(tfutils.zeros(
        {**self.obs_space, 'action': self.act_space}, 1,
        self.config.dataset.length))
    self._task_behavior.build(outputs['feat'][:, 0])
    if self._expl_behavior is not self._task_behavior:
      self._expl_behavior.build(outputs)
    if self.probe:
      self.probe.build(outputs)


class WorldModel(Module):
  """Encoder, RSSM, heads, the objective that trains them, and an optimiser."""

  def __init__(self, config, obs_space):
    self.config = config
    self.shapes = {
        k: v.shape for k, v in obs_space.items() if k not in spaces.FLAGS}
    self.rssm = nets.EnsembleRSSM(**config.rssm)
    self.encoder = nets.Encoder(self.shapes, **config.encoder)
    self.heads = {'reward': nets.MLP([], **config.reward_head)}
    if config.pred_discount and obs_space['is_terminal'].high:
      self.heads['discount'] = nets.MLP([], **config.discount_head)
    self.objective = objectives.make(config, self.rssm.latent, self.shapes)
    assert not self.heads.keys() & self.objective.heads.keys()
    self.heads.update(self.objective.heads)
    for name in config.grad_heads:
      check_known('grad_heads', name, HEADS)
    check_known('clip_rewards', config.clip_rewards, CLIP_REWARDS)
    self.rewnorm = other.StreamNorm(**config.replay_reward_norm)
    self.model_opt = tfutils.Optimizer('model', **config.model_opt)

  @property
  def modules(self):
    """Modules that the model optimiser updates."""
    return {
        'encoder': self.encoder, 'rssm': self.rssm, 'heads': self.heads,
        'objective': list(self.objective.modules)}

  def build(self, data):
    """Creates the variables; returns the outputs of `loss` on `data`."""
    _, _, outputs, _ = self.loss(data)
    self.model_opt.build(self.modules)
    self.objective.update(self)
    return outputs

  def train(self, data, state=None):
    """Takes one gradient step.

    Returns:
      State after the batch, outputs ('data': the augmented batch), metrics.
    """
    self.rewnorm.update(self._clip_reward(data))
    with tf.GradientTape() as tape:
      loss, state, outputs, metrics = self.loss(data, state)
    metrics.update(self.model_opt(tape, loss, self.modules))
    self.objective.update(self)
    return state, outputs, metrics

  def loss(self, data, state=None):
    """Computes the weighted sum of all losses of a batch [B, T, ...].

    Returns:
      Loss, a float32 scalar, state after the batch, outputs, metrics.
    """
    data = self.objective.augment(self.preprocess(data))
    views = self.objective.views
    if state is not None and views > 1:
      state = {k: tf.concat([v] * views, 0) for k, v in state.items()}
    embed = self.encoder(data)
    post, prior = self.rssm.observe(
        embed, data['action'], data['is_first'], state)
    feat = self.rssm.get_feat(post)
    terms, scales = self.likelihoods(feat, data)
    kl_loss, kl = self.objective.kl_loss(self, data, post, prior)
    extra, metrics = self.objective.loss(self, data, embed, post, prior)
    terms = losses.merge(terms, {'kl': kl_loss, **extra})
    loss = losses.weighted_sum(
        terms, self.config.loss_scales, scales, self.config.objective)
    entropy = lambda state: self.rssm.get_dist(state).entropy()
    metrics.update({f'{k}_loss': v for k, v in terms.items()})
    means = dict(
        model_kl=kl, prior_ent=entropy(prior), post_ent=entropy(post))
    metrics.update({k: tf.reduce_mean(v) for k, v in means.items()})
    outputs = dict(
        data=data, embed=embed, feat=feat, post=post, prior=prior, kl=kl)
    size = embed.shape[0] // views
    state = {k: v[:size, -1] for k, v in post.items()}
    return loss, state, outputs, metrics

  def imagine(self, policy, start, is_terminal, horizon):
    """Imagines trajectories under the policy from all states of a batch.

    Time: action[0] is zero, action[t] leads into state t.

        start = state 0 --action[1]--> state 1 ... --action[H]--> state H

    The policy is evaluated once per step; its parameters are kept, so that
    no loss has to evaluate it again.

    Args:
      policy: MLP whose distribution is over actions.
      start: States [B, T, ...].
      is_terminal: Bool [B, T], whether the episode ended there, or None.
      horizon: H.

    Returns:
      Dict: 'feat' [H+1, N, F], 'action' [H+1, N, A], 'policy' [H, N, P],
      'discount' and 'weight' [H+1, N].
    """
    flatten = lambda x: tf.reshape(x, [-1, *x.shape[2:]])
    state = {k: flatten(v) for k, v in start.items()}
    feats, actions, params = [self.rssm.get_feat(state)], [], []
    noise = self.rssm.latent.noise([horizon, feats[0].shape[0]])
    seeds = tf.unstack(tf.random.split(tfutils.next_seed(), horizon))
    # A TensorFlow loop would compute the gradients of its weights, too.
    for t in range(horizon):
      params.append(policy.params(tf.stop_gradient(feats[-1])))
      action = policy.dist(params[-1]).sample(seed=seeds[t])
      actions.append(tf.cast(action, tf.float32))
      state = self.rssm.img_step(state, action, noise=noise[t])
      feats.append(self.rssm.get_feat(state))
    seq = {
        'feat': tf.stack(feats),
        'action': tf.stack([tf.zeros_like(actions[0]), *actions]),
        'policy': tf.stack(params)}
    seq['discount'] = self._discounts(seq['feat'], is_terminal)
    # The weight of a state is the probability that imagination reached it.
    seq['weight'] = tf.math.cumprod(seq['discount'], 0, exclusive=True)
    return seq

  def preprocess(self, obs):
    """Scales images to -0.5..0.5, clips and scales rewards, adds discounts.

    The world model and the behaviours see only these rewards.
    """
    data = {}
    for key, value in obs.items():
      if value.dtype == tf.uint8:
        value = tfutils.cast(value) / 255.0 - 0.5
      elif value.dtype.is_integer:
        value = tf.cast(value, tf.float32)
      data[key] = value
    data['reward'] = self.rewnorm.transform(self._clip_reward(data))
    data['discount'] = self.config.discount * (
        1.0 - tf.cast(data['is_terminal'], tf.float32))
    return data

  def _clip_reward(self, data):
    return CLIP_REWARDS[self.config.clip_rewards](data['reward'])

  def likelihoods(self, feat, data):
    """Computes -log p for each output of the heads, and names its scale."""
    terms, scales = {}, {}
    grad_heads = {*self.config.grad_heads, *self.objective.heads}
    for name, head in self.heads.items():
      inputs = feat if name in grad_heads else tf.stop_gradient(feat)
      dists = head(inputs)
      dists = dists if isinstance(dists, dict) else {name: dists}
      for key, dist in dists.items():
        target = tf.cast(data[key], tf.float32)
        terms[key] = -tf.reduce_mean(dist.log_prob(target))
        scales[key] = name
    return terms, scales

  def _discounts(self, feat, is_terminal):
    if 'discount' not in self.heads:
      return self.config.discount * tf.ones(feat.shape[:-1])
    disc = self.heads['discount'](feat).mean()
    if is_terminal is None:
      return disc
    # The data says whether the episode ended at the start: no prediction.
    first = 1.0 - tf.cast(tf.reshape(is_terminal, [1, -1]), tf.float32)
    return tf.concat([self.config.discount * first, disc[1:]], 0)


class ActorCritic(Module):
  """Learns a policy and its value from imagined trajectories."""

  def __init__(self, config, act_space, tfstep):
    self.config = config
    self.act_space = act_space
    self.tfstep = tfstep
    discrete = getattr(act_space, 'discrete', False)
    dist = other.actor_dist(config.actor.dist, discrete)
    auto = 'reinforce' if discrete else 'dynamics'
    self._grad = {'auto': auto}.get(config.actor_grad, config.actor_grad)
    check_known('actor_grad', self._grad, ('both', 'dynamics', 'reinforce'))
    for text in (config.actor_ent, config.actor_grad_mix):
      other.schedule(text, 0)  # Raises an error now, not in training.
    self.actor = nets.MLP(act_space.shape[0], **{**config.actor, 'dist': dist})
    self.critic = critics.make(**config.critic)
    if config.slow_target:
      self._target_critic = critics.make(**config.critic)
      self._follow = tfutils.SlowCopy(
          config.slow_target_fraction, config.slow_target_update)
    else:
      self._target_critic = self.critic
    self.actor_opt = tfutils.Optimizer('actor', **config.actor_opt)
    self.critic_opt = tfutils.Optimizer('critic', **config.critic_opt)
    self.rewnorm = other.StreamNorm(**config.reward_norm)
    self.retnorm = other.return_norm(**config.return_norm)

  def build(self, feat):
    """Creates the variables, given features [N, F]."""
    for net in (self.actor, self.critic, self._target_critic):
      net(feat)
    self.actor_opt.build([self.actor])
    self.critic_opt.build([self.critic])
    self.update_slow_target()

  def train(self, world_model, start, is_terminal, reward_fn):
    """Takes one gradient step of actor and critic.

    Args:
      world_model: WorldModel, which this does not train.
      start: States [B, T, ...] to imagine from.
      is_terminal: Bool [B, T].
      reward_fn: Maps imagined sequences to rewards [H+1, N].

    Returns:
      Metrics.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
      tape.watch(tfutils.trainable([self.actor]))
      seq, target, metrics = self.dream(
          world_model, start, is_terminal, reward_fn)
      actor_loss, actor_metrics = self.actor_loss(seq, target)
    with tf.GradientTape() as critic_tape:
      critic_loss, critic_metrics = self.critic_loss(seq, target)
    metrics.update({**actor_metrics, **critic_metrics})
    metrics.update(self.actor_opt(tape, actor_loss, [self.actor]))
    metrics.update(self.critic_opt(critic_tape, critic_loss, [self.critic]))
    self.update_slow_target()
    return metrics

  def dream(self, world_model, start, is_terminal, reward_fn):
    """Imagines as in `train`; returns sequences, targets and metrics."""
    start = other.draw(
        {**start, 'is_terminal': is_terminal}, self.config.imag_starts)
    seq = world_model.imagine(
        self.actor, start, start.pop('is_terminal'), self.config.imag_horizon)
    seq['reward'], norm = self.rewnorm(reward_fn(seq))
    target, metrics = self.target(seq)
    metrics.update({f'reward_{k}': v for k, v in norm.items()})
    return seq, target, metrics

  def actor_loss(self, seq, target):
    """Computes the policy loss.

        state     0      1      2      3 = H
        action    0      a1     a2     a3
        target    t0     t1     t2
        loss      l0     l1                  l[t] uses policy(state t),
                                             a[t+1] and target t+1

    Target 0 is dropped, since the action into state 0 was not imagined.

    Source: Hafner et al. 2021, Eq. 6; `return_norm`: see other.ReturnNorm.
    """
    policy = self.actor.dist(seq['policy'][:-1])
    metrics, mix = {}, None
    if self._grad == 'both':
      mix = other.schedule(self.config.actor_grad_mix, self.tfstep)
      metrics['actor_grad_mix'] = mix
    if self._grad != 'dynamics':
      baseline = self._target_critic(seq['feat'][:-2]).mode()
      advantage = tf.stop_gradient(target[1:] - baseline)
      # In `both`, log_prob also passes gradient to the action: DreamerV2.
      stop = tf.stop_gradient if self._grad == 'reinforce' else tf.identity
      score = policy.log_prob(stop(seq['action'][1:-1])) * advantage
    objective = {
        'both': lambda: mix * target[1:] + (1 - mix) * score,
        'dynamics': lambda: target[1:],
        'reinforce': lambda: score}[self._grad]()
    if self.retnorm:
      metrics['return_range'] = scale = self.retnorm(target)
      objective /= scale
    entropy = policy.entropy()
    scale = other.schedule(self.config.actor_ent, self.tfstep)
    objective += scale * entropy
    weight = tf.stop_gradient(seq['weight'])
    metrics.update(actor_ent=tf.reduce_mean(entropy), actor_ent_scale=scale)
    return -tf.reduce_mean(weight[:-2] * objective), metrics

  def critic_loss(self, seq, target):
    """Computes the value loss; target 0 counts here, unlike in `actor_loss`.

        state     0      1      2      3 = H
        target    t0     t1     t2
        loss      l0     l1     l2           l[t] = -log p(t[t] | state t)
    """
    weight = tf.stop_gradient(seq['weight'][:-1])
    dist = self.critic(tf.stop_gradient(seq['feat'][:-1]))
    loss = -tf.reduce_mean(weight * dist.log_prob(tf.stop_gradient(target)))
    return loss, {'critic': tf.reduce_mean(dist.mode())}

  def target(self, seq):
    """Computes lambda returns [H, N] with the target critic.

        state     0      1      2      3 = H
        reward    r0     r1     r2
        discount  d0     d1     d2
        value     v0     v1     v2     v3
        target    t0     t1     t2     v3    t[t] = r[t] + d[t] * (
                           (1 - lambda) * v[t+1] + lambda * t[t+1])
    """
    value = self._target_critic(seq['feat']).mode()
    target = other.lambda_return(
        seq['reward'][:-1], value[:-1], seq['discount'][:-1], value[-1],
        self.config.discount_lambda)
    return target, {
        'critic_slow': tf.reduce_mean(value),
        'critic_target': tf.reduce_mean(target)}

  def update_slow_target(self):
    """Updates the target critic once in `slow_target_update` calls."""
    if self.config.slow_target:
      self._follow(self.critic, self._target_critic)
