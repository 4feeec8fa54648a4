"""Draws what models of short runs see, and checks the statistics behind it."""

import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2.tools import evaluate
from dreamingv2.tools import figures
from dreamingv2.tools import views
from tests.dreamingv2.tools.test_figures import count

RNG = np.random.default_rng(0)


def test_information_equals_numbers_computed_by_hand():
  one = np.array([0, 0, 1, 1])
  assert views.information(one, one) == pytest.approx(np.log(2))
  assert views.information(one, np.array([0, 1, 0, 1])) == pytest.approx(0)
  # H(a) + H(b) - H(a, b) of the table [[2, 1], [0, 1]] / 4.
  entropy = lambda *p: -sum(x * np.log(x) for x in p)
  assert views.information(
      np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])) == pytest.approx(
          entropy(.75, .25) + entropy(.5, .5) - entropy(.5, .25, .25))


def test_variables_that_tell_the_phases_are_found():
  labels = [np.repeat([0, 1, 2], n) for n in ([20, 30, 10], [30, 10, 25])]
  classes = []
  for label in labels:
    noise = RNG.integers(0, 8, (len(label), 6))
    noise[:, 4] = np.where(label == 0, 3, noise[:, 4] % 3)
    noise[:, 1] = np.where(label == 1, 7, 2)
    noise[:, 5] = np.where(label == 2, 0, 1 + noise[:, 5] % 7)
    classes.append(noise)
  chosen = views.choose(classes, labels)
  assert [variable for variable, _, _ in chosen] == [4, 1, 5]
  assert all(0.6 * most < nats <= most for _, nats, most in chosen)


def test_variables_of_pure_chance_tell_about_nothing():
  labels = [np.repeat([0, 1], 40)] * 4
  classes = [np.repeat(RNG.integers(0, 8, (16, 6)), 5, 0) for _ in labels]
  assert all(nats < 0.12 for _, nats, _ in views.choose(classes, labels))


def test_phases_split_rewards_or_time_evenly():
  rewards = [np.array([0., .1, .2, .3]), np.array([.4, .5])]
  first, second = views.split(rewards, 3)
  assert first.tolist() == [0, 0, 1, 1] and second.tolist() == [2, 2]
  for many in (0., 1.):
    sparse = np.array([0., many, many, 1.])
    assert views.split([sparse], 2)[0].tolist() == sparse.tolist()
  assert views.split([np.zeros(6)], 3, 'time')[0].tolist() == [
      0, 0, 1, 1, 2, 2]
  for rewards in ([0., 0., 0., 1.], [1., 1.]):
    with pytest.raises(ValueError, match='do not fall into 3 phases'):
      views.split([np.array(rewards)], 3)


def test_reconstructions_show_observation_model_and_error(
    runs, tmp_path, capsys, monkeypatch):
  kept = {}
  monkeypatch.setattr(
      views, '_draw_rows', lambda rows, index, path: kept.update(rows))
  figures.main([
      'reconstructions', '--logdir', *(
          str(runs / x) for x in ('decoder', 'probe', 'none')),
      '--frames', '4', '--fit', '30', '--out', str(tmp_path / 'a.png')])
  assert list(kept) == [
      'observation', 'dreamerv2, decoder', 'dreamerv2, decoder: error',
      'dreamingv2, probe', 'dreamingv2, probe: error', 'dreaming, probe',
      'dreaming, probe: error']
  for image in kept.values():
    assert image.shape == (4, 64, 64, 3)
    assert 0 <= image.min() and image.max() <= 1
  truth, image = kept['observation'], kept['dreamerv2, decoder']
  np.testing.assert_allclose(
      kept['dreamerv2, decoder: error'], np.abs(image - truth))
  assert truth.std() > 0.05
  error = float(re.findall(
      r'dreamerv2, decoder .*error (\S+) on', capsys.readouterr().out)[0])
  assert error == pytest.approx(np.mean((image - truth) ** 2), abs=1e-5)


def test_every_run_has_a_row_of_its_own(tmp_path):
  agent = types.SimpleNamespace(
      wm=types.SimpleNamespace(heads=['decoder']),
      config=types.SimpleNamespace(method='dreamerv2'))
  rows = []
  for folder in 'abc':
    rows.append(views._name(agent, tmp_path / folder / '0', rows))
  assert rows == [
      'dreamerv2, decoder', 'dreamerv2, decoder (0)',
      'dreamerv2, decoder (c/0)']


def test_fitted_decoder_learns_what_frozen_features_hold(runs):
  episode, = evaluate.read_episodes(runs / 'none', 1)
  agent = views.load(runs / 'none', episode)
  before = agent.save()
  errors = []
  for updates in (1, 60):
    decoder = views.fit(agent, runs / 'none', updates).decoder
    image = decoder(views.observer(agent)(episode)[1])['image'].mode()
    errors.append(np.mean(
        (image.numpy() + 0.5 - episode['image'] / 255) ** 2))
  assert errors[1] < 0.9 * errors[0]
  after = agent.save()
  assert all(np.array_equal(before[k], after[k]) for k in before)


def test_latents_are_drawn_above_the_reward(runs, tmp_path, capsys):
  path = tmp_path / 'latents.png'
  figures.main([
      'latents', '--logdir', str(runs / 'probe'), '--episodes', '2',
      '--phases', '2', '--out', str(path)])
  assert count(path, '#0072b2') > 50 and count(path, '#d55e00') > 50
  out = capsys.readouterr().out
  assert len(re.findall(r'phase \d: variable \d tells', out)) == 2
  assert out.splitlines()[-1] == str(path)


def test_drawing_from_a_checkpoint_hides_what_tensorflow_says(
    runs, tmp_path):
  env = {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}
  done = subprocess.run(
      [sys.executable, '-m', 'dreamingv2', 'figures', 'latents', '--logdir',
       str(runs / 'probe'), '--episodes', '2', '--phases', '2', '--out',
       str(tmp_path / 'a.png')],
      cwd=settings.ROOT, env=env, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize('name, argv, words', [
    ('none', ['reconstructions'],
     'has no decoder; train with --probe True, or'),
    ('none', ['latents', '--episodes', '1'],
     'has rssm.latent gaussian, which has no categor'),
    ('probe', ['latents', '--episodes', '1', '--phases', '5'],
     '--phases is 5, but each has a categorical of its own, of which')])
def test_models_without_what_is_drawn_are_named(
    name, argv, words, runs, tmp_path, capsys):
  with pytest.raises(SystemExit):
    figures.main([
        *argv, '--logdir', str(runs / name), '--out', str(tmp_path / 'a.png')])
  assert words in capsys.readouterr().err


@pytest.mark.parametrize('argv, words', [
    (['latents', '--logdir', 'nowhere'], 'is not a logdir'),
    (['latents', '--logdir', 'run'], 'has 0 episodes'),
    (['latents', '--logdir', 'run', '--phases', '1'], '--phases is 1'),
    (['reconstructions', '--logdir', 'run', '--frames', '0'],
     '--frames is 0')])
def test_bad_input_ends_in_one_line(
    argv, words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.yaml').touch()
  with pytest.raises(SystemExit) as error:
    figures.main([*argv, '--out', 'a.png'])
  line, = capsys.readouterr().err.splitlines()
  assert error.value.code == 2 and words in line
