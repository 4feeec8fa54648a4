"""Draws figures of curves made by hand and of a short run."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from dreamingv2 import agent as agents
from dreamingv2.tools import evaluate
from dreamingv2.tools import figures
from dreamingv2 import settings
from dreamingv2.tools import views
from dreamingv2.common import checkpoint
from dreamingv2.common import counter
from dreamingv2.common import logdir
from tests.dreamingv2.tools import test_scores
from tests.helpers import make_curve
from tests.helpers import run_toy

RNG = np.random.default_rng(0)


def count(path, color):
  """Returns the number of pixels of a colour such as '#0072b2'."""
  image = np.asarray(PIL.Image.open(path).convert('RGB'))
  rgb = [int(color[i: i + 2], 16) for i in (1, 3, 5)]
  return (image == rgb).all(-1).sum()


def write(path, curves):
  path.write_text(json.dumps([{'command': 'a', **c} for c in curves]))
  return str(path)


def test_bins_align_runs_that_evaluate_at_other_steps():
  xs, values = figures.binned([
      make_curve(xs=[102, 198, 305], ys=[1., 2., 3.]),
      make_curve(xs=[50, 100, 150, 200], ys=[10., 20., 30., 40.])])
  np.testing.assert_allclose(xs, 101.5 * np.arange(4))
  np.testing.assert_array_equal(
      values, [[np.nan, 1, 2, 3], [10, 25, 40, np.nan]])


def test_curves_show_median_limit_and_runs_that_end_early(tmp_path, capsys):
  xs = [100_000, 200_000, 300_000, 400_000, 500_000]
  curves = [
      make_curve(seed=i, xs=xs[:5 - i], ys=[100. * i + x / 5e3 for x in xs][
          :5 - i]) for i in range(3)]
  curves += [make_curve(method='random', xs=[1, 2], ys=[4., 60.])]
  path = tmp_path / 'new' / 'curves.png'
  figures.main([
      'curves', write(tmp_path / 'a.json', curves), '--out', str(path)])
  for color, least in {'#0072b2': 300, '#e0e0e0': 1000}.items():
    assert count(path, color) > least, color
  out = capsys.readouterr().out
  assert 'Note: Lift, dreamingv2: not all of its 3 runs' in out


def test_curves_hold_the_median_and_the_published_mark():
  curves = [
      make_curve(seed=i, xs=[400_000, 500_000], ys=[y, 2 * y])
      for i, y in enumerate([50., 100., 400.])]
  notes = []
  ax, = figures.draw_curves(curves, notes).axes
  lines = {x.get_label(): x for x in ax.lines}
  np.testing.assert_array_equal(lines['dreamingv2'].get_ydata(), [100, 200])
  assert lines['upper limit'].get_ydata()[0] == 500
  mark, = ax.containers
  assert mark.lines[0].get_xydata().tolist() == [[500_000, 327]]
  assert not notes


def test_random_actions_alone_span_their_steps():
  ax, = figures.draw_curves([
      make_curve(method='random', xs=[200, 5000], ys=[3., 5.])], []).axes
  assert ax.get_xlim() == (0, 5000)


def test_curves_of_several_settings_are_drawn_apart():
  notes = []
  fig = figures.draw_curves([
      make_curve(seed=i, settings={'a': i}) for i in range(2)], notes)
  labels = {x.get_label() for x in fig.axes[0].lines}
  assert {'dreamingv2', 'dreamingv2 [2]'} <= labels
  assert 'several settings, drawn apart' in notes[0]


def test_limit_far_above_is_written_and_not_drawn():
  fig = figures.draw_curves([make_curve(ys=[1., 2.])], [])
  ax, = fig.axes
  assert [x.get_text() for x in ax.texts] == ['upper limit 500 ↑']
  assert 'upper limit' not in {x.get_label() for x in ax.lines}


@pytest.mark.parametrize('length, columns', [(5, 4), (20, 2), (70, 1)])
def test_legend_of_long_names_fits_and_leaves_room(length, columns):
  fig = figures.draw_curves([
      make_curve(method=f'{i}'.ljust(length, 'e')) for i in range(6)], [])
  legend, = fig.legends
  assert legend.get_window_extent().width <= fig.bbox.width or columns == 1
  fig.draw_without_rendering()
  ax, = fig.axes
  assert ax.get_window_extent().height > fig.dpi * 1.2  # inches
  assert legend._ncols == columns


def test_shares_are_of_tasks_that_all_methods_have():
  curves = [
      make_curve(method=method, seed=seed, task=task, ys=[0., y])
      for method, task, seed, y in [
          ('a', 'Lift', 0, 50.), ('a', 'Lift', 1, 100.), ('b', 'Lift', 0, 25.),
          ('a', 'Walker-walk', 0, 9.), ('b', 'atari_pong', 0, 9.)]]
  samples, notes = figures.shares(curves, 1000)
  assert {k: [x.tolist() for x in v] for k, v in samples.items()} == {
      'a': [[0.1, 0.2]], 'b': [[0.05]]}
  assert notes == [
      'atari_pong: left out of statistics over tasks, as no one upper limit '
      'of its return is known']


def test_profile_is_the_share_of_runs_above(tmp_path, monkeypatch):
  curves = [
      make_curve(seed=i, ys=[0., y]) for i, y in enumerate([55., 105., 255.])]
  kept = {}
  monkeypatch.setattr(
      figures.plots, 'save', lambda fig, path: kept.update(fig=fig))
  figures.main([
      'profiles', write(tmp_path / 'a.json', curves), '--steps', '1000',
      '--out', 'a.png'])
  line, = kept['fig'].axes[0].lines
  xs, ys = line.get_xydata().T
  for x, y in zip(xs, ys, strict=True):
    assert y == pytest.approx(np.mean(np.array([.11, .21, .51]) > x))


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
  found = views.choose(classes, labels)
  assert [variable for variable, _, _ in found] == [4, 1, 5]
  assert all(0.6 * most < nats <= most for _, nats, most in found)


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


@pytest.fixture(scope='module')
def logdirs(tmp_path_factory):
  """A short run with a probe, and untrained models beside its episodes."""
  folder = tmp_path_factory.mktemp('runs')
  run_toy(folder / 'probe', '--configs', 'debug', '--probe', 'True')
  obs, act = evaluate.spaces(*evaluate.read_episodes(folder / 'probe', 1))
  for name, method in {'decoder': 'dreamerv2', 'none': 'dreaming'}.items():
    for part in ('metrics.jsonl', 'train_episodes'):
      path = folder / 'probe' / part
      copy = shutil.copytree if path.is_dir() else shutil.copy
      (folder / name).mkdir(exist_ok=True)
      copy(path, folder / name / part)
    config = settings.load_config([
        '--configs', 'debug', method, '--task', 'toy_reach'])
    logdir.save_config(config, folder / name, [
        'dreamingv2 0, commit a, a CPU, python 3', 'train.py'])
    agent = agents.Agent(config, obs, act, counter.Counter())
    checkpoint.Checkpoint(folder / name / 'checkpoints').save(
        100, agent.save())
  return folder


def test_reconstructions_show_observation_model_and_error(
    logdirs, tmp_path, capsys, monkeypatch):
  kept = {}
  monkeypatch.setattr(
      views, '_draw_rows', lambda rows, index, path: kept.update(rows))
  figures.main([
      'reconstructions', '--logdir', *(
          str(logdirs / x) for x in ('decoder', 'probe', 'none')),
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


def test_fitted_decoder_learns_what_frozen_features_hold(logdirs):
  episode, = evaluate.read_episodes(logdirs / 'none', 1)
  agent = views.load(logdirs / 'none', episode)
  before = agent.save()
  errors = []
  for updates in (1, 60):
    decoder = views.fit(agent, logdirs / 'none', updates).decoder
    image = decoder(views.observer(agent)(episode)[1])['image'].mode()
    errors.append(np.mean(
        (image.numpy() + 0.5 - episode['image'] / 255) ** 2))
  assert errors[1] < 0.9 * errors[0]
  after = agent.save()
  assert all(np.array_equal(before[k], after[k]) for k in before)


def test_latents_are_drawn_above_the_reward(logdirs, tmp_path, capsys):
  path = tmp_path / 'latents.png'
  figures.main([
      'latents', '--logdir', str(logdirs / 'probe'), '--episodes', '2',
      '--phases', '2', '--out', str(path)])
  assert count(path, '#0072b2') > 50 and count(path, '#d55e00') > 50
  out = capsys.readouterr().out
  assert len(re.findall(r'phase \d: variable \d tells', out)) == 2
  assert out.splitlines()[-1] == str(path)


def test_drawing_from_a_checkpoint_hides_what_tensorflow_says(
    logdirs, tmp_path):
  env = {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}
  done = subprocess.run(
      [sys.executable, '-m', 'dreamingv2', 'figures', 'latents', '--logdir',
       str(logdirs / 'probe'), '--episodes', '2', '--phases', '2', '--out',
       str(tmp_path / 'a.png')],
      cwd=settings.ROOT, env=env, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, '')


def test_dashboard_is_one_file_with_every_run(logdirs, tmp_path, capsys):
  test_scores.write_run(logdirs / 'odd', lines=test_scores.LINES)
  path = logdirs / 'odd' / 'metrics.jsonl'
  path.write_text('{"step"\n' + path.read_text())
  page = tmp_path / 'runs.html'
  figures.main(['dashboard', '--indir', str(logdirs), '--out', str(page)])
  text = page.read_text()
  assert not re.findall(r'(src|href)="(?!#|data:)', text)
  for name in ('decoder', 'none', 'odd', 'probe'):
    assert f'{logdirs / name}</a>' in text
  assert text.count('data:image/png') == 5
  assert '1 damaged line left out' in text
  assert '1 damaged line' in capsys.readouterr().out


@pytest.mark.parametrize('argv, words', [
    (['curves', '--out', 'a.png'], 'no curve found'),
    (['curves', '--indir', 'nowhere', '--out', 'a.png'], 'no folder nowhere'),
    (['curves', 'a.json', '--out', 'a.gif'], 'ending must be one of pdf, png'),
    (['curves', 'a.json', '--methods', 'x', '--out', 'a.png'], "method 'x'"),
    (['profiles', 'a.json', '--steps', '9', '--out', 'a.png'],
     'no run has a score there: Lift, dreamingv2: seed 0 has no evaluation'),
    (['dashboard', '--indir', 'empty', '--out', 'a.html'], 'no run found'),
    (['dashboard', '--out', 'a.png'], 'ending must be one of html'),
    (['latents', '--logdir', 'nowhere', '--out', 'a.png'], 'is no logdir'),
    (['latents', '--logdir', 'run', '--out', 'a.png'], 'has 0 episodes'),
    (['latents', '--logdir', 'run', '--phases', '1', '--out', 'a.png'],
     '--phases is 1'),
    (['reconstructions', '--logdir', 'run', '--frames', '0', '--out', 'a.png'],
     '--frames is 0')])
def test_bad_input_ends_in_one_line(
    argv, words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'a.json', [make_curve()])
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.yaml').touch()
  with pytest.raises(SystemExit) as error:
    figures.main(argv)
  line, = capsys.readouterr().err.splitlines()
  assert error.value.code == 2 and words in line


@pytest.mark.parametrize('name, kind, words', [
    ('none', 'reconstructions', 'has no decoder; train with --probe True, or'),
    ('none', 'latents', 'has rssm.latent gaussian, which has no categor')])
def test_models_without_what_is_drawn_are_named(
    name, kind, words, logdirs, tmp_path, capsys):
  with pytest.raises(SystemExit):
    figures.main([
        kind, '--logdir', str(logdirs / name), '--out',
        str(tmp_path / 'a.png'), *['--episodes', '1'][:2 * (kind[0] == 'l')]])
  assert words in capsys.readouterr().err


def test_matplotlib_missing_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(ValueError, match=r"'dreamingv2\[plot\]'"):
    figures.plots.grid(1)
