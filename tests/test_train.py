"""Trains on a toy task; tests what runs write, count, resume and refuse."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import PIL.Image
import pytest
from tensorboard.backend.event_processing import event_accumulator

from dreamingv2 import settings
from dreamingv2 import train
from dreamingv2.common import config as configs
from dreamingv2.common import logdir as logdirs
from dreamingv2.common import suites

ROOT = pathlib.Path(__file__).resolve().parents[1]
DEBUG = ['--configs', 'debug', '--task', 'toy_reach']
SMALL = [
    '--steps', '150', '--prefill', '60', '--eval_every', '100',
    '--log_every', '50', '--save_every', '50', '--eval_eps', '2']
LOSSES = [
    'model', 'reward', 'kl', 'nce', 'overshooting', 'aux', 'actor', 'critic']
# Metrics that both DreamerV2 and we log.
UPSTREAM = {*configs.read_yaml(
    ROOT / 'docs' / 'upstream' / 'reasons.yaml')['logs']['same']}
# Metrics that depend on the clock.
TIMED = r'fps', r'share_', r'seconds', r'cpu_seconds'


def start(folder, *argv):
  """Starts `python train.py` in a folder, in its own session."""
  return subprocess.Popen(
      [sys.executable, str(ROOT / 'train.py'), *argv], cwd=folder,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      start_new_session=True)


def finish(process, code=0):
  """Waits for a process and returns what it printed."""
  out, err = process.communicate(timeout=120)
  assert process.returncode == code, err
  assert 'Traceback' not in err, err
  return out, err


def wait_for(condition, process=None, seconds=90):
  """Waits until condition() is true, while a process runs."""
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    if condition():
      return
    assert not process or process.poll() is None, process.communicate()[1]
    time.sleep(0.02)
  raise AssertionError('Waited in vain.')


def children(pid):
  """Returns the processes whose parent is `pid`."""
  pids = []
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      fields = path.read_text().rpartition(')')[2].split()
    except OSError:  # It ended meanwhile.
      continue
    if int(fields[1]) == pid:
      pids.append(int(path.parent.name))
  return pids


def alive(pid):
  try:
    state = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return False
  return state.rpartition(')')[2].split()[0] != 'Z'


def read_metrics(logdir):
  """Returns the lines of metrics.jsonl."""
  text = (pathlib.Path(logdir) / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def pick(lines, name):
  """Returns [(step, value)] of one metric."""
  return [(line['step'], line[name]) for line in lines if name in line]


def untimed(lines):
  """Returns the lines without metrics that depend on the clock."""
  lines = [
      {k: v for k, v in line.items() if not k.startswith(TIMED)}
      for line in lines]
  return [line for line in lines if line.keys() != {'step'}]


def run_here(logdir, *argv):
  """Trains with environments in this process and returns the Run."""
  config = settings.load_config([*DEBUG, *SMALL, *argv])
  logdir.mkdir(parents=True, exist_ok=True)
  envs = [
      suites.make(
          'toy', 'reach', seed=config.seed + offset, size=config.render_size,
          action_repeat=config.action_repeat)
      for offset in (0, 999)]
  run = train.Run(config, logdir, envs[:1], envs[1:])
  run.train()
  return run


def check_gif(path):
  """Asserts that a GIF has several frames, none of them black."""
  with PIL.Image.open(path) as gif:
    assert gif.n_frames > 5
    for index in range(gif.n_frames):
      gif.seek(index)
      assert np.asarray(gif.convert('RGB')).std() > 5, index


@pytest.fixture(scope='module')
def dreamingv2(tmp_path_factory):
  """Trains in another folder; returns folder, logdir, output and metrics."""
  folder = tmp_path_factory.mktemp('elsewhere')
  out, err = finish(start(folder, *DEBUG, *SMALL))
  logdir = folder / 'logdir' / 'toy_reach' / 'dreamingv2' / '0'
  return folder, logdir, out + err, read_metrics(logdir)


@pytest.fixture(scope='module')
def dreamerv2(tmp_path_factory):
  """Trains with other numbers for all settings; returns logdir and metrics."""
  folder = tmp_path_factory.mktemp('dreamerv2')
  finish(start(
      folder, '--configs', 'debug', 'dreamerv2', '--task', 'toy_reach',
      *SMALL, '--seed', '3', '--action_repeat', '2', '--envs', '2',
      '--train_every', '4', '--pretrain', '2', '--steps', '260'))
  logdir = folder / 'logdir' / 'toy_reach' / 'dreamerv2' / '3'
  return logdir, read_metrics(logdir)


def test_default_logdir_lies_in_the_working_directory(dreamingv2):
  folder, logdir, _, _ = dreamingv2
  assert [path.name for path in folder.iterdir()] == ['logdir']
  assert {path.name.split('.')[0] for path in logdir.iterdir()} == {
      'checkpoints', 'config', 'environment', 'events', 'metrics',
      'train_episodes', 'videos'}


def test_metrics_hold_every_loss_finite_and_where_the_time_went(dreamingv2):
  _, _, _, lines = dreamingv2
  for name in [f'{x}_loss' for x in LOSSES] + ['updates']:
    values = [value for _, value in pick(lines, name)]
    assert values and np.isfinite(values).all(), name
  for name in ('data', 'env', 'policy', 'train'):
    values = [value for _, value in pick(lines, f'share_{name}')]
    assert values and all(0 <= x <= 1 for x in values), name
  assert all(value > 0 for _, value in pick(lines, 'fps'))


def test_updates_are_pretrain_and_one_per_train_every_steps(dreamingv2):
  _, _, _, lines = dreamingv2
  # 60 steps of prefill; then at 61, 81, ..., 141.
  assert pick(lines, 'updates')[-1] == (150, 1 + 5)


def test_every_eval_return_has_a_line_beside_mean_and_std(dreamingv2):
  _, _, _, lines = dreamingv2
  for step in (100, 150):
    returns = [x for s, x in pick(lines, 'eval_return') if s == step]
    assert len(returns) == 2 and all(0 <= x <= 50 for x in returns)
    assert returns[0] != returns[1]
    assert pick(lines, 'eval_return_mean')[step // 50 - 2] == (
        step, pytest.approx(np.mean(returns)))
    assert pick(lines, 'eval_return_std')[step // 50 - 2] == (
        step, pytest.approx(np.std(returns)))
  assert {x for _, x in pick(lines, 'eval_length')} == {50}


def test_intervals_below_an_action_repeat_are_not_never():
  run = mock.MagicMock()
  run._repeat = 4
  run.config = settings.load_config([
      '--log_every', '1', '--eval_every', '0', '--save_every', '8'])
  train.Run._make_schedules(run)
  fired = {
      name: [step for step in range(1, 5) if run._every[name](step)]
      for name in ('log', 'eval', 'save')}
  assert fired == {'log': [1, 2, 3, 4], 'eval': [], 'save': [2, 4]}


def test_random_steps_and_wall_time_are_logged(dreamingv2):
  _, _, _, lines = dreamingv2
  returns = pick(lines, 'random_return')
  assert [step for step, _ in returns] == [50]
  assert 0 <= returns[0][1] <= 50
  for name in ('seconds', 'cpu_seconds'):
    seconds = [x for _, x in pick(lines, name)]
    assert 0 < seconds[0] and seconds == sorted(seconds)


def test_config_snapshot_names_versions_and_loads_back(dreamingv2):
  _, logdir, _, _ = dreamingv2
  head, command = (logdir / 'config.yaml').read_text().splitlines()[:2]
  assert head.startswith('# dreamingv2 ')
  for name in ('commit', 'python', 'numpy', 'mujoco'):
    assert f', {name} ' in head, name
  assert re.search(r', \d+ x \w.*, python ', head)
  assert command.startswith('# ')
  assert ', tensorflow ' in head or ', tensorflow-cpu ' in head
  loaded = configs.Config.load(logdir / 'config.yaml')
  assert loaded == settings.load_config([*DEBUG, *SMALL])


def test_checkpoints_end_with_the_last_step(dreamingv2):
  _, logdir, _, _ = dreamingv2
  names = sorted(path.name for path in (logdir / 'checkpoints').iterdir())
  assert names == ['000000000100.npz', '000000000150.npz', 'best.npz']


def test_gif_of_an_evaluation_is_not_black(dreamingv2):
  _, logdir, _, _ = dreamingv2
  for step in (100, 150):
    check_gif(logdir / 'videos' / f'eval_policy_image_{step}.gif')


def test_logs_have_the_names_and_tags_of_dreamerv2(dreamerv2):
  logdir, lines = dreamerv2
  names = {name for line in lines for name in line} - {'step'}
  assert not UPSTREAM - names
  events = event_accumulator.EventAccumulator(str(logdir))
  events.Reload()
  assert {*events.Tags()['tensors']} == {f'scalars/{x}' for x in names}
  assert {*events.Tags()['images']} == {
      'eval_policy_image', 'train_openl_image'}


def test_terminal_says_device_memory_and_returns(dreamingv2):
  _, _, printed, _ = dreamingv2
  for words in (
      r'Starting the environments of toy_reach: 1 for training, 1 for ',
      r'raining on .+ in float32\.', r'environment is ready: image 64x64x3',
      r'The replay needs up to \d+ MiB of RAM', r'Prefill: \d+ steps with',
      r'Done: 150 steps and \d+ updates in .+ are in \S+ Next:',
      r' nce_loss .+ actor_loss ',
      r'\n  dreamingv2 evaluate --logdir \S+\n  tensorboard --logdir \S+\n'):
    assert re.search(words, printed), words
  assert '[150] eval_return_mean ' in printed


def test_rerun_of_a_finished_run_has_nothing_to_do(dreamingv2, capfd):
  folder, logdir, _, before = dreamingv2
  train.main([*DEBUG, *SMALL, '--logdir', str(logdir)])
  assert 'Nothing to do: step 150 of 150.' in capfd.readouterr().err
  assert read_metrics(logdir) == before


def test_logdir_of_another_config_says_which_keys_differ(dreamingv2, capfd):
  _, logdir, _, _ = dreamingv2
  before = (logdir / 'config.yaml').read_text()
  message = refused([
      *DEBUG, *SMALL, '--logdir', str(logdir), '--contrastive.horizon', '2',
      '--discount', '0.5'], capfd)
  for word in ('2 keys differ', 'contrastive.horizon 3', '2 here', 'discount'):
    assert word in message
  assert (logdir / 'config.yaml').read_text() == before


def test_action_repeat_counts_environment_steps(dreamerv2):
  _, lines = dreamerv2
  # 260 environment steps are 130 decisions, 60 of them prefill; then one
  # update at every fourth, the first among them.
  assert pick(lines, 'updates')[-1] == (260, 2 + 18)
  assert max(line['step'] for line in lines) == 260
  # An episode has 50 environment steps.
  assert {x for _, x in pick(lines, 'train_length')} == {50}
  steps = [step for step, _ in pick(lines, 'eval_return_mean')]
  assert steps == [200, 260]  # Not right after the prefill, at 122.


def test_dreamerv2_logs_its_loss_and_an_open_loop_video(dreamerv2):
  logdir, lines = dreamerv2
  assert pick(lines, 'image_loss')
  assert not pick(lines, 'nce_loss')
  videos = sorted((logdir / 'videos').glob('*openl*.gif'))
  assert videos
  check_gif(videos[-1])


def test_two_environments_give_different_episodes(dreamerv2):
  logdir, lines = dreamerv2
  returns = [x for _, x in pick(lines, 'train_return')]
  assert len(returns) >= 2 and len(set(returns)) == len(returns)
  files = sorted((logdir / 'train_episodes').glob('*.npz'))
  firsts = [np.load(path)['image'][0].tobytes() for path in files]
  assert len(set(firsts)) == len(firsts) >= 4


@pytest.mark.slow
def test_run_resumes_after_interrupt_and_after_kill(tmp_path):
  """A run has three parts, of which the second ends with kill -9."""
  argv = [
      *DEBUG, *SMALL, '--logdir', str(tmp_path / 'run'), '--pretrain', '7',
      '--steps', '260', '--eval_every', '0', '--eval_eps', '0',
      '--train_every', '10']
  checkpoints = tmp_path / 'run' / 'checkpoints'

  def saved(least):
    steps = [int(path.stem) for path in checkpoints.glob('[0-9]*.npz')]
    return max(steps, default=0) >= least and max(steps)

  process = start(tmp_path, *argv)
  wait_for(lambda: saved(61), process)
  check_workers(process.pid)
  os.killpg(process.pid, signal.SIGINT)
  _, err = finish(process, 130)
  stopped = saved(61)
  assert f'Stopped by SIGINT; saved at step {stopped}.' in err

  process = start(tmp_path, *argv)
  wait_for(lambda: saved(stopped + 1), process)
  workers = children(process.pid)
  process.kill()
  _, err = process.communicate()
  assert f'Resumed at step {stopped} ' in err and 'Pretrain' not in err
  killed = saved(1)
  assert workers
  wait_for(lambda: not any(map(alive, workers)), seconds=10)

  _, err = finish(start(tmp_path, *argv))
  assert f'Resumed at step {killed} ' in err
  assert 'Prefill' not in err and 'Pretrain' not in err
  lines = read_metrics(tmp_path / 'run')
  # Prefill lasts 60 steps, and an update comes every 10 of the other 200.
  assert pick(lines, 'updates')[-1] == (260, 7 + 20)
  files = list((tmp_path / 'run' / 'train_episodes').glob('*.npz'))
  held = sum(int(path.stem.rpartition('-')[2]) for path in files)
  assert held >= 260 - 50  # The last episode is unfinished.
  assert not (tmp_path / 'run' / 'train_episodes' / 'damaged').exists()


def check_workers(pid):
  """Asserts that no process of an environment has loaded TensorFlow."""
  maps = {
      x: pathlib.Path(f'/proc/{x}/maps').read_text()
      for x in [pid, *children(pid)]}
  assert 'libtensorflow' in maps.pop(pid)  # The test can fail.
  assert maps
  for text in maps.values():
    assert 'python' in text
    assert 'tensorflow' not in text


def test_seed_decides_every_number(tmp_path):
  """It does not matter whether the environment is in another process."""
  argv = ['--steps', '122', '--eval_eps', '1']
  for name, seed in (('here', '1'), ('other', '2')):
    run_here(tmp_path / name, *argv, '--seed', seed)
  train.main([
      *DEBUG, *SMALL, *argv, '--seed', '1',
      '--logdir', str(tmp_path / 'process')])
  here, other, process = (
      untimed(read_metrics(tmp_path / x))
      for x in ('here', 'other', 'process'))
  assert len(here) > 5
  assert here == process
  for name in ('model_loss', 'train_return', 'eval_return'):
    assert pick(here, name) != pick(other, name), name


def test_compiled_run_counts_and_learns_like_the_eager_one(tmp_path):
  run = run_here(tmp_path, '--jit', 'True', '--steps', '100')
  assert run.updates == 1 + 2
  lines = read_metrics(tmp_path)
  for name in LOSSES:
    values = [value for _, value in pick(lines, f'{name}_loss')]
    assert values and np.isfinite(values).all(), name


def test_importing_the_script_imports_no_tensorflow():
  code = (
      'import sys; from dreamingv2 import train; '
      'print(*(x for x in sys.modules if x.startswith("tensorflow")))')
  out = subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True,
      check=True)
  assert out.stdout.strip() == ''


# Flags after BAD and words of the message that they must give.
BAD = {
    'unknown block': ('--configs debug dremerv2', 'dremerv2 dreamerv2'),
    'unknown key': ('--stepz 5', 'stepz steps'),
    'unknown nested key': ('--rssm.detr 5', 'rssm.detr rssm.deter'),
    'no value': ('--steps', '--steps float'),
    'two values': ('--train_every 20 30', '--train_every int'),
    'wrong type': ('--steps many', '--steps float many'),
    'fraction': ('--prefill 1.5', '--prefill int 1.5'),
    'unknown task': ('--task toy_reech', 'reech reach'),
    'unknown suite': ('--suite tooy --task reach', 'tooy toy'),
    'no suite': ('--suite= --task reach', 'reach --suite toy'),
    'unknown precision': ('--precision 8', 'precision 8 bf16 auto'),
    'unknown objective': (
        '--objective contrastve', 'contrastve contrastive reconstruction'),
    'horizon too long': ('--contrastive.horizon 9', 'horizon 9 10'),
    'encoder matches nothing': (
        '--encoder.cnn_keys imag', 'encoder imag image'),
    'loss that nobody produces': (
        '--loss_scales.decoder 2', 'loss_scales.decoder contrastive nce'),
    'no environment': ('--envs 0', 'envs 0'),
    'no checkpoint': ('--keep 0', 'keep 0 1'),
    'negative memory': ('--replay.max_gib -1', 'replay.max_gib -1 0'),
    'negative seconds': ('--env_timeout -1', 'env_timeout -1 0'),
    'empty batch': ('--dataset.batch 0', 'dataset.batch 0 1'),
    'negative seed': ('--seed -1', 'seed -1 0'),
    'bad schedule': ('--actor_ent linear(1)', 'linear(1) warmup'),
    'bad image size': ('--render_size 64', 'render_size 64'),
    'unknown action distribution': ('--actor.dist onehot', 'actor.dist auto'),
}


def refused(argv, capfd):
  """Returns the one line that train.main prints before it exits with 2."""
  capfd.readouterr()
  with pytest.raises(SystemExit) as ending:
    train.main(argv)
  assert ending.value.code == 2
  out, err = capfd.readouterr()
  said = [
      line for line in err.splitlines()
      if not line.startswith((
          'Compiled', 'Logdir ', 'No GPU found', 'Prefill', 'Pretr',
          'Starting ', 'The environment is ready'))
      and 'oneDNN supports' not in line]  # By TensorFlow on some CPUs.
  assert len(said) == 1, err
  assert said[0].startswith('Error: ')
  return said[0]


@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_refused_in_one_line_that_helps(name, tmp_path, capfd):
  flags, words = BAD[name]
  logdir = ['--logdir', str(tmp_path / 'run')]
  message = refused([*DEBUG, *SMALL, *logdir, *flags.split()], capfd)
  for word in words.split():
    assert word in message, message
  # The files that are left must not block the corrected command.
  config = settings.load_config([*DEBUG, *SMALL, *logdir])
  logdirs.prepare(config, 'toy', 'reach')
  assert not [x for x in (tmp_path / 'run').rglob('*') if x.is_file()]


def test_too_short_episodes_are_refused_and_leave_the_logdir_usable(
    tmp_path, capfd):
  logdir = ['--logdir', str(tmp_path / 'run')]
  long = ['--dataset.length', '60', '--replay.minlen', '60',
          '--replay.maxlen', '60']
  message = refused([*DEBUG, *SMALL, *logdir, *long], capfd)
  assert 'replay.minlen is 60' in message and 'longest of 50' in message
  config = settings.load_config([*DEBUG, *SMALL, *logdir])
  logdirs.prepare(config, 'toy', 'reach')
  other = settings.load_config(
      [*DEBUG, *SMALL, *logdir, '--action_repeat', '2'])
  with pytest.raises(ValueError, match='action_repeat 1 there and 2 here'):
    logdirs.prepare(other, 'toy', 'reach')


@pytest.mark.parametrize('place', ['file', 'file/below'])
def test_logdir_that_cannot_be_written_is_refused(place, tmp_path, capfd):
  (tmp_path / 'file').write_text('precious')
  message = refused([*DEBUG, '--logdir', str(tmp_path / place)], capfd)
  assert 'cannot be written' in message and '--logdir' in message
  assert (tmp_path / 'file').read_text() == 'precious'


def test_bad_input_ends_the_command_with_2(tmp_path):
  _, err = finish(start(tmp_path, *DEBUG, '--rssm.detr', '5'), 2)
  assert err.startswith('Error: ') and err.count('\n') == 1
  assert not list(tmp_path.iterdir())
