"""Tests that hostile logdirs and score files do not harm other runs.

Each input is a good run, or score file, that a seeded generator has damaged.
"""

import contextlib
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import time
import warnings

import pytest

from dreamingv2.tools import figures
from dreamingv2.tools import results
from dreamingv2.tools import scores
from dreamingv2.tools import tables
from tests.dreamingv2.tools import test_formats
from tests.dreamingv2.tools import test_scores
from tests.helpers import make_curve
from tests.helpers import memory

PROFILES = ('--steps', 'common', '--methods', 'thegoodone')
FEW, SHORT, LONG = 60, 150, 2000  # Inputs.
BATCH = 20  # Inputs that the long test gives to all tools together.
SECONDS = 120  # Limit for one tool, on a busy machine.
NUMBERS = [
    10 ** 400, -10 ** 400, 1e308, -1e308, 5e-324, float('nan'), float('inf'),
    -float('inf'), 2 ** 63, -1, 0, True, None, '7', '', [], {}, [1], 'x' * 999]
NAMES = [
    '', 'a\nb', '=1+1', 'a|b', '$\\frac{', '$a$', '../../etc', '\x00',
    '\udc80', '_', 'x' * 10 ** 5, '<b>', '\\', '{0}', '%s', 'random',
    'dreamerv2', '\u202e', 'dmc_', 'toy_reach', 'robosuite_Lift', None, 3,
    -0.5, [], {}, 10 ** 400, True]
YAML = [
    '', '[', '{', 'a: &a [*a]', '- 1', 'null', '\x00', '\ufeffa: 1', '%',
    'a: !!python/object/apply:os.system [x]', '? [a]\n: b', 'task: [1]',
    'seed: {a: 1}', 'method: 2020-99-99', 'steps: .nan', 'steps: 1e999',
    'task: !!binary x', 'run: 3', 'run: {steps: x}', 'action_repeat: 2',
    'a: &a {b: 1}\nc: {<<: [*a, *a]}', 'toy: {horizon: x}', 'task: x\ntask: y',
    'big: 0x' + 'f' * 9000, 'deep: ' + '[' * 3000, 'deep: ' + '{a: ' * 90,
    'x: ' + '- ' * 900, 'a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]',
    'dmc: {horizon: -5}\ntime_limit: .inf\naction_repeat: "2"',
    'long: [' + '1, ' * 20_000 + ']', '"' + 'k' * 2000 + '": 1']


def good_run(rng, folder):
  """Writes one of the three kinds of logdirs."""
  write = rng.choice([
      lambda: test_formats.write_v2(folder), lambda: test_formats.write_v3(
          folder), lambda: test_scores.write_run(
              folder, lines=test_scores.LINES)])
  write()


def broken_bytes(rng, path):
  data = bytearray(path.read_bytes())
  for _ in range(rng.randrange(1, 9)):
    data[rng.randrange(len(data))] = rng.randrange(256)
  path.write_bytes(data[:rng.randrange(len(data) + 1)])


def other_kind(rng, path):
  """Replaces a regular file by a file of another kind."""
  path.unlink()
  rng.choice([
      path.mkdir, lambda: os.mkfifo(path),
      lambda: path.symlink_to('/dev/zero'),
      lambda: path.symlink_to(path), lambda: path.symlink_to('/etc/passwd'),
      lambda: path.symlink_to('nowhere'), lambda: path.symlink_to('..'),
      lambda: path.write_bytes(b'') or os.truncate(path, 2 ** 42)])()


def odd_yaml(rng, path):
  """Adds odd YAML to a config, or replaces the config by it."""
  before = path.read_text() if rng.random() < 0.6 else ''
  path.write_text(before + rng.choice(YAML) + '\n')


def odd_names(rng, path):
  """Replaces names and numbers in a config by odd values."""
  lines = path.read_text().splitlines()
  index = rng.randrange(len(lines))
  key = lines[index].partition(':')[0]
  if rng.random() < 0.7:
    key = rng.choice(['task', 'method', 'seed', 'steps', 'action_repeat'])
    lines = [x for x in lines if not x.startswith(f'{key}:')]
  lines.append(f'{key}: {json.dumps(rng.choice(NAMES + NUMBERS))}')
  path.write_text('\n'.join(lines))


def odd_head(rng, path):
  """Changes the comments that say how a run was started."""
  lines = path.read_text().splitlines()
  words = rng.choice(["'", '--logdir', '# ' * 999, '\x1b[31m', '"' * 3])
  path.write_text('\n'.join([lines[0], f'# train.py {words}', *lines[2:]]))


def odd_lines(rng, path):
  """Adds odd lines to metrics, some of them very long or deep."""
  keys = ['step', 'eval_return', 'eval_return_mean', 'episode/score', 'fps',
          'random_return', 'updates', 'seconds', 'kl_loss', 'x\ny', '$$']
  lines = [json.dumps({
      'step': rng.randrange(1000), **{
          rng.choice(keys): rng.choice(NUMBERS) for _ in range(3)}})
      for _ in range(rng.randrange(1, 9))]
  lines.append(rng.choice([
      '[' * 10 ** 5, '{"step": ' * 10 ** 4, '9' * 5000, 'x' * 3 * 2 ** 20,
      '\x00', 'null', json.dumps({
          'step': 1, **{f'share_{i}': i for i in range(3000)}})]))
  rng.shuffle(lines)
  with path.open('a') as file:
    file.write('\n'.join(lines) + '\n' * rng.randrange(2))


def odd_videos(rng, path):
  """Puts odd files into the folder of videos."""
  folder = path.parent / 'videos'
  if not folder.exists():
    folder.mkdir()
    (folder / 'policy_1.gif').write_bytes(rng.choice([b'', b'GIF8', b'x']))
    (folder / 'train_1.gif').symlink_to('/etc/passwd')
    os.mkfifo(folder / f'train_{"9" * 200}.gif')


def gone(rng, path):
  path.unlink()


CONFIG = [broken_bytes, gone, odd_head, odd_names, odd_names, odd_yaml,
          odd_yaml, other_kind]
METRICS = [broken_bytes, gone, odd_lines, odd_lines, odd_videos, other_kind]


def bad_run(rng, folder):
  """Writes a damaged logdir; returns the names of the damages."""
  good_run(rng, folder)
  done = []
  for _ in range(rng.randrange(1, 4)):
    name, damages = rng.choice(
        [('config.yaml', CONFIG), ('metrics.jsonl', METRICS)])
    path = folder / name
    if path.is_file() and not path.is_symlink() and (
        0 < path.stat().st_size < 2 ** 24):
      damage = rng.choice(damages)
      with contextlib.suppress(UnicodeDecodeError):  # The bytes may be broken.
        damage(rng, path)
      done.append(damage.__name__)
  return done


def bad_file(rng, path):
  """Writes a damaged score file; returns the names of the damages."""
  curve = make_curve(command='python train.py', settings={'a': 1}, returns=[
      [1.0], [2.0]])
  for _ in range(rng.randrange(1, 4)):
    key = rng.choice([*curve, 'budget', 'at', 'commit', 'updates', 'seconds'])
    value = rng.choice(NAMES + NUMBERS)
    curve[key] = rng.choice([value, [value], [value, 1.0], {'a': value}])
  text = json.dumps(rng.choice([
      [curve], [curve], [curve], [make_curve(), curve], curve, [[curve]], {},
      [curve] * 2500, None, 3, 'x']))
  text = rng.choice([text] * 6 + [text[:-5], '[' * 10 ** 5, '9' * 9999, ''])
  data = text.encode()
  packed = rng.random() < 0.3
  if packed:
    data = gzip.compress(data)
    data = rng.choice([data, data, data[:-9], data[:30] + b'x' + data[31:]])
  path.write_bytes(data)
  kind = rng.random() < 0.1
  if kind:
    other_kind(rng, path)
  return ['score file'] + ['packed'] * packed + ['other kind'] * kind


@contextlib.contextmanager
def deadline(words):
  def late(*_):
    raise AssertionError(f'takes longer than {SECONDS} s: {words}')
  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(SECONDS)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def run(tool, argv, words):
  """Returns the output of a tool, which may end with an error in one line."""
  out, err = io.StringIO(), io.StringIO()
  with deadline(words), contextlib.redirect_stdout(out), (
      contextlib.redirect_stderr(err)), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # No font has some letters.
    try:
      tool.main([str(x) for x in argv])
    except SystemExit as error:
      raise AssertionError(f'{words}: {error} {err.getvalue()}') from error
    except Exception as error:
      raise AssertionError(f'{words}: {error!r}') from error
  return out.getvalue() + err.getvalue()


def write_inputs(folder, count, seed):
  """Writes `count` inputs and a good run; returns arguments for the tools."""
  rng = random.Random(seed)
  words, paths = {}, []
  for index in range(count):
    name = f'{index:04}'
    if rng.random() < 0.7:
      words[name] = bad_run(rng, folder / 'runs' / name)
    else:
      paths.append(folder / f'{name}.json')
      words[name] = bad_file(rng, paths[-1])
  test_scores.write_run(
      folder / 'runs' / 'good', method='thegoodone', lines=test_scores.LINES)
  return words, paths


def draw_all(folder, paths, words, drawn=('*',)):
  """Runs all tools; all of them show the good run.

  Args:
    folder: Folder of `write_inputs`.
    paths: Score files.
    words: Names of the damages of the inputs.
    drawn: Patterns of the runs for the dashboard, which is slow.
  """
  indir = ['--indir', folder / 'runs']
  few = ['--indir', *sorted(
      x for pattern in drawn for x in (folder / 'runs').glob(pattern))]
  for form in tables.FORMATS:
    text = run(tables, [*paths, *indir, '--steps', '300', '--format', form,
                        '--methods', 'thegoodone'], words)
    assert 'thegoodone' in text
  text = run(tables, [*paths, *indir, '--steps', 'common'], words)
  assert 'thegoodone' in text
  output = run(scores, ['--scores', *paths, *indir], words)
  assert '| toy_reach | thegoodone | 1 |' in output
  for kind, ending in {'curves': 'png', 'profiles': 'svg',
                       'dashboard': 'html'}.items():
    out = folder / f'out.{ending}'
    output = run(figures, [
        kind, *paths, *(few if kind == 'dashboard' else indir), '--out', out,
        *PROFILES[:len(PROFILES) * (kind == 'profiles')]], words)
    assert out.stat().st_size > 1000
    if kind == 'dashboard':
      assert '<td>thegoodone</td>' in out.read_text()
    out.unlink()


def test_hostile_inputs_cost_no_tool_its_other_runs(tmp_path):
  words, paths = write_inputs(tmp_path, FEW, seed=0)
  for name in sorted(words):  # Names the damage.
    notes = []
    with deadline(words[name]):
      try:
        if (tmp_path / 'runs' / name).is_dir():
          scores.collect(tmp_path / 'runs' / name, notes)
        else:
          results.read_files([tmp_path / f'{name}.json'], notes)
      except Exception as error:
        raise AssertionError(f'{name} {words[name]}') from error
    refused = [x for x in notes if 'cannot be read' in x or 'no list' in x]
    assert len(refused) <= 1, refused
    assert all('\n' not in x and len(x) < 600 for x in notes)
  draw_all(tmp_path, paths, 'all together', ('good', '???0'))


@pytest.mark.slow
def test_many_hostile_inputs_cost_neither_time_nor_memory(tmp_path):
  """Gives other inputs to all tools, three of ten to the dashboard, too."""
  longest, before = 0, memory()
  for seed in range(1, 1 + LONG // BATCH):
    folder, start = tmp_path / str(seed), time.monotonic()
    folder.mkdir()
    words, paths = write_inputs(folder, BATCH, seed)
    draw_all(
        folder, paths, f'seed {seed}: {words}', ('good', '*[0-2]'))
    longest = max(longest, time.monotonic() - start)
    shutil.rmtree(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f'{BATCH * seed} inputs; at most {longest:.0f} s for all tools and '
        f'{BATCH} inputs; {before:.0f} MiB before, {peak:.0f} at most',
        flush=True)
  assert peak < before + 1024


def test_the_generator_makes_every_damage_and_harms_most_runs(tmp_path):
  words, paths = write_inputs(tmp_path, SHORT, seed=0)
  kinds = {x for damages in words.values() for x in damages}
  assert kinds >= {x.__name__ for x in CONFIG + METRICS} | {
      'score file', 'packed', 'other kind'}
  notes = []
  curves = scores.collect(tmp_path / 'runs', notes)
  assert len(notes) > SHORT / 4 and len(curves) > 20
