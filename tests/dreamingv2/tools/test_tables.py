"""Tests tables of curves made by hand, and the notes on their faults."""

import csv
import io
import json

import pytest

from dreamingv2.tools import results
from dreamingv2.tools import tables
from tests.dreamingv2.tools import test_scores
from tests.helpers import make_curve

SETTINGS = {'contrastive.horizon': 3, 'contrastive.dynamics': 'rssm'}


def runs(method, *values, **settings):
  return [
      make_curve(method=method, seed=i, ys=[0., y], settings={
          **SETTINGS, **settings}) for i, y in enumerate(values)]


CURVES = [
    *runs('dreamingv2', 100., 120.), *runs('dreamerv2', 80., 90.),
    *runs('dreaming', 130., 130.),
    *runs('dreamingv2', 70., **{'contrastive.horizon': 0}),
    *runs('dreamingv2_lin', 60., 62., **{'contrastive.dynamics': 'linear'})]


def rows(table, source='these runs'):
  return {
      name: dict(zip(table.columns, entries, strict=True))
      for name, where, _, entries in table.rows if where == source}


def test_tables_hold_means_deviations_and_ranks_beside_the_paper():
  (one, two, three, _), footnotes, _ = tables.build(CURVES, 1000)
  lift = rows(one)['Lift']
  found = {k: (x.mean, round(x.std, 3), x.runs, x.mark) for k, x in
           lift.items() if x.runs}
  assert found == {
      'DreamingV2': (110, 14.142, 2, 'second'),
      'DreamerV2': (85, 7.071, 2, ''), 'Dreaming': (130, 0, 2, 'best'),
      'dreamingv2_lin': (61, 1.414, 2, '')}
  paper = rows(one, 'paper')['Lift']
  assert (paper['DreamingV2'].mean, paper['DreamingV2'].std) == (327, 150)
  assert paper['Dreaming'].mark == 'second'
  assert rows(two)['Lift']['K = 0'].mean == 70
  assert rows(two)['Lift']['K = 3'].mean == 110
  assert rows(three)['Lift']['linear'].mean == 61
  assert rows(three)['Lift']['RSSM'].mean == 110
  assert not footnotes


def test_success_rates_stand_without_the_published_returns(tmp_path, capsys):
  curves = [
      {**c, 'successes': [0., rate]} for c, rate in zip(
          CURVES[:4], (0.5, 1., 0.25, 0.), strict=True)]
  others = [{**c, 'task': 'dmc_walker_walk'} for c in curves]
  path = tmp_path / 'curves.json'
  path.write_text(json.dumps([*curves, *CURVES[4:], *others]))
  tables.main([
      str(path), '--steps', '1000', '--success', '--tasks', 'Lift',
      '--format', 'csv'])
  out = capsys.readouterr().out
  lines = [x for x in csv.reader(io.StringIO(out)) if 'Lift' in x]
  found = {x[4]: tuple(map(float, x[5:7])) for x in lines if x[0] == 'Table I'}
  assert found == {
      'DreamingV2': (0.75, pytest.approx(0.3536, abs=1e-4)),
      'DreamerV2': (0.125, pytest.approx(0.1768, abs=1e-4))}
  assert ',paper,' not in out and 'Walker-walk,these' not in out
  tables.main([
      str(path), '--steps', '1000', '--tasks', 'Lift', '--format', 'csv'])
  out = capsys.readouterr().out
  assert {x.split(',')[1] for x in out.splitlines() if ',paper,' in x} == {
      'Lift'}
  assert 'no run on' not in out
  (table, *_, shares), _, notes = tables.build(
      results.of_success(curves), 1000)
  assert 'solve the task' in table.caption and 'paper:' not in table.caption
  assert shares.title == 'Success rates over tasks'
  assert [entries[0].mean for *_, entries in shares.rows] == [0.75, 0.125]


def test_aggregates_are_shares_of_the_limit_with_intervals():
  curves = [
      {**c, 'task': task} for c in runs('dreamingv2', 100., 200., 300.)
      for task in ('Lift', 'Walker-walk')]
  *_, table = tables.build(curves, 1000)[0]
  (_, _, _, (mean, median, iqm)), = table.rows
  shares = [0.2, 0.4, 0.6, 0.1, 0.2, 0.3]
  assert mean.mean == pytest.approx(0.3) and mean.runs == 6
  assert median.mean == pytest.approx(0.3)
  assert iqm.mean == pytest.approx(sum(sorted(shares)[1:-1]) / 4)
  for entry in (mean, median, iqm):
    assert 0.15 <= entry.low < entry.mean < entry.high <= 0.45


def test_runs_of_several_settings_are_shown_apart_and_not_ranked():
  curves = CURVES + runs('dreamerv2', 20., **{'contrastive.horizon': 2})
  (one, *_), footnotes, _ = tables.build(curves, 1000)
  entry = rows(one)['Lift']['DreamerV2']
  assert entry.text == 'not averaged' and not entry.mark
  text = footnotes[entry.note - 1]
  assert 'contrastive.horizon 2 instead of 3' in text
  assert 'setup 1: 80 (seed 0), 90 (seed 1)' in text
  assert 'setup 2: 20 (seed 0)' in text


def test_missing_seeds_runs_and_columns_are_named():
  curves = CURVES + runs('dreamingv2', 5., **{'contrastive.horizon': 7})
  curves += [make_curve(method='dreamer', seed=1)]
  notes = tables.build(curves, 1000)[2]
  assert 'Table I, Lift: no run of DreamerPro, TPC.' in notes
  assert ('Table I, Lift, Dreamer: no run with seed 0, which other '
          'methods have.'
          in notes)
  assert any(x.startswith('Table I: no run on UR5-reach,') for x in notes)
  assert 'Table II, Lift: no run of K = 1, K = 2.' in notes
  assert ('Lift, dreamingv2, seed 0: its settings fit no column of the '
          'tables' in notes)


def test_common_steps_are_those_of_the_shortest_run():
  curves = runs('dreamingv2', 1.) + [make_curve(
      method='dreamerv2', xs=[1000, 2000], ys=[7., 9.])]
  (one, *_), _, _ = tables.build(curves, None)
  assert rows(one)['Lift']['DreamerV2'].mean == 7
  assert next(steps for name, source, steps, _ in one.rows
              if (name, source) == ('Lift', 'these runs')) == 1000


def test_formats_hold_the_same_numbers():
  built = tables.build(CURVES, 1000, ['a_note & more'])
  text = tables.markdown(*built)
  assert '| Lift | these runs | 1,000 | _110 ± 14_ (2) | 85 ± 7.1' in text
  assert '| **327 ± 150** | 165 ± 126 | _174 ± 107_ |' in text
  assert 'within 2.5% of 1,000 environment steps' in text
  assert 'never a maximum' in text and '- a_note & more' in text
  tex = tables.latex(*built)
  assert r'\underline{110 $\pm$ 14} (2)' in tex
  assert r'\textbf{\underline{327 $\pm$ 150}}' in tex
  assert r'a\_note \& more\\' in tex
  assert tex.count(r'\begin{tabular}') == tex.count(r'\end{tabular}') == 4
  for line in tex.splitlines():
    if line.endswith(r'\\') and '&' in line and line.startswith('Lift'):
      assert line.count(' & ') in (6, 4, 9)
  lines = {
      (x['table'], x['row'], x['from'], x['column']): x
      for x in csv.DictReader(io.StringIO(tables.to_csv(*built)))}
  line = lines['Table I', 'Lift', 'these runs', 'DreamingV2']
  assert (line['mean'], line['runs'], line['mark']) == ('110.0', '2', 'second')
  assert lines['Table I', 'Lift', 'paper', 'TPC']['mean'] == '24'


def test_program_reads_logdirs_and_files_and_writes(tmp_path, capsys):
  test_scores.write_run(
      tmp_path / 'runs' / '0', lines=test_scores.LINES)
  path = tmp_path / 'runs' / '0' / 'metrics.jsonl'
  path.write_text(path.read_text() + '{"step": 3')
  curves = [make_curve(task='toy_reach', method='dreamerv2', command='x',
                       xs=[300], ys=[8.])]
  (tmp_path / 'more.json').write_text(json.dumps(curves))
  out = tmp_path / 'new' / 'tables.md'
  tables.main([
      str(tmp_path / 'more.json'), '--indir', str(tmp_path / 'runs'),
      '--steps', '300', '--out', str(out)])
  text = capsys.readouterr().out
  assert out.read_text() == text
  assert '| toy_reach | these runs | 300 | _5.0_ (1) | **8.0** (1) |' in text
  assert '1 damaged line left out, the first at 13' in text
  assert '| 4.0 (1) |' in text  # Random actions.


@pytest.mark.parametrize('argv, words', [
    ([], 'no curve found'),
    (['--indir', 'nowhere'], 'no folder nowhere'),
    (['bad.json'], 'bad.json holds no list'),
    (['ours.json', '--steps', 'soon'], "'soon' is neither a number"),
    (['ours.json', '--steps', '-3'], "'-3' is neither a number"),
    (['ours.json', '--methods', 'dremer'], "'dremer'; known: dreamer"),
    (['ours.json', '--format', 'html'], "invalid choice: 'html'")])
def test_bad_input_ends_in_one_line(
    argv, words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'bad.json').write_text('{')
  (tmp_path / 'ours.json').write_text(
      json.dumps([make_curve(method='dreamer', command='a')]))
  with pytest.raises(SystemExit) as error:
    tables.main(argv)
  line, = capsys.readouterr().err.splitlines()
  assert error.value.code == 2 and words in line


def test_published_files_of_other_repositories_stand_beside_ours():
  folder = results.settings.ROOT / 'scores'
  curves, notes = results.read([], [
      folder / f'{x}.json' for x in (
          'published_dreamerv2', 'published_dreamerpro', 'small')])
  (one, *_), footnotes, notes = tables.build(curves, 500_000, notes)
  found = {
      (task, name): (round(x.mean, 2), round(x.std, 2), x.runs)
      for task, entries in rows(one).items() for name, x in entries.items()
      if x.runs and task in ('Finger-turn-hard', 'Reacher-easy')}
  # Near the step, Finger-turn-hard has only values at 510,000. The others are
  # means of those at 490, 500 and 510 thousand, then over seeds. All numbers
  # come from a calculator.
  pro = '(full size, fdeng18/dreamer-pro)'
  assert found == {
      ('Finger-turn-hard', 'dreamerv2 (full size, danijar/dreamerv2)'):
          (378.7, 112.19, 5),
      ('Reacher-easy', f'dreamerpro {pro}'): (938.03, 25.35, 3),
      ('Reacher-easy', f'dreamerv2 {pro}'): (716.44, 50.4, 3),
      ('Reacher-easy', f'tpc {pro}'): (222.52, 23.05, 3)}
  assert not any('Finger-turn-hard' in x for x in footnotes)
  assert sum('do not say how they were made' in x for x in notes) == 2


def test_shipped_scores_make_tables():
  folder = results.settings.ROOT / 'scores'
  curves, notes = results.read([], [folder / 'small.json'])
  (one, two, *_), _, _ = tables.build(curves, None, notes)
  # Episodes of 200 steps are not the paper's task.
  assert not {'Lift'} & {*rows(one), *rows(two)}
  lift = rows(one)['Lift (200 steps)']
  assert lift['DreamingV2'].runs == lift['DreamerV2'].runs == 2
  assert rows(two)['Lift (200 steps)']['K = 0'].runs == 1
