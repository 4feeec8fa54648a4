import numpy as np
import pytest

from dreamingv2 import settings
from dreamingv2.tools import sheet


def test_task_is_drawn_at_both_sizes_in_the_same_state():
  preset = settings.presets()['Reacher-easy']
  small, large = sheet.shoot(preset, 'mujoco', 'light', steps=2)
  assert small[0].shape == (64, 64, 3) and large[0].shape == (192, 192, 3)
  shrunk = large[0].reshape(64, 3, 64, 3, 3).mean((1, 3))
  assert np.abs(shrunk - small[0]).mean() < 12
  for cpu, wall in small[1:]:
    assert cpu > 0 and wall > 0


def test_sheet_holds_every_picture():
  shades = [np.full((64, 64, 3), 10 * x, np.uint8) for x in range(1, 9)]
  pictures = {
      f'task {i}': (shades[2 * i], shades[2 * i + 1]) for i in range(4)}
  image = np.asarray(sheet.draw(pictures))
  side = sheet.LARGE
  for shade in shades:
    assert (image == shade[0, 0]).all(-1).sum() >= side * side
  assert image.shape[0] == 2 * (side + sheet.TEXT + 8)  # Three per row.


def test_table_has_a_row_for_each_task():
  lines = sheet.table({'Lift': ((50.0, 60.0), (40.0, 45.0))}).splitlines()
  assert lines[2] == '| Lift | 50 | 60 | 40 | 45 |'
  assert lines[0].count('|') == lines[1].count('|') == lines[2].count('|')


@pytest.mark.parametrize('arguments, text', [
    (['--renderer', 'best'], "Error: Unknown renderer 'best'; known: "),
    (['--render', 'best'], "Error: Unknown dmc.render 'best'; known: ")])
def test_bad_arguments_end_in_one_line(arguments, text, capsys):
  with pytest.raises(SystemExit) as info:
    sheet.main(['--tasks', 'Reacher-easy', *arguments])
  line, = capsys.readouterr().err.splitlines()
  assert info.value.code == 2 and line.startswith(text)
