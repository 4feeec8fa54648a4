"""Tests what importing the package chooses for TensorFlow."""

import importlib
import platform

import pytest

import dreamingv2


@pytest.mark.parametrize('machine, before, after', [
    ('x86_64', None, '1'), ('x86_64', '0', '0'), ('aarch64', None, None)])
def test_kernels_of_onednn_unless_the_user_says_otherwise(
    monkeypatch, machine, before, after):
  name = 'TF_ENABLE_ONEDNN_OPTS'
  monkeypatch.setattr(platform, 'machine', lambda: machine)
  environ = {} if before is None else {name: before}
  monkeypatch.setattr('os.environ', environ)
  importlib.reload(dreamingv2)
  assert environ.get(name) == after
  assert environ['TF_USE_LEGACY_KERAS'] == '1'
