import functools
import pathlib
import resource

import numpy as np
import pytest
import ruamel.yaml

from dreamingv2.common import envs
from dreamingv2.common import suites
from tests.helpers import assert_equal
from tests.helpers import in_worker

PAPER = ruamel.yaml.YAML(typ='safe').load(
    pathlib.Path(__file__).parents[3] / 'dreamingv2' / 'tasks.yaml')
# Those whose robot another task has as well.
SLOW = (
    'dmc_acrobot_swingup', 'dmc_cartpole_two_poles', 'dmc_finger_turn_hard',
    'dmc_quadruped_escape', 'dmc_quadruped_walk', 'dmc_reacher_hard',
    'robosuite_Door')


def marked(name, *values):
  return pytest.param(
      name, *values, marks=pytest.mark.slow if name in SLOW else ())


TASKS = [marked(x) for x in sorted({
    *(x['task'] for x in PAPER.values()), 'dmc_cartpole_balance',
    'toy_dummy', 'toy_reach', 'toy_torus'})]


def start(name, seed):
  """Makes a task in a worker, as simulators must not share TensorFlow's."""
  suite, task = suites.parse('', name)
  return envs.Async(
      functools.partial(suites.make, suite, task, seed),
      environ=suites.prepare(suite))


def episodes(name):
  """Plays the start of two episodes with one seed and of one with another.

  Returns the spaces, three lists of observations, and the answer to NaN.
  """
  return played(name)[:3]


@functools.lru_cache(None)
def played(name):
  """Returns what `episodes` does, and what the environments tell."""
  workers = [start(name, 1) for _ in range(2)]
  act_space = workers[0].act_space['action']
  actions = np.random.default_rng(0).uniform(-1, 1, (4, *act_space.shape))
  result, told = [], []
  for worker in (*workers, workers[1]):
    if len(result) == 2:
      worker.seed(2)()
    promises = [worker.reset()]
    promises += [worker.step({'action': x.astype('f')}) for x in actions]
    promises += [worker.reset()]
    result.append([promise() for promise in promises])
    told.append([worker.truth()() for _ in range(2)])
  try:
    answer = workers[0].step({'action': np.full(act_space.shape, np.nan)})()
  except ValueError as error:
    answer = error
  spaces = workers[0].obs_space, act_space
  for worker in workers:
    worker.close()
  return spaces, result, answer, told


@pytest.mark.parametrize('name', TASKS)
def test_task_tells_its_state_as_named_vectors(name):
  """Two environments with one seed agree; with another seed they differ."""
  (one, again), (two, _), (other, _) = played(name)[3]
  if name == 'toy_dummy':
    assert one is two is other is None
    return
  for key, value in one.items():
    assert value.dtype == np.float32 and value.ndim == 1, key
    assert np.isfinite(value).all(), key
  assert_equal(one, two)
  assert_equal(one, again)
  assert any((one[k] != other[k]).any() for k in one)


@pytest.mark.parametrize('name', TASKS)
def test_task_gives_what_its_spaces_declare(name):
  (obs_space, act_space), (obs, *_), _ = episodes(name)
  assert act_space.dtype == np.float32
  assert np.array_equal(act_space.low, -np.ones(act_space.shape))
  assert np.array_equal(act_space.high, np.ones(act_space.shape))
  for step in obs:
    assert set(step) == set(obs_space)
    for key, space in obs_space.items():
      assert np.asarray(step[key]) in space, key
      assert np.asarray(step[key]).dtype == space.dtype, key
      assert space.dtype in (np.float32, np.uint8, bool), key
    assert step['image'].shape == (64, 64, 3)


@pytest.mark.parametrize('name', TASKS)
def test_task_marks_the_steps_of_an_episode(name):
  _, (obs, *_), _ = episodes(name)
  assert [x['is_first'] for x in obs] == [True, *[False] * 4, True]
  assert not any(x['is_last'] or x['is_terminal'] for x in obs)
  assert obs[0]['reward'] == obs[-1]['reward'] == 0


@pytest.mark.parametrize('name', TASKS)
def test_only_tasks_that_end_declare_ends(name):
  (obs_space, _), _, _ = episodes(name)
  assert obs_space['is_terminal'].high == (name == 'toy_dummy')


@pytest.mark.parametrize('name', TASKS)
def test_task_repeats_with_its_seed(name):
  _, (first, same, other), _ = episodes(name)
  for one, two in zip(first, same, strict=True):
    assert all(np.array_equal(one[k], two[k]) for k in one)
  assert any((a['image'] != b['image']).any()
             for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize('name', TASKS)
def test_task_image_shows_something_that_moves(name):
  _, (obs, *_), _ = episodes(name)
  images = np.stack([x['image'] for x in obs])
  assert images.std() > 10 and images.mean() > 2
  assert (images[1] != images[4]).any()


@pytest.mark.parametrize('name', TASKS)
def test_task_refuses_an_action_that_is_not_finite(name):
  _, _, answer = episodes(name)
  assert isinstance(answer, ValueError) and 'not finite' in str(answer)


@pytest.mark.parametrize(
    'name, preset', [marked(x['task'], x) for x in PAPER.values()])
def test_presets_say_what_the_tasks_are(name, preset):
  (_, act_space), _, _ = episodes(name)
  assert act_space.shape == (preset['action'],)
  assert preset['limit'] in (preset['steps'], 1000)


def mean_row(mask):
  """Returns the mean row of the pixels in `mask`, 0 top to 1 bottom."""
  assert mask.sum() > 5
  return np.nonzero(mask)[0].mean() / len(mask)


def test_images_are_upright():
  image = {
      x: episodes(x)[1][0][0]['image'].astype(int) for x in (
          'dmc_cartpole_balance', 'dmc_manip_reach_duplo', 'robosuite_Lift')}
  # The pole stands on its cart, which is the widest row of orange.
  cart = image['dmc_cartpole_balance']
  orange = cart[..., 0] > cart[..., 2] + 30
  assert orange.sum(1).argmax() > np.nonzero(orange)[0].mean()
  # The hand is at the top; the red brick lies on the floor.
  duplo = image['dmc_manip_reach_duplo']
  red = duplo[..., 0] > duplo[..., 1] + 90
  assert mean_row(duplo.max(-1) < 30) < mean_row(red)
  # The white table is below, the dark gripper above.
  lift = image['robosuite_Lift']
  assert mean_row(lift.max(-1) < 60) < 0.3 < mean_row(lift.min(-1) > 230)


def test_action_repeat_adds_rewards_up():
  once, twice = (
      suites.make('toy', 'reach', seed=3, action_repeat=x) for x in (1, 2))
  once.reset(), twice.reset()
  action = {'action': np.float32([.3, -.2])}
  for _ in range(25):
    parts = [once.step(action) for _ in range(2)]
    whole = twice.step(action)
    assert np.isclose(whole['reward'], sum(x['reward'] for x in parts))
    assert np.array_equal(whole['image'], parts[1]['image'])
  assert whole['is_last'] and parts[1]['is_last']
  assert not whole['is_terminal']


def test_toy_reach_rewards_going_to_the_target():
  env = suites.make('toy', 'reach', seed=0)
  returns = {'towards': 0, 'away': 0}
  for name, sign in [('towards', 1), ('away', -1)]:
    for _ in range(5):
      obs = env.reset()
      while not obs['is_last']:
        image = obs['image'].astype(int)
        target, dot = (
            np.argwhere(mask).mean(0)[::-1] for mask in
            (image[..., 2] == 180, image[..., 0] == 255))
        step = sign * (target - dot) / 6.4
        obs = env.step({'action': np.clip(step, -1, 1).astype('f')})
        returns[name] += obs['reward'] / 5
  assert returns['towards'] > 43 and returns['away'] < 15


def test_time_limit_counts_agent_steps():
  env = suites.make('toy', 'reach', action_repeat=2, time_limit=4)
  env.reset()
  action = {'action': np.zeros(2, np.float32)}
  assert [env.step(action)['is_last'] for _ in range(4)] == [0, 0, 0, 1]


@pytest.mark.parametrize('suite,task,expected', [
    ('', 'dmc_walker_walk', ('dmc', 'walker_walk')),
    ('', 'dmc_manip_reach_duplo', ('dmc', 'manip_reach_duplo')),
    ('', 'robosuite_Lift', ('robosuite', 'Lift')),
    ('robosuite', 'Lift', ('robosuite', 'Lift')),
    ('robosuite', 'robosuite_Lift', ('robosuite', 'Lift')),
    ('robosuite', 'toy_reach', ('toy', 'reach')),
    ('dmc', 'walker_walk', ('dmc', 'walker_walk'))])
def test_parse_takes_the_names_of_dreamerv2(suite, task, expected):
  assert suites.parse(suite, task) == expected


@pytest.mark.parametrize('suite,task,words', [
    ('', 'Lift', "'Lift'.*dmc, gym, module, robosuite, toy"),
    ('', 'atary_pong', "'atary_pong'.*atari, dmc, gym"),
    ('robosuit', 'Lift', "'robosuit'; known: robosuite, atari")])
def test_parse_lists_the_suites(suite, task, words):
  with pytest.raises(ValueError, match=words):
    suites.parse(suite, task)


@pytest.mark.parametrize('suite,task,options,words', [
    ('toy', 'raech', {}, "'raech'; known: reach, dummy"),
    ('dmc', 'walker_wlak', {}, "'walker_wlak'; known: walker_walk,"),
    ('dmc', 'manip_reach', {}, 'known: .*manip_reach_duplo'),
    ('dmc', 'walker_walk', {'render': 'fast'}, 'dmc.render.*full'),
    ('dmc', 'walker_walk', {'camra': 0}, "'camra'; known: camera"),
    ('robosuite', 'lift', {}, "'lift'; known: Lift,"),
    ('robosuite', 'Lift', {'render': 'fast'}, 'robosuite.render.*full'),
    ('robosuite', 'Lift', {'robots': 'Pandda'}, "'Pandda'; known: Panda,"),
    ('robosuite', 'Lift', {'controller': 'OSC'}, "'OSC'.*OSC_POSE"),
    ('robosuite', 'Lift', {'reward_shapin': 1}, 'known: reward_shaping'),
    ('mujoco', 'Lift', {}, "'mujoco'; known: .*robosuite"),
    ('toy', 'reach', {'camra': 0}, "'camra'; known: camera"),
    ('toy', 'torus', {'camera': 'whole,dto'}, "'dto'; known: dot, whole"),
    ('toy', 'dummy', {'camera': 'dot'}, 'camera of dummy.*known: whole'),
    ('toy', 'reach', {'distractors': {
        'colors': 0.5, 'camera': 0.1, 'background': ''}},
     'distractors.camera is 0.1, but toy_reach cannot.*leave it at 0.0'),
    ('toy', 'dummy', {'distractors': {
        'colors': 0.5, 'camera': 0.0, 'background': ''}},
     'distractors.colors is 0.5, but toy_dummy')])
def test_validate_lists_the_nearest_names_first(suite, task, options, words):
  with pytest.raises(ValueError, match=words) as info:
    suites.validate(suite, task, options)
  assert '\n' not in str(info.value)


def test_validate_names_a_simulator_that_is_missing(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(ImportError, match='install.sh'):
    suites.validate('robosuite', 'Lift', {})


def test_prepare_says_in_one_line_what_renders(capsys):
  assert suites.prepare('toy') == {}
  assert not capsys.readouterr().out
  assert suites.prepare('dmc') == suites.prepare('robosuite')
  one, two = capsys.readouterr().out.splitlines()
  assert one == two and one.startswith('Rendering with ')


def test_suites_have_one_interface():
  for suite in suites.SUITES:
    module = suites._module(suite)
    for name in module.tasks():
      module.validate(name, module.OPTIONS)


def test_options_hold_what_suites_share_only_if_it_is_on():
  off = {'colors': 0.0, 'camera': 0.0, 'background': ''}
  config = {
      'dmc': {'camera': '-1'}, 'renderer': 'mujoco', 'distractors': off,
      'env_args': ''}
  assert suites.options('dmc', config) == {'camera': '-1'}
  assert suites.options('toy', config) == {}
  config['distractors'] = {**off, 'colors': 0.5}
  options = suites.options('dmc', config)
  assert options == {'camera': '-1', 'distractors': config['distractors']}
  options = suites.options(
      'dmc', {**config, 'distractors': off, 'renderer': 'igibson'})
  assert options == {'camera': '-1', 'renderer': 'igibson'}


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(PAPER))
def test_memory_is_flat_over_50_resets(name):
  suite, task = suites.parse('', PAPER[name]['task'])

  def peaks():
    env = suites.make(suite, task, seed=0)
    action = np.zeros(env.act_space['action'].shape, np.float32)
    memory = []
    for _ in range(51):
      env.reset()
      env.step({'action': action})
      memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return memory
  found = in_worker(peaks, suite)
  print(f'{name}: {found[10]:.0f} MiB after 10 resets, {found[-1]:.0f} at 51')
  assert found[-1] - found[10] < 0.02 * found[10]
