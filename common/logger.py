"""Collects metrics and writes them to the terminal and to the logdir."""

import contextlib
import io
import json
import pathlib
import re
import shutil
import sys
import textwrap
import time

import numpy as np
import PIL.Image
import tqdm

from .files import write_bytes

# Scalars shown on the terminal; all of them are in metrics.jsonl.
TERMINAL = (
    r'(train|eval)_(return|length|return_mean|return_std)|eval_success_rate|'
    r'fps|updates|\w+_loss')
NO_BREAK = '\N{NO-BREAK SPACE}'  # Between a name and its value.
CHANNELS = 32  # Most channels of an image.


class Logger:
  """Collects scalars, images and videos and passes them to outputs.

  An output is called with the step and a list of (name, value): scalars are
  Python numbers, images uint8 [H, W, C] and videos uint8 [T, H, W, C]. An
  output that raises causes a warning and is called again at the next write.

  Args:
    step: Counter of environment decisions.
    outputs: Callables as described above.
    multiplier: Environment steps per decision (the action repeat).
  """

  def __init__(self, step, outputs, multiplier=1):
    self._step = step
    self._outputs = list(outputs)
    self._multiplier = multiplier
    self._entries = []
    self._last = None
    self._failing = set()

  @property
  def step(self):
    """The current environment step."""
    return int(self._step) * self._multiplier

  def add(self, mapping, prefix=None):
    """Collects a mapping of names to scalars, images and videos.

    Images are [H, W] or [H, W, C], videos [T, H, W, C], both of uint8 or of
    floats from 0 to 1. Other numbers of channels than one and three become
    their mean, in grey. Values are not averaged: two of one name are both
    written.

    Raises:
      ValueError: A value is none of these.
    """
    for name, value in mapping.items():
      name = f'{prefix}_{name}' if prefix else name
      self._entries.append((name, _to_entry(name, value)))

  def scalar(self, name, value):
    """Collects one number."""
    self._add_rank(name, value, (0,))

  def image(self, name, value):
    """Collects one image, [H, W] or [H, W, C]."""
    self._add_rank(name, value, (2, 3))

  def video(self, name, value):
    """Collects one video, [T, H, W, C]."""
    self._add_rank(name, value, (4,))

  def write(self, fps=False):
    """Passes everything collected to the outputs.

    Args:
      fps: Whether to add `fps`, the environment steps per second since the
        last write with `fps`; the first one has no value.
    """
    if fps:
      self._add_fps()
    entries, self._entries = self._entries, []
    if not entries:
      return
    for output in self._outputs:
      try:
        output(self.step, entries)
        self._failing.discard(output)
      # No error here is worth losing a training run for.
      except Exception as error:
        self._warn(output, error)

  def state(self):
    """Returns the kind and state of every output, for a checkpoint."""
    return [
        (_kind(x), x.state() if hasattr(x, 'state') else None)
        for x in self._outputs]

  def restore(self, state):
    """Restores what `state` returned; outputs may have been added or removed.

    Outputs delete later entries where they can, so that repeated steps do not
    appear twice.
    """
    # An older version stored no names; only JSON lines had a state then.
    left = [x if isinstance(x, tuple) else ('JSONLOutput', x) for x in state]
    for output in self._outputs:
      entry = next((
          x for x in left if x[0] == _kind(output) and x[1] is not None), None)
      if entry:
        left.remove(entry)
        try:
          output.restore(entry[1])
        except OSError as error:
          self._warn(output, error)

  def __enter__(self):
    return self

  def __exit__(self, *args):
    """Closes the outputs that need it; they may be called again."""
    for output in self._outputs:
      if hasattr(output, 'close'):
        output.close()

  def _add_rank(self, name, value, ranks):
    if np.ndim(value) not in ranks:
      raise ValueError(
          f"Log entry '{name}' has shape {np.shape(value)}, expected rank "
          f"{' or '.join(map(str, ranks))}")
    self.add({name: value})

  def _add_fps(self):
    now = self.step, time.perf_counter()
    if self._last:
      steps, seconds = now[0] - self._last[0], now[1] - self._last[1]
      self.scalar('fps', steps / max(seconds, 1e-6))
    self._last = now

  def _warn(self, output, error):
    if output not in self._failing:
      self._failing.add(output)
      say(
          f'Warning: {type(output).__name__} could not write step '
          f'{self.step}; will retry: {type(error).__name__}: {error}')


def say(text):
  """Prints a line to standard error without breaking a progress bar.

  A lost terminal is not worth losing a training run for.
  """
  with contextlib.suppress(OSError, ValueError):
    tqdm.tqdm.write(_wrap(text, sys.stderr), file=sys.stderr)


class Progress:
  """Shows a progress bar if standard error is a terminal.

  Args:
    total: Number of steps, or other units, of the whole work.
    initial: Number of steps already done.
    desc: Description of the current work.
    unit: Name of the unit.
  """

  FORMAT = (
      '{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}'
      ' [{elapsed}{postfix}]')

  def __init__(self, total, initial, desc, unit='steps'):
    options = dict(
        total=total, initial=initial, desc=desc, unit=unit,
        dynamic_ncols=True, bar_format=self.FORMAT)
    try:
      self._bar = tqdm.tqdm(**options, disable=None)
    except (OSError, ValueError):  # The terminal is gone.
      self._bar = tqdm.tqdm(**options, disable=True)

  def update(self, steps):
    """Advances the bar by `steps`."""
    self._try(self._bar.update, steps)

  def describe(self, desc):
    """Sets the description of the current work."""
    self._try(self._bar.set_description_str, desc)

  def note(self, text):
    """Shows a text after the bar, from the next update on."""
    self._try(self._bar.set_postfix_str, text, refresh=False)

  def __enter__(self):
    return self

  def __exit__(self, *args):
    self._try(self._bar.close)

  def _try(self, fn, *args, **kwargs):
    with contextlib.suppress(OSError, ValueError):  # The terminal is gone.
      fn(*args, **kwargs)


class TerminalOutput:
  """Prints one line of the scalars whose names fully match `pattern`.

  Args:
    pattern: Regular expression for names.
    console: Text stream, by default standard output.
  """

  def __init__(self, pattern='.*', console=None):
    self._pattern = re.compile(pattern)
    self._console = console

  def __call__(self, step, entries):
    scalars = {
        name: value for name, value in _scalars(entries)
        if self._pattern.fullmatch(name)}
    if scalars:
      numbers = ' | '.join(
          f'{k}{NO_BREAK}{_short(v)}' for k, v in scalars.items())
      console = self._console or sys.stdout
      # Unlike print, this leaves a live progress bar whole.
      tqdm.tqdm.write(_wrap(f'[{step}] {numbers}', console), file=console)


class JSONLOutput:
  """Appends scalars to logdir/metrics.jsonl, one line per write.

  If a name occurs twice in one write, another line of the same step begins.
  Values that are not finite are written as NaN and Infinity, as `json` does.
  """

  def __init__(self, logdir):
    self._path = pathlib.Path(logdir) / 'metrics.jsonl'

  def __call__(self, step, entries):
    lines = []
    for name, value in _scalars(entries):
      if not lines or name in lines[-1]:
        lines.append({'step': step})
      lines[-1][name] = value
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    with self._path.open('ab+') as file:
      _drop_partial_line(file)
      file.write(text.encode())

  def state(self):
    """Returns the length of the file in bytes."""
    return self._path.stat().st_size if self._path.exists() else 0

  def restore(self, state):
    """Truncates the file to a length, but never in the middle of a line."""
    if self._path.exists():
      with self._path.open('rb+') as file:
        file.truncate(min(state, self._path.stat().st_size))
        file.seek(0, io.SEEK_END)
        _drop_partial_line(file)


class TensorBoardOutput:
  """Writes scalars, images and videos (as animated GIF) for TensorBoard.

  Tags are those of DreamerV2, scalars/<name> for scalars, so that runs of both
  share their charts.
  """

  def __init__(self, logdir):
    self._logdir = str(logdir)
    self._writer = None

  def __call__(self, step, entries):
    # Processes of environments import this package without TensorFlow.
    import tensorflow as tf
    if self._writer is None:
      self._writer = tf.summary.create_file_writer(self._logdir)
    # Use NumPy's types: TensorFlow keeps a tensor of every Python number.
    with self._writer.as_default(np.int64(step)):
      for name, value in entries:
        if np.ndim(value) == 0:
          tf.summary.scalar(f'scalars/{name}', np.float32(value))
        elif np.ndim(value) == 3:
          tf.summary.image(name, value[None])
        else:
          self._write_video(tf, name, value)
      self._writer.flush()

  def _write_video(self, tf, name, video):
    # The image summary of TF 2 re-encodes images; the TF 1 one takes a GIF.
    _, height, width, channels = video.shape
    image = tf.compat.v1.Summary.Image(
        height=height, width=width, colorspace=channels,
        encoded_image_string=encode_gif(video))
    value = tf.compat.v1.Summary.Value(tag=name, image=image)
    summary = tf.compat.v1.Summary(value=[value])
    tf.summary.experimental.write_raw_pb(summary.SerializeToString())


class GIFOutput:
  """Writes videos to logdir/videos/<name>_<step>.gif."""

  def __init__(self, logdir):
    self._folder = pathlib.Path(logdir) / 'videos'

  def __call__(self, step, entries):
    for name, value in entries:
      if np.ndim(value) == 4:
        stem = re.sub(r'[^A-Za-z0-9_.-]', '_', name)
        write_bytes(self._folder / f'{stem}_{step}.gif', encode_gif(value))


def encode_gif(video, fps=20):
  """Encodes a uint8 video [T, H, W, C] as a GIF that repeats forever.

  Args:
    video: Frames.
    fps: Frames per second.
  """
  frames = [PIL.Image.fromarray(
      frame[..., 0] if frame.shape[-1] == 1 else frame)
            for frame in to_picture(video)]
  buffer = io.BytesIO()
  frames[0].save(
      buffer, 'GIF', save_all=True, append_images=frames[1:], loop=0,
      duration=round(1000 / fps))
  return buffer.getvalue()


def to_picture(array):
  """Returns an image or video [..., C] as one that can be shown.

  One and three channels stay as they are. Others, such as those of stacked
  frames, become their mean, in grey [..., 1].
  """
  if array.shape[-1] in (1, 3):
    return array
  return array.mean(-1, keepdims=True).astype(array.dtype)


def _to_entry(name, value):
  """Returns a Python number or a uint8 array [(T,) H, W, C]."""
  array = np.array(value.numpy() if hasattr(value, 'numpy') else value)
  if array.dtype.name == 'bfloat16':
    array = array.astype(np.float32)
  if array.dtype.kind not in 'biuf':
    raise ValueError(f"Log entry '{name}' is no number: {value!r}")
  if array.ndim == 0:
    return array.item()
  if array.ndim == 2:
    array = array[..., None]
  if not (array.size and array.ndim in (3, 4)
          and array.shape[-1] <= CHANNELS):
    raise ValueError(
        f"Log entry '{name}' has shape {np.shape(value)}, which is no scalar, "
        f'image [H, W] or [H, W, C], or video [T, H, W, C] with C of at most '
        f'{CHANNELS}')
  if array.dtype.kind == 'f':
    array = np.nan_to_num(array.astype(np.float32)).clip(0, 1)
    return to_picture((255 * array + 0.5).astype(np.uint8))
  if array.dtype != np.uint8:
    raise ValueError(
        f"Log entry '{name}' is {array.dtype}: images are uint8 or float")
  return to_picture(array)


def _wrap(text, stream):
  """Breaks long lines between words, where the stream is a terminal."""
  lines = text.splitlines()
  if stream.isatty():
    width = shutil.get_terminal_size().columns
    lines = [
        textwrap.fill(
            line, width, subsequent_indent='    ', break_long_words=False,
            break_on_hyphens=False, drop_whitespace=True,
            replace_whitespace=False)
        for line in lines]
  return '\n'.join(lines).replace(NO_BREAK, ' ')


def _kind(output):
  return type(getattr(output, 'output', output)).__name__


def _scalars(entries):
  return [(name, value) for name, value in entries if np.ndim(value) == 0]


def _short(value):
  return str(value) if isinstance(value, int) else f'{value:.4g}'


def _drop_partial_line(file):
  """Cuts off the unfinished line that a crash or a full disk left."""
  if not file.tell():
    return
  file.seek(-1, io.SEEK_END)
  if file.read() != b'\n':
    file.seek(0)
    file.truncate(file.read().rfind(b'\n') + 1)
