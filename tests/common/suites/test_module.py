"""Tests the user's own functions and classes as tasks."""

import functools
import sys

import numpy as np
import pytest

from dreamingv2.common import envs
from dreamingv2.common import suites

OWN = '''
import gymnasium
import numpy as np
from dreamingv2.common import envs

class Ours(envs.Dummy):
  def __init__(self, mode='discrete', seed=0):
    super().__init__(mode, (6, 6), 8, seed)

def ready(size, action_repeat):
  assert action_repeat == 3
  return envs.ready(envs.Dummy('discrete', size, 8))

class Theirs(gymnasium.Env):
  observation_space = gymnasium.spaces.Box(0, 255, (9, 9), np.uint8)
  action_space = gymnasium.spaces.Box(0, 4, (2,), np.float32)

  def reset(self, *, seed=None, options=None):
    return np.zeros((9, 9), np.uint8), {}

  def step(self, action):
    assert (action == 4).all(), action
    return np.full((9, 9), 7, np.uint8), 1.5, False, False, {}

class Group:
  make = staticmethod(Theirs)

def fails():
  return 1 // 0

def nothing():
  return 'Lift'

def ball(random, distance=1.0):
  from dm_control import composer
  from dm_control.composer.observation import observable
  from dm_control.locomotion import arenas

  class Task(composer.NullTask):
    def __init__(self):
      super().__init__(arenas.Floor())
      body = self.root_entity.mjcf_model.worldbody.add('body', pos=[0, 0, 1])
      body.add('geom', type='sphere', size=[0.2], rgba=[1, 0, 0, 1])
      self.joint = body.add('joint', type='slide', axis=[0, 0, 1])
      self.motor = self.root_entity.mjcf_model.actuator.add(
          'motor', joint=self.joint, ctrlrange=[-2, 6], gear=[500])
      self.camera = self.root_entity.mjcf_model.worldbody.add(
          'camera', name='front', pos=[0, -3, 1],
          xyaxes=[1, 0, 0, 0, 0, 1])
      self.set_timesteps(control_timestep=0.02, physics_timestep=0.002)

    def get_reward(self, physics):
      return float(physics.bind(self.joint).qpos[0] > 0) * distance

    @property
    def task_observables(self):
      height = observable.MJCFFeature('qpos', self.joint)
      height.enabled = True
      return {'own/height': height}

  return composer.Environment(Task(), time_limit=0.2, random_state=random)
'''


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
  """Writes own_tasks.py in the working directory."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  (tmp_path / 'own_tasks.py').write_text(OWN)
  yield
  sys.modules.pop('own_tasks', None)


def test_class_with_our_interface_gets_seed_and_arguments():
  make = functools.partial(suites.make, 'module', 'own_tasks:Ours')
  env, other = make(seed=4), make(seed=4, env_args={'mode': 'continuous'})
  assert env.act_space['action'].discrete
  assert other.act_space['action'].shape == (6,)
  assert (env.reset()['image'] == other.reset()['image']).all()
  assert (make(seed=5).reset()['image'] != make().reset()['image']).any()


def test_environment_that_is_ready_is_not_wrapped_twice():
  env = suites.make(
      'module', 'own_tasks:ready', size=(6, 6), action_repeat=3, time_limit=2)
  env.reset()
  step = lambda: env.step({'action': np.eye(5, dtype=np.float32)[2]})
  assert [step()['is_last'] for _ in range(2)] == [False, True]
  with pytest.raises(envs.BadAction):
    env.reset()
    env.step({'action': np.ones(5, np.float32)})


@pytest.mark.parametrize('name', ['Theirs', 'Group.make'])
def test_class_of_gymnasium_is_adapted(name):
  env = suites.make(
      'module', f'own_tasks:{name}', size=(4, 4), action_repeat=2)
  assert env.reset()['image'].shape == (4, 4, 1)
  row = env.step({'action': np.ones(2, np.float32)})
  assert row['reward'] == 3 and (row['image'] == 7).all()


@pytest.mark.parametrize('task', ['own_tasks:Theirs', 'own_tasks:Ours'])
def test_environment_that_draws_itself_takes_no_distractors(task):
  words = f"^distractors are .*'colors': 0.5.*{task} is no environment of dm"
  with pytest.raises(ValueError, match=words):
    suites.make('module', task, distractors={
        'colors': 0.5, 'camera': 0.0, 'background': ''})
  # Blocks set the quality for all suites.
  assert suites.make('module', task, render='light').reset()['is_first']


@pytest.mark.parametrize('task, words', [
    ('own_tasks:fails', r'raised ZeroDivisionError: .*own_tasks.py:\d+\)'),
    ('own_tasks:nothing', 'returned str, which is no environment'),
    ('own_tasks:absent', "has no attribute 'absent'"),
    ('own_absent:make', "no module 'own_absent'"),
    ('own_tasks', 'must be module:function'),
    ('own_tasks:', 'must be module:function')])
def test_mistake_is_one_line(task, words):
  with pytest.raises((ImportError, ValueError), match=words) as info:
    suites.make('module', task)
  assert '\n' not in str(info.value)


@pytest.mark.parametrize('suite, task, expected', [
    ('', 'own_tasks:make', ('module', 'own_tasks:make')),
    ('', 'toy_tasks:make', ('module', 'toy_tasks:make')),
    ('', 'a.b:C.make', ('module', 'a.b:C.make')),
    ('', 'gym_mine:Lamp-v0', ('gym', 'mine:Lamp-v0')),
    ('module', 'gym_mine:make', ('module', 'gym_mine:make')),
    ('', 'gym_CarRacing-v3', ('gym', 'CarRacing-v3'))])
def test_name_with_a_colon_is_the_users_code(suite, task, expected):
  assert suites.parse(suite, task) == expected


def test_composer_environment_runs_in_a_process_of_its_own():
  env = envs.Async(
      functools.partial(
          suites.make, 'module', 'own_tasks:ball', 3, (16, 16), 2,
          camera='front', env_args={'distance': 2.0}),
      environ=suites.prepare('module'))
  try:
    assert env.obs_space['own_height'].shape == (1,)
    assert env.obs_space['image'].shape == (16, 16, 3)
    first = env.reset()()
    rows = [env.step({'action': np.ones(1, 'f4')})() for _ in range(5)]
  finally:
    env.close()
  assert rows[-1]['own_height'] > first['own_height'] == 0
  assert rows[-1]['reward'] == 4  # Two control steps.
  assert rows[-1]['is_last'] and not rows[-1]['is_terminal']
  assert (rows[-1]['image'] != first['image']).any()
