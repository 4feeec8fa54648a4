import numpy as np
import pytest

from dreamingv2.common.tfutils import named_variables
from tests.helpers import assert_equal
from tests.helpers import copy
from tests.helpers import scalars


@pytest.mark.parametrize('method', ['dreamerpro', 'dreamingv2', 'tpc'])
@pytest.mark.parametrize('jit', [False, True])
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
