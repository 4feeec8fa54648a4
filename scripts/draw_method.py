"""Draws docs/method.png: how DreamingV2 learns its representation.

python scripts/draw_method.py docs/method.png
"""

import sys

import matplotlib
from matplotlib import patches
from matplotlib import pyplot

BLUE, GREEN, GREY, ORANGE, RED = (
    '#0072b2', '#009e73', '#666666', '#d55e00', '#c62828')
HORIZON = 3  # K
WIDTH = 2.3  # Distance from one time step to the next.
# Heights of the rows, from the online view at the bottom to the slow one.
FRAME, ENCODER, POSTERIOR, LATENT, CODE, SLOW, VIEW = (
    0.0, 1.1, 2.15, 3.65, 5.15, 6.2, 7.3)


def main(path):
  """Draws the figure and saves it in a file."""
  matplotlib.use('Agg')
  pyplot.rcParams.update({'font.size': 10, 'font.family': 'DejaVu Sans'})
  fig, ax = pyplot.subplots(figsize=(9.6, 5.6))
  for k in range(HORIZON + 1):
    draw_column(ax, k)
  draw_auxiliary(ax)
  draw_next(ax)
  name_rows(ax)
  ax.set(xlim=(-4.1, 9.4), ylim=(-0.55, 8.0))
  ax.axis('off')
  fig.savefig(path, dpi=160, bbox_inches='tight', pad_inches=0.05)


def draw_column(ax, k):
  """Draws time t + k: both views, the latent, and the losses between them."""
  x, at = k * WIDTH, time_name(k)
  draw_frame(ax, x, FRAME, k, 0.0)
  box(ax, x, ENCODER, 'encoder', GREEN)
  box(ax, x, POSTERIOR, f'posterior $z_{{{at}}}$', GREEN)
  draw_frame(ax, x, VIEW, k, 0.06)
  box(ax, x, SLOW, 'slow encoder', GREY)
  box(ax, x, CODE, f'code of $x\'_{{{at}}}$', GREY)
  for low, high in ((FRAME, ENCODER), (ENCODER, POSTERIOR)):
    arrow(ax, (x, low + (0.42 if low == FRAME else 0.27)), (x, high - 0.27))
  arrow(ax, (x, VIEW - 0.42), (x, SLOW + 0.27))
  arrow(ax, (x, SLOW - 0.27), (x, CODE + 0.27))
  box(ax, x, LATENT, f'$\\hat{{z}}_{{t,{k}}}$', BLUE)
  loss(ax, x, LATENT, CODE, f'NCE$_{k}$', ORANGE)
  if k:
    loss(ax, x, POSTERIOR, LATENT, f'KL$_{k - 1}$', RED)
    arrow(ax, (x - WIDTH + 0.85, LATENT), (x - 0.85, LATENT), BLUE)
    ax.text(
        x - WIDTH / 2, LATENT + 0.13, f'$a_{{{at}}}$', ha='center',
        color=BLUE)
  else:
    arrow(ax, (x, POSTERIOR + 0.27), (x, LATENT - 0.27), BLUE)
    ax.text(x + 0.1, 2.82, 'sample', color=BLUE)


def draw_next(ax):
  """Draws an arrow to the last KL term, one step after the last NCE term."""
  x = HORIZON * WIDTH
  arrow(ax, (x + 0.85, LATENT), (x + 1.35, LATENT), BLUE)
  ax.text(
      x + 1.42, LATENT, f'KL$_{HORIZON}$\nat $t+{HORIZON + 1}$', color=RED,
      va='center')


def draw_auxiliary(ax):
  """Draws the auxiliary term between both encoders, at the first column."""
  x = -1.12
  ax.plot(
      [-0.86, x, x, -0.86], [ENCODER, ENCODER, CODE, CODE], color=ORANGE,
      lw=1.6, ls='--')
  ax.text(
      x, LATENT - 0.75, 'auxiliary\nterm', color=ORANGE, ha='center',
      va='center', bbox={'fc': 'white', 'ec': 'none', 'pad': 2})


def name_rows(ax):
  """Writes the names of the rows at the left."""
  for y, text, color in (
      (VIEW, 'second view,\nshifted differently', GREY),
      (SLOW, 'moving average,\nno gradient', GREY),
      (LATENT + 0.35, 'prior, rolled out\nwith the actions', BLUE),
      (POSTERIOR, 'RSSM: 32 categoricals\nof 32 classes', GREEN),
      (FRAME, 'first view of the\nframes; no decoder', GREEN)):
    ax.text(-4.05, y, text, color=color, va='center', ha='left')


def draw_frame(ax, x, y, k, shift):
  """Draws a camera image of an arm that approaches a cube."""
  ax.add_patch(patches.Rectangle(
      (x - 0.42, y - 0.38), 0.84, 0.76, fc='#eeeeee', ec='#999999'))
  elbow = x - 0.22 + 0.05 * k + shift, y + 0.12 - 0.02 * k - shift
  hand = x - 0.12 + 0.1 * k + shift, y - 0.04 - 0.03 * k - shift
  ax.plot(
      [x - 0.3 + shift, elbow[0], hand[0]],
      [y + 0.34 - shift, elbow[1], hand[1]], color='#444444', lw=3,
      solid_capstyle='round', solid_joinstyle='round')
  ax.add_patch(patches.Rectangle(
      (x + 0.18 + shift, y - 0.28 - shift), 0.14, 0.14, color=RED))
  prime = "'" * bool(shift)
  ax.text(x + 0.5, y - 0.3, f'$x{prime}_{{{time_name(k)}}}$')


def time_name(k):
  """Returns the index of a time step as text."""
  return f't+{k}' if k else 't'


def box(ax, x, y, text, color):
  """Draws a box with a name, centred on a point."""
  ax.add_patch(patches.FancyBboxPatch(
      (x - 0.78, y - 0.22), 1.56, 0.44, fc='white', ec=color, lw=1.4,
      boxstyle='round,pad=0.03'))
  ax.text(
      x, y, text, ha='center', va='center', color=color, fontsize=8.5)


def arrow(ax, start, end, color='#444444'):
  """Draws an arrow between two points."""
  ax.annotate(
      '', end, start, arrowprops={
          'arrowstyle': '-|>', 'color': color, 'lw': 1.3, 'shrinkA': 0,
          'shrinkB': 0})


def loss(ax, x, low, high, text, color):
  """Draws a loss as an arrow between two boxes."""
  ax.annotate(
      '', (x, high - 0.27), (x, low + 0.27), arrowprops={
          'arrowstyle': '<|-|>', 'color': color, 'lw': 1.6, 'shrinkA': 0,
          'shrinkB': 0})
  ax.text(
      x, (low + high) / 2, text, ha='center', va='center', color=color,
      bbox={'fc': 'white', 'ec': 'none', 'pad': 1.5})


if __name__ == '__main__':
  main(sys.argv[1])
