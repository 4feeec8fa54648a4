"""Trains on the user's own environments through dreamingv2.api."""

import functools
import importlib
import json
import os
import pathlib
import signal
import sys
import threading

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from dreamingv2 import agent as agents
from dreamingv2 import api
from dreamingv2.common import config as configs
from dreamingv2.common import envs
from dreamingv2.common import identity
from dreamingv2.tools import evaluate
from dreamingv2.tools import scores

OWN = """
import os, sys
import gymnasium
import numpy as np

class Own(gymnasium.Env):
  observation_space = gymnasium.spaces.Dict(
      process=gymnasium.spaces.Box(0, 2 ** 22, (1,), np.float32))
  action_space = gymnasium.spaces.Discrete(2)

  def __init__(self, length):
    assert 'tensorflow' not in sys.modules
    self.length = length

  def reset(self, *, seed=None, options=None):
    self.count = 0
    return self.observe(), {}

  def step(self, action):
    self.count += 1
    return self.observe(), float(action), False, self.count >= self.length, {}

  def observe(self):
    return {'process': np.float32([os.getpid()])}

def make(length):
  return Own(length)

def fails():
  return 1 // 0

def text():
  return 'Lift'

def needs(lap):
  return Own(lap)
"""
VECTOR = {'encoder.mlp_keys': '.*', 'encoder.cnn_keys': '$^'}
Box, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete


class Env(gymnasium.Env):
  """Returns samples of its spaces and records the actions."""

  def __init__(self, obs, act, length=15, render_mode=None, ends=False):
    self.ends = ends
    self.observation_space, self.action_space = obs, act
    self.render_mode = render_mode
    self.actions, self.seeds = [], []
    self._length = length

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.seeds.append(seed)
    self._count = 0
    return self._draw(), {}

  def step(self, action):
    self.actions.append(np.array(action))
    assert self.action_space.contains(action), action
    self._count += 1
    last = self._count >= self._length
    reward, ends = float(np.mean(action)), self.ends
    return self._draw(), reward, last and ends, last and not ends, {}

  def render(self):
    image = np.zeros((90, 120, 3), np.uint8)
    image[:, :10 + self._count] = 200
    return image

  def _draw(self):
    return self.observation_space.sample()


class OldEnv:
  """Has the interface of gym before 0.26."""

  def __init__(self):
    self.observation_space = Box(-1, 1, (4,), np.float32)
    self.action_space = Box(-2, 2, (2,), np.float32)
    self.actions, self.seeds = [], []

  def seed(self, seed):
    self.seeds.append(seed)

  def reset(self):
    self._count = 0
    return np.zeros(4, np.float32)

  def step(self, action):
    self.actions.append(np.array(action))
    self._count += 1
    done = self._count >= 15
    return np.ones(4, np.float32), 1.0, done, {}


def image_env(**kwargs):
  return Env(
      Box(0, 255, (80, 96, 3), np.uint8), Box(-2, 5, (2,), np.float32),
      **kwargs)


def vector_env(**kwargs):
  return Env(
      Box(-1, 1, (4,), np.float64), Box(-1, 1, (1,), np.float32), **kwargs)


def discrete_env(**kwargs):
  return Env(
      Box(-1, 1, (4,), np.float32), Discrete(3), render_mode='rgb_array',
      **kwargs)


@pytest.fixture
def config(tmp_path):
  return small(tmp_path / 'run')


def small(logdir):
  """Returns the smallest config; it makes four updates."""
  return api.load('debug').update({
      'logdir': str(logdir), 'steps': 90, 'prefill': 45, 'seed': 7,
      'log_every': 20, 'eval_every': 0, 'imag_horizon': 2})


def read(config):
  """Returns the lines of metrics.jsonl."""
  with open(f'{config.logdir}/metrics.jsonl') as file:
    return [json.loads(line) for line in file]


def check_run(agent, config):
  """Asserts that the agent is an Agent and that all losses are finite."""
  assert isinstance(agent, agents.Agent)
  lines = read(config)
  assert max(line['updates'] for line in lines if 'updates' in line) == 4
  losses = [
      value for line in lines for name, value in line.items()
      if name.endswith('_loss')]
  assert len(losses) > 10 and np.isfinite(losses).all()


def test_load_gives_defaults_under_blocks():
  assert api.load().objective == 'contrastive'
  config = api.load('dreamerv2', 'debug')
  assert (config.method, config.dataset.batch) == ('dreamerv2', 4)
  with pytest.raises(ValueError, match="'dremerv2'.*dreamerv2"):
    api.load('dremerv2')


def test_example_of_the_module_is_a_valid_config():
  """Only the config is tested: the environment in it needs Box2D."""
  config = api.load('small').update({'logdir': 'logdir/car', 'steps': 1e5})
  assert config.steps == 1e5


def test_snippet_of_dreamerv2s_readme_trains(config, monkeypatch, capsys):
  """The calls and keys are the same; command-line flags make the run small."""
  small = {
      k: v for k, v in config.flat.items() if v != api.defaults.flat[k]}
  monkeypatch.setattr('sys.argv', ['snippet.py', *(
      word for k, v in small.items() for word in (
          f'--{k}', *(map(str, v) if isinstance(v, tuple) else [str(v)])))])
  parsed = api.defaults.update({
      'logdir': '~/logdir/minigrid',
      'log_every': 1e3,
      'train_every': 10,
      'prefill': 1e5,
      'actor_ent': 3e-3,
      'loss_scales.kl': 1.0,
      'discount': 0.9,
  }).parse_flags()
  assert parsed == config.update({'actor_ent': '0.003', 'discount': 0.9})
  env = Env(
      gymnasium.spaces.Dict({
          'direction': Discrete(4), 'energy': Discrete(3),
          'image': Box(0, 255, (56, 56, 3), np.uint8),
          'mission': gymnasium.spaces.Text(20)}), Discrete(7))
  agent = api.train(env, parsed)
  check_run(agent, parsed)
  assert agent.wm.encoder.cnn_keys == ['image']
  (line,) = [
      x for x in capsys.readouterr().err.splitlines() if 'left out' in x]
  assert (
      'left out: mission (Text, which is not supported); '
      "direction, energy (not matched by encoder.mlp_keys '$^')") in line
  assert "encoder.mlp_keys to '.*'" in line


def test_image_environment_trains_within_its_bounds(config):
  env = image_env()
  agent = api.train(env, config)
  check_run(agent, config)
  actions = np.stack(env.actions[1:])  # The first was the trial step.
  assert len(actions) == 90
  # Random prefill fills the bounds -2..5, not just -1..1.
  assert actions[:45].min() < -1.3 and actions[:45].max() > 3.5
  # Each episode has its own seed, so that it can be repeated.
  assert None not in env.seeds and len({*env.seeds}) == len(env.seeds) > 1
  assert agent.obs_space['image'].shape == (64, 64, 3)
  assert not [k for line in read(config) for k in line if 'eval_' in k]
  saved = configs.Config.load(f'{config.logdir}/config.yaml')
  assert saved == config.update({'task': f'{__name__}:Env'})


def test_vector_environment_trains(config):
  config = config.update(VECTOR)
  agent = api.train(vector_env(), config)
  check_run(agent, config)
  assert agent.obs_space['vector'].dtype == np.float32


def test_vectors_are_used_where_there_is_no_image(config):
  config = config.update({'steps': 50})
  agent = api.train(vector_env(), config)
  assert agent.wm.encoder.mlp_keys == ['vector']
  api.train(vector_env(), config)  # The same run.


def test_keys_that_match_nothing_say_so_before_a_file_is_left(config):
  wrong = config.update({'encoder.mlp_keys': 'state'})
  with pytest.raises(ValueError, match=r'encoder.mlp_keys.*vector \(4,\)'):
    api.train(vector_env(), wrong)
  api.train(vector_env(), config.update({'steps': 50}))


def test_discrete_environment_trains_from_its_rendered_frame(config):
  env, eval_env = discrete_env(), discrete_env()
  config = config.update({'eval_every': 50, 'eval_eps': 2})
  agent = api.train(env, config, eval_env=eval_env)
  check_run(agent, config)
  assert eval_env.seeds and not {*env.seeds} & {*eval_env.seeds, None}
  assert {int(x) for x in env.actions} == {0, 1, 2}
  assert agent.act_space.discrete
  assert agent.obs_space['image'].shape == (64, 64, 3)
  returns = [x['eval_return'] for x in read(config) if 'eval_return' in x]
  assert len(returns) == 4 and len(eval_env.actions) == 1 + 4 * 15
  videos = pathlib.Path(config.logdir) / 'videos'
  assert list(videos.glob('eval_policy_image_*.gif'))


def test_ends_of_gymnasium_environments_are_learned(config, recwarn):
  config = config.update({**VECTOR, 'steps': 50})
  agent = api.train(vector_env(ends=True), config)
  assert 'discount' in agent.wm.heads
  assert any('discount_loss' in line for line in read(config))
  assert not [x for x in recwarn if 'terminal' in str(x.message)]


def test_ends_that_are_not_learned_are_told(config):
  config = config.update({**VECTOR, 'steps': 50, 'pred_discount': False})
  with pytest.warns(UserWarning, match='ended in a terminal state'):
    agent = api.train(vector_env(ends=True), config)
  assert 'discount' not in agent.wm.heads


def test_old_gym_environment_trains(config):
  env = OldEnv()
  config = config.update(VECTOR)
  check_run(api.train(env, config), config)
  assert None not in env.seeds and len({*env.seeds}) == len(env.seeds) > 1
  assert len(env.actions) == 1 + 90


@pytest.fixture
def own_module(tmp_path, monkeypatch):
  """Returns a module of a user, which another process can import."""
  (tmp_path / 'own_env.py').write_text(OWN)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  yield importlib.import_module('own_env')
  del sys.modules['own_env']


def children():
  path = pathlib.Path(f'/proc/self/task/{os.getpid()}/children')
  return {int(x) for x in path.read_text().split()}


def test_constructor_runs_in_processes_of_its_own(config, own_module, capsys):
  before = children()
  config = config.update({
      **VECTOR, 'steps': 60, 'envs': 2, 'eval_every': 60, 'eval_eps': 1})
  make = functools.partial(own_module.make, length=11)
  api.train(make, config, eval_env=make)
  assert children() <= before
  made = identity.read(config.logdir)
  assert made['task'] == made['make'] == 'own_env:make'
  rows = [
      np.load(x) for x in pathlib.Path(config.logdir).glob('*_episodes/*')]
  processes = {x['process'].flat[0] for x in rows}
  assert len(processes) == 2 and os.getpid() not in processes
  assert [x['eval_length'] for x in read(config) if 'eval_length' in x] == [11]
  # It is made again from its name and arguments.
  numbers = api.evaluate(config.logdir, episodes=1)
  assert numbers['length'] == [11]
  assert numbers == api.evaluate(config.logdir, make, episodes=1)
  assert children() <= before


def test_constructor_without_a_name_runs_too(config):
  config = config.update({**VECTOR, 'steps': 50})
  agent = api.train(lambda: envs.Dummy(length=15), config)
  assert agent.act_space.shape == (6,)
  made = identity.read(config.logdir)
  assert made['task'] == 'dreamingv2.common.envs:Dummy' and not made['make']


@pytest.mark.parametrize('name, words', [
    ('fails', r'constructor own_env:fails raised ZeroDivisionError: .*v.py'),
    ('text', 'constructor own_env:text returned str, which is no environment'),
    ('needs', r'own_env:needs takes \(lap\), but: missing a required arg'),
    ('locked', r"cannot be sent .*cannot pickle '_thread.lock' object")])
def test_constructor_that_makes_no_environment_is_refused(
    name, words, config, own_module, tmp_path):
  before = children()
  make = getattr(own_module, name, None)
  if name == 'locked':
    lock = threading.Lock()
    make = lambda: lock
  with pytest.raises(ValueError, match=words) as info:
    api.train(make, config)
  assert '\n' not in str(info.value)
  assert not (tmp_path / 'run').exists() and children() <= before


def test_action_repeat_repeats_in_the_users_environment(config):
  env = vector_env(length=45)
  config = config.update({**VECTOR, 'action_repeat': 3, 'steps': 180})
  api.train(env, config)
  actions = np.stack(env.actions[3:])  # The first 3 were the trial step.
  assert len(actions) == 180
  assert all(len(np.unique(actions[i:i + 3])) == 1 for i in range(0, 45, 3))
  assert max(line['step'] for line in read(config)) == 180


def test_outputs_replace_the_usual_ones(config, tmp_path):
  seen = []
  api.train(
      vector_env(), config.update(VECTOR),
      outputs=[lambda step, entries: seen.append((step, dict(entries)))])
  assert any('model_loss' in entries for _, entries in seen)
  assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_second_call_resumes(config):
  config = config.update(VECTOR)
  first = api.train(vector_env(), config)
  env = vector_env()
  again = api.train(env, config)
  assert len(env.actions) == 1  # The trial step.
  env.actions.clear()
  arrays = again.save()
  for key, value in first.save().items():
    np.testing.assert_array_equal(value, arrays[key])
  api.train(env, config.update({'steps': 120}))
  assert len(env.actions) == 31


@pytest.mark.parametrize('wrapped', [False, True])
def test_run_knows_its_task_and_is_evaluated_in_it(wrapped, config, capsys):
  """It was filed under robosuite_Lift and evaluated there."""
  env = gymnasium.make('CartPole-v1', max_episode_steps=20)
  if wrapped:
    env = gymnasium.wrappers.TransformReward(env, lambda x: 2 * x)
  config = config.update({**VECTOR, 'suite': 'robosuite'})
  api.train(env, config)
  notes = []
  names = {c['task'] for c in scores.collect(
      pathlib.Path(config.logdir), notes)}
  assert names == {'gym_CartPole-v1'}
  capsys.readouterr()
  if wrapped:
    with pytest.raises(SystemExit):
      evaluate.main(['--logdir', config.logdir])
    assert 'gym_CartPole-v1, which only Python' in capsys.readouterr().err
    numbers = api.evaluate(config.logdir, env, episodes=2)
    assert numbers['return'] == [2 * x for x in numbers['length']]
    assert numbers == api.evaluate(config.logdir, env, episodes=2)
    with pytest.raises(ValueError, match=(
        r"differs: 'vector' is float32\[4\] there, but float32\[6\] here, "
        r"'action' is Discrete\(2\) there, but Discrete\(3\) here")):
      api.evaluate(config.logdir, gymnasium.make('Acrobot-v1'))
    return
  policy = f'{config.logdir}/policy'
  for flags in (['--logdir', config.logdir, '--export', policy],
                ['--policy', policy]):
    evaluate.main([*flags, '--episodes', '2', '--out', f'{policy}.json'])
    lines = capsys.readouterr().out.splitlines()
    lengths = [int(x.split()[4]) for x in lines if x.startswith('episode')]
    # A pole that falls earns one per step, and 20 is this run's limit.
    assert len(lengths) == 2 and all(8 <= x <= 20 for x in lengths)
    assert lines[1] == (
        f'episode 1: return {lengths[0]:.2f}, {lengths[0]} agent steps')
    numbers = api.evaluate(flags[1], episodes=2)
    assert numbers['length'] == numbers['return'] == lengths
    assert numbers == json.loads(pathlib.Path(f'{policy}.json').read_text())
    with pytest.raises(ValueError, match='episodes is 0; it must be at least'):
      api.evaluate(flags[1], episodes=0)
  snapshot = evaluate.read_checkpoint(pathlib.Path(config.logdir))
  played = api.evaluate(config.logdir, episodes=2, step=snapshot.step)
  assert played['return'] == lengths and played['step'] == snapshot.step
  with pytest.raises(ValueError, match='no checkpoint of step 1; there are'):
    api.evaluate(config.logdir, step=1)
  with pytest.raises(ValueError, match=r'best and step 1 name two'):
    api.evaluate(config.logdir, best=True, step=1)
  with pytest.raises(ValueError, match='policy is an exported policy'):
    api.evaluate(policy, step=1)


def test_other_environment_cannot_take_over_a_logdir(config):
  config = config.update({**VECTOR, 'steps': 50})
  api.train(vector_env(), config)
  with pytest.raises(ValueError, match='task .*:Env there and .*:OldEnv here'):
    api.train(OldEnv(), config)


def test_name_instead_of_an_environment_is_refused(config):
  with pytest.raises(ValueError, match='env is str, which is no environment'):
    api.train('CartPole-v1', config)


def test_missing_logdir_is_refused(config):
  with pytest.raises(ValueError, match='logdir.*config.update'):
    api.train(vector_env(), config.update({'logdir': ''}))


def test_one_environment_for_both_is_refused(config):
  env = vector_env()
  with pytest.raises(ValueError, match='eval_env is env'):
    api.train(env, config.update(VECTOR), eval_env=env)


def test_action_that_is_not_finite_never_reaches_the_environment(config):
  """An agent whose weights have become NaN stops at the environment."""
  env = vector_env()
  config = config.update({**VECTOR, 'pretrain': 0})
  agent_type = agents.Agent

  class Broken(agent_type):

    def _build(self):
      super()._build()
      for variable in tf.nest.flatten(self._variables()):
        if variable.dtype == tf.float32:
          variable.assign(tf.fill(variable.shape, np.nan))

  patch = pytest.MonkeyPatch()
  with patch.context() as patched:
    patched.setattr(agents, 'Agent', Broken)
    with pytest.raises(ValueError, match="'action' is not finite"):
      api.train(env, config)
  assert len(env.actions) == 1 + 45  # The trial and the random ones.
  assert np.isfinite(np.stack(env.actions)).all()


def test_ctrl_c_saves_and_is_what_the_caller_sees(config):
  env = vector_env()
  inner = env.step

  def step(action):
    if len(env.actions) == 1 + 20:
      signal.raise_signal(signal.SIGINT)
    return inner(action)
  env.step = step
  config = config.update(VECTOR)
  # A process in the background of a script inherits that it is ignored.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt):
      api.train(env, config)
  finally:
    signal.signal(signal.SIGINT, before)
  assert not (pathlib.Path(config.logdir) / 'lock').exists()
  folder = pathlib.Path(config.logdir) / 'checkpoints'
  assert {int(x.stem) for x in folder.glob('*.npz')} == {0, 21}
