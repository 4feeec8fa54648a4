import pytest

from dreamingv2 import benchmark


def test_table_divides_medians_by_the_first_method():
  text = benchmark.table({
      'dreamerv2': {'first': 3.0, 'updates': [2.0, 9.0, 1.0], 'bytes': 2e9,
                    'parameters': 3_210_000},
      'tpc': {'first': 4.0, 'updates': [1.0, 1.0, 8.0], 'bytes': 1.5e9,
              'parameters': 1_000_000}})
  assert text.splitlines()[2:] == [
      '| dreamerv2 | 2 | 1.00 | 3.0 | 2.00 | 3.21 M |',
      '| tpc | 1 | 0.50 | 4.0 | 1.50 | 1.00 M |']


def test_measure_times_every_method_in_its_own_process():
  results = benchmark.measure(['debug'], ['dreamerv2', 'mssm'], rounds=2)
  assert list(results) == ['dreamerv2', 'mssm']
  for found in results.values():
    assert len(found['updates']) == 2 and min(found['updates']) > 0
    assert found['first'] > 0
    assert 1e8 < found['bytes'] < 5e9  # TensorFlow alone takes 300 MB.
    assert 1e4 < found['parameters'] < 1e6


@pytest.mark.parametrize('argv, text', [
    (['--methods', 'dreamerv3'], 'dreamerv3.*dreamerv2'),
    (['--configs', 'smal'], 'smal.*small'),
    (['--rounds', '0'], '--rounds is 0; it must be >= 1')])
def test_bad_input_is_named(argv, text):
  with pytest.raises(SystemExit, match=text):
    benchmark.main(argv)
