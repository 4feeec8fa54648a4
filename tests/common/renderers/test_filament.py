import pathlib
import subprocess
import types

import pytest

from dreamingv2.common.renderers import filament


@pytest.fixture(autouse=True)
def forget():
  filament._probe.cache_clear()
  yield
  filament._probe.cache_clear()


def test_missing_version_names_the_script_and_the_page(monkeypatch):
  monkeypatch.setattr(pathlib.Path, 'exists', lambda self: False)
  with pytest.raises(ImportError) as info:
    filament.validate()
  for word in ('filament', 'scripts/install_filament.sh', 'docs/rendering.md'):
    assert word in str(info.value)


@pytest.mark.parametrize('code, text', [(0, 'nothing'), (-6, 'Selected')])
def test_no_vulkan_says_what_to_install(monkeypatch, code, text):
  monkeypatch.setattr(
      subprocess, 'run', lambda *args, **kwargs: types.SimpleNamespace(
          returncode=code, stdout=text))
  with pytest.raises(RuntimeError, match='apt-get install libvulkan1'):
    filament.prepare()


def test_device_is_told(monkeypatch, capsys):
  text = "Selected physical device 'NVIDIA H100' from 1 physical devices."
  monkeypatch.setattr(
      subprocess, 'run', lambda *args, **kwargs: types.SimpleNamespace(
          returncode=0, stdout=text))
  assert filament.prepare()['MUJOCO_GL'] == 'off'
  assert 'Filament on NVIDIA H100 (GPU)' in capsys.readouterr().out
