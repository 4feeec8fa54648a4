"""Draws figures of curves made by hand."""

import json
import sys

import numpy as np
import PIL.Image
import pytest

from dreamingv2.tools import figures
from tests.helpers import make_curve


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
  np.testing.assert_allclose(xs, [50, 352 / 3, 199, 305])
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


def test_curves_of_success_rates_end_at_the_step_asked_for(monkeypatch):
  curves = [
      make_curve(xs=[10, 20, 30], ys=[5., 6., 7.], successes=[0., .5, 1.]),
      make_curve(method='old', xs=[10], ys=[9.])]
  kept = {}
  monkeypatch.setattr(
      figures.plots, 'save', lambda fig, path: kept.update(fig=fig))
  monkeypatch.setattr(
      figures.results, 'read', lambda *args: (curves, []))
  figures.main([
      'curves', 'a.json', '--success', '--steps', '20', '--out', 'a.png'])
  ax, = kept['fig'].axes
  lines = {x.get_label(): x for x in ax.lines}
  assert lines['dreamingv2'].get_xydata().tolist() == [[10, 0], [20, .5]]
  assert set(lines) == {'dreamingv2', 'upper limit'}
  assert lines['upper limit'].get_ydata()[0] == 1
  assert ax.get_ylabel() == 'success rate'


def test_success_rates_have_no_published_mark_of_returns():
  curves = [make_curve(
      xs=[250_000, 500_000], ys=[0.5, 0.9], of='success rate')]
  ax, = figures.draw_curves(curves, []).axes
  assert not ax.containers and ax.get_ylim()[1] < 2


def test_steps_that_some_runs_lack_are_dotted_wherever_they_are():
  notes = []
  ax, = figures.draw_curves([
      make_curve(xs=[1, 2, 3, 4], ys=[1., 2., 3., 4.]),
      make_curve(seed=1, xs=[2, 3], ys=[4., 5.])], notes).axes
  lines = {x.get_linestyle(): x.get_ydata() for x in ax.lines if len(
      x.get_ydata()) == 4}
  np.testing.assert_array_equal(lines['-'], [np.nan, 3, 4, np.nan])
  np.testing.assert_array_equal(lines[':'], [1, 3, 4, 4])
  assert 'not all of its 2 runs have a value at every step' in notes[0]


def test_bins_hold_equally_many_steps_and_what_is_finite():
  xs, values = figures.binned([
      make_curve(xs=[5, 10, 15, 20, 25], ys=[1., 2., 3., np.nan, 5.]),
      make_curve(xs=[10, 20, 30], ys=[1., 2., 3.])])
  np.testing.assert_allclose(xs, [25 / 3, 55 / 3, 27.5])
  np.testing.assert_array_equal(values, [[1.5, 3, 5], [1, 2, 3]])


def test_random_actions_alone_span_their_steps():
  ax, = figures.draw_curves([
      make_curve(method='random', xs=[200, 5000], ys=[3., 5.])], []).axes
  assert ax.get_xlim() == (0, 5000)


def test_steps_of_short_runs_are_written_out():
  ax, = figures.draw_curves([make_curve(xs=[50, 1500])], []).axes
  text = ax.xaxis.get_major_formatter()
  assert [text(x) for x in (0, 50, 1500, 2e6)] == ['0', '50', '1.5K', '2M']


def test_curves_of_several_settings_are_drawn_apart():
  notes = []
  fig = figures.draw_curves([
      make_curve(seed=i, settings={'a': i}) for i in range(2)], notes)
  labels = {x.get_label() for x in fig.axes[0].lines}
  assert {'dreamingv2', 'dreamingv2 [2]'} <= labels
  assert notes == [
      'Lift, dreamingv2 [2]: drawn apart from dreamingv2, with a 1 instead of '
      '0']


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
      'atari_pong: left out of statistics over tasks, because its maximum '
      'return is unknown or ambiguous']


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


@pytest.mark.parametrize('argv, words', [
    (['curves', '--out', 'a.png'], 'no curve found'),
    (['curves', '--out', '/proc/x/a.png'], 'cannot be written to /proc'),
    (['curves', '--indir', 'nowhere', '--out', 'a.png'], 'no folder nowhere'),
    (['curves', 'a.json', '--out', 'a.gif'], 'ending must be one of pdf, png'),
    (['curves', 'a.json', '--methods', 'x', '--out', 'a.png'], "method 'x'"),
    (['curves', 'a.json', '--tasks', 'Lit', '--out', 'a.png'],
     "Unknown task 'Lit'; known: Lift"),
    (['curves', 'a.json', '--success', '--out', 'a.png'],
     'no run has logged success rates: their tasks tell no success'),
    (['curves', 'a.json', '--steps', '9', '--out', 'a.png'],
     'no run has an evaluation up to step 9'),
    (['curves', 'a.json', '--steps', 'x', '--out', 'a.png'],
     "'x' is no number of environment steps"),
    (['profiles', 'a.json', '--steps', '9', '--out', 'a.png'],
     'no run has a score at this step: Lift, dreamingv2: seed 0 has no eval')])
def test_bad_input_ends_in_one_line(
    argv, words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'a.json', [make_curve()])
  with pytest.raises(SystemExit) as error:
    figures.main(argv)
  line, = capsys.readouterr().err.splitlines()
  assert error.value.code == 2 and words in line


def test_matplotlib_missing_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(ValueError, match=r"'dreamingv2\[plot\]'"):
    figures.plots.grid(1)
