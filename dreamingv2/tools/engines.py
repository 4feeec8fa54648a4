"""Engines that distribute jobs: Ray, and Slurm through submitit.

A job is a callable object; the engine calls it on the machine it chooses. An
engine has `submit(jobs)`, which returns handles with done() and result(),
`stop()` and `close()`.
"""

import importlib
import math
import os
import shutil
import signal


def make(args):
  """Returns the engine that the command line asks for.

  Raises:
    ImportError, RuntimeError, ValueError: The engine is not installed, or it
      cannot run jobs with these options.
  """
  if args.slurm is None:
    return Ray(args.cpus, args.gpus, args.address)
  if args.address:
    raise ValueError('--address and --slurm exclude each other')
  return Slurm(_slurm_executor(args))


class Ray:
  """Runs jobs on Ray.

  Args:
    cpus, gpus: Number for each run; None for `gpus` takes one if there is one.
    address: Address of a cluster; '' starts one on this machine.

  Raises:
    ConnectionError: There is no cluster at the address.
    ValueError: No machine of the cluster has that many.
  """

  def __init__(self, cpus, gpus=None, address=''):
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    os.environ.setdefault('RAY_worker_niceness', '0')  # Ray's default is 15.
    self._ray = need('ray')
    ours = {} if address else {
        'include_dashboard': False, 'object_store_memory': 10 ** 8}
    self._ray.init(
        address=address or 'local', log_to_driver=False,
        logging_level='error', **ours)
    nodes = [x['Resources'] for x in self._ray.nodes() if x['Alive']]
    if gpus is None:
      gpus = float(any('GPU' in x for x in nodes))
    if not any(x.get('CPU', 0) >= cpus and x.get('GPU', 0) >= gpus
               for x in nodes):
      self.close()
      raise ValueError(
          f'no machine has {cpus:g} CPUs and {gpus:g} GPUs for a run; set '
          f'--cpus and --gpus')
    # Ray must not retry: the sweep does, and counts the attempts.
    self._start = self._ray.remote(
        num_cpus=cpus, num_gpus=gpus, max_retries=0)(_call)
    self._refs = []

  def submit(self, jobs):
    """Queues jobs and returns their handles."""
    refs = [self._start.remote(job) for job in jobs]
    self._refs += refs
    return [ref.future() for ref in refs]

  def stop(self):
    """Lets all runs save and end, and cancels the waiting jobs."""
    for ref in self._refs:
      self._ray.cancel(ref)

  def close(self):
    """Ends the local cluster."""
    self._ray.shutdown()


def _call(job):
  # Ray cancels by an interrupt, which would do nothing where interrupts are
  # ignored, as in all that a script starts in the background.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  return job()


class Slurm:
  """Runs jobs on Slurm through submitit, one array per call of `submit`."""

  def __init__(self, executor):
    self._executor = executor
    self._handles = []

  def submit(self, jobs):
    """Queues jobs and returns their handles."""
    with self._executor.batch():
      handles = [self._executor.submit(job) for job in jobs]
    self._handles += handles
    return handles

  def stop(self):
    """Cancels all jobs: Slurm sends SIGTERM, on which runs save and end."""
    for handle in self._handles:
      if not handle.done():
        handle.cancel(check=False)

  def close(self):
    """Does nothing: queued jobs stay with Slurm."""


def _slurm_executor(args):
  # train.py saves on USR1; submitit's default would end it without saving.
  os.environ.setdefault('SUBMITIT_PREEMPT_SIGNAL', 'USR1')
  submitit = need('submitit')
  if not shutil.which('sbatch'):
    raise RuntimeError('--slurm needs the command sbatch, and there is no '
                       'sbatch here; run this on a machine of the cluster')
  options = {'cpus_per_task': math.ceil(args.cpus)}
  if args.gpus:
    if args.gpus != int(args.gpus):
      raise ValueError(
          f'--gpus is {args.gpus:g}; Slurm gives whole GPUs alone')
    options['gpus_per_node'] = int(args.gpus)
  for text in args.slurm:
    key, _, value = text.partition('=')
    options[key] = int(value) if value.isdigit() else value
  # Reaching a time limit is not a failure: the job is queued again each time.
  executor = submitit.SlurmExecutor(
      args.indir.absolute() / 'slurm', max_num_timeout=10 ** 6)
  try:
    executor.update_parameters(job_name='dreamingv2', **options)
  except (TypeError, ValueError) as error:
    raise ValueError('--slurm: ' + ' '.join(str(error).split())) from None
  return executor


def need(package):
  """Imports an optional package.

  Raises:
    ImportError: It is not installed; the message names the extra.
  """
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise ImportError(
        f"a sweep needs {package} ({error}): pip install -e '.[sweep]'"
    ) from None
