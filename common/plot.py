"""Draws figures that are readable in print and with colour blindness.

Matplotlib is imported only when something is drawn.
"""

import itertools
import math

from . import files

# Wong 2011, Nature Methods 8:441: readable with all kinds of colour vision.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
# Used besides colours, so that lines differ in greyscale too.
MARKERS = 'osD^vPX*'
DASHES = ('-', (0, (4, 1)), (0, (1, 1)), (0, (4, 1, 1, 1)))
STYLE = {
    'axes.spines.right': False, 'axes.spines.top': False,
    'axes.titlesize': 'medium', 'font.size': 9, 'legend.frameon': False,
    'lines.linewidth': 1.4, 'lines.markersize': 4, 'savefig.dpi': 200,
    'svg.fonttype': 'none'}
WIDTH = 7.0  # inches, the text of a page with two columns
LEGEND = 0.6  # inches of height that a figure reserves for its legend


def library():
  """Returns matplotlib.figure, after setting our style for all figures.

  Raises:
    ValueError: Matplotlib is not installed.
  """
  try:
    import matplotlib
    from matplotlib import figure
  except ImportError as error:
    raise ValueError(
        "pictures need Matplotlib: pip install 'dreamingv2[plot]'") from error
  matplotlib.rcParams.update(STYLE)
  return figure


def palette(names):
  """Maps names, sorted, to the colours, markers and dashes of their lines."""
  return {
      name: {
          'color': COLORS[i % len(COLORS)],
          'marker': MARKERS[i % len(MARKERS)],
          'ls': DASHES[(i // len(COLORS)) % len(DASHES)]}
      for i, name in enumerate(sorted(names))}


def grid(count, columns=3, height=2.2):
  """Makes a figure with `count` panels.

  Args:
    count: Number of panels.
    columns: Most panels in one row.
    height: Height of a row in inches.

  Returns:
    Figure, and the list of its axes.
  """
  columns = min(count, columns)
  rows = math.ceil(count / columns)
  width = WIDTH if columns > 1 else WIDTH / 1.5
  fig = library().Figure((width, height * rows + 0.4), layout='constrained')
  axes = fig.subplots(rows, columns, squeeze=False).ravel()
  for ax in axes[count:]:
    ax.remove()
  return fig, list(axes[:count])


def legend(fig, columns=4):
  """Puts one legend for all panels above them, with as many columns as fit.

  A tall legend makes the figure taller.
  """
  handles = {}
  for ax in fig.axes:
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
      handles.setdefault(label, handle)
  if not handles:
    return
  several = range(min(columns, len(handles)), 1, -1)
  made = None
  for size, ncols in [
      *itertools.product(('medium', 'small'), several), ('small', 1)]:
    if made:
      made.remove()
    made = fig.legend(
        handles.values(), handles.keys(), loc='outside upper center',
        ncols=ncols, fontsize=size)
    extent = made.get_window_extent()
    if extent.width <= fig.bbox.width:
      break
  fig.set_figheight(
      fig.get_figheight() + max(0, extent.height / fig.dpi - LEGEND))


def save(fig, path):
  """Writes a figure; the path's ending sets the format, see `check`."""
  check(path)
  kind = path.suffix[1:].lower()
  files.write_atomic(path, lambda file: fig.savefig(file, format=kind))


def check(path, kinds=()):
  """Checks that a picture, or a file with one of `kinds`, can be written.

  Raises:
    OSError: The path exists and is not a regular file, or its folder cannot
      be written.
    ValueError: The ending is not among `kinds`, by default those of pictures.
  """
  kinds = kinds or ('pdf', 'png', 'svg')
  if path.suffix[1:].lower() not in kinds:
    raise ValueError(
        f'{path} cannot be written: its ending must be one of '
        f'{", ".join(kinds)}')
  files.check_writable(path)
