"""Writes moving clouds of random colours, for --distractors.background.

    python scripts/clouds.py --out clouds --number 20

Each is a GIF that repeats without a jump: a sum of waves, whose amplitudes are
inversely proportional to the square of their frequency. --strength 0.3 makes
them fainter: 0.3 times as bright, on black.
"""

import argparse

import numpy as np
import PIL.Image

from dreamingv2.common import command


def main(argv=None):
  """Writes as many files as the command line says."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=command.path, required=True)
  parser.add_argument('--number', type=int, default=20)
  parser.add_argument('--frames', type=int, default=50)
  parser.add_argument('--size', type=int, default=64)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
      '--strength', type=float, default=1, help='brightness, up to 1')
  args = parser.parse_args(argv)
  for name, least in (('number', 1), ('frames', 1), ('size', 8)):
    if getattr(args, name) < least:
      parser.error(
          f'--{name} is {getattr(args, name)}; it must be at least {least}')
  if not 0 < args.strength <= 1:
    parser.error(
        f'--strength is {args.strength}; it must be above 0 and at most 1')
  args.out.mkdir(parents=True, exist_ok=True)
  for number in range(args.number):
    frames = [PIL.Image.fromarray(x) for x in clouds(
        np.random.default_rng([args.seed, number]), args.frames, args.size,
        args.strength)]
    frames[0].save(
        args.out / f'{number:03d}.gif', save_all=True, loop=0,
        append_images=frames[1:])


def clouds(rng, frames, size, strength=1):
  """Returns clouds as uint8 [frames, size, size, 3].

  Mean and standard deviation of the pixels are 110 and 50 times the strength,
  before they are cut at 0 and 255. Every wave has a random phase, and passes a
  whole number of periods during the film: up to two.
  """
  rows, cols = np.meshgrid(
      np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing='ij')
  frequency = np.hypot(rows, cols)
  frequency[0, 0] = np.inf  # No constant.
  shape = *frequency.shape, 3
  phase, speed = rng.uniform(size=shape), rng.integers(-2, 3, shape)
  times = np.arange(frames).reshape(-1, 1, 1, 1) / frames
  waves = np.exp(2j * np.pi * (phase + speed * times))
  film = np.fft.irfft2(waves / frequency[..., None] ** 2, (size, size), (1, 2))
  film = (film - film.mean()) / film.std()
  return np.uint8(np.clip(strength * (110 + 50 * film), 0, 255))


if __name__ == '__main__':
  main()
