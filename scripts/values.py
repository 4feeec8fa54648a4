"""Compares what the critic of a run promises with what came.

    python scripts/values.py --logdir logdir/run --episodes 10

Of the newest training episodes it prints, one line each, in the unit of the
rewards that the model sees, as means over the steps:

    return    undiscounted, in the task's own unit
    reward    what came
    imagined  reward of the states that the policy reaches, in imagination,
              after as many steps as in training; it starts from every seventh
              step
    then      reward that came so many steps after those
    critic    what the critic says of the inferred states
    came      discounted sum of the rewards until the end of the episode; after
              a time limit, the mean of the last 50 steps goes on forever

The last line has the means over all episodes, and the correlation of `critic`
and `came` over all steps. The policy changed during these episodes, and the
critic knows the newest one, so small differences mean nothing.
"""

import argparse

import numpy as np

from dreamingv2.common import command
from dreamingv2.common import guards
from dreamingv2.common import identity
from dreamingv2.tools import evaluate

CRITIC = 'task_behavior/critic/'
SKIP = 7
REST = 50
COLUMNS = ('return', 'reward', 'imagined', 'then', 'critic', 'came')


def main(argv=None):
  """Prints the table of a run."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--logdir', type=command.path, required=True)
  parser.add_argument('--episodes', type=int, default=10)
  args = parser.parse_args(argv)
  if args.episodes < 1:
    parser.error(f'--episodes is {args.episodes}; it must be at least 1')
  with guards.user_errors():
    config = evaluate.load_config(args.logdir)
    if config.discount == 1:
      raise ValueError(
          f'{args.logdir} has a discount of 1: endless rewards have no sum')
    episodes = evaluate.read_episodes(args.logdir, args.episodes)[::-1]
    snapshot = evaluate.read_checkpoint(args.logdir)
    agent = evaluate.restore(
        config, snapshot, *identity.agent_spaces(identity.read(args.logdir)))
    if missing := [k for k in agent.save() if k.startswith(CRITIC)
                   and k not in snapshot.arrays]:
      raise ValueError(
          f'the checkpoint lacks {missing[0]}: another version wrote it; '
          f'resume the run once, or use that version')
  measured = [measure(agent, x) for x in episodes]
  print(*(f'{x:>9}' for x in COLUMNS))
  for row in measured:
    print(*(f'{np.mean(row[x]):9.2f}' for x in COLUMNS))
  flat = {x: np.concatenate([row[x] for row in measured]) for x in COLUMNS}
  same = np.corrcoef(flat['critic'], flat['came'])[0, 1]
  print(
      *(f'{np.mean(flat[x]):9.2f}' for x in COLUMNS),
      f'  mean; correlation {same:.2f}')


def measure(agent, episode):
  """Returns arrays by column of one episode, the returns of one entry."""
  import tensorflow as tf
  wm, behavior, config = agent.wm, agent.parts['task_behavior'], agent.config
  keys = [*wm.shapes, 'action', 'reward', 'is_first', 'is_terminal']
  data = wm.preprocess({
      k: tf.convert_to_tensor(episode[k][None]) for k in keys})
  post, _ = wm.rssm.observe(
      wm.encoder(data), data['action'], data['is_first'])
  reward, horizon = data['reward'][0].numpy(), config.imag_horizon
  starts = np.arange(0, max(1, len(reward) - horizon), SKIP)
  seq = wm.imagine(
      behavior.actor, {k: tf.gather(v, starts, axis=1)
                       for k, v in post.items()}, None, horizon)
  end = 0.0 if episode['is_terminal'][-1] else reward[-REST:].mean() / (
      1 - config.discount)
  return {
      'return': episode['reward'].sum(keepdims=True), 'reward': reward,
      'imagined': agent._reward(seq)[-1].numpy(),
      'then': reward[np.minimum(starts + horizon, len(reward) - 1)],
      'critic': behavior.critic(wm.rssm.get_feat(post)).mode()[0].numpy(),
      'came': to_come(reward, config.discount, end)}


def to_come(reward, discount, end):
  """Returns sum_k discount^k reward[t+k] for every t, [T], k = 0, 1, ...

  As in ActorCritic.target, the reward of a state is part of its value.

  Args:
    reward: [T]; that of a step came with its state.
    discount: Less than 1.
    end: What comes after the last state.
  """
  result = np.empty(len(reward))
  for t in reversed(range(len(reward))):
    result[t] = end = reward[t] + discount * end
  return result


if __name__ == '__main__':
  main()
