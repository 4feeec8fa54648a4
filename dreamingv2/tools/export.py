"""Exports the policy of an agent as a SavedModel that needs only TensorFlow.

    import tensorflow as tf
    policy = tf.saved_model.load('policy')
    state = policy.initial_state()
    state = policy.act(image=image[None], is_first=[True], **state)
    action = state['action'][0]  # -1..1, scaled to the bounds
    state = policy.act(image=image[None], is_first=[False], **state)

The policy takes the observations that the encoder reads, each with a batch
size of 1: images are uint8 [1, H, W, C], vectors float32 [1, N]. `is_first`
resets the state.

An exported policy is a program: TensorFlow runs whatever operations the folder
holds. Open only those that you trust.

The folder also has the config.yaml of the run. This command plays the policy
in the environment of that run, without building an agent:

    dreamingv2 evaluate --policy policy --episodes 10
"""

import numpy as np
import tensorflow as tf

from ..common import other
from ..common import tfutils


class Policy(tf.Module):
  """Acts as the agent does in evaluations, in one environment.

  The noise of the latent state comes from a generator that is saved as well.
  """

  def __init__(self, agent):
    super().__init__()
    keys = [*agent.wm.encoder.cnn_keys, *agent.wm.encoder.mlp_keys]
    spec = {
        k: tf.TensorSpec(
            [1, *agent.obs_space[k].shape],
            tfutils.stored_dtype(agent.obs_space[k].dtype), k) for k in keys}
    latent, action = agent.initial_state(1)
    state = {**latent, 'action': action}
    spec['is_first'] = tf.TensorSpec([1], tf.bool, 'is_first')
    spec.update({
        k: tf.TensorSpec(v.shape, v.dtype, k) for k, v in state.items()})
    self.act = tf.function(
        lambda **values: act(agent, keys, values), autograph=False)
    self.initial_state = tf.function(
        lambda: {k: tf.zeros(v.shape, v.dtype) for k, v in state.items()},
        input_signature=[], autograph=False)
    self._traced = self.act.get_concrete_function(**spec)
    # Only these are saved: no decoder, no critic, no optimisers.
    self._kept = list(self._traced.graph.variables)

  @property
  def signatures(self):
    """Functions by name, for programs that serve models."""
    return {
        'serving_default': self._traced,
        'initial_state': self.initial_state.get_concrete_function()}


def act(agent, keys, values):
  """Takes one step and returns the next state, which includes 'action'."""
  wm, config = agent.wm, agent.config
  obs = {k: values[k] for k in keys}
  zero = tf.zeros([1])
  data = wm.preprocess({
      **obs, 'reward': zero, 'is_terminal': tf.zeros([1], tf.bool)})
  latent = {
      k: v for k, v in values.items()
      if k not in obs and k not in ('action', 'is_first')}
  latent = wm.rssm.obs_step(
      latent, values['action'], wm.encoder(data), values['is_first'],
      not config.eval_state_mean)
  action = agent.parts['task_behavior'].actor(wm.rssm.get_feat(latent)).mode()
  if config.eval_noise:
    action = other.action_noise(action, config.eval_noise, agent.act_space)
  return {**latent, 'action': tf.cast(action, tf.float32)}


def save(agent, folder, episode):
  """Writes the policy and checks it against the agent.

  Args:
    agent: Agent; the state of its noise generator is restored afterwards.
    folder: Path of a new or empty folder.
    episode: Arrays [T, ...] of observations to act on.

  Returns:
    Largest difference between the actions of the policy and of the agent.
  """
  policy = Policy(agent)
  tf.saved_model.save(policy, str(folder), policy.signatures)
  ours, state = [], None
  with tfutils.keep_generator():
    for index in range(len(episode['is_first'])):
      obs = {k: episode[k][index: index + 1] for k in agent.obs_space}
      outputs, state = agent.policy(obs, state, 'eval')
      ours.append(outputs['action'])
  theirs = replay(Exported(folder), episode)
  return float(np.abs(np.concatenate(ours) - theirs).max())


class Exported:
  """Loads an exported policy, which can replace an agent in evaluations.

  Args:
    folder: Path of the SavedModel, which must be trusted: it is a program.

  Raises:
    ValueError: The folder has no policy, or it is damaged.
  """

  def __init__(self, folder):
    try:
      self._model = tf.saved_model.load(str(folder))
      signature = self._model.signatures['serving_default']
      state = self._model.initial_state()
      inputs = signature.structured_input_signature[1]
      self._inputs = {
          k: tuple(v.shape) for k, v in inputs.items() if k not in state}
      self._action = tuple(state['action'].shape)
    except Exception as error:  # A model may hold anything.
      raise ValueError(
          f'{folder} is no policy that --export wrote, or is damaged '
          f'({type(error).__name__}: {str(error)[:200]})') from error

  @property
  def keys(self):
    """Names of the observations that the policy reads."""
    return [k for k in self._inputs if k != 'is_first']

  def check(self, obs_space, act_space):
    """Checks that the policy can play in an environment.

    Raises:
      ValueError: Its inputs or actions are of another shape.
    """
    have = {k: (1, *v.shape) for k, v in obs_space.items()}
    for key, shape in self._inputs.items():
      if have.get(key) != shape:
        raise ValueError(
            f'the policy needs {key!r} of the shape {shape}; the environment '
            f'has {have.get(key, "none")}')
    if self._action != (1, *act_space['action'].shape):
      raise ValueError(
          f'the policy has actions of the shape {self._action}; the '
          f'environment takes {(1, *act_space["action"].shape)}')

  def policy(self, obs, state=None, mode='eval'):
    """Acts on observations of one environment; see Agent.policy."""
    state = self._model.act(
        **{k: tf.constant(obs[k]) for k in self._inputs},
        **(state or self._model.initial_state()))
    return {'action': state['action'].numpy()}, state


def replay(policy, episode):
  """Returns the actions [T, A] of an Exported on stored observations."""
  state, actions = None, []
  for index in range(len(episode['is_first'])):
    obs = {k: v[index: index + 1] for k, v in episode.items()}
    outputs, state = policy.policy(obs, state)
    actions.append(outputs['action'])
  return np.concatenate(actions)
