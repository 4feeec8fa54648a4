"""Tests the promises of the fast tier; too slow to be in it."""

import subprocess
import sys

from tests import conftest

PROGRAM = '''
import sys
import pytest
code = pytest.main(['--fast', '--collect-only', '-q', 'tests'])
loaded = [x for x in {heavy} if sys.modules.get(x)]
assert code == 0 and not loaded, (code, loaded)
'''


def test_fast_tier_collects_its_files_and_loads_nothing_heavy():
  program = PROGRAM.format(heavy=conftest.HEAVY)
  done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True,
      cwd=conftest.FOLDER.parent)
  assert not done.returncode, done.stdout + done.stderr
  files = {
      x.partition('::')[0].removeprefix('tests/')
      for x in done.stdout.splitlines() if x.startswith('tests/')}
  assert files == conftest.FAST


def test_fast_tier_cannot_import_what_is_heavy(tmp_path):
  """Such an import fails even inside a test; the file here is in no tier."""
  path = tmp_path / 'test_heavy.py'
  path.write_text('def test_import():\n  import tensorflow\n')
  program = (
      'import pytest, sys; from tests import conftest; '
      'sys.exit(pytest.main(["-q", "--rootdir", sys.argv[2], "-p", '
      '"tests.conftest", "--fast", sys.argv[1]]))')
  done = subprocess.run(
      [sys.executable, '-c', program, str(path), str(tmp_path)],
      capture_output=True, text=True, cwd=conftest.FOLDER.parent)
  assert done.returncode == 1, done.stdout + done.stderr
  assert 'import of tensorflow halted' in done.stdout
