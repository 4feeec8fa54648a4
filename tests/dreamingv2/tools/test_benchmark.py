import json
import re

import pytest

from dreamingv2.common import envs
from dreamingv2.tools import benchmark


def system(updates, first, size, parts=()):
  return {
      'first': first, 'updates': [(x, 2 * x) for x in updates], 'bytes': size,
      'parameters': 3_210_000, 'operations': {'matmul': 10e9, 'conv': 5e9},
      'parts': dict(parts)}


def test_table_divides_medians_by_the_first_system_and_by_the_floor():
  text = benchmark.table({
      'peaks': {'matmul': 20e9, 'conv': 10e9}, 'environment': 0.0123,
      'systems': {
          'dreamerv2': system([2.0, 9.0, 1.0], 3.0, 2e9),
          'tpc': system([1.0, 1.0, 8.0], 4.0, 1.5e9)}})
  assert text.splitlines()[2:] == [
      '| dreamerv2 | 2 | 1.00 | 2.00 | 0.25 | 3.0 | 2.00 | 3.21 M |',
      '| tpc | 1 | 0.50 | 1.00 | 0.5 | 4.0 | 1.50 | 3.21 M |', '',
      'Peaks: matmul 20 GFLOP/CPU-s, conv 10 GFLOP/CPU-s.',
      'Environment: 12.3 CPU-ms per agent step.']


def test_table_lists_the_parts_of_every_system():
  parts = {
      k: {'times': [0.3, 0.1, 0.2], 'operations': {}} for k in benchmark.PARTS}
  parts['actor'] = {'times': [3.0], 'operations': {'matmul': 40e9}}
  text = benchmark.table({
      'peaks': {'matmul': 20e9, 'conv': 10e9}, 'environment': None,
      'systems': {'dreamer': system([1.0], 1.0, 1e9, parts)}})
  assert '| encoder | 200 |' in text
  assert '| actor | 3e+03 (1.5) |' in text


@pytest.mark.parametrize('methods', [
    ['mssm_nce'], pytest.param(
        ['dreamerv2+jit=True', 'mssm_nce'], marks=pytest.mark.slow)])
def test_benchmark_measures_what_it_is_asked_for(
    methods, tmp_path, monkeypatch, capfd):
  monkeypatch.delenv('TF_CPP_MIN_LOG_LEVEL')
  benchmark.main([
      '--configs', 'debug', '--methods', *methods,
      '--rounds', '2', '--task', 'toy_reach', '--out', str(tmp_path / 'x')])
  results = json.loads((tmp_path / 'x').read_text())
  assert results['environment'] > 0 and min(results['peaks'].values()) > 1e9
  assert list(results['systems']) == methods
  for system in results['systems'].values():
    assert len(system['updates']) == 2
    assert 0 < min(min(x) for x in system['updates']) < system['first']
    assert 1e8 < system['bytes'] < 5e9  # TensorFlow alone takes 300 MB.
    assert 1e4 < system['parameters'] < 1e6
    parts = system['parts']
    assert all(min(x['times']) > 0 for x in parts.values())
    tensors = {k: sum(v['operations'].values()) for k, v in parts.items()}
    assert tensors['encoder'] > 0 and not tensors['data']
    whole = sum(system['operations'].values())
    # Parts overlap a little, because rssm and objective both use the prior.
    assert 0.9 * whole < sum(tensors.values()) < 1.2 * whole
  out, err = capfd.readouterr()
  assert '| encoder |' in out and not err  # TensorFlow says nothing.


@pytest.mark.parametrize('argv, text', [
    (['--methods', 'dreamerv3'], 'dreamerv3.*dreamerv2'),
    (['--methods', 'dreamerv2+rssm.detr=1'], 'rssm.detr.*rssm.deter'),
    (['--configs', 'smal'], 'smal.*small'),
    (['--configs', 'small', 'tpc', '--methods', 'dreamer'], 'dreamer and tpc'),
    (['--task', 'toy_rech'], 'rech.*reach'),
    (['--out', '/proc/x/y'], '/proc/x/y cannot be written to /proc'),
    (['--rounds', '0'], '--rounds is 0; it must be >= 1')])
def test_bad_input_is_named(argv, text, capsys):
  with pytest.raises(SystemExit) as error:
    benchmark.main(argv)
  line, = capsys.readouterr().err.splitlines()
  assert error.value.code == 2 and re.search(text, line)


@pytest.mark.parametrize('block, ends, keys', [
    ('dmc_vision', 0, {'image'}), ('atari', 1, {'image'}),
    ('dmc_proprio', 0, {'vector'})])
def test_batches_are_like_those_of_the_suite(block, ends, keys):
  config = benchmark.load('dreamingv2', ['debug', block], 'auto')
  obs, _, data = benchmark.make_batch(config)
  assert obs['is_terminal'].high == ends
  assert set(obs) - set(envs.FLAGS) == keys
  assert all(data[k].shape[2:] == v.shape for k, v in obs.items())
