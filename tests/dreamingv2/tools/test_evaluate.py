"""Evaluates agents of short runs on the toy task."""

import io
import json
import sys
import types

import numpy as np
import PIL.Image
import pytest

from dreamingv2 import settings
from dreamingv2.common import checkpoint as checkpoints
from dreamingv2.common import envs
from dreamingv2.common import suites
from dreamingv2.common import worker
from dreamingv2.tools import evaluate
from scripts import values


def start(*argv):
  """Runs the program in this process."""
  evaluate.main([str(x) for x in argv])


@pytest.fixture(scope='module')
def results(logdir):
  """Returns the folder with the JSON files and videos of two evaluations."""
  folder = logdir.parent
  before = {x: x.stat().st_mtime_ns for x in logdir.rglob('*')}
  for name in ('one', 'two'):
    start('--logdir', logdir, '--episodes', 2, '--video',
          folder / f'{name}.gif', '--out', folder / f'{name}.json')
  assert before == {x: x.stat().st_mtime_ns for x in logdir.rglob('*')}
  return folder


def test_evaluation_tells_every_return_and_repeats(results, capsys):
  one, two = (
      json.loads((results / f'{x}.json').read_text()) for x in ('one', 'two'))
  assert one == two
  assert one['step'] == 100 and one['episodes'] == len(one['return']) == 2
  assert len(set(one['return'])) == 2 and one['length'] == [50] * 2
  assert one['mean'] == pytest.approx(np.mean(one['return']))
  assert one['std'] == pytest.approx(np.std(one['return']))
  assert one['success_rate'] == np.mean(one['success'])


def test_other_seed_gives_other_episodes_and_best_another_agent(
    logdir, results, tmp_path, capsys):
  for name, flags in {'seed': ['--seed', 1], 'best': ['--best']}.items():
    start('--logdir', logdir, '--episodes', 1, '--out', tmp_path / name,
          *flags)
  newest = json.loads((results / 'one.json').read_text())
  seed, best = (
      json.loads((tmp_path / x).read_text()) for x in ('seed', 'best'))
  assert seed['return'][0] != newest['return'][0]
  assert best['step'] == 50
  out = capsys.readouterr().out
  assert 'Step 50, ' in out and 'episode 1: return ' in out
  assert 'success rate ' in out and 'standard deviation 0.00' in out


def test_video_shows_the_episodes_side_by_side(results):
  with PIL.Image.open(results / 'one.gif') as gif:
    assert gif.size == (2 * 128, 128) and gif.n_frames > 20
    assert np.asarray(gif.convert('RGB')).std() > 5


def test_play_counts_a_success_at_any_step():

  class Env(envs.Wrapper):
    count = 0

    def reset(self):
      self.count = 0
      return self.env.reset()

    def step(self, action):
      self.count += 1
      return self.env.step(action)

    def success(self):
      return self.count in self.marks

  class Agent:

    def policy(self, obs, state, mode):
      return {'action': np.zeros((1, self.size), np.float32)}, None

  agent = Agent()
  env = Env(suites.make('toy', 'reach'))
  agent.size = 2
  for marks, expected in [((7,), True), ((50,), True), ((), False)]:
    env.marks = marks
    played = evaluate.play(agent, env, 2)
    assert [x['success'] for x in played] == [expected] * 2
  agent.size = 6
  played, = evaluate.play(agent, suites.make('toy', 'dummy'), 1)
  assert played['success'] is None
  assert evaluate.summary([played])['success_rate'] is None


def test_progress_tells_the_episode_on_a_terminal_only(monkeypatch, capsys):

  class Terminal(io.StringIO):

    def isatty(self):
      return True

  agent = types.SimpleNamespace(policy=lambda obs, state, mode: (
      {'action': np.zeros((1, 2), np.float32)}, None))
  monkeypatch.setenv('COLUMNS', '80')
  for stream in (Terminal(), io.StringIO()):
    monkeypatch.setattr(sys, 'stderr', stream)
    assert len(evaluate.play(agent, suites.make('toy', 'reach'), 3)) == 3
    assert ('episode 2 of 3' in stream.getvalue()) == stream.isatty()
  assert not capsys.readouterr().out


@pytest.mark.parametrize('error, code', [
    (worker.GaveUp('worker 0 failed too often'), 3),
    (worker.BadReturn('step() returned nothing'), 2)])
def test_environment_that_fails_ends_the_evaluation_with_one_line(
    error, code, logdir, monkeypatch, capsys):
  def play(*args):
    raise error
  monkeypatch.setattr(evaluate, 'play', play)
  with pytest.raises(SystemExit) as ended:
    evaluate.main(['--logdir', str(logdir)])
  assert ended.value.code == code
  told = ''.join(capsys.readouterr())
  assert f'Error: {error}' in told and 'Traceback' not in told


def test_success_reaches_through_a_process_and_is_optional():
  for task, kinds in {'reach': (bool,), 'dummy': (type(None),)}.items():
    env = envs.Async(lambda task=task: suites.make('toy', task))
    env.reset()()
    assert type(env.success()()) in kinds
    env.close()


def change(logdir, folder, *, config='', drop=(), arrays=None):
  """Copies the config and the newest checkpoint of a logdir with changes."""
  folder.mkdir()
  text = (logdir / 'config.yaml').read_text()
  lines = [x for x in text.splitlines() if not x.startswith(drop or '\0')]
  (folder / 'config.yaml').write_text('\n'.join(lines) + config)
  snapshot = evaluate.read_checkpoint(logdir)
  checkpoints.Checkpoint(folder / 'checkpoints').save(
      snapshot.step, {**snapshot.arrays, **(arrays or {})}, snapshot.meta)


def test_older_config_is_completed_with_a_warning(logdir, tmp_path, capsys):
  change(logdir, tmp_path / 'old', drop=('pred_discount', 'keep'))
  config = evaluate.load_config(tmp_path / 'old')
  assert config.pred_discount is True and config.keep == 2
  err = capsys.readouterr().err
  assert 'lacks 1 newer keys; they get their defaults: pred_disc' in err


@pytest.mark.parametrize('name, flags, words', [
    ('logdir', ['--episodes', '0'], '--episodes is 0'),
    ('logdir', ['--video', 'a.mp4'], 'its ending must be .gif'),
    ('logdir', ['--export', '.'], '--export . exists'),
    ('logdir', ['--export', '/proc/x'], '/proc/x cannot be written to'),
    ('logdir', ['--out', '/proc/x/y'], '/proc/x/y cannot be written to'),
    ('logdir', ['--out', '/dev/null'], '/dev/null is a device and will not'),
    ('logdir', ['--video', 'a.gif', '--out', '.'], '. is a folder and will n'),
    (None, ['--policy', '.', '--best'], 'give --logdir instead of --policy'),
    (None, ['--policy', '.'], '. is not an exported policy: it has no saved_'),
    ('nowhere', [], 'nowhere is not a logdir or'),
    ('empty', [], 'has no checkpoint that can be read'),
    ('empty', ['--best'], 'has no best.npz'),
    ('unknown', [], '1 keys that this version does not know: new.key; use '
     'the version that wrote it: dreamingv2 0.1.0, commit'),
    ('size', [], 'the checkpoint is of another model'),
    ('task', [], "Unknown toy task 'raech'")])
def test_bad_input_ends_in_one_line_before_anything_is_played(
    name, flags, words, logdir, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  if name == 'logdir':
    (tmp_path / 'logdir').symlink_to(logdir)
  elif name == 'empty':
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'config.yaml').write_text(
        (logdir / 'config.yaml').read_text())
  elif name and name != 'nowhere':
    config = {
        'unknown': '\nnew: {key: 1}\n', 'task': '\ntask: toy_raech\n'}
    change(logdir, tmp_path / name, config=config.get(name, ''),
           drop=('task: ',) if name == 'nothing' else (),
           arrays={'wm/encoder/conv0/bias': np.zeros(9, 'f')}
           if name == 'size' else None)
    if name == 'task':
      path = tmp_path / name / 'config.yaml'
      lines = path.read_text().splitlines()
      path.write_text('\n'.join(
          x for x in lines if x != 'task: toy_reach'))
  with pytest.raises(SystemExit) as error:
    start(*['--logdir', name][:2 * bool(name)], *flags)
  assert error.value.code == 2
  lines = capsys.readouterr().err.splitlines()
  assert words in lines[-1] and lines[-1].startswith('Error: ')
  assert not list(tmp_path.glob('*.gif'))


def test_all_keys_of_todays_config_are_known(logdir):
  assert (evaluate.load_config(logdir).flat.keys()
          == settings.defaults().flat.keys())


def test_values_script_compares_the_critic_with_what_came(logdir, capsys):
  values.main(['--logdir', str(logdir), '--episodes', '2'])
  names, *rows = capsys.readouterr().out.splitlines()
  assert tuple(names.split()) == values.COLUMNS and len(rows) == 3
  episodes = evaluate.read_episodes(logdir, 2)[::-1]
  table = np.array([[float(x) for x in row.split()] for row in rows[:2]])
  np.testing.assert_allclose(
      table[:, 0], [x['reward'].sum() for x in episodes], atol=0.01)
  assert np.isfinite(table).all() and 'correlation' in rows[2]


def test_values_script_needs_episodes(logdir, capsys):
  with pytest.raises(SystemExit, match='2'):
    values.main(['--logdir', str(logdir), '--episodes', '0'])
  with pytest.raises(SystemExit):
    values.main(['--logdir', str(logdir), '--episodes', '999'])
  assert '--episodes is 0' in capsys.readouterr().err


def test_rewards_to_come_equal_a_sum():
  reward = np.random.default_rng(0).normal(size=5)
  right = [
      sum(0.9 ** k * reward[t + k] for k in range(5 - t)) + 0.9 ** (5 - t) * 3
      for t in range(5)]
  np.testing.assert_allclose(values.to_come(reward, 0.9, 3.0), right)
