"""The table of a run's outputs, and the outputs that send to servers."""

import contextlib
import importlib.util
import io
import os
import pathlib
import queue
import tempfile
import threading
import time
import uuid

import numpy as np
import PIL.Image

from . import logger as loggers
from .config import check_known
from .files import write_atomic
from .files import write_bytes


class Service:
  """Calls an output in a thread, so that a slow server delays no training.

  Errors are raised by a later call. A resumed run continues the same run on
  the server.

  Args:
    output: Callable like all outputs, with `close()` and with `run`, the
      identifier of the run on the server, or ''.
  """

  LIMIT = 1000  # Most logs that may wait; further logs are lost.
  PATIENCE = 30  # Seconds that `close` waits for the remaining logs.

  def __init__(self, output):
    self.output = output
    self._queue = queue.Queue(self.LIMIT)
    self._errors = queue.Queue()
    self._thread = None

  def __call__(self, step, entries):
    if not self._thread:
      # A daemon thread: a server without answer must not keep the process.
      self._thread = threading.Thread(target=self._serve, daemon=True)
      self._thread.start()
    name = type(self.output).__name__
    try:
      self._queue.put_nowait((step, entries))
    except queue.Full:
      raise OSError(f'{name} lags behind by {self.LIMIT} logs') from None
    with contextlib.suppress(queue.Empty):
      raise OSError(f'{name}: {self._errors.get_nowait()}')

  def state(self):
    """Returns the identifier of the run on the server."""
    return self.output.run

  def restore(self, state):
    """Continues a run of the server."""
    self.output.run = state

  def close(self):
    """Waits a limited time for the remaining logs, then ends the run."""
    if self._thread:
      with contextlib.suppress(queue.Full):
        self._queue.put(None, timeout=self.PATIENCE)
      self._thread.join(self.PATIENCE)
      if self._thread.is_alive():
        self._errors.put(f'could not write all logs within {self.PATIENCE} s')
      with contextlib.suppress(queue.Empty):
        name = type(self.output).__name__
        loggers.say(f'Warning: {name}: {self._errors.get_nowait()}')
      self._thread = None

  def _serve(self):
    while item := self._queue.get():
      self._try(self.output, *item)
    self._try(self.output.close)

  def _try(self, fn, *args):
    try:
      fn(*args)
    # As in Logger: no error here is worth losing a training run for.
    except Exception as error:
      self._errors.put(f'{type(error).__name__}: {error}')


class WandbOutput:
  """Writes to Weights & Biases, which its environment variables configure.

  Of several values of one name at one step, only the last is kept. Steps
  before the last one are ignored, so that steps which a resumed run repeats
  appear once.

  Args:
    logdir: Folder for the files of Weights & Biases.
    config: Config of the run; it also gives the run's name and group.
  """

  def __init__(self, logdir, config):
    self.run = ''
    self._logdir = pathlib.Path(logdir)
    self._config = config
    self._open = None

  def __call__(self, step, entries):
    import wandb
    if not self._open:
      group, name = _names(self._config)
      self.run = self.run or uuid.uuid4().hex
      self._open = wandb.init(
          project=os.environ.get('WANDB_PROJECT', 'dreamingv2'), id=self.run,
          resume='allow', reinit='create_new', name=name, group=group,
          dir=self._logdir, config=dict(self._config.flat),
          settings=wandb.Settings(console='off'))
    self._open.log({k: self._convert(wandb, v) for k, v in entries}, step=step)

  def close(self):
    """Ends the run; it can be resumed."""
    if self._open:
      self._open.finish()
      self._open = None

  def _convert(self, wandb, value):
    if np.ndim(value) == 0:
      return value
    if np.ndim(value) == 3:
      return wandb.Image(np.squeeze(value))
    return wandb.Video(
        io.BytesIO(loggers.encode_gif(value)), format='gif')


class MLflowOutput:
  """Writes to MLflow at MLFLOW_TRACKING_URI.

  Images and videos become artifacts named <name>/<step>.

  Args:
    config: Config of the run; gives its parameters and its name.
  """

  CHUNK = 100  # Most parameters that MLflow takes in one request.

  def __init__(self, config):
    self.run = ''
    self._config = config
    self._client = None

  def __call__(self, step, entries):
    from mlflow import entities
    if not self._client:
      self._start(entities)
    now = int(1000 * time.time())
    self._client.log_batch(self.run, [
        entities.Metric(name, float(value), now, step)
        for name, value in entries if np.ndim(value) == 0])
    for name, value in entries:
      if np.ndim(value):
        self._log_file(name, step, value)

  def close(self):
    """Ends the run; it can be resumed."""
    if self._client:
      self._client.set_terminated(self.run)
      self._client = None

  def _start(self, entities):
    # MLflow's defaults take minutes per request, in which logs would pile up.
    os.environ.setdefault('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '1')
    os.environ.setdefault('MLFLOW_HTTP_REQUEST_TIMEOUT', '20')
    import mlflow
    client = mlflow.MlflowClient()
    if self.run:
      client.update_run(self.run, 'RUNNING')
    else:
      group, name = _names(self._config)
      folder = os.environ.get('MLFLOW_EXPERIMENT_NAME', 'dreamingv2')
      experiment = client.get_experiment_by_name(folder)
      key = (
          experiment.experiment_id if experiment
          else client.create_experiment(folder))
      run = client.create_run(key, tags={'group': group}, run_name=name)
      self.run = run.info.run_id
      params = [
          entities.Param(k, str(v)) for k, v in self._config.flat.items()]
      for index in range(0, len(params), self.CHUNK):
        client.log_batch(
            self.run, params=params[index: index + self.CHUNK])
    self._client = client

  def _log_file(self, name, step, value):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / f'{step}.png'
      if np.ndim(value) == 3:
        image = PIL.Image.fromarray(np.squeeze(value))
        write_atomic(path, lambda file, image=image: image.save(file, 'png'))
      else:
        path = path.with_suffix('.gif')
        write_bytes(path, loggers.encode_gif(value))
      self._client.log_artifact(self.run, str(path), name)


def _names(config):
  group = f'{config.task}/{config.method}'
  return group, f'{group}/{config.seed}'


OUTPUTS = {
    'gif': lambda logdir, config: loggers.GIFOutput(logdir),
    'jsonl': lambda logdir, config: loggers.JSONLOutput(logdir),
    'mlflow': lambda logdir, config: Service(MLflowOutput(config)),
    'tensorboard': lambda logdir, config: loggers.TensorBoardOutput(logdir),
    'terminal': lambda logdir, config: loggers.TerminalOutput(
        loggers.TERMINAL),
    'wandb': lambda logdir, config: Service(WandbOutput(logdir, config)),
}
PACKAGES = ('mlflow', 'wandb')


def check(names):
  """Checks that outputs are known and that their packages are installed.

  Raises:
    ImportError: A package is missing.
    ValueError: A name is unknown, or MLflow has no server.
  """
  for name in names:
    check_known('output', name, OUTPUTS)
    if name in PACKAGES and not importlib.util.find_spec(name):
      raise ImportError(
          f"outputs: {name} is not installed: pip install -e '.[{name}]', or "
          f'set --outputs without it')
  if 'mlflow' in names and not os.environ.get('MLFLOW_TRACKING_URI'):
    raise ValueError(
        'outputs: mlflow needs the environment variable MLFLOW_TRACKING_URI: '
        'http://SERVER:PORT, or a folder (then also MLFLOW_ALLOW_FILE_STORE='
        'true)')


def make(logdir, config):
  """Returns the outputs that a config names."""
  return [OUTPUTS[name](logdir, config) for name in config.outputs]
