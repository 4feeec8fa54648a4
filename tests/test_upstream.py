"""Compares docs/upstream.md with the code, and the code with upstream."""

import pytest

from scripts import upstream


def test_page_is_what_the_script_writes():
  """If this fails, run python -m scripts.upstream."""
  assert upstream.PAGE.read_text() == upstream.page()


def test_three_quarters_of_upstreams_public_names_are_kept():
  present, total = upstream.count()
  assert total == 168 and present / total >= 0.75


@pytest.mark.parametrize('file', upstream.read_names())
def test_names_stand_in_upstreams_order(file):
  names = upstream.read_names()[file]
  assert upstream.kept(file, names)
  assert upstream.in_order(file, names)


def test_order_counts_within_the_file_and_within_each_class(monkeypatch):
  names = ['A', 'A.x', 'A.y', 'f']
  for ours, right in (
      (['A', 'A.x', 'A.z', 'A.y', 'g', 'f'], True), (['A', 'A.y'], True),
      (['A', 'A.y', 'A.x', 'f'], False), (['f', 'A', 'A.x', 'A.y'], False)):
    monkeypatch.setattr(upstream, 'define', lambda file, ours=ours: ours)
    assert upstream.in_order('any.py', names) == right


def test_name_that_is_gone_needs_a_reason(monkeypatch):
  define = upstream.define
  monkeypatch.setattr(upstream, 'define', lambda file: [
      x for x in define(file) if x != 'Driver.on_step'])
  with pytest.raises(ValueError, match='driver.py:Driver.on_step differs'):
    upstream.page()


def test_reason_that_nothing_needs_is_an_error(monkeypatch):
  monkeypatch.setitem(
      upstream.REASONS['names'], 'common/driver.py:Driver.on_step', 'Gone.')
  with pytest.raises(ValueError, match='nothing needs: .*Driver.on_step'):
    upstream.page()


def test_reason_says_where_a_name_really_is(monkeypatch):
  monkeypatch.setitem(upstream.REASONS['names'], 'common/envs.py:DMC', {
      'now': 'common/suites/dmc.py:Dmc', 'why': 'Moved.'})
  with pytest.raises(ValueError, match='dmc.py does not define Dmc'):
    upstream.page()


def test_key_with_another_default_needs_a_reason(monkeypatch):
  values = upstream.our_flat
  monkeypatch.setattr(
      upstream, 'our_flat', lambda name: {**values(name), 'discount': 0.9})
  with pytest.raises(ValueError, match='keys: defaults:discount differs'):
    upstream.page()
