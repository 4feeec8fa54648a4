"""Records demonstrations of Lift, made by a script, as an HDF5 file.

    python scripts/record_lift.py --episodes 20 --out demos.hdf5

The policy is the scripted one of the bench. robosuite's own recorder
(DataCollectionWrapper) writes states and actions, and its own function gathers
them as it does for a person's.
"""

import argparse
import json
import shutil
import sys
import tempfile

import numpy as np

from dreamingv2.common import command
from dreamingv2.common.suites import scripted

SIZE = 4  # Entries of an action of OSC_POSITION: the hand's way, the gripper.


def main(argv=None):
  """Records as many episodes as the command line says."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=command.path, required=True)
  parser.add_argument('--episodes', type=int, default=20)
  parser.add_argument('--horizon', type=int, default=200)
  parser.add_argument('--repeat', type=int, default=2)
  parser.add_argument('--noise', type=float, default=0.1)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  lifted = record(**vars(args))
  print(f'{args.out}: {sum(lifted)} of {args.episodes} episodes lift the cube')


def record(out, episodes, horizon=200, repeat=2, noise=0.1, seed=0):
  """Writes an HDF5 file with those episodes that lift the cube.

  Args:
    out: Path of the file.
    episodes: Number of episodes.
    horizon: Control steps of an episode.
    repeat: Control steps for which an action stays, as --action_repeat does.
    noise: Standard deviation of the noise on the movements.
    seed: Seed of places and noise.

  Returns:
    For each episode, whether it lifts the cube.
  """
  from robosuite.scripts import collect_human_demonstrations as recorder
  from robosuite.wrappers import DataCollectionWrapper
  random = np.random.default_rng(seed)
  settings = make_settings()
  with tempfile.TemporaryDirectory() as folder:
    env = DataCollectionWrapper(make(settings, seed), f'{folder}/raw')
    lifted = [
        play(env, horizon, repeat, noise, random) for _ in range(episodes)]
    env.close()
    recorder.gather_demonstrations_as_hdf5(
        f'{folder}/raw', folder, json.dumps(settings))
    shutil.copyfile(f'{folder}/demo.hdf5', out)
  return lifted


def make_settings():
  """Returns what robosuite's recorder notes about an environment."""
  from robosuite import controllers
  config = controllers.load_composite_controller_config(robot='Panda')
  arm = config['body_parts']['right']
  config['body_parts']['right'] = {
      **controllers.load_part_controller_config(
          default_controller='OSC_POSITION'), 'gripper': arm['gripper']}
  return {
      'env_name': 'Lift', 'robots': ['Panda'], 'controller_configs': config}


def make(settings, seed):
  """Makes the environment of the recorder, without a camera."""
  import robosuite
  return robosuite.make(
      **settings, seed=seed, has_renderer=False, has_offscreen_renderer=False,
      use_camera_obs=False, ignore_done=True, reward_shaping=True,
      control_freq=20)


def play(env, horizon, repeat, noise, random):
  """Plays one episode; returns whether the cube was lifted at its end."""
  obs, policy = env.reset(), scripted.make('robosuite', 'Lift', SIZE)
  for _ in range(horizon // repeat):
    action = policy(
        {'gripper_m': obs['robot0_eef_pos'], 'cube_m': obs['cube_pos']})
    noisy = action[:3] + noise * random.normal(size=3)
    action[:3] = np.clip(noisy, -1, 1)
    for _ in range(repeat):
      obs, _, _, _ = env.step(action)
  return bool(env._check_success())


if __name__ == '__main__':
  sys.exit(main())
