import functools

import numpy as np
import pytest

from dreamingv2.common.suites import dmc
from tests.helpers import in_worker


def test_tasks_are_those_of_dm_control():
  def offered():
    from dm_control import manipulation
    from dm_control import suite
    return suite.ALL_TASKS, manipulation.get_environments_by_tag('features')
  pairs, manip = in_worker(offered)
  tasks = dmc.tasks()
  assert {x for x in tasks.values() if x[0] != 'manip'} == set(pairs)
  assert {x[1] for x in tasks.values() if x[0] == 'manip'} == set(manip)
  for name in ('ball_in_cup_catch', 'humanoid_CMU_run', 'point_mass_easy'):
    assert name in tasks


def test_aliases_of_dreamerv2_are_taken():
  assert dmc._canonical('cup_catch') == 'ball_in_cup_catch'
  dmc.validate('cup_catch', dmc.OPTIONS)


def play(task, camera=None):
  """Returns images of two episodes, dm_control's own if `camera` is given.

  One process must not have both renderers: they replace each other's context.
  """
  from dreamingv2.common.suites import dmc
  env, images = dmc.make(task, seed=1), []
  if camera is not None:
    env._obs = lambda step, ends: {
        'image': env._env.physics.render(64, 64, camera_id=camera)}
  for _ in range(2):
    images.append(env.reset()['image'])
    images.append(env.step({'action': env.act_space['action'].low})['image'])
  return np.stack(images)


# Escape has a new terrain, manipulation a new model in every episode.
@pytest.mark.parametrize('task,camera', [
    ('cup_catch', 0), ('manip_reach_duplo', 0), ('quadruped_escape', 2)])
def test_image_is_what_dm_control_renders(task, camera):
  ours = in_worker(functools.partial(play, task))
  theirs = in_worker(functools.partial(play, task, camera))
  assert np.array_equal(ours, theirs)
  assert (ours[0] != ours[2]).any()


def test_rendering_quality_changes_little():
  def draw():
    from dreamingv2.common.suites import dmc
    return {
        x: dmc.make('walker_walk', seed=1, render=x).reset()['image']
        for x in ('full', 'medium', 'light')}
  images = {k: v.astype(float) for k, v in in_worker(draw).items()}
  # Measured: 0.01 and 1.0; another scene or camera is above 20.
  assert 0 < abs(images['full'] - images['medium']).mean() < 0.1
  assert 0.1 < abs(images['full'] - images['light']).mean() < 3


def test_camera_is_a_name_or_a_number():
  def draw():
    from dreamingv2.common.suites import dmc
    return [
        dmc.make('walker_walk', seed=1, camera=x).reset()['image']
        for x in (-1, 0, 'side', 1, 'back')]
  usual, zero, side, one, back = in_worker(draw)
  assert (usual == zero).all() and (zero == side).all()
  assert (one == back).all() and (one != zero).any()
  for camera in ('top', 'side,top'):
    with pytest.raises(ValueError, match="'top'; known: back, side"):
      in_worker(lambda: dmc.make('walker_walk', camera=camera))  # noqa: B023


def test_several_cameras_give_several_images():
  def draw():
    from dreamingv2.common.suites import dmc
    env = dmc.make('walker_walk', seed=1, camera='-1,back')
    return env.obs_space, env.reset(), [
        dmc.make('walker_walk', seed=1, camera=x).reset()['image']
        for x in ('side', 'back')]
  space, obs, images = in_worker(draw)
  assert space['image_back'].shape == (64, 64, 3)
  assert (obs['image'] == images[0]).all()
  assert (obs['image_back'] == images[1]).all()


def test_episode_ends_at_the_time_limit_and_is_not_terminal():
  def play():
    from dreamingv2.common.suites import dmc
    env = dmc.make('cartpole_balance', size=(8, 8), action_repeat=300)
    obs = [env.reset()]
    for _ in range(4):
      obs.append(env.step({'action': np.zeros(1)}))
    return obs
  obs = in_worker(play)
  assert [x['is_last'] for x in obs] == [0, 0, 0, 0, 1]
  assert not any(x['is_terminal'] for x in obs)
  assert 150 < obs[1]['reward'] <= 300  # At most 1 per control step.
  assert 10 < obs[4]['reward'] <= 100


def own_task(cameras=1, **observed):
  """Returns an environment of dm_control whose task has no generator."""
  from dm_control import mujoco
  from dm_control.rl import control

  task = type('Task', (control.Task,), {
      'initialize_episode': lambda self, physics: None,
      'before_step': lambda self, action, physics: None,
      'action_spec': lambda self, physics: mujoco.action_spec(physics),
      'get_reward': lambda self, physics: 1.0,
      'get_observation': lambda self, physics: {
          'qpos': physics.data.qpos.copy(), **observed}})
  physics = mujoco.Physics.from_xml_string(
      '<mujoco><worldbody>' + '<camera pos="0 0 2"/>' * cameras + '<body>'
      '<joint name="j"/><geom size="1"/></body></worldbody><actuator>'
      '<motor joint="j" ctrlrange="-1 1"/></actuator></mujoco>')
  env = control.Environment(physics, task())
  return dmc.DMC(env, 0, (16, 16), 1, **dmc.OPTIONS)


def test_task_without_a_generator_is_seeded_in_silence():
  def play():
    env = own_task()
    env.seed(3)
    return env.obs_space, env.reset()
  space, obs = in_worker(play)
  assert space.keys() == obs.keys() and obs['qpos'].tolist() == [0]


@pytest.mark.parametrize('given, words', [
    ({'cameras': 0}, 'no camera to observe with'),
    ({'image': np.zeros((9, 9, 3), np.uint8)}, "'image' of the task has the"),
    ({'reward': np.zeros(2)}, "'reward' of the task has the name")])
def test_model_without_a_camera_and_names_that_are_taken_are_told(
    given, words):
  """The camera's image took the place of the task's in silence."""
  with pytest.raises(ValueError, match=words):
    in_worker(lambda: own_task(**given).obs_space)
