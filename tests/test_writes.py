"""Tests that a whole run and the tools write only through common.files."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Prints every file opened for writing while it trains and runs the tools.
PROGRAM = '''
import json, os, pathlib, sys
root = pathlib.Path(sys.argv[1]).resolve()
opened = set()
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC

def note(event, args):
  if event == 'open' and isinstance(args[0], str) and args[2] & WRITES:
    path = pathlib.Path(args[0]).absolute()
    if path.is_relative_to(root):
      opened.add(str(path.relative_to(root)))

sys.addaudithook(note)
from tests import helpers
from dreamingv2.tools import evaluate, figures, scores, tables
logdir = root / 'logdir'
helpers.run_toy(
    logdir, '--configs', 'debug', '--pretrain', '1', '--eval_every', '50')
runs = ['--indir', str(root)]
evaluate.main([
    '--logdir', str(logdir), '--episodes', '1', '--video',
    str(root / 'out/video.gif'), '--out', str(root / 'out/numbers.json'),
    '--export', str(root / 'out/policy')])
scores.main([*runs, '--out', str(root / 'out/scores.json')])
tables.main([*runs, '--out', str(root / 'out/table.md')])
figures.main(['curves', *runs, '--out', str(root / 'out/curves.svg')])
figures.main(['dashboard', *runs, '--out', str(root / 'out/page.html')])
print(json.dumps(sorted(opened)))
'''
GROWING = {'logdir/metrics.jsonl'}


def test_run_and_tools_open_only_temporary_files(tmp_path):
  """Files that only grow at their end are the exception."""
  done = subprocess.run(
      [sys.executable, '-c', PROGRAM, str(tmp_path)], cwd=ROOT,
      capture_output=True, text=True)
  assert not done.returncode, done.stderr
  opened = json.loads(done.stdout.splitlines()[-1])
  assert {x for x in opened if not x.split('/')[-1].endswith('.tmp')
          and '.tmp/' not in x} == GROWING
  written = {x.split('.', 2)[0] for x in opened}
  assert {'logdir/config', 'out/video', 'out/numbers', 'out/policy',
          'out/scores', 'out/table', 'out/curves', 'out/page'} <= written
  for folder in ('checkpoints', 'train_episodes', 'videos'):
    assert any(x.startswith(f'logdir/{folder}/') for x in opened), folder
  assert not [x for x in tmp_path.rglob('*.tmp')]
