"""Tests that foreign text in tables has no formula, mark or line break."""

import csv
import io

import pytest

from dreamingv2.tools import tables
from dreamingv2.tools import text as texts
from tests.helpers import make_curve


@pytest.mark.parametrize('raw, shown', [
    ('a\nb', r'a\nb'), ('a\u202eb', r'a\u202eb'), ('\udc80', r'\udc80'),
    ('Größe 速', 'Größe 速'), (3, '3')])
def test_what_cannot_be_printed_is_written_as_an_escape(raw, shown):
  assert texts.printable(raw) == shown


def test_a_line_is_short_and_keeps_both_ends():
  line = texts.line('begin ' + 'x\n' * 10 ** 6 + 'end')
  assert len(line) < texts.LENGTH + 10 and line.startswith('begin x x')
  assert texts.line('a\n b') == 'a b'


HOSTILE = ['=1+1', '@SUM(A1)', '+1', '-1', '\t=1', 'a|b', '<script>', '[x](y)',
           '*b*', '`c`', r'\input{x}', '$x$', '_hidden', 'a\nb', '%', '{']


@pytest.mark.parametrize('name', HOSTILE)
def test_names_are_harmless_in_every_format(name):
  curves = [make_curve(task=name, method=name, command='x')]
  built = tables.build(curves, 1000, [name])
  header, = [x for x in tables.markdown(*built).splitlines()
             if x.startswith('| ') and texts.markdown(name) in x
             and 'from' in x]
  count = lambda line: line.replace(r'\|', '').count('|')
  row, = [x for x in tables.markdown(*built).splitlines()
          if x.startswith(f'| {texts.markdown(name)} | these')]
  assert count(header) == count(row) == 11
  assert '<script' not in row
  rows = list(csv.reader(io.StringIO(tables.to_csv(*built))))
  for line in rows:
    for cell in line:
      assert cell[:1] not in texts.FORMULA or cell.lstrip('-').replace(
          '.', '').isdigit()
  tex = tables.latex(*built)
  lines = tex.splitlines()
  assert any(x.startswith(f'{texts.latex(name)} & these') for x in lines)
  assert r'\input' not in tex
  for line in lines:  # Else LaTeX would read an argument.
    assert not line.startswith(('[', '*'))


def test_numbers_stay_numbers_in_csv():
  assert texts.cell(-1.5) == -1.5 and texts.cell('') == ''
  assert texts.cell('-1.5') == "'-1.5"
