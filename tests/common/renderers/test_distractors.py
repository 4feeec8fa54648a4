import os

import imageio.v3 as imageio
import numpy as np
import PIL.Image
import pytest

from dreamingv2.common import suites
from dreamingv2.common.renderers import distractors
from tests.helpers import in_worker

OFF = distractors.OPTIONS


def play(task='dmc_cartpole_swingup', seed=1, steps=3, **options):
  """Returns the first observations of two episodes."""
  def run():
    suite, name = suites.parse('', task)
    given = {'distractors': {**OFF, **options}} if options else {}
    env = suites.make(suite, name, seed=seed, **given)
    obs = []
    random = np.random.default_rng(0)
    for _ in range(2):
      obs.append(env.reset())
      for _ in range(steps):
        size = env.act_space['action'].shape
        obs.append(env.step(
            {'action': random.uniform(-1, 1, size).astype('f')}))
    env.close()
    return obs
  return in_worker(run)


def differs(lhs, rhs):
  """Returns the mean difference of two images, from 0 to 255."""
  return np.abs(lhs['image'].astype(int) - rhs['image'].astype(int)).mean()


@pytest.fixture
def picture(tmp_path):
  """Returns the path of an image that is red above and blue below."""
  image = np.zeros((40, 40, 3), np.uint8)
  image[:20, :, 0] = image[20:, :, 2] = 255
  PIL.Image.fromarray(image).save(tmp_path / 'a.png')
  return tmp_path / 'a.png'


@pytest.mark.parametrize('task', [
    'dmc_cartpole_swingup', *(
        pytest.param(x, marks=pytest.mark.slow)
        for x in ('robosuite_Lift', 'ur5_reach'))])
def test_task_is_the_same_to_the_bit_and_looks_different(task, picture):
  plain = play(task)
  other = play(task, colors=0.8, camera=0.1, background=str(picture))
  for one, two in zip(plain, other, strict=True):
    for key in one:
      if key != 'image':
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    assert differs(one, two) > 5


def test_off_draws_the_plain_image():
  for one, two in zip(play(), play(**OFF), strict=True):
    np.testing.assert_array_equal(one['image'], two['image'])
  renderer = object()
  assert distractors.wrap(renderer, 0, OFF) is renderer


def test_same_seed_gives_the_same_distractors(picture):
  options = dict(colors=0.5, camera=0.05, background=str(picture))
  first, same = play(**options), play(**options)
  for one, two in zip(first, same, strict=True):
    np.testing.assert_array_equal(one['image'], two['image'])


def test_colors_change_with_the_episode_alone():
  def draw():
    from dreamingv2.common.suites import dmc
    env = dmc.make('cartpole_swingup', seed=1, distractors={
        **OFF, 'colors': 0.8})
    model = lambda: env._env.physics.model
    seen = []
    for _ in range(2):
      env.reset()
      seen.append(model().mat_rgba.copy())
      env.step({'action': np.zeros(1, np.float32)})
      seen.append(model().mat_rgba.copy())
    return seen
  first, same, second, _ = in_worker(draw)
  np.testing.assert_array_equal(first, same)
  assert np.abs(first - second).max() > 0.05
  assert (first[:, 3] == second[:, 3]).all()  # Unchanged alpha.


def test_camera_moves_every_frame_and_is_put_back():
  def draw():
    from dreamingv2.common.renderers import mujoco as renderer
    from dreamingv2.common.suites import dmc
    env = dmc.make('cartpole_swingup', seed=1)
    env.reset()
    physics = env._env.physics
    inner = renderer.Renderer((64, 64))
    wrapped = distractors.wrap(inner, 3, {**OFF, 'camera': 0.1})
    pose = physics.data.cam_xmat.copy()
    images = [
        wrapped(physics.model.ptr, physics.data.ptr, 0) for _ in range(3)]
    same = np.array_equal(pose, physics.data.cam_xmat)
    return images, inner(physics.model.ptr, physics.data.ptr, 0), same
  images, plain, same = in_worker(draw)
  assert same
  assert all((x != plain).any() for x in images)
  assert (images[0] != images[1]).any() and (images[1] != images[2]).any()


def test_background_takes_the_place_of_sky_and_ground(picture):
  plain, other = play('ur5_reach')[0], play(
      'ur5_reach', background=str(picture))[0]
  red, blue = [
      (other['image'] == x).all(-1) for x in ([255, 0, 0], [0, 0, 255])]
  assert red[:20].mean() > 0.6 and blue[-20:].mean() > 0.6
  assert not red[33:].any() and not blue[:31].any()
  kept = ~(red | blue)  # The arm and the target.
  assert 0.02 < kept.mean() < 0.4
  np.testing.assert_array_equal(other['image'][kept], plain['image'][kept])


def test_videos_play_on_and_start_anywhere(tmp_path):
  frames = [PIL.Image.new('RGB', (8, 8), (x, 0, 0)) for x in range(0, 250, 25)]
  frames[0].save(
      tmp_path / 'a.gif', save_all=True, append_images=frames[1:])
  video = distractors.read_frames(tmp_path / 'a.gif', (4, 6))
  assert video.shape == (10, 4, 6, 3)
  assert (np.diff(video[:, 0, 0, 0].astype(int)) > 0).all()
  obs = play(background=str(tmp_path), steps=4)
  corner = [int(x['image'][0, 0, 0]) for x in obs]
  assert len(set(corner[:5])) == 5 and corner[0] != corner[5]


def test_mp4_is_read_frame_by_frame(tmp_path):
  frames = np.zeros((12, 64, 64, 3), np.uint8)
  for t, frame in enumerate(frames):
    frame[:, :5 * t] = (200, 100, 0)
  imageio.imwrite(tmp_path / 'a.mp4', frames, plugin='pyav', codec='libx264')
  video = distractors.read_frames(tmp_path / 'a.mp4', (64, 64))
  assert video.shape == frames.shape
  error = np.abs(video.astype(int) - frames)
  assert error.mean() < 5  # The codec is lossy.


def make_big(path):
  PIL.Image.new('1', (9000, 9000)).save(path)  # Small, but 81 million pixels.


def make_playlist(path):
  path.write_text('#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n')


@pytest.mark.parametrize('name, make, words', [
    ('b.png', os.mkfifo, 'is a pipe'), ('b.png', os.mkdir, 'is a folder'),
    ('b.png', lambda path: path.symlink_to('/dev/zero'), 'is a device'),
    ('b.png', lambda path: path.write_text('text'), 'cannot identify'),
    ('b.png', lambda path: path.write_text('%!PS-Adobe-3.0 EPSF-3.0\n'),
     'cannot identify'),
    ('b.png', lambda path: os.truncate(
        os.open(path, os.O_CREAT | os.O_RDWR), 2 ** 40), 'bytes; at most'),
    ('b.png', make_big, '81,000,000 pixels'), ('b.mp4', make_playlist, ''),
    ('b.mp4', lambda path: path.write_bytes(b'x' * 999), '')])
def test_backgrounds_that_are_not_what_they_seem_are_left_out(
    name, make, words, picture, tmp_path):
  folder = tmp_path / 'folder'
  folder.mkdir()
  make(folder / name)
  with pytest.raises(ValueError, match=f'can be read: .*{name}: .*{words}'):
    distractors.find_files(str(folder))
  picture.rename(folder / 'a.png')
  distractors.find_files.cache_clear()
  with pytest.warns(UserWarning, match=f'1 of 2 .* left out: .*{name}'):
    files = distractors.find_files(str(folder))
  assert files == (folder / 'a.png',)


def test_folder_of_too_many_files_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(distractors, 'FILES', 3)
  for name in 'abcd':
    (tmp_path / name).touch()
  with pytest.raises(ValueError, match='more than 3 files'):
    distractors.find_files(str(tmp_path))


def test_background_that_is_damaged_inside_gives_way_to_another(
    picture, tmp_path):
  noise = np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)
  PIL.Image.fromarray(noise).save(tmp_path / 'b.png')
  with (tmp_path / 'b.png').open('rb+') as file:
    file.truncate(9999)

  class Renderer:
    size = (4, 4)
  with pytest.warns(UserWarning, match='b.png is damaged after 0 frames'):
    drawn = distractors.Distractors(Renderer(), 0, 0.0, 0.0, str(tmp_path))
    for _ in range(9):
      drawn.reset()
      assert (drawn._frames[0][0] == [255, 0, 0]).all()
  picture.unlink()
  distractors.find_files.cache_clear()
  with pytest.raises(ValueError, match='100 files in a row cannot be decoded'):
    distractors.Distractors(Renderer(), 0, 0.0, 0.0, str(tmp_path))


def test_video_that_is_cut_off_plays_its_frames(tmp_path):
  frames = np.zeros((90, 64, 64, 3), np.uint8)
  frames[:] = np.random.default_rng(0).integers(0, 255, (90, 64, 64, 3))
  path = tmp_path / 'a.mkv'
  imageio.imwrite(path, frames, plugin='pyav', codec='libx264')
  with path.open('rb+') as file:
    file.truncate(path.stat().st_size // 2)
  assert distractors.find_files(str(path)) == (path,)
  assert 5 < len(distractors.read_frames(path, (8, 8))) < 90


def test_bad_options_are_named():
  options = {'distractors': {**OFF, 'background': '/nowhere'}}
  for suite, task in (
      ('dmc', 'walker_walk'), ('ur5', 'reach'), ('toy', 'reach')):
    with pytest.raises(ValueError, match='background /nowhere is no image'):
      suites.validate(suite, task, options)
  with pytest.raises(ValueError, match="'distractors'"):
    suites.validate('gym', 'CartPole-v1', {'distractors': OFF})


def test_a_video_names_what_reads_it(tmp_path, monkeypatch):
  (tmp_path / 'a.mp4').write_bytes(b'x')
  monkeypatch.setitem(__import__('sys').modules, 'av', None)
  with pytest.raises(ImportError, match='dreamingv2.video'):
    distractors.validate({**OFF, 'background': str(tmp_path)})
