import importlib.util

import numpy as np
import pytest

from dreamingv2.common.renderers import igibson


def test_missing_packages_name_the_script_and_the_page(monkeypatch):
  monkeypatch.setattr(
      importlib.util, 'find_spec', lambda name: name != 'igibson' or None)
  with pytest.raises(ImportError) as info:
    igibson.validate()
  for word in ('igibson', 'scripts/install_igibson.sh', 'docs/rendering.md'):
    assert word in str(info.value)


def test_room_lights_tops_more_than_sides_and_those_more_than_bottoms():
  light = igibson.room().mean(-1)
  polar = (np.arange(len(light)) + 0.5) / len(light) * np.pi
  area = np.sin(polar)[:, None] * (np.pi / len(light)) ** 2
  cosine = np.cos(polar)[:, None]
  top, bottom = [
      (light * area * np.maximum(x, 0)).sum() / np.pi
      for x in (cosine, -cosine)]
  azimuth = (np.arange(light.shape[1]) + 0.5) / len(light) * np.pi
  facing = np.sin(polar)[:, None] * np.cos(azimuth)
  side = (light * area * np.maximum(facing, 0)).sum() / np.pi
  assert 0.2 < bottom < side < top < 1  # White is not overexposed.


def test_hdr_file_can_be_read_back(tmp_path):
  image = igibson.room(8)
  igibson.write_hdr(tmp_path / 'a.hdr', image)
  head, data = (tmp_path / 'a.hdr').read_bytes().split(b'-Y 8 +X 16\n', 1)
  assert head.startswith(b'#?RADIANCE\n') and head.endswith(b'\n\n')
  pixels = np.frombuffer(data, np.uint8).reshape(8, 16, 4).astype(float)
  decoded = pixels[..., :3] / 256 * 2 ** (pixels[..., 3:] - 128)
  np.testing.assert_allclose(decoded, image, rtol=0.02)
