import numpy as np
import PIL.Image
import pytest

from dreamingv2.common import plot


@pytest.mark.parametrize('ending, start', [
    ('pdf', b'%PDF'), ('png', b'\x89PNG'), ('svg', b'<?xml'),
    ('PNG', b'\x89PNG')])
def test_figure_is_written_as_its_ending_says(tmp_path, ending, start):
  fig, (ax,) = plot.grid(1)
  ax.plot([0, 1], [0, 1], color='#0072b2')
  path = tmp_path / 'above' / f'figure.{ending}'
  plot.save(fig, path)
  assert path.read_bytes().startswith(start)
  assert [x.name for x in path.parent.iterdir()] == [path.name]
  if start == b'\x89PNG':
    pixels = np.asarray(PIL.Image.open(path).convert('RGB'), int)
    assert (abs(pixels - (0, 114, 178)).max(-1) < 40).any()


def test_files_that_cannot_be_written_are_refused_early(tmp_path):
  for name, kinds, text in [
      ('a.jpg', (), 'a.jpg cannot be written: its ending .* pdf, png, svg'),
      ('a.png', ('html',), 'must be one of html')]:
    with pytest.raises(ValueError, match=text):
      plot.check(tmp_path / name, kinds)
  (tmp_path / 'folder.png').mkdir()
  (tmp_path / 'link.png').symlink_to('folder.png')
  for name, kind in [('folder.png', 'a folder'), ('link.png', 'a link')]:
    with pytest.raises(FileExistsError, match=f'{name} is {kind} and will'):
      plot.check(tmp_path / name)
  plot.check(tmp_path / 'new.png')


def test_lines_of_many_methods_differ():
  lines = plot.palette([f'method {i}' for i in range(24)])
  assert len({tuple(map(str, x.values())) for x in lines.values()}) == 24
  assert lines == plot.palette(reversed(list(lines)))


@pytest.mark.parametrize(
    'count, shape', [(1, (1, 1)), (3, (1, 3)), (4, (2, 3))])
def test_grid_has_as_many_panels_as_asked(count, shape):
  fig, axes = plot.grid(count)
  assert len(axes) == len(fig.axes) == count
  spec = axes[0].get_gridspec()
  assert (spec.nrows, spec.ncols) == shape
