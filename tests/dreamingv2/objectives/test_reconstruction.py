import numpy as np
import pytest
import tensorflow as tf

from dreamingv2.common import tfutils


@pytest.fixture
def make_model(make_config, make_agent, make_batch):

  def make(vector=False, length=7, **updates):
    config = make_config('dreamerv2', vector=vector, updates={
        'dataset.length': length, **updates})
    data = make_batch(config)
    agent = make_agent(config)
    data = {k: tf.convert_to_tensor(v) for k, v in data.items()}
    return agent, data

  return make


@pytest.mark.parametrize('vector, key', [(False, 'image'), (True, 'state')])
def test_likelihood_equals_a_loop(vector, key, make_model):
  wm, data = make_model(vector)[0].wm, make_model(vector)[1]
  _, _, outputs, metrics = wm.loss(data)
  target = wm.preprocess(data)[key].numpy()
  means = wm.heads['decoder'](outputs['feat'])[key].mode().numpy()
  B, T = target.shape[:2]
  total = 0.0
  for b in range(B):
    for t in range(T):
      error = (target[b, t] - means[b, t]).astype(np.float64)
      total += 0.5 * (error ** 2).sum() + error.size * np.log(2 * np.pi) / 2
  np.testing.assert_allclose(
      metrics[f'{key}_loss'], total / (B * T), rtol=1e-5)


def test_decoder_trains_encoder_and_posterior(make_model, grads_of):
  agent, data = make_model()
  wm = agent.wm
  with tf.GradientTape() as tape:
    value = wm.loss(data)[3]['image_loss']
  norms = grads_of(tape, value, wm)
  for start in (
      'encoder/', 'rssm/cell/', 'rssm/obs_', 'heads/decoder/'):
    assert max(v for k, v in norms.items() if k.startswith(start)) > 1e-6
  for start in ('rssm/img_out', 'heads/reward/'):
    assert max(v for k, v in norms.items() if k.startswith(start)) == 0


def test_nothing_of_the_contrastive_objective_exists(make_model):
  agent, data = make_model(True)
  names = list(tfutils.named_variables(agent.wm))
  assert not [k for k in names if 'critic' in k or 'slow' in k]
  _, _, _, metrics = agent.wm.loss(data)
  assert not [k for k in metrics if 'nce' in k or 'aux' in k]


def test_reconstruction_improves_on_one_batch(make_model):
  agent, data = make_model(True, **{'model_opt.lr': 1e-2})
  losses = [
      float(agent.wm.train(data)[2]['state_loss']) for _ in range(16)]
  # The minimum of the loss: five numbers with unit variance.
  floor = 5 * np.log(2 * np.pi) / 2
  assert losses[-1] - floor < 0.8 * (losses[0] - floor)


def test_report_draws_truth_model_and_error(make_model):
  agent, data = make_model(length=8)
  report = agent.report(data)
  assert set(report) == {'openl_image'}
  video = report['openl_image']
  B, T = data['reward'].shape
  assert video.shape == (T, 3 * 64, B * 64, 3)
  assert video.dtype == np.float32
  assert video.min() >= 0 and video.max() <= 1
  truth, model, error = np.split(video, 3, 1)
  for b in range(B):
    np.testing.assert_allclose(
        truth[:, :, b * 64: (b + 1) * 64], data['image'][b] / 255, atol=1e-6)
  # Nothing is clipped for an untrained model.
  np.testing.assert_allclose(error, (model - truth + 1) / 2, atol=1e-6)


def test_report_predicts_from_actions_alone_after_five_frames(make_model):
  agent, data = make_model(length=8)
  other = np.array(data['image'])
  other[:, 5:] = 255 - other[:, 5:]
  reports = []
  for image in (data['image'], tf.constant(other)):
    tfutils.setup('32', seed=3)  # The same noise both times.
    reports.append(agent.report({**data, 'image': image})['openl_image'])
  models = [np.split(x, 3, 1)[1] for x in reports]
  np.testing.assert_allclose(models[0], models[1], atol=1e-6)
  other = np.array(data['image'])
  other[:, 4] = 255 - other[:, 4]
  tfutils.setup('32', seed=3)
  changed = agent.report({**data, 'image': tf.constant(other)})
  changed = np.split(changed['openl_image'], 3, 1)[1]
  np.testing.assert_allclose(models[0][:4], changed[:4], atol=1e-6)
  assert np.abs(models[0][4] - changed[4]).max() > 1e-4


def test_report_without_images_is_empty(make_model):
  agent, data = make_model(True)
  assert agent.report(data) == {}


def test_small_keeps_the_posterior_from_collapsing(learn):
  """With a weight of 0.2 for KL_0, all frames would have one code by now."""
  metrics = learn('dreamerv2', 'small', updates=25)
  assert metrics['post_ent'] > 5  # At most 44.
