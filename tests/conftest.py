"""Makes TensorFlow quiet and small, and selects the fast tier."""

import os
import pathlib
import signal
import sys

import dreamingv2  # noqa: F401  # It chooses the kernels of TensorFlow.

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
# Tests run side by side and start environments; more threads only get in the
# way of each other.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
# A job in the background of a script ignores Ctrl-C, and one under nohup the
# end of its terminal; so would the programs that the tests start and stop.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL)):
  if signal.getsignal(number) is signal.SIG_IGN:
    signal.signal(number, usual)

FOLDER = pathlib.Path(__file__).resolve().parent
# Test files that load neither TensorFlow nor a simulator and are quick:
# together they take less than a minute.
FAST = {
    'common/test_config.py', 'common/test_counter.py',
    'common/test_driver.py', 'common/test_episodes.py',
    'common/test_files.py', 'common/test_flags.py', 'common/test_guards.py',
    'common/test_logdir.py', 'common/test_logger.py',
    'common/test_machine.py', 'common/test_replay.py',
    'common/test_ridge.py', 'common/test_truth.py', 'common/test_when.py',
    'common/renderers/test_filament.py',
    'dreamingv2/test_ranges.py', 'dreamingv2/test_resume.py',
    'dreamingv2/test_settings.py',
    'dreamingv2/tools/test_engines.py', 'dreamingv2/tools/test_results.py',
    'dreamingv2/tools/test_scores.py', 'dreamingv2/tools/test_tables.py',
    'test_configs.py', 'test_docs.py', 'test_house.py'}
HEAVY = ('keras', 'tensorflow', 'tensorflow_probability', 'tf_keras')


def pytest_addoption(parser):
  parser.addoption(
      '--fast', action='store_true',
      help='only the quick tests that load no TensorFlow')
  parser.addoption(
      '--kills', type=int, default=40,
      help='how often the slow test of kills ends a process')
  parser.addoption(
      '--kill_seed', type=int, default=0, help='seed of the moments of kills')


def pytest_configure(config):
  """Makes the imports fail that the fast tier must not need."""
  if config.getoption('fast'):
    sys.modules.update(dict.fromkeys(HEAVY))


def pytest_ignore_collect(collection_path, config):
  """Skips files and folders of other tiers before they are imported."""
  if config.getoption('fast') and collection_path.is_relative_to(FOLDER):
    return not any((FOLDER / x).is_relative_to(collection_path)
                   for x in FAST) or None
  return None
