import functools
import os
import signal
import subprocess
import sys
import time
import types

import gymnasium
import numpy as np
import pytest

from dreamingv2.common import envs
from dreamingv2.common import wrappers
from dreamingv2.common.spaces import BadReturn


class Fake(gymnasium.Env):
  """Has the interface of Gymnasium, with the given spaces and ends."""

  def __init__(self, obs_space, act_space, ends=(False, False)):
    self.observation_space = obs_space
    self.action_space = act_space
    self.ends = ends
    self.seeds = []
    self.actions = []

  def reset(self, *, seed=None, options=None):
    self.seeds.append(seed)
    return self.observation_space.sample(), {}

  def step(self, action):
    self.actions.append(action)
    return self.observation_space.sample(), 1, *self.ends, {}

  def render(self):
    return np.full((20, 30, 3), 7, np.uint8)


class OldFake:
  """Has the interface of gym before 0.26."""

  def __init__(self, info):
    self.observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float64)
    self.action_space = gymnasium.spaces.Discrete(4)
    self.info = info
    self.seeds = []

  def seed(self, seed):
    self.seeds.append(seed)

  def reset(self):
    return np.zeros(3)

  def step(self, action):
    return np.ones(3), 2.0, True, self.info


VECTOR = gymnasium.spaces.Box(-1, 1, (3,), np.float64)
ACTION = gymnasium.spaces.Box(
    np.float32([-2, 0, -np.inf]), np.float32([2, 1, np.inf]))


def test_gym_wrapper_leaves_text_out_and_says_so():
  space = gymnasium.spaces.Dict({
      'image': gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8),
      'mission': gymnasium.spaces.Text(9)})
  env = envs.GymWrapper(Fake(space, ACTION))
  assert env.identity['left_out'] == {
      'mission': 'Text, which is not supported'}
  for obs in (env.obs_space, env.reset()):
    assert set(obs) == {'image', *envs.FLAGS}


def test_parts_of_a_dict_within_a_dict_are_observed():
  """Robots of LeRobot observe such; the cameras were left out."""
  picture = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
  spaces = gymnasium.spaces
  space = spaces.Dict({
      'pixels': spaces.Dict({'top': picture, 'side': picture}),
      'agent_pos': VECTOR,
      'extra': spaces.Dict({'a': spaces.Dict({'b': VECTOR}),
                            'text': spaces.Text(3)})})
  fake = Fake(space, ACTION)
  env = envs.GymWrapper(fake)
  names = {'pixels/top', 'pixels/side', 'agent_pos', 'extra/a/b'}
  assert env.left_out.keys() == {'extra/text'}
  env.leave_out({'pixels/side': 'not read'})
  obs = env.reset()
  assert set(obs) == set(env.obs_space) == {
      *names - {'pixels/side'}, *envs.FLAGS}
  given = space.sample()
  fake.reset = lambda seed=None: (given, {})
  obs = env.reset()
  np.testing.assert_array_equal(obs['pixels/top'], given['pixels']['top'])
  np.testing.assert_allclose(
      obs['extra/a/b'], given['extra']['a']['b'], rtol=1e-6)
  for broken in ({}, {'top': None}, 3):
    given['pixels'] = broken
    with pytest.raises(BadReturn, match='pixels/top'):
      env.reset()


def test_gym_wrapper_gives_declared_types():
  space = gymnasium.spaces.Dict({
      'picture': gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8),
      'grey': gymnasium.spaces.Box(0, 255, (8, 8), np.uint8),
      'vector': VECTOR,
      'scalar': gymnasium.spaces.Box(-1, 1, (), np.float64),
      'count': gymnasium.spaces.Box(0, 9, (2,), np.int64),
      'choice': gymnasium.spaces.Discrete(3, start=5),
      'bits': gymnasium.spaces.MultiBinary(4),
      'dice': gymnasium.spaces.MultiDiscrete([6, 6])})
  env = envs.GymWrapper(Fake(space, ACTION))
  for obs in (env.reset(), env.step({'action': np.zeros(3, np.float32)})):
    assert set(obs) == set(env.obs_space)
    for key, box in env.obs_space.items():
      assert np.asarray(obs[key]).dtype == box.dtype, key
      assert np.asarray(obs[key]) in box, key
  assert env.obs_space['grey'].shape == (8, 8, 1)
  assert env.obs_space['choice'].shape == (3,)


@pytest.mark.parametrize('terminated,truncated', [
    (False, False), (True, False), (False, True), (True, True)])
def test_gym_wrapper_tells_truncation_from_termination(terminated, truncated):
  env = envs.GymWrapper(Fake(VECTOR, ACTION, (terminated, truncated)), 'x')
  obs = env.reset()
  assert obs['is_first'] and not obs['is_last'] and obs['reward'] == 0
  obs = env.step({'action': np.zeros(3, np.float32)})
  assert obs['is_last'] == (terminated or truncated)
  assert obs['is_terminal'] == terminated and not obs['is_first']


@pytest.mark.parametrize('info,terminal', [
    ({}, True), (None, True), ({'TimeLimit.truncated': True}, False),
    ({'is_terminal': False}, False)])
def test_gym_wrapper_takes_old_gym(info, terminal):
  env = envs.GymWrapper(OldFake(info), seed=3)
  obs = env.reset()
  assert obs['image'].dtype == np.float32 and obs['is_first']
  obs = env.step({'action': 1})
  assert obs['is_last'] and obs['is_terminal'] == terminal
  env.reset()
  assert env.env.seeds == [3]


@pytest.mark.parametrize('info, success', [
    ({}, None), (None, None), ({'is_success': np.float32(1)}, True),
    ({'success': 0.0}, False), ({'success': np.array([True])}, True),
    ({'is_success': None, 'success': False}, False),
    ({'is_success': np.nan, 'success': 0}, False), ({'success': np.nan}, None),
    ({'success': 'yes'}, None)])
def test_gym_wrapper_tells_success_from_info(info, success):
  class Told(Fake):
    step = lambda self, action: (*super().step(action)[:-1], info)
  env = wrappers.ActionRepeat(envs.GymWrapper(Told(VECTOR, ACTION), 'x'), 2)
  env.reset()
  assert env.success() is None
  env.step({'action': np.zeros(3, np.float32)})
  assert env.success() is success
  env.reset()
  assert env.success() is None


def test_success_between_two_repeats_of_an_action_counts():
  class Told(Fake):
    count = 0
    def step(self, action):
      self.count += 1
      return *super().step(action)[:-1], {'success': self.count == 3}
  env = wrappers.ActionRepeat(envs.GymWrapper(Told(VECTOR, ACTION), 'x'), 2)
  env.reset()
  found = []
  for _ in range(3):
    env.step({'action': np.zeros(3, np.float32)})
    found.append(env.success())
  assert found == [False, True, False]


@pytest.mark.parametrize('value, expected', [
    (None, None), (np.nan, None), ([True, True], True), ([1, 0], False),
    (np.float32(1), True), ([[1], [1, 2]], None), ('yes', None), ([], None),
    ({}, None)])
def test_success_is_what_is_clearly_true_or_false(value, expected):
  env = types.SimpleNamespace(success=lambda: value)
  assert wrappers.success(env) is expected


@pytest.mark.parametrize('members', [
    {}, {'success': 0.7}, {'success': lambda goal: True}])
def test_what_is_no_method_without_arguments_tells_no_success(members):
  """Environments of others use this name for other things."""
  env = Fake(VECTOR, ACTION)
  for name, value in members.items():
    setattr(env, name, value)
  assert wrappers.success(env) is None
  wrapped = envs.GymWrapper(env, 'x')
  assert wrapped.success() is None
  wrapped._info = {'is_success': True}
  assert wrapped.success() is True


@pytest.mark.parametrize('marks, expected', [
    ([], None), ([None], None), ([None, False], False),
    ([False, None, True], True)])
def test_one_known_success_is_enough(marks, expected):
  assert wrappers.any_known(marks) is expected


def test_gym_wrapper_asks_the_environment_for_success_first():
  env = Fake(VECTOR, ACTION)
  env.success = lambda: True
  assert envs.GymWrapper(env, 'x').success() is True


def test_gym_wrapper_seeds_only_the_first_reset():
  env = envs.GymWrapper(Fake(VECTOR, ACTION), seed=5)
  env.reset(), env.reset()
  assert env.env.seeds == [5, None]


@pytest.mark.parametrize('name', ['gym', 'gymnasium'])
def test_gym_wrapper_runs_the_real_library(name):
  # The checker of gym 0.26 uses np.bool8, which NumPy 2 lacks.
  env = pytest.importorskip(name).make(
      'CartPole-v1', disable_env_checker=True)
  env = envs.OneHotAction(envs.GymWrapper(env, 'vector', seed=0))
  env.reset()
  for _ in range(200):
    obs = env.step({'action': np.float32([1, 0])})
    if obs['is_last']:
      break
  assert obs['is_terminal'] and obs['vector'].dtype == np.float32


@pytest.mark.parametrize('obs,act,words', [
    (gymnasium.spaces.Text(4), ACTION, "'image'.*Text"),
    (gymnasium.spaces.Tuple([VECTOR]), ACTION, "'image'.*Tuple"),
    (gymnasium.spaces.Box(-np.inf, np.inf, (8, 8, 3)), ACTION,
     "'image'.*one finite lowest"),
    (gymnasium.spaces.Dict(image=gymnasium.spaces.Text(4), x=VECTOR), ACTION,
     "'image'.*Text"),
    (gymnasium.spaces.Dict(x=gymnasium.spaces.Text(4)), ACTION,
     'No observation of Dict'),
    *((gymnasium.spaces.Dict({name: VECTOR}), ACTION, f"'{name}'.*reserved")
      for name in ('reward', 'is_first', 'action', 'discount')),
    (VECTOR, gymnasium.spaces.MultiDiscrete([9] * 4), "'action'.*MultiDisc"),
    (VECTOR, gymnasium.spaces.Dict(a=ACTION), "'action'.*Dict"),
])
def test_gym_wrapper_rejects_spaces_it_cannot_handle(obs, act, words):
  with pytest.raises(ValueError, match=words):
    envs.GymWrapper(Fake(obs, act))


def test_dummy_repeats_with_its_seed():
  for mode in ('continuous', 'discrete'):
    first, second = (envs.Dummy(mode, (8, 8), 3, seed=1) for _ in range(2))
    for env in (first, second):
      env.reset()
    one, two = first.step({}), second.step({})
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert all(np.asarray(one[k]) in v for k, v in first.obs_space.items())
  with pytest.raises(ValueError, match='continuous'):
    envs.Dummy('other')


def test_time_limit_cuts_without_terminating():
  env = envs.TimeLimit(envs.Dummy(length=100), 3)
  env.reset()
  ends = [env.step({}) for _ in range(3)]
  assert [x['is_last'] for x in ends] == [False, False, True]
  assert not ends[-1]['is_terminal']
  with pytest.raises(AssertionError):
    env.step({})


def test_normalize_action_maps_onto_bounds_or_refuses_to():
  inner = envs.GymWrapper(Fake(VECTOR, gymnasium.spaces.Box(
      np.float32([-2, 0, -np.inf, 1]), np.float32([2, 1, np.inf, np.inf]))))
  with pytest.raises(ValueError, match="'action'.*--action_bound"):
    envs.ready(inner)
  env = envs.NormalizeAction(inner, bound=7)
  assert (env.act_space['action'].low == -1).all()
  env.reset()
  for value in ([-1] * 4, [1] * 4, [0] * 4):
    env.step({'action': np.float32(value)})
  expected = [[-2, 0, -7, 1], [2, 1, 7, 15], [0, .5, 0, 8]]
  assert np.array_equal(env.env.env.actions, expected)


def test_one_hot_action_takes_only_one_hot():
  env = envs.OneHotAction(
      envs.GymWrapper(Fake(VECTOR, gymnasium.spaces.Discrete(3, start=1))))
  assert env.act_space['action'].discrete
  assert env.act_space['action'].shape == (3,)
  env.step({'action': np.float32([0, 0, 1])})
  assert env.env.env.actions == [3]
  for wrong in ([.5, .5, 0], [0, 0, 0], [1, 1, 0]):
    with pytest.raises(ValueError, match='not one-hot'):
      env.step({'action': np.float32(wrong)})


def test_resize_image_keeps_colours_and_orientation():
  env = envs.ResizeImage(envs.Dummy(size=(32, 48)), (16, 16))
  assert env.obs_space['image'].shape == env.reset()['image'].shape
  image = np.zeros((32, 32, 3), np.uint8)
  image[:16, :, 0] = 200
  small = envs.resize(image, (8, 4))
  assert small.shape == (8, 4, 3)
  assert (small[:4] == [200, 0, 0]).all() and not small[4:].any()


def test_render_image_adds_what_render_gives():
  env = envs.RenderImage(envs.GymWrapper(Fake(VECTOR, ACTION), 'x'))
  assert (env.reset()['image'] == 7).all()
  assert env.reset()['image'].shape == env.obs_space['image'].shape
  env.env.env.render = lambda: np.dstack([
      np.full((9, 9, 3), 50, np.uint8), np.zeros((9, 9), np.uint8)])
  assert (env.reset()['image'] == 50).all()  # Without the opacity.
  assert env.reset()['image'].shape == env.obs_space['image'].shape


@pytest.mark.parametrize('picture, words', [
    (None, 'NoneType'), (np.zeros((9, 9, 3)), r'float64 \[9, 9, 3\]'),
    (np.zeros((9, 9), np.uint8), r'uint8 \[9, 9\]'),
    (np.zeros((9, 9, 2), np.uint8), r'uint8 \[9, 9, 2\]')])
def test_render_that_gives_no_picture_is_named(picture, words):
  env = envs.RenderImage(envs.GymWrapper(Fake(VECTOR, ACTION), 'x'))
  env.env.env.render = lambda: picture
  with pytest.raises(ValueError, match=f'gave {words}.*rgb_array'):
    env.reset()


def test_success_is_found_below_wrappers_of_gymnasium():
  inner = Fake(VECTOR, ACTION)
  inner.success = lambda: True
  wrapped = gymnasium.wrappers.TimeLimit(
      gymnasium.wrappers.OrderEnforcing(inner), 9)
  assert envs.GymWrapper(wrapped, 'x').success() is True


@pytest.fixture(params=['process', 'none'])
def strategy(request):
  return request.param


def value(fn):
  """Returns a constructor through which a worker reports fn's result."""
  return lambda: types.SimpleNamespace(obs_space=fn(), close=lambda: None)


def test_async_equals_the_environment_itself(start, strategy):
  make = functools.partial(envs.Dummy, 'continuous', (8, 8), 4, 7)
  remote, local = start(make, strategy), make()
  assert remote.obs_space == local.obs_space
  assert remote.act_space == local.act_space
  action = {'action': np.zeros(6, np.float32)}
  for name, args in [('reset', ()), ('step', (action,)), ('reset', ())]:
    promised, own = getattr(remote, name)(*args)(), getattr(local, name)(*args)
    assert all(np.array_equal(promised[k], own[k]) for k in own)


def test_async_promises_keep_their_order(start, strategy):
  env = start(lambda: envs.Dummy(length=3), strategy)
  promises = [env.reset(), *(env.step({}) for _ in range(3))]
  assert promises[3]()['is_last']
  assert promises[0]()['is_first']
  assert not promises[1]()['is_last']


def test_async_starts_without_waiting(start):
  begin = time.time()
  envs_ = [start(value(lambda: time.sleep(2))) for _ in range(2)]
  assert time.time() - begin < 1
  for env in envs_:
    assert env.obs_space is None
  assert 2 <= time.time() - begin < 3.9


def test_async_worker_never_imports_tensorflow(start):
  def modules():
    from dreamingv2.common import suites
    suites.make('toy', 'reach')
    suites.validate('robosuite', 'Lift', {})
    suites.validate('dmc', 'walker_walk', {})
    return [k for k in sys.modules if 'tensorflow' in k or 'keras' in k]
  assert start(value(modules)).obs_space == []


def test_async_does_not_import_the_script_that_started_it(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(
      'print("top")\n'
      'from dreamingv2.common import envs\n'
      'class Mine(envs.Dummy):\n'
      '  pass\n'
      'env = envs.Async(lambda: Mine())\n'
      'print(env.reset()()["is_first"])\n')
  out = subprocess.run(
      [sys.executable, script], capture_output=True, text=True, timeout=60,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
  assert (out.stdout, out.stderr) == ('top\nTrue\n', '')


def test_async_sets_the_environment_of_the_worker(start, monkeypatch):
  monkeypatch.setenv('REMOVED', 'x')
  names = ('ADDED', 'REMOVED', 'OMP_NUM_THREADS')
  env = start(
      value(lambda: [os.environ.get(x) for x in names]),
      environ={'ADDED': 'y', 'REMOVED': None})
  assert env.obs_space == ['y', None, '1']
  assert 'ADDED' not in os.environ and os.environ['REMOVED'] == 'x'


@pytest.mark.parametrize('error', [
    ValueError('bad value'), ImportError('no such thing'), KeyError('key'),
    ModuleNotFoundError('no module')])
def test_async_keeps_errors_for_users(start, error):
  def fail():
    raise error
  kind = ImportError if isinstance(error, ImportError) else type(error)
  with pytest.raises(kind) as info:
    _ = start(value(fail)).obs_space
  assert info.value.args == error.args
  assert 'in fail' in str(info.value.__cause__)


def test_async_gives_other_errors_with_their_traceback(start):
  env = start(value(lambda: 1 / 0))
  for attempt in (lambda: env.obs_space, env.reset()):
    with pytest.raises(RuntimeError, match='(?s)Traceback.*ZeroDivision'):
      attempt()


def test_async_survives_an_error(start):
  env = start(lambda: envs.CheckAction(envs.Dummy()))
  with pytest.raises(ValueError, match='not finite'):
    env.step({'action': np.full(6, np.nan)})()
  assert env.reset()()['is_first']


@pytest.mark.parametrize('end,words', [
    (lambda: os._exit(3), 'exit code 3'),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), 'signal SIGKILL'),
    (lambda: (os.write(2, b'last words'), os.abort()),
     'signal SIGABRT:\nlast words')])
def test_async_tells_that_the_worker_died(start, end, words):
  env = start(value(end))
  with pytest.raises(RuntimeError, match='environment worker .*' + words):
    _ = env.obs_space
  with pytest.raises(RuntimeError, match='died'):
    env.reset()()


def test_async_worker_ignores_interrupts(start):
  env = start(lambda: envs.Dummy())
  env.reset()()
  os.kill(env._host._host._process.pid, signal.SIGINT)
  assert env.reset()()['is_first']


def test_async_close_ends_the_process(start):
  env = start(lambda: envs.Dummy())
  env.reset()()
  env.close()
  assert env._host._host._process.poll() == 0
  with pytest.raises(RuntimeError, match='closed'):
    env.reset()()


def test_async_worker_ends_with_its_parent(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(
      'import os, time\n'
      'from dreamingv2.common import envs\n'
      'env = envs.Async(lambda: envs.Dummy())\n'
      'env.reset()()\n'
      'print(env._host._host._process.pid, flush=True)\n'
      'os.kill(os.getpid(), 9)\n')
  out = subprocess.run(
      [sys.executable, script], capture_output=True, text=True, timeout=60,
      env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
  for _ in range(50):
    if not os.path.exists(f'/proc/{int(out.stdout)}/cmdline') or not open(
        f'/proc/{int(out.stdout)}/cmdline').read():
      return
    time.sleep(0.1)
  raise AssertionError('the worker outlives its parent')


def test_async_rejects_an_unknown_strategy():
  with pytest.raises(ValueError, match='process'):
    envs.Async(envs.Dummy, 'thread')
