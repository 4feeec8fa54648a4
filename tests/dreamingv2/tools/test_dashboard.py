"""Writes the overview of several runs as one page."""

import re

import pytest

from dreamingv2.tools import dashboard
from dreamingv2.tools import figures
from tests.dreamingv2.tools import test_scores


def test_dashboard_is_one_file_with_every_run(runs, tmp_path, capsys):
  test_scores.write_run(tmp_path / 'odd', lines=test_scores.LINES)
  path = tmp_path / 'odd' / 'metrics.jsonl'
  path.write_text('{"step"\n' + path.read_text())
  page = tmp_path / 'runs.html'
  figures.main([
      'dashboard', '--indir', str(runs), str(tmp_path / 'odd'), '--out',
      str(page)])
  text = page.read_text()
  assert not re.findall(r'(src|href)="(?!#|data:)', text)
  for logdir in (
      runs / 'decoder', runs / 'none', tmp_path / 'odd', runs / 'probe'):
    assert f'{logdir}</a>' in text
  assert text.count('data:image/png') == 5
  assert '1 damaged line left out' in text
  assert '1 damaged line' in capsys.readouterr().out


@pytest.mark.parametrize('argv, words', [
    (['--indir', 'empty', '--out', 'a.html'], 'no run found'),
    (['--out', 'a.png'], 'ending must be one of html')])
def test_bad_input_ends_in_one_line(
    argv, words, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(SystemExit) as error:
    figures.main(['dashboard', *argv])
  line, = capsys.readouterr().err.splitlines()
  assert error.value.code == 2 and words in line


@pytest.mark.parametrize('given, shown', [
    ({}, '200.0'), ({'format': 'DreamerV2'}, '155.0')])
def test_last_evaluation_of_one_episode_is_an_evaluation(given, shown):
  """Others log single episodes; ours are evaluations, be they of one."""
  ys = [10.0 * i for i in range(1, 21)]
  curve = {'ys': ys, 'returns': [[y] for y in ys], **given}
  assert dashboard._end(curve) == shown
