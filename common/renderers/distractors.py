"""Visual distractors: change the image, not the task.

The paper leaves the decoder out because of such distractors, and TPC and
DreamerPro are evaluated with them. Physics and rewards stay the same to the
bit.
"""

import functools
import pathlib

import numpy as np
import PIL.Image
import PIL.ImageSequence

OPTIONS = {
    'colors': 0.0,
    'camera': 0.0,
    'background': '',
}

MEMORY = 0.9  # Share of the camera's rotation that the next frame keeps.
FRAMES = 500  # Most frames that are read from one video.
IMAGES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.webp')
VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')


def validate(options):
  """Checks the options without a simulator.

  Raises:
    ValueError: A number is not in 0..1, or there is no background picture.
    ImportError: Videos are given, but no package that reads them is installed.
  """
  for key in ('colors', 'camera'):
    if not 0 <= options[key] <= 1:
      raise ValueError(
          f'distractors.{key} is {options[key]}; it must be in 0..1')
  if options['background']:
    files = find_files(options['background'])
    if any(x.suffix.lower() in VIDEOS for x in files):
      _imageio()


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
      path = self._files[self._random.integers(len(self._files))]
      self._frames = read_frames(path, self._renderer.size)
      self._frame = int(self._random.integers(len(self._frames)))

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


def find_files(background):
  """Returns the images and videos at a path, sorted.

  Raises:
    ValueError: There are none.
  """
  path = pathlib.Path(background).expanduser()
  files = sorted(path.rglob('*')) if path.is_dir() else [path]
  files = [x for x in files
           if x.suffix.lower() in IMAGES + VIDEOS and x.is_file()]
  if not files:
    raise ValueError(
        f'distractors.background {background} is no image, no video '
        f"({' '.join(IMAGES + VIDEOS)}), and no folder of them")
  return files


@functools.lru_cache(8)
def read_frames(path, size):
  """Reads an image or video as uint8 [N, H, W, 3], N at most FRAMES."""
  if path.suffix.lower() in VIDEOS:
    frames = (
        PIL.Image.fromarray(x)
        for x in _imageio().imiter(path, plugin='pyav'))
  else:
    frames = PIL.ImageSequence.Iterator(PIL.Image.open(path))
  height, width = size
  return np.stack([
      np.asarray(x.convert('RGB').resize((width, height), PIL.Image.BOX))
      for x, _ in zip(frames, range(FRAMES), strict=False)])


def _turn(pitch, yaw):
  """Returns the rotation matrix about a camera's x and y axes."""
  (cx, sx), (cy, sy) = [(np.cos(x), np.sin(x)) for x in (pitch, yaw)]
  return np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array(
      [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def _imageio():
  try:
    import av  # noqa: F401
    import imageio.v3 as imageio
  except ImportError as error:
    raise ImportError(
        'distractors.background names a video; pip install '
        "'dreamingv2[video]', or give images or GIFs") from error
  return imageio
