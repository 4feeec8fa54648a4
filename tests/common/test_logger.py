import io
import json

import numpy as np
import PIL.Image
import pytest
import tqdm

from dreamingv2.common import logger as loggers
from dreamingv2.common.counter import Counter

VIDEO = np.zeros((4, 8, 6, 3), np.uint8)
VIDEO[np.arange(4), 0, np.arange(4)] = (255, 0, 0)


class Recorder:

  def __init__(self):
    self.calls = []
    self.broken = False

  def __call__(self, step, entries):
    if self.broken:
      raise OSError('disk full')
    self.calls.append((step, entries))


@pytest.fixture
def recorder():
  return Recorder()


def read_lines(logdir):
  return [json.loads(x) for x in (logdir / 'metrics.jsonl').open()]


def test_write_hands_over_what_was_added_once(recorder):
  logger = loggers.Logger(Counter(5), [recorder], multiplier=2)
  logger.add({'loss': np.float32(0.5), 'n': np.int64(3)}, prefix='train')
  logger.scalar('x', 1.0)
  logger.scalar('x', 2.0)
  logger.write()
  logger.write()
  assert recorder.calls == [(10, [
      ('train_loss', 0.5), ('train_n', 3), ('x', 1.0), ('x', 2.0)])]


def test_images_and_videos_become_uint8_with_channels(recorder):
  logger = loggers.Logger(Counter(), [recorder])
  logger.image('grey', np.array([[0.0, 1.0], [0.5, 7.0]]))
  logger.image('color', VIDEO[0])
  logger.video('video', VIDEO / 255)
  logger.write()
  entries = dict(recorder.calls[0][1])
  assert entries['grey'].dtype == np.uint8
  assert entries['grey'][..., 0].tolist() == [[0, 255], [128, 255]]
  np.testing.assert_array_equal(entries['color'], VIDEO[0])
  np.testing.assert_array_equal(entries['video'], VIDEO)


def test_added_array_is_not_changed_by_its_owner(recorder):
  logger, image = loggers.Logger(Counter(), [recorder]), VIDEO[0].copy()
  logger.image('image', image)
  image[:] = 7
  logger.write()
  np.testing.assert_array_equal(recorder.calls[0][1][0][1], VIDEO[0])


@pytest.mark.parametrize('channels', [2, 4, 12])
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_other_numbers_of_channels_are_shown_as_their_mean(
    recorder, channels, dtype):
  logger = loggers.Logger(Counter(), [recorder])
  video = np.zeros((3, 4, 5, channels), dtype)
  video[..., -1] = 255 if dtype == np.uint8 else 1
  logger.add({'video': video, 'image': video[0]})
  logger.write()
  shown = dict(recorder.calls[0][1])
  assert shown['video'].shape == (3, 4, 5, 1)
  assert set(np.unique(shown['image'])) == {255 // channels}
  assert loggers.encode_gif(video.astype(np.uint8), 20).startswith(b'GIF')


@pytest.mark.parametrize('value', [
    np.zeros(3), np.zeros((2, 2, 50)), np.zeros((1, 2, 8, 8, 3)),
    np.zeros((0, 8, 8, 3)), np.zeros((4, 4), np.int32), 'text', None,
    1j, np.array('1.5')])
def test_add_refuses_other_shapes_and_types_by_name(value):
  logger = loggers.Logger(Counter(), [])
  with pytest.raises(ValueError, match="'train_bad'"):
    logger.add({'bad': value}, 'train')


def test_named_kinds_refuse_each_other():
  logger = loggers.Logger(Counter(), [])
  for add, value in [
      (logger.scalar, VIDEO[0]), (logger.image, VIDEO), (logger.image, 1.0),
      (logger.video, VIDEO[0])]:
    with pytest.raises(ValueError, match="'bad'"):
      add('bad', value)


def test_fps_counts_environment_steps(recorder, monkeypatch):
  times = iter([100.0, 104.0, 106.0])
  monkeypatch.setattr(loggers.time, 'perf_counter', lambda: next(times))
  counter = Counter(500)
  logger = loggers.Logger(counter, [recorder], multiplier=2)
  for steps in (0, 40, 10):
    counter.increment(steps)
    logger.write(fps=True)
  assert recorder.calls == [
      (1080, [('fps', 20.0)]), (1100, [('fps', 10.0)])]


def test_failing_output_warns_once_and_is_tried_again(capsys, recorder):
  after = Recorder()
  logger = loggers.Logger(Counter(), [recorder, after])
  for recorder.broken in (True, True, False, True):
    logger.scalar('x', 1)
    logger.write()
  lines = capsys.readouterr().err.splitlines()
  assert len(after.calls) == 4 and len(recorder.calls) == 1
  # One warning for the first two failures, and one after it recovered.
  assert len(lines) == 2
  assert all('Recorder' in line and 'disk full' in line for line in lines)


def test_jsonl_has_a_line_per_write_with_the_scalars(tmp_path):
  counter = Counter(1)
  logger = loggers.Logger(counter, [loggers.JSONLOutput(tmp_path / 'a')])
  logger.add({'x': 1.5, 'n': 3, 'video': VIDEO})
  logger.write()
  counter.increment()
  logger.add({'bad': float('nan'), 'big': -np.inf})
  logger.write()
  logger.video('video', VIDEO)
  logger.write()
  first, second = read_lines(tmp_path / 'a')
  assert first == {'step': 1, 'x': 1.5, 'n': 3}
  assert np.isnan(second['bad']) and second['big'] == -np.inf


def test_jsonl_keeps_both_values_of_a_name(tmp_path):
  output = loggers.JSONLOutput(tmp_path)
  output(3, [('return', 1.0), ('length', 5), ('return', 2.0)])
  assert read_lines(tmp_path) == [
      {'step': 3, 'return': 1.0, 'length': 5}, {'step': 3, 'return': 2.0}]


@pytest.mark.parametrize('before, kept', [
    ('{"step": 1}\n{"step": 2, "x', 1), ('{"step": 1}\n', 1), ('{"st', 0)])
def test_jsonl_goes_on_after_a_line_that_a_crash_cut(tmp_path, before, kept):
  (tmp_path / 'metrics.jsonl').write_text(before)
  loggers.JSONLOutput(tmp_path)(7, [('x', 1)])
  assert read_lines(tmp_path) == [{'step': 1}] * kept + [{'step': 7, 'x': 1}]


def test_terminal_prints_one_line_of_matching_scalars():
  stream = io.StringIO()
  output = loggers.TerminalOutput(r'.*_loss|fps', stream)
  output(1000000, [
      ('a_loss', 0.123456), ('b_loss', float('nan')), ('loss_x', 1.0),
      ('fps', 31), ('a_loss_video', VIDEO)])
  output(5, [('other', 1.0)])
  assert stream.getvalue() == '[1000000] a_loss 0.1235 | b_loss nan | fps 31\n'


def test_terminal_line_leaves_a_progress_bar_whole():
  stream = io.StringIO()
  with tqdm.tqdm(total=10, file=stream, mininterval=0) as bar:
    bar.update(3)
    loggers.TerminalOutput(console=stream)(5, [('x', 1.0)])
  lines = stream.getvalue().replace('\r', '\n').split('\n')
  assert '[5] x 1' in lines


def test_gif_shows_the_frames_in_order_at_their_speed():
  gif = PIL.Image.open(io.BytesIO(loggers.encode_gif(VIDEO, 20)))
  assert gif.n_frames == 4 and gif.info['duration'] == 50
  assert gif.info['loop'] == 0
  for frame in range(4):
    gif.seek(frame)
    np.testing.assert_array_equal(np.array(gif.convert('RGB')), VIDEO[frame])


def test_gif_encodes_one_channel():
  gif = PIL.Image.open(io.BytesIO(loggers.encode_gif(VIDEO[..., :1], 20)))
  gif.seek(3)
  np.testing.assert_array_equal(np.array(gif.convert('L')), VIDEO[3, ..., 0])


def test_gif_output_writes_a_file_for_each_name_and_step(tmp_path):
  output = loggers.GIFOutput(tmp_path)
  for step in (5, 900):
    output(step, [('eval/policy', VIDEO), ('x', 1.0)])
  names = sorted(path.name for path in (tmp_path / 'videos').iterdir())
  assert names == ['eval_policy_5.gif', 'eval_policy_900.gif']


def test_tensorboard_reads_back_scalars_images_and_videos(tmp_path):
  pytest.importorskip('tensorflow')  # Which the fast tier does without.
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util import tensor_util
  counter = Counter(3)
  logger = loggers.Logger(counter, [loggers.TensorBoardOutput(tmp_path)])
  logger.add({'x': 1.5, 'image': VIDEO[0], 'video': VIDEO})
  logger.write()
  events = event_accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  (scalar,), (image,) = events.Tensors('scalars/x'), events.Tensors('image')
  assert scalar.step == 3
  assert tensor_util.make_ndarray(scalar.tensor_proto) == 1.5
  png = PIL.Image.open(io.BytesIO(image.tensor_proto.string_val[2]))
  np.testing.assert_array_equal(np.array(png), VIDEO[0])
  (video,) = events.Images('video')
  gif = PIL.Image.open(io.BytesIO(video.encoded_image_string))
  assert video.step == 3 and (gif.format, gif.n_frames) == ('GIF', 4)
  assert (video.width, video.height) == gif.size == (6, 8)


def test_tensorboard_is_given_no_python_numbers(tmp_path, monkeypatch):
  """TensorFlow would keep a tensor of 0.7 KiB for each number for ever."""
  pytest.importorskip('tensorflow')  # Which the fast tier does without.
  import tensorflow as tf
  seen = []
  monkeypatch.setattr(tf.summary, 'scalar', lambda name, value: seen.extend(
      [value, tf.summary.experimental.get_step()]))
  loggers.TensorBoardOutput(tmp_path)(3, [('x', 1.5), ('y', np.float64(2))])
  assert seen == [1.5, 3, 2.0, 3]
  assert not any(isinstance(x, (float, int)) for x in seen)


def test_bfloat16_and_tensors_are_numbers(recorder):
  pytest.importorskip('tensorflow')  # Which the fast tier does without.
  import tensorflow as tf
  logger = loggers.Logger(Counter(), [recorder])
  logger.scalar('x', tf.constant(1.5, tf.bfloat16))
  logger.scalar('y', tf.constant(2.5, tf.float16))
  logger.write()
  assert recorder.calls == [(0, [('x', 1.5), ('y', 2.5)])]


def test_jsonl_is_cut_to_where_a_checkpoint_was_taken(tmp_path):
  step = Counter(1)
  logger = loggers.Logger(
      step, [loggers.JSONLOutput(tmp_path), Recorder()])
  assert logger.state() == [('JSONLOutput', 0), ('Recorder', None)]
  for value in (1, 2, 3):
    logger.scalar('x', value)
    logger.write()
    if value == 2:
      state = logger.state()
  logger.restore(state)
  assert [x['x'] for x in read_lines(tmp_path)] == [1, 2]
  logger.scalar('x', 4)
  logger.write()
  assert [x['x'] for x in read_lines(tmp_path)] == [1, 2, 4]


def test_state_finds_its_output_among_others_and_in_older_checkpoints(
    tmp_path):
  class Named(Recorder):
    name = 'new'
    state = lambda self: self.name
    restore = lambda self, name: setattr(self, 'name', name)

  named, lines = Named(), loggers.JSONLOutput(tmp_path)
  named.name = 'old'
  state = loggers.Logger(Counter(), [Recorder(), lines, named]).state()
  named.name = 'new'
  lines(1, [('x', 1)])
  loggers.Logger(Counter(), [named, lines]).restore(state)
  assert named.name == 'old'
  assert read_lines(tmp_path) == []
  lines(1, [('x', 1)])
  loggers.Logger(Counter(), [Recorder(), lines]).restore([None, 0, None])
  assert read_lines(tmp_path) == []


def test_jsonl_that_is_shorter_or_gone_is_left_as_it_is(tmp_path):
  output = loggers.JSONLOutput(tmp_path)
  output.restore(100)
  assert not list(tmp_path.iterdir())
  output(1, [('x', 1)])
  output.restore(1000)
  assert read_lines(tmp_path) == [{'step': 1, 'x': 1}]
  output.restore(output.state() - 3)  # In the middle of a line.
  assert read_lines(tmp_path) == []


def test_progress_and_say_survive_a_terminal_that_is_gone(monkeypatch):
  class Gone:
    encoding = 'utf-8'
    alive = True

    def write(self, *args):
      if not self.alive:
        raise BrokenPipeError(32, 'Broken pipe')
    flush = write

    def isatty(self):
      return True
  gone = Gone()
  monkeypatch.setattr(loggers.sys, 'stderr', gone)
  with loggers.Progress(10, 0, 'prefill') as progress:
    gone.alive = False
    progress.describe('train')
    progress.note('text')
    progress.update(5)
    loggers.say('text')


class Terminal(io.StringIO):
  """A stream that says it is a terminal."""

  def isatty(self):
    return True


def test_long_lines_break_between_values_on_a_terminal(monkeypatch):
  monkeypatch.setenv('COLUMNS', '40')
  console = Terminal()
  output = loggers.TerminalOutput(console=console)
  output(7, [(f'some_long_name_{i}', i / 7) for i in range(5)])
  lines = console.getvalue().splitlines()
  assert len(lines) > 2 and all(len(line) <= 40 for line in lines)
  for i in range(5):  # A name stays beside its value.
    assert any(f'some_long_name_{i} {i / 7:.4g}' in line for line in lines)


def test_lines_in_a_file_are_not_broken(monkeypatch):
  monkeypatch.setenv('COLUMNS', '40')
  console = io.StringIO()
  output = loggers.TerminalOutput(console=console)
  output(7, [(f'some_long_name_{i}', i) for i in range(5)])
  assert len(console.getvalue().splitlines()) == 1
