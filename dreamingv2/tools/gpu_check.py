"""Checks a GPU: numbers, speed, memory and transfers, in one report.

dreamingv2 gpu-check --out gpu
dreamingv2 gpu-check --out gpu --task toy_reach --minutes 5

Writes gpu.json with all measurements and gpu.md, a page to read; please send
both. A check that fails or runs out of time is named in the report, and the
others go on. Without a GPU, all of it runs on the CPU at the smallest size,
and the report says what that leaves unchecked.
"""

import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time

import dreamingv2

from .. import settings
from ..common import command
from ..common import files
from ..common import guards
from ..common import machine
from ..common import suites
from . import benchmark
from . import gpu_parts
from . import text as texts

PRECISIONS = ('32', '16', 'bf16')
# Systems that are timed in turns; those that compile for long come last.
GROUPS = (
    ('dreamerv2', 'dreamingv2'),
    ('dreaming', 'dreamer', 'dreamerpro', 'tpc'),
    ('dreamerv2+xla=True', 'dreamingv2+xla=True'))
UPDATES = 300
SHARE = 0.25  # Of the time, at most this part for the updates in a row.
WORKERS = (1, 4, 8)
QUERY = 'name,driver_version,memory.total,compute_cap'
NO_GPU = (
    'driver and card', 'kernels on a GPU: everything ran on the CPU',
    "a GPU's losses and gradients: precisions were compared on the CPU",
    "a GPU's times and memory", 'transfers between CPU and GPU',
    'the full size, unless --configs named it')


@command.entry()
def main(argv=None):
  """Checks the machine and writes the report; see --help."""
  args = make_parser().parse_args(argv)
  with guards.user_errors():
    paths = [
        args.out.with_name(f'{args.out.name}.{x}') for x in ('json', 'md')]
    for path in paths:
      files.check_writable(path)
    if not args.minutes > 0:
      raise ValueError(f'--minutes is {args.minutes:g}; it must be > 0')
    suites.check(settings.load_config([
        '--configs', *(args.configs or ['defaults']), '--task', args.task]))
  args.out.parent.mkdir(parents=True, exist_ok=True)
  results = measure(args, time.monotonic() + 60 * args.minutes)
  text = report(results)
  files.write_text(paths[0], json.dumps(results, indent=2) + '\n')
  files.write_text(paths[1], text + '\n')
  print(text)


def make_parser():
  """Returns the parser of the command line."""
  parser = command.Parser('dreamingv2 gpu-check', __doc__)
  add = parser.add_argument
  add('--out', metavar='PATH', type=command.path,
      default=pathlib.Path('gpu_check'),
      help='where to write PATH.json and PATH.md (default: gpu_check)')
  add('--configs', nargs='*', metavar='BLOCK',
      help="blocks of configs.yaml (default: the paper's size on a GPU, debug "
      'on a CPU)')
  add('--task', default='Lift',
      help='task whose steps are timed (default: Lift)')
  add('--minutes', type=float, default=10, metavar='N',
      help='checks that would end later are stopped (default: 10)')
  add('--updates', type=int, default=UPDATES, metavar='N',
      help=f'updates in float16 in a row (default: {UPDATES})')
  add('--rounds', type=int, default=7, metavar='N',
      help='timed updates of each system')
  add('--seconds', type=float, default=8.0, metavar='N',
      help='for which environments are stepped')
  return parser


def measure(args, until):
  """Runs all checks.

  Args:
    args: Parsed command line.
    until: Time of `time.monotonic` at which the last one is stopped.

  Returns:
    Dict with a result for each check, and 'failed', {check: reason}.
  """
  failed = {}

  def check(title, name, *values, environ=None):
    print(f'Checking: {title}', file=sys.stderr)
    value, error = run(name, values, until - time.monotonic(), environ)
    if error:
      failed[title] = error
    return value

  tensorflow = check('TensorFlow', 'describe_gpus')
  gpu = bool(tensorflow and tensorflow['gpus'])
  blocks = args.configs
  if blocks is None:
    blocks = [] if gpu else ['debug']
  load = lambda spec, precision='auto': benchmark.load(
      spec, blocks, precision).update({'jit': True})
  half, times = load('dreamingv2', '16'), {}
  results = {
      'machine': machine.versions(dreamingv2.__version__, settings.ROOT),
      'driver': ask_driver(), 'gpu': gpu, 'blocks': blocks,
      'tensorflow': tensorflow, 'rendering': check('rendering', 'render'),
      'environments': check_environments(args, blocks, check),
      'precisions': check_precisions(load, check),
      'placement': check('placement', 'place', half),
      'updates': check('updates', 'repeat', half, args.updates,
                       60 * SHARE * args.minutes),
      'profile': check('profile', 'profile', load('dreamingv2'))}
  for group in GROUPS:
    times.update(check(f"times of {', '.join(group)}", 'time_updates',
                       {x: load(x) for x in group}, args.rounds) or {})
  return {**results, 'times': times, 'failed': failed}


def check_environments(args, blocks, check):
  """Returns {number of environments: steps per second of all together}."""
  config = settings.load_config([
      '--configs', *(blocks or ['defaults']), '--task', args.task])
  return {
      number: check(f'{number} environments', 'step', config, number,
                    args.seconds) for number in WORKERS}


def check_precisions(load, check):
  """Compares an update in each precision with one in float32 on the CPU."""
  base = check('float32 on the CPU', 'update', load('dreamingv2', '32'),
               environ={'CUDA_VISIBLE_DEVICES': '-1'})
  others = {
      x: base and check(f'precision {x}', 'update', load('dreamingv2', x),
                        base['weights']) for x in PRECISIONS}
  return {
      k: gpu_parts.compare(base, v) for k, v in others.items() if v}


def run(name, args, seconds, environ=None):
  """Runs a function of gpu_parts in a new process.

  Returns:
    Its result and None, or None and why there is none.
  """
  if seconds <= 0:
    return None, 'no time was left; set --minutes'
  context = multiprocessing.get_context('spawn')
  pipe, theirs = context.Pipe()
  process = context.Process(target=gpu_parts.serve, args=(theirs, name, args))
  saved = dict(os.environ)
  os.environ.update(environ or {})  # The process inherits it.
  try:
    process.start()
    theirs.close()
    if not pipe.poll(seconds):
      return None, 'it took too long; set --minutes'
    return pipe.recv()
  except EOFError:
    process.join()
    return None, f'its process ended with code {process.exitcode}'
  finally:
    os.environ.clear()
    os.environ.update(saved)
    process.join(5)
    process.kill()
    process.join()


def ask_driver():
  """Returns what the driver says of each card, or [] without a driver."""
  try:
    text = subprocess.run(
        ['nvidia-smi', f'--query-gpu={QUERY}', '--format=csv,noheader'],
        capture_output=True, text=True, check=True, timeout=60).stdout
  except (OSError, subprocess.SubprocessError):
    return []
  return [line.strip() for line in text.splitlines()]


def report(results):
  """Formats the results of `measure` as a page of Markdown."""
  lines = ['# GPU check', '', results['machine'], '']
  lines += [f'- {QUERY}: {x}' for x in results['driver']]
  parts = {
      'tensorflow': _tensorflow, 'precisions': _precisions,
      'placement': _placement, 'updates': _updates, 'profile': _profile,
      'rendering': lambda x: [x['text']], 'environments': _environments,
      'times': _times}
  blocks = ' '.join(results['blocks']) or "the paper's size"
  lines += [f'- DreamingV2 with {blocks}; times in wall seconds']
  for name, write in parts.items():
    if results[name]:
      title = {'tensorflow': 'TensorFlow'}.get(name, name.capitalize())
      lines += ['', f'## {title}', '', *write(results[name])]
  lines += ['', '## Not checked', '']
  lines += [f'- {x}' for x in (() if results['gpu'] else NO_GPU)]
  lines += [f'- {k}: {v}' for k, v in results['failed'].items()]
  if results['gpu'] and not results['failed']:
    lines += ['Everything was.']
  return '\n'.join([*lines, '', '## Row for docs/performance.md', '',
                    *row(results)])


def row(results):
  """Returns a header and a row for the table in docs/performance.md."""
  times = results['times']
  ratio = lambda end: '' if not (
      base := times.get('dreamerv2' + end)) or not (
      ours := times.get('dreamingv2' + end)) else (
      f"{ours['seconds']:.3g} ({ours['seconds'] / base['seconds']:.2f})")
  updates, profile = results['updates'] or {}, results['profile'] or {}
  envs = [x for x in results['environments'].values() if x]
  cells = {
      'card': '; '.join(results['driver']) or 'none (CPU)',
      'size': ' '.join(results['blocks']) or 'full',
      'DreamingV2, s (/ DreamerV2)': ratio(''),
      'with XLA': ratio('+xla=True'),
      'memory, GB': f"{updates['memory'] / 1e9:.1f}" if (
          updates.get('memory')) else '',
      'skipped': f"{updates.get('skipped', 0):.0f}",
      'copies': f"{sum(profile.get('copies', {}).values()):.0f}",
      'env steps/s': ', '.join(f'{x:.0f}' for x in envs)}
  return texts.table([*cells], [[*cells.values()]])


def _tensorflow(x):
  built = ', '.join(f'{k} {v}' for k, v in x['built for'].items())
  foreign = x['foreign libraries']
  return [
      f"GPUs: {x['gpus'] or 'none'}; built for {built or 'the CPU'}.",
      *[f'Libraries from outside of this Python: {foreign}; unset '
        'LD_LIBRARY_PATH.'] * bool(foreign)]


def _precisions(x):
  rows = []
  for name, y in x.items():
    worst = max(y['losses'], key=y['losses'].get)
    rows.append([
        name, *(f'{v:.4f}' for v in y['gradients'].values()),
        f"{y['losses'][worst]:.2g}", worst])
  return ['One update, against float32 on the CPU with the same batch: cosine '
          'of the gradients; largest relative difference of a loss or norm.',
          '', *texts.table(
              ['precision', 'model', 'actor', 'critic', 'difference', 'of'],
              rows)]


def _placement(x):
  lines = [f'{device}: {sum(ops.values())} operations'
           for device, ops in x['devices'].items()]
  if len(x['devices']) > 1:
    on_cpu = x['devices'].get('CPU:0', {})
    lines += ['', 'On the CPU all the same: ' + (', '.join(
        f'{k} ({v})' for k, v in on_cpu.items()) or 'none') + '.']
  return [*lines, '', f"Tensors sent between devices: {x['copies']}."]


def _updates(x):
  scales = ', '.join(f'{k} {v:g}' for k, v in x['scales'].items())
  memory = f"{x['memory'] / 1e9:.2f} GB" if x['memory'] else 'not measured'
  return [
      f"{x['updates']} updates in float16 on one batch: {x['skipped']:.0f} "
      f'skipped; loss scales at the end: {scales}; loss of the model from '
      f"{x['losses'][0]:.4g} to {x['losses'][1]:.4g}; {x['seconds']:.3g} s "
      f'per update; peak memory of the GPU: {memory}.']


def _profile(x):
  rows = [[name[:60], f'{ms:.3g}'] for name, ms in x['longest']]
  copies = ', '.join(f'{v:g} {k}' for k, v in x['copies'].items())
  return [*texts.table(['operation', 'ms per update'], rows), '',
          f'Copies per update: {copies}.']


def _environments(x):
  return texts.table(['workers', 'environment steps/s'], [
      [str(k), f'{v:.1f}' if v else ''] for k, v in x.items()])


def _times(x):
  base = x.get('dreamerv2', {}).get('seconds')
  head = ['system', 's per update', '/ dreamerv2', 'first call, s']
  return texts.table(head, [
      [k, f"{v['seconds']:.3g}", f"{v['seconds'] / base:.2f}" if base else '',
       f"{v['first']:.1f}"] for k, v in x.items()])


if __name__ == '__main__':
  main()
