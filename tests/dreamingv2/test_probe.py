import json

import numpy as np
import pytest

from dreamingv2 import agent as agents
from dreamingv2 import readout
from dreamingv2 import settings
from dreamingv2 import train
from dreamingv2.common import counter
from dreamingv2.common import driver as drivers
from dreamingv2.common import suites
from dreamingv2.common import truth as truths
from dreamingv2.common.tfutils import named_variables
from tests.helpers import assert_equal
from tests.helpers import copy
from tests.helpers import scalars


@pytest.mark.parametrize('method, jit', [
    ('dreamerpro', False), ('dreamingv2', False),
    *(pytest.param(*x, marks=pytest.mark.slow) for x in (
        ('dreamerpro', True), ('dreamingv2', True), ('tpc', False),
        ('tpc', True)))])
def test_agent_is_the_same_to_the_bit_with_and_without(
    method, jit, make_config, make_agent, make_batch):
  results = []
  for probe in (False, True):
    config = make_config(
        method, vector=False, updates={'probe': probe, 'jit': jit})
    agent = make_agent(config)
    state = None
    for seed in range(2):
      state, metrics = agent.train(make_batch(config, seed), state)
      agent.report(make_batch(config))  # Draws its own noise.
    arrays = {k: v for k, v in agent.save().items()
              if not k.startswith('probe/')}
    results.append((arrays, scalars(metrics)))
  (arrays, metrics), (arrays2, metrics2) = results
  assert_equal(arrays, arrays2)
  extra = metrics2.keys() - metrics.keys()
  assert extra == {
      'probe_loss', 'probe_image_loss', 'probe_grad_norm', 'probe_skipped'}
  assert metrics == {k: v for k, v in metrics2.items() if k not in extra}


def test_probe_learns_on_one_batch(make_config, make_agent, make_batch):
  config = make_config(
      'dreamingv2', vector=False, updates={
          'probe': True, 'model_opt.lr': 1e-3, 'contrastive.pad': 0})
  agent = make_agent(config)
  before = copy(agent.probe)
  values = [float(agent.train(make_batch(config))[1]['probe_image_loss'])
            for _ in range(8)]
  assert values[-1] < values[0]
  assert any(np.abs(v - before[k]).max() > 0
             for k, v in copy(agent.probe).items())
  assert not [k for k in named_variables(agent.wm) if 'decoder' in k]


def test_probe_draws_truth_model_and_error(
    make_config, make_agent, make_batch):
  config = make_config('dreamingv2', vector=False, updates={'probe': True})
  agent = make_agent(config)
  videos = agent.report(make_batch(config))
  assert set(videos) == {'probe_openl_image'}
  B, T = config.dataset.batch, config.dataset.length
  assert videos['probe_openl_image'].shape == (T, 3 * 64, 64 * B, 3)


def test_probe_beside_a_decoder_draws_its_own(
    make_config, make_agent, make_batch):
  config = make_config('dreamerv2', vector=False, updates={'probe': True})
  videos = make_agent(config).report(make_batch(config))
  assert set(videos) == {'openl_image', 'probe_openl_image'}


def play(count, told=True):
  """Plays episodes of toy_reach with random actions."""
  rng = np.random.default_rng(0)
  act = lambda obs, state: (
      {'action': rng.uniform(-1, 1, (1, 2)).astype(np.float32)}, state)
  episodes = []
  driver = drivers.Driver(
      [suites.make('toy', 'reach', truth=told)], seed=(0,))
  driver.on_episode(episodes.append)
  driver(act, episodes=count)
  return episodes


@pytest.fixture(scope='module')
def toy_agent():
  """Returns an untrained agent of toy_reach with a probe."""
  config = settings.load_config([
      '--configs', 'debug', '--task', 'toy_reach', '--probe', 'True'])
  env = suites.make('toy', 'reach')
  return agents.Agent(config, env.obs_space, env.act_space, counter.Counter())


def test_probe_scores_every_third_episode(toy_agent):
  episodes = play(6)
  metrics = toy_agent.probe.measure(toy_agent.wm, episodes)
  pairs = [
      (x, truths.of(y)) for x, y in zip(
          readout.represent(toy_agent.wm, episodes), episodes, strict=True)]
  expected = readout.state_scores(
      [pairs[i] for i in (0, 1, 3, 4)], [pairs[i] for i in (2, 5)])
  assert metrics == {
      f'probe_r2_{name}_{when}': expected[name][when]['r2']
      for name in ('dot', 'target') for when in ('embed', 'now', '5', '15')}


@pytest.mark.parametrize('count, told', [(3, False), (2, True)])
def test_probe_without_states_or_episodes_measures_nothing(
    count, told, toy_agent):
  assert toy_agent.probe.measure(toy_agent.wm, play(count, told)) == {}


def test_evaluations_of_a_run_log_the_readouts(tmp_path):
  config = settings.load_config([
      '--configs', 'debug', '--task', 'toy_reach', '--probe', 'True',
      '--steps', '60', '--prefill', '50', '--eval_every', '60', '--eval_eps',
      '3', '--logdir', str(tmp_path)])
  made = [suites.make('toy', 'reach', truth=True) for _ in range(2)]
  train.Run(config, tmp_path, made[:1], made[1:]).train()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  found = {k for x in lines for k in json.loads(x) if '_r2_' in k}
  # The one held-out episode has one target: its R^2 means nothing.
  assert found == {
      f'eval_probe_r2_dot_{x}' for x in ('embed', 'now', '5', '15')}
