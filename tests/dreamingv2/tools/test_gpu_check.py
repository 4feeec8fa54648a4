import json
import os
import re
import time

import pytest

from dreamingv2 import settings
from dreamingv2.tools import gpu_check

SYSTEMS = [x for group in gpu_check.GROUPS for x in group]


def make_results(**updates):
  return {
      'machine': 'dreamingv2 1.0', 'driver': ['V100, 550.1, 16384 MiB, 7.0'],
      'tensorflow': {'gpus': [{'device_name': 'V100'}], 'built for': {},
                     'foreign libraries': ['/opt/libcudnn.so.8']},
      'blocks': [], 'precisions': {'16': {
          'gradients': {'model': 0.9, 'actor': 0.8, 'critic': 0.7},
          'losses': {'a_loss': 0.1, 'kl_loss': 0.25}}},
      'placement': {'devices': {'CPU:0': {'Roll': 3}, 'GPU:0': {'MatMul': 5}},
                    'copies': 7},
      'updates': {'updates': 300, 'skipped': 2.0, 'scales': {'model': 8192.0},
                  'losses': [3.0, 2.0], 'seconds': 0.1, 'memory': 5e9},
      'profile': {'longest': [['gemm', 1.5]],
                  'copies': {'to the GPU': 20.0, 'to the CPU': 3.0}},
      'rendering': {'text': 'Rendering with EGL on V100 (GPU).'},
      'environments': {1: 50.0, 4: None},
      'times': {'dreamerv2': {'seconds': 0.2, 'first': 30.0},
                'dreamingv2': {'seconds': 0.34, 'first': 31.0}},
      'failed': {'4 environments': 'it took too long'}, 'gpu': True, **updates}


def test_report_has_every_number_and_what_failed():
  text = gpu_check.report(make_results())
  for part in (
      'V100, 550.1', "the paper's size", 'libcudnn.so.8',
      '| 16 | 0.9000 | 0.8000 | 0.7000 | 0.25 | kl_loss |', 'Roll (3)',
      'between devices: 7', '2 skipped', 'model 8192', '5.00 GB',
      '| gemm | 1.5 |', '20 to the GPU', 'EGL on V100', '| 1 | 50.0 |',
      '| dreamingv2 | 0.34 | 1.70 | 31.0 |',
      '- 4 environments: it took too long'):
    assert part in text, part
  assert '(1.70)' in gpu_check.row(make_results())[-1]
  assert 'Everything was' in gpu_check.report(make_results(failed={}))


def test_report_without_a_gpu_says_what_it_could_not_check():
  text = gpu_check.report(make_results(
      gpu=False, driver=[], tensorflow=None, precisions={}, placement=None,
      updates=None, profile=None, rendering=None, times={}))
  assert all(f'- {x}\n' in text for x in gpu_check.NO_GPU)
  assert '| none (CPU) | full |' in text and 'Everything' not in text


def test_check_that_fails_dies_or_hangs_is_told():
  assert gpu_check.run('find_foreign', [''], 100) == ([], None)
  value, error = gpu_check.run('find_foreign', [None], 100)
  assert value is None and error.startswith('AttributeError')
  assert 'no time was left' in gpu_check.run('find_foreign', [''], 0)[1]
  broken = {'PYTHONHASHSEED': 'x'}  # The interpreter refuses to start.
  assert re.match('its process ended with code [1-9]', gpu_check.run(
      'find_foreign', [''], 100, broken)[1])
  assert 'PYTHONHASHSEED' not in os.environ
  config = settings.load_config(['--configs', 'debug', '--task', 'toy_reach'])
  begin = time.monotonic()
  assert 'took too long' in gpu_check.run('step', [config, 1, 999], 4)[1]
  assert 3 < time.monotonic() - begin < 60


def test_everything_is_checked_in_order_and_failures_do_not_stop_it(
    tmp_path, monkeypatch, capsys):
  asked, full = [], make_results()
  answers = {
      'describe_gpus': {**full['tensorflow'], 'gpus': []},
      'place': full['placement'], 'repeat': full['updates'],
      'profile': full['profile'], 'render': full['rendering'], 'step': 12.0,
      'update': {'weights': {}, 'metrics': {}, 'gradients': {}}}

  def run(name, args, seconds, environ=None):
    asked.append((name, args, environ))
    if name == 'time_updates':
      return (None, 'boom') if 'tpc' in args[0] else ({
          x: {'seconds': 1.0, 'first': 2.0} for x in args[0]}, None)
    return answers[name], None

  monkeypatch.setattr(gpu_check, 'run', run)
  monkeypatch.setattr(
      gpu_check.gpu_parts, 'compare', lambda x, y: full['precisions']['16'])
  gpu_check.main(['--out', str(tmp_path / 'new' / 'x'), '--minutes', '1'])
  results = json.loads((tmp_path / 'new' / 'x.json').read_text())
  assert capsys.readouterr().out == (tmp_path / 'new' / 'x.md').read_text()
  assert [*results['precisions']] == ['32', '16', 'bf16']
  assert results['blocks'] == ['debug'] and not results['gpu']
  assert [*results['times']] == SYSTEMS[:2] + SYSTEMS[-2:]
  assert [*results['failed'].values()] == ['boom']
  assert [*results['environments']] == ['1', '4', '8']
  updates = [(a, e) for name, a, e in asked if name == 'update']
  assert [a[0].precision for a, _ in updates] == ['32', '32', '16', 'bf16']
  # Only the first, which all others are compared with, must not see a GPU.
  assert [bool(e) for _, e in updates] == [True, False, False, False]
  assert [a[0].precision for n, a, _ in asked if n == 'repeat'] == ['16']


@pytest.mark.slow
def test_command_runs_to_its_end_on_a_cpu(tmp_path, capfd, monkeypatch):
  monkeypatch.setattr(gpu_check, 'GROUPS', gpu_check.GROUPS[:1])
  gpu_check.main([
      '--out', str(tmp_path / 'x'), '--task', 'toy_reach', '--minutes', '60',
      '--updates', '3', '--rounds', '1', '--seconds', '1'])
  results = json.loads((tmp_path / 'x.json').read_text())
  assert not results['failed']
  assert min(results['environments'].values()) > 1
  assert min(results['precisions']['32']['gradients'].values()) > 0.999
  assert results['updates']['updates'] == 3
  assert len(results['times']) == 2 and results['profile']['longest']
  out, _ = capfd.readouterr()
  assert all(x in out for x in gpu_check.NO_GPU)


@pytest.mark.parametrize('argv, text', [
    (['--configs', 'smal'], 'smal.*small'),
    (['--task', 'toy_rech'], 'rech.*reach'),
    (['--minutes', '0'], '--minutes is 0; it must be > 0')])
def test_bad_input_is_named(argv, text, capsys):
  with pytest.raises(SystemExit) as error:
    gpu_check.main(argv)
  line, = capsys.readouterr().err.splitlines()
  assert error.value.code == 2 and re.search(text, line)
