"""Tests which comment of a YAML file belongs to which key."""

import pytest

from dreamingv2.common import comments

TEXT = """\
# About the file.

# First. It has
# two lines.
#
# And a paragraph.

a: 1  # Behind a value.
# Above a key,
# on two lines.
b: [1, '# no comment']
c: {d: 1, e: '#f'}  # Of the group.
g:  # Behind a group.
  h: 1

  # Inner

  i: '1'  # Behind #2.
  # Wins not over what stands behind.
  j: 1.5  # This.
  k: {
    l: 1,  # In braces.
    m: 2}

# Second

n: x
"""


@pytest.fixture
def found(tmp_path):
  path = tmp_path / 'a.yaml'
  path.write_text(TEXT)
  return comments.read(path)


@pytest.mark.parametrize('key, text', [
    ('a', 'Behind a value.'), ('b', 'Above a key, on two lines.'),
    ('c', 'Of the group.'), ('c.d', ''), ('c.e', ''),
    ('g', 'Behind a group.'), ('g.h', ''), ('g.i', 'Behind #2.'),
    ('g.j', 'This.'), ('g.k', ''), ('g.k.l', 'In braces.'), ('g.k.m', ''),
    ('n', '')])
def test_comment_stands_behind_a_value_or_above_its_key(found, key, text):
  assert found[key][1] == text


def test_heading_holds_for_the_keys_below_it_at_its_depth(found):
  first = 'First. It has two lines.\n\nAnd a paragraph.'
  headings = {key: heading for key, (heading, _) in found.items()}
  assert {headings[x] for x in ('a', 'b', 'c', 'c.d', 'g', 'g.h')} == {first}
  assert {headings[x] for x in ('g.i', 'g.j', 'g.k.m')} == {'Inner'}
  assert headings['n'] == 'Second'
