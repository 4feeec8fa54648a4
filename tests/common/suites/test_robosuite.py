import functools
import json
import pathlib
import sys
import types

import numpy as np
import pytest

from dreamingv2.common import envs
from dreamingv2.common import suites
from dreamingv2.common.suites import robosuite


def start(constructor):
  return envs.Async(constructor, environ=suites.prepare('robosuite'))


@pytest.fixture
def make():
  """Starts tasks in workers and closes them after the test."""
  made = []

  def make(task, **options):
    made.append(start(
        functools.partial(suites.make, 'robosuite', task, **options)))
    return made[-1]
  yield make
  for env in made:
    env.close()


def test_tasks_are_those_of_robosuite():
  def offered():
    import robosuite
    from robosuite.robots import ROBOT_CLASS_MAPPING
    return sorted(robosuite.ALL_ENVIRONMENTS), sorted(ROBOT_CLASS_MAPPING)
  env = start(lambda: types.SimpleNamespace(
      obs_space=offered(), close=lambda: None))
  tasks, robots = env.obs_space
  env.close()
  assert robosuite.tasks() == tasks and 'TwoArmPegInHole' in tasks
  assert sorted(robosuite._built_in_robots()) == robots


def test_image_and_physics_are_those_of_robosuite(make):
  def play():
    robosuite._import()
    import robosuite as library
    from robosuite import macros
    macros.IMAGE_CONVENTION = 'opencv'
    env = library.make(
        'Lift', robots='Panda', seed=4, hard_reset=False, renderer='mujoco',
        camera_heights=64, camera_widths=64, reward_shaping=True)
    env.reset()
    obs, rewards = env.reset(), []
    for _ in range(3):
      step = env.step(np.full(7, 0.5))
      rewards.append(step[1])
    return obs['agentview_image'], step[0]['agentview_image'], rewards
  reference = start(lambda: types.SimpleNamespace(
      obs_space=play(), close=lambda: None))
  ours = make('Lift', seed=4)
  first = ours.reset()()
  steps = [
      ours.step({'action': np.full(7, 0.5, np.float32)})() for _ in range(3)]
  before, after, rewards = reference.obs_space
  reference.close()
  assert np.array_equal(first['image'], before)
  assert np.array_equal(steps[-1]['image'], after)
  assert np.allclose([x['reward'] for x in steps], rewards, 1e-6)


def test_horizon_is_last_but_not_terminal(make):
  door = make('Door', horizon=5, action_repeat=2, proprio=True)
  peg = make('PegInHole', controller='JOINT_VELOCITY', render='light')
  door.reset()()
  obs = [door.step({'action': np.zeros(7, np.float32)})() for _ in range(3)]
  assert [x['is_last'] for x in obs] == [False, False, True]
  assert not any(x['is_terminal'] for x in obs)
  assert door.reset()()['is_first']
  assert {k for k, v in door.obs_space.items() if len(v.shape) == 1} == {
      'robot0', 'object'}
  assert obs[0]['robot0'].dtype == np.float32
  # Two arms of seven joints, without grippers.
  assert peg.act_space['action'].shape == (14,)


def test_success_at_any_control_step_of_a_repeated_action_counts():
  def play():
    from dreamingv2.common.suites import robosuite
    env = robosuite.make('Lift', size=(8, 8), action_repeat=2)
    env.reset()
    found = [env.success()]
    env._env._check_success = lambda: env._env.timestep in (1, 4)
    for _ in range(3):
      env.step({'action': np.zeros(env.act_space['action'].shape)})
      found.append(env.success())
    return found
  env = start(lambda: types.SimpleNamespace(
      obs_space=play(), close=lambda: None))
  assert env.obs_space == [False, True, True, False]
  env.close()


def test_joint_velocity_follows_the_command():
  def play():
    from dreamingv2.common.suites import robosuite
    env = robosuite.make('Lift', controller='JOINT_VELOCITY', size=(8, 8))
    env.reset()
    action = np.zeros(8)
    action[2] = 1
    for _ in range(10):
      env.step({'action': action})
    robot = env._env.robots[0]
    return env._env.sim.data.qvel[robot._ref_joint_vel_indexes]
  env = start(lambda: types.SimpleNamespace(
      obs_space=play(), close=lambda: None))
  # A full command is 0.5 rad/s; the others hold still.
  expected = np.float32([0, 0, 0.5, 0, 0, 0, 0])
  assert np.allclose(env.obs_space[:7], expected, atol=0.05)
  env.close()


@pytest.mark.parametrize('task,options,words', [
    ('PegInHole', {'robots': 'Panda'}, 'takes two robots'),
    ('Lift', {'robots': ['Panda', 'Panda']}, 'Lift takes one robot'),
    ('Lift', {'camera': 'agntview'}, "'agntview'; known: agentview, .*front"),
    ('Lift', {'camera': 'agentview,back'}, "'back'; known: .*frontview")])
def test_wrong_robots_and_cameras_are_named(make, task, options, words):
  with pytest.raises(ValueError, match=words) as info:
    _ = make(task, **options).obs_space
  assert '\n' not in str(info.value)


def test_several_cameras_give_several_images():
  def play():
    from dreamingv2.common.suites import robosuite
    make = lambda camera: robosuite.make('Lift', seed=3, camera=camera)
    both = make('agentview, robot0_eye_in_hand')
    one = make('robot0_eye_in_hand')
    obs, right = both.reset(), one.reset()['image']
    assert (obs['image_robot0_eye_in_hand'] == right).all()
    assert (obs['image'] != right).any()
    return {k: v.shape for k, v in both.obs_space.items()}
  env = start(lambda: types.SimpleNamespace(
      obs_space=play(), close=lambda: None))
  shapes = env.obs_space
  assert shapes['image'] == shapes['image_robot0_eye_in_hand'] == (64, 64, 3)
  env.close()


OWN = '''
import numpy as np
from robosuite.environments.manipulation.lift import Lift
from robosuite.models.grippers import PandaGripper, register_gripper

class OwnLift(Lift):
  def __init__(self, *args, bonus=0.0, **kwargs):
    self.bonus = bonus
    super().__init__(*args, **kwargs)

  def reward(self, action=None):
    return super().reward(action) + self.bonus

@register_gripper
class OwnGripper(PandaGripper):
  pass
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
  """Writes a module that registers an environment, and a controller."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  (tmp_path / 'own_robots.py').write_text(OWN)
  path = robosuite._root() / 'controllers/config/default/parts'
  settings = json.loads((path / 'osc_position.json').read_text())
  settings['output_max'] = settings['output_max'][:2] + [0.5]
  (tmp_path / 'own.json').write_text(json.dumps(settings))


def test_own_environment_gripper_controller_and_arguments(package, make):
  options = {
      'import': 'own_robots', 'gripper': 'OwnGripper', 'horizon': 3,
      'controller': 'own.json', 'env_args': {'bonus': 100.0}}
  env = make('OwnLift', **options)
  assert env.act_space['action'].shape == (4,)  # Position, and the gripper.
  described = env.call('describe')()
  assert described['env_name'] == 'OwnLift'
  assert described['controllers'] == ({'right': 'OSC_POSITION'},)
  env.reset()()
  assert 100 <= env.step({'action': np.zeros(4, 'f4')})()['reward'] < 101
  assert suites.limit('robosuite', 'OwnLift', **options) is None


@pytest.mark.parametrize('options, words', [
    ({'import': 'own_absent'}, "no module 'own_absent'"),
    ({'controller': 'absent.json'}, 'absent.json'),
    ({'controller': 'text.json'}, 'text.json is not JSON'),
    ({'controller': 'list.json'}, "list.json has no 'type'")])
def test_wrong_module_or_controller_is_named_before_a_start(
    package, options, words):
  pathlib.Path('text.json').write_text('hello')
  pathlib.Path('list.json').write_text('[]')
  with pytest.raises((ImportError, OSError, ValueError), match=words):
    suites.validate('robosuite', 'Lift', options)


@pytest.mark.parametrize('task, options, words', [
    ('OwnLfit', {'import': 'own_robots'}, "'OwnLfit'; known: OwnLift, "),
    ('Lift', {'gripper': 'PandaGriper'}, 'known: PandaGripper, '),
    ('Lift', {'env_args': {'reward_scal': 1}}, 'known: reward_scale, '),
    ('Lift', {'env_args': {'horizon': 1}}, 'set it by the keys that begin')])
def test_wrong_name_of_an_own_part_is_named(
    package, make, task, options, words):
  with pytest.raises(ValueError, match=words) as info:
    _ = make(task, **options).obs_space
  assert '\n' not in str(info.value)
