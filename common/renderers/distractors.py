"""Visual distractors: change the image, not the task.

The paper leaves the decoder out because of such distractors, and TPC and
DreamerPro are evaluated with them. Physics and rewards stay the same to the
bit.
"""

import contextlib
import functools
import itertools
import pathlib
import warnings

import numpy as np
import PIL.Image
import PIL.ImageSequence

from ..files import open_regular

OPTIONS = {
    'colors': 0.0,
    'camera': 0.0,
    'background': '',
}

MEMORY = 0.9  # Share of the camera's rotation that the next frame keeps.
FILES = 20_000  # Most files and folders in a folder of backgrounds.
BYTES = 2 ** 32  # Most of a file.
PIXELS = 2 ** 26  # Most of an image or of a frame.
FRAMES = 500  # Most frames that are read from one video.
TOTAL = 2 ** 32  # Most pixels of all of them: 500 frames of 4K.
TRIES = 100  # Files that are drawn until one can be read.
IMAGES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.webp')
VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')
# What a file may be, whatever its name: others can name further files.
FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'WEBP')
CONTAINERS = 'avi,matroska,webm,mov,mp4'


def validate(options):
  """Checks the options without a simulator.

  Raises:
    ValueError: No background can be read.
    ImportError: Videos are given, but no package that reads them is installed.
  """
  if options['background']:
    find_files(options['background'])


def wrap(renderer, seed, options):
  """Returns a renderer with the distractors that are switched on, if any."""
  if all(options[key] == OPTIONS[key] for key in OPTIONS):
    return renderer
  return Distractors(renderer, seed, **options)


class Distractors:
  """Draws with the inner renderer, and adds distractors.

  Args:
    seed: Seed of all random draws.
    colors: Each colour channel of every material, geom and light is multiplied
      by a factor drawn from 1 - colors..1 at each `reset`.
    camera: Standard deviation of the camera's rotation about its two image
      axes, in rad. The rotation changes smoothly from frame to frame.
    background: Image or video, or a folder of them. One is drawn at each
      `reset`. It replaces the sky and what belongs to the world itself
      (ground, walls), but not tables.
  """

  def __init__(self, renderer, seed, colors, camera, background):
    self._renderer = renderer
    self._colors = colors
    self._camera = camera
    self._files = find_files(background) if background else []
    self._plain = None  # Original colours of the model.
    self.seed(seed)
    self.reset()

  def seed(self, number):
    self._random = np.random.default_rng([number, 1])

  def reset(self):
    self._drawn = False
    self._turn = self._camera * self._random.normal(size=2)
    self._frames, self._frame = None, 0
    if self._files:
      self._frames = self._draw_frames()
      self._frame = int(self._random.integers(len(self._frames)))

  def _draw_frames(self):
    for _ in range(TRIES):
      path = self._files[self._random.integers(len(self._files))]
      frames = read_frames(path, self._renderer.size)
      if len(frames):
        return frames
    raise ValueError(
        f'distractors.background: {TRIES} files in a row cannot be decoded, '
        f'the last of them {path}')

  def __call__(self, model, data, camera):
    if not self._drawn:
      self._paint(model)
    number = camera if isinstance(camera, int) else model.camera(camera).id
    pose = data.cam_xmat[number].copy()
    data.cam_xmat[number] = (pose.reshape(3, 3) @ _turn(*self._turn)).ravel()
    try:
      image = self._renderer(model, data, camera)
      if self._frames is not None:
        behind = self._renderer.background(model, data, camera)
        image = np.where(behind[..., None], self._frames[self._frame], image)
        self._frame = (self._frame + 1) % len(self._frames)
    finally:
      data.cam_xmat[number] = pose
    noise = self._random.normal(size=2)
    self._turn = MEMORY * self._turn + (
        (1 - MEMORY ** 2) ** 0.5 * self._camera * noise)
    return image

  def close(self):
    self._renderer.close()

  def _paint(self, model):
    self._drawn = True
    names = ('geom_rgba', 'light_diffuse', 'mat_rgba')
    if self._plain is None or self._plain['model'] is not model:
      self._plain = {
          'model': model,
          **{name: getattr(model, name).copy() for name in names}}
    for name in names:
      value = self._plain[name].copy()
      value[:, :3] *= self._random.uniform(
          1 - self._colors, 1, value[:, :3].shape)
      getattr(model, name)[:] = value


@functools.lru_cache(8)
def find_files(background):
  """Returns the images and videos at a path whose headers are good, sorted.

  Warns of the others.

  Raises:
    ImportError: Videos are given, but no package that reads them is installed.
    ValueError: There are none, or too many.
  """
  path = pathlib.Path(background).expanduser()
  files = [path]
  if path.is_dir():
    files = sorted(itertools.islice(path.rglob('*'), FILES + 1))
    if len(files) > FILES:
      raise ValueError(
          f'distractors.background {background} holds more than {FILES:,} '
          f'files and folders; name a smaller folder')
  files = [x for x in files if x.suffix.lower() in IMAGES + VIDEOS]
  faults = {x: _find_fault(x) for x in files}
  odd = {x: fault for x, fault in faults.items() if fault}
  told = [f'{x}: {fault}' for x, fault in odd.items()]
  if len(odd) == len(files):
    raise ValueError(
        f'distractors.background {background} is no image, no video '
        f"({' '.join(IMAGES + VIDEOS)}), and no folder of them"
        + f' that can be read: {"".join(told[:1])}' * bool(told))
  if odd:
    warnings.warn(
        f'{len(odd)} of {len(files)} files of distractors.background are left '
        f'out: {"; ".join(told[:3])}', stacklevel=2)
  return tuple(x for x in files if x not in odd)


def _find_fault(path):
  """Returns why a file cannot be used, as far as its header says, or ''."""
  try:
    with _open(path) as (pixels, _):
      return '' if 0 < pixels <= PIXELS else (
          f'{pixels:,} pixels; at most {PIXELS:,} are read')
  except (ImportError, MemoryError):  # Not the fault of the file.
    raise
  except Exception as error:  # Damaged files raise almost anything.
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _open(path):
  """Opens an image or video; gives the pixels of a frame, and the frames."""
  with open_regular(path, BYTES) as file:
    if path.suffix.lower() in VIDEOS:
      with _av().open(
          file, options={'format_whitelist': CONTAINERS}) as video:
        stream = video.streams.video[0]
        frames = (x.to_image() for x in video.decode(stream))
        yield stream.width * stream.height, frames
    else:
      with PIL.Image.open(file, formats=FORMATS) as image:
        yield image.width * image.height, PIL.ImageSequence.Iterator(image)


@functools.lru_cache(8)
def read_frames(path, size):
  """Reads an image or video as uint8 [N, H, W, 3], N at most FRAMES.

  Of a damaged file, these are the frames before the damage, perhaps none.
  """
  height, width = size
  frames = []
  try:
    with _open(path) as (pixels, images):
      for image in itertools.islice(images, min(FRAMES, TOTAL // pixels)):
        image = image.convert('RGB').resize((width, height), PIL.Image.BOX)
        frames.append(np.asarray(image))
  except (ImportError, MemoryError):
    raise
  except Exception as error:
    warnings.warn(
        f'{path} is damaged after {len(frames)} frames: {error}', stacklevel=2)
  return np.stack(frames) if frames else np.empty((0, *size, 3), np.uint8)


def _turn(pitch, yaw):
  """Returns the rotation matrix about a camera's x and y axes."""
  (cx, sx), (cy, sy) = [(np.cos(x), np.sin(x)) for x in (pitch, yaw)]
  return np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array(
      [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def _av():
  try:
    import av
  except ImportError as error:
    raise ImportError(
        'distractors.background names a video; pip install '
        "'dreamingv2[video]', or give images or GIFs") from error
  return av
