import os
import pathlib
import re
import subprocess
import sys

import pytest

from dreamingv2.common import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_versions_are_one_line_with_all_that_matters(tmp_path):
  line = machine.versions('1.2.3', tmp_path)
  assert line.startswith('dreamingv2 1.2.3, commit unknown, ')
  assert f'{len(os.sched_getaffinity(0))} x {machine.processor()}, ' in line
  assert re.search(r'numpy \d+\.\d+', line) and '\n' not in line


def test_versions_name_the_commit_of_a_checkout(tmp_path):
  run = lambda *words: subprocess.run(
      ['git', '-c', 'user.name=x', '-c', 'user.email=x@y', *words],
      cwd=tmp_path, capture_output=True, text=True, check=True).stdout
  run('init')
  (tmp_path / 'file').write_text('old')
  run('add', 'file')
  run('commit', '-m', 'first')
  run('tag', '-a', 'v1', '-m', 'not a commit')
  commit = run('rev-parse', 'HEAD').strip()
  assert f'commit {commit},' in machine.versions('1', tmp_path)
  (tmp_path / 'file').write_text('new')
  assert f'commit {commit}-dirty,' in machine.versions('1', tmp_path)


@pytest.mark.parametrize('ended', [False, True])
def test_cpu_seconds_count_processes_that_were_started(ended):
  before = machine.cpu_seconds()
  program = """
import sys, time
while time.process_time() < 0.3:
  pass
print('done', flush=True)
sys.stdin.read()
"""
  with subprocess.Popen(
      [sys.executable, '-c', program], stdin=subprocess.PIPE,
      stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == b'done\n'
    if ended:
      process.communicate()
    assert machine.cpu_seconds() - before > 0.25


def test_quiet_hides_what_libraries_print_and_nothing_else():
  program = '''
import os, sys
from dreamingv2.common import machine
print('before', file=sys.stderr)
with machine.quiet():
  os.write(2, b'library')
  print('loading', file=sys.stderr)
try:
  with machine.quiet():
    raise ValueError
except ValueError:
  print('after', file=sys.stderr)
print(os.environ['TF_CPP_MIN_LOG_LEVEL'])
'''
  env = {k: v for k, v in os.environ.items() if k != 'TF_CPP_MIN_LOG_LEVEL'}
  done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True,
      cwd=ROOT, env=env, check=True)
  assert done.stderr == 'before\nafter\n' and done.stdout == '3\n'


def test_repository_around_an_installed_package_is_not_its_commit(tmp_path):
  subprocess.run(['git', 'init', tmp_path], check=True, capture_output=True)
  inner = tmp_path / 'site-packages'
  inner.mkdir()
  assert 'commit unknown,' in machine.versions('1', inner)
