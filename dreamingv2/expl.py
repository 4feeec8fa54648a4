"""Exploration behaviours, by the names that configs.yaml uses."""

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from . import agent
from .common import dists
from .common import losses
from .common import nets
from .common import other
from .common import tfutils
from .common.config import check_known
from .objectives import overshooting

TINY = 1e-12  # Added to variances.


class Random(tfutils.Module):
  """Acts uniformly at random and learns nothing."""

  def __init__(self, config, act_space, wm, tfstep, reward):
    self._space = act_space

  def actor(self, feat):
    """Returns the uniform distribution over actions for features [N, F]."""
    shape = [feat.shape[0], *self._space.shape]
    if getattr(self._space, 'discrete', False):
      return dists.OneHotDist(tf.zeros(shape))
    return tfd.Independent(tfd.Uniform(-tf.ones(shape), tf.ones(shape)), 1)

  def build(self, outputs):
    """Does nothing: there are no variables."""

  def train(self, start, context, data):
    """Returns no metrics."""
    return {}


class Plan2Explore(tfutils.Module):
  """Seeks states whose successors an ensemble of predictors disagrees on.

  Source: Sekar et al. 2020.
  """

  TARGETS = ('deter', 'embed', 'feat', 'stoch')

  def __init__(self, config, act_space, wm, tfstep, reward):
    check_known('disag_target', config.disag_target, self.TARGETS)
    if config.disag_offset >= config.dataset.length:
      raise ValueError(
          f'disag_offset is {config.disag_offset}; it must be less than '
          f'dataset.length, {config.dataset.length}')
    self.config = config
    self.wm = wm
    self._reward = reward
    self._behavior = agent.ActorCritic(config, act_space, tfstep)
    self.actor = self._behavior.actor
    self._heads = []
    self._opt = tfutils.Optimizer('disag', **config.expl_opt)
    self._extr_norm = other.StreamNorm(**config.expl_reward_norm)
    self._intr_norm = other.StreamNorm(**config.expl_reward_norm)

  def build(self, outputs):
    """Creates the ensemble and its optimiser."""
    size = self._target(outputs).shape[-1]
    self._heads.extend(
        nets.MLP(size, **self.config.expl_head)
        for _ in range(self.config.disag_models))
    self._predict(self._inputs(outputs['feat'], outputs['data']['action']))
    self._opt.build(self._heads)
    self._behavior.build(outputs['feat'][:, 0])

  def train(self, start, context, data):
    """Trains the ensemble on the batch, then the behaviour in imagination.

    Args:
      start: States [B, T, ...].
      context: Outputs of the world model's loss.
      data: Batch that this loss was computed on.

    Returns:
      Metrics.
    """
    offset = self.config.disag_offset
    target = tf.stop_gradient(tf.cast(self._target(context), tf.float32))
    inputs = self._inputs(
        tf.stop_gradient(context['feat']), data['action'])
    mask = overshooting.valid(data['is_first'], offset)[offset]
    if offset:
      inputs, target = inputs[:, :-offset], target[:, offset:]
      mask = mask[:, :-offset]
    with tf.GradientTape() as tape:
      loss = -tf.add_n([
          losses.masked_mean(dist.log_prob(target), mask)
          for dist in self._predict(inputs)])
    metrics = self._opt(tape, loss, self._heads)
    metrics.update(self._behavior.train(
        self.wm, start, data['is_terminal'], self._intr_reward))
    return metrics

  def _target(self, context):
    if self.config.disag_target in ('embed', 'feat'):
      return context[self.config.disag_target]
    return context['post'][self.config.disag_target]

  def _inputs(self, feat, action, axis=1):
    """Concatenates features with the next action if disag_action_cond.

    action[t] led into feat[t]; the one that leads out of it is action[t+1].
    The last one is unknown and set to zero. `axis` is the time axis.
    """
    if not self.config.disag_action_cond:
      return feat
    first, following = tf.split(action, [1, action.shape[axis] - 1], axis)
    following = tf.concat([following, tf.zeros_like(first)], axis)
    return tf.concat([feat, tfutils.cast(following)], -1)

  def _predict(self, inputs):
    return [head(inputs) for head in self._heads]

  def _intr_reward(self, seq):
    """Computes rewards [H+1, N]; action[t] earns reward[t].

        feat[t-1], action[t] -> disagreement[t-1] -> reward[t]

    The advantage of action[t] sums the rewards from t on, so disagreement that
    depends on this action must not come earlier. The action into the start is
    unknown: reward[0] repeats reward[1], and no action is credited with it.
    """
    inputs = self._inputs(seq['feat'], seq['action'], axis=0)
    means = tf.stack([
        tf.cast(dist.mode(), tf.float32) for dist in self._predict(inputs)])
    # The gradient of a standard deviation of 0 would not be finite.
    spread = tf.sqrt(tf.math.reduce_variance(means, 0) + TINY)
    disag = tf.reduce_mean(spread, -1)
    if self.config.disag_action_cond:
      disag = tf.concat([disag[:1], disag[:-1]], 0)
    if self.config.disag_log:
      disag = tf.math.log(disag)
    reward = self.config.expl_intr_scale * self._intr_norm(disag)[0]
    if self.config.expl_extr_scale:
      extr = self._extr_norm(self._reward(seq))[0]
      reward += self.config.expl_extr_scale * extr
    return reward


class ModelLoss(tfutils.Module):
  """Seeks states where a head predicts a high loss of the world model."""

  LOSSES = ('kl',)

  def __init__(self, config, act_space, wm, tfstep, reward):
    check_known('expl_model_loss', config.expl_model_loss, self.LOSSES)
    self.config = config
    self.wm = wm
    self._reward = reward
    self._behavior = agent.ActorCritic(config, act_space, tfstep)
    self.actor = self._behavior.actor
    self._head = nets.MLP([], **config.expl_head)
    self._opt = tfutils.Optimizer('model_loss', **config.expl_opt)
    self._intr_norm = other.StreamNorm(**config.expl_reward_norm)
    self._extr_norm = other.StreamNorm(**config.expl_reward_norm)

  def build(self, outputs):
    """Creates the head and its optimiser."""
    self._head(outputs['feat'])
    self._opt.build([self._head])
    self._behavior.build(outputs['feat'][:, 0])

  def train(self, start, context, data):
    """Trains the head on the batch, then the behaviour in imagination.

    Takes and returns the same as Plan2Explore.train.
    """
    target = tf.stop_gradient(context[self.config.expl_model_loss])
    with tf.GradientTape() as tape:
      dist = self._head(tf.stop_gradient(context['feat']))
      loss = -tf.reduce_mean(dist.log_prob(target))
    metrics = self._opt(tape, loss, [self._head])
    metrics.update(self._behavior.train(
        self.wm, start, data['is_terminal'], self._intr_reward))
    return metrics

  def _intr_reward(self, seq):
    """Computes rewards [H+1, N]: the loss that the head predicts of a state.
    """
    value = self._head(seq['feat']).mode()
    reward = self.config.expl_intr_scale * self._intr_norm(value)[0]
    if self.config.expl_extr_scale:
      extr = self._extr_norm(self._reward(seq))[0]
      reward += self.config.expl_extr_scale * extr
    return reward


def make(config, task_behavior, act_space, wm, tfstep, reward):
  """Returns the behaviour that `config.expl_behavior` names.

  Args:
    config: Whole config.
    task_behavior: ActorCritic that is returned for 'greedy'.
    act_space: Space of actions.
    wm: World model to imagine with.
    tfstep: Variable with the agent step.
    reward: Maps imagined sequences to rewards [H+1, N].

  Raises:
    ValueError: Unknown name.
  """
  name = config.expl_behavior
  if name == 'greedy':
    return task_behavior
  check_known('expl_behavior', name, ['greedy', *BEHAVIORS])
  return BEHAVIORS[name](config, act_space, wm, tfstep, reward)


BEHAVIORS = {
    'ModelLoss': ModelLoss,
    'Plan2Explore': Plan2Explore,
    'Random': Random,
}
