import importlib
import json
import struct
import threading
import time

import numpy as np
import PIL.Image
import pytest

from dreamingv2.common import config as configs
from dreamingv2.common import logger as loggers
from dreamingv2.common import outputs as outputlib
from dreamingv2.common.counter import Counter

CONFIG = configs.Config({
    'task': 'toy_reach', 'method': 'dreamer', 'seed': 3, 'rssm': {'deter': 9},
    'outputs': ['terminal', 'jsonl']})
IMAGE = np.full((6, 8, 3), 200, np.uint8)
VIDEO = np.stack([IMAGE // (i + 1) for i in range(4)])


class Server:
  """Is an output that waits or fails."""

  def __init__(self):
    self.run = ''
    self.calls = []
    self.closed = 0
    self.broken = False
    self.go_on = threading.Event()

  def __call__(self, step, entries):
    self.go_on.wait(20)
    if self.broken:
      raise ConnectionError('no route')
    self.run = 'abc'
    self.calls.append((step, entries))

  def close(self):
    self.closed += 1


def test_config_names_the_outputs(tmp_path):
  made = outputlib.make(tmp_path, CONFIG)
  assert [type(x).__name__ for x in made] == ['TerminalOutput', 'JSONLOutput']


def test_unknown_output_offers_the_known_ones():
  with pytest.raises(ValueError, match="'tensorbord'; known: tensorboard"):
    outputlib.check(['jsonl', 'tensorbord'])


def test_missing_package_names_its_extra(monkeypatch):
  monkeypatch.setattr(outputlib.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r"'\.\[wandb\]'"):
    outputlib.check(['wandb'])


def test_mlflow_without_a_place_says_what_to_set(monkeypatch):
  monkeypatch.setattr(outputlib.importlib.util, 'find_spec', lambda name: 1)
  monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
  with pytest.raises(ValueError, match='MLFLOW_TRACKING_URI'):
    outputlib.check(['mlflow'])


def test_slow_service_holds_nothing_up_and_loses_nothing():
  server = Server()
  service = outputlib.Service(server)
  start = time.monotonic()
  for step in range(5):
    service(step, [('x', step)])
  assert time.monotonic() - start < 1
  assert not server.calls
  server.go_on.set()
  service.close()
  assert server.calls == [(i, [('x', i)]) for i in range(5)]
  assert server.closed == 1
  assert service.state() == 'abc'
  service(5, [])  # Like a second run in this process.
  service.close()
  assert len(server.calls) == 6


def test_service_that_hangs_lets_the_run_end(monkeypatch, capsys):
  monkeypatch.setattr(outputlib.Service, 'PATIENCE', 0.2)
  service = outputlib.Service(Server())
  service(0, [])
  start = time.monotonic()
  service.close()
  assert time.monotonic() - start < 2
  assert 'Server: could not write all logs' in capsys.readouterr().err


def test_failing_service_warns_once_and_is_called_again(capsys):
  server = Server()
  server.broken = True
  server.go_on.set()
  service = outputlib.Service(server)
  logger = loggers.Logger(Counter(), [service])
  for _ in range(3):
    logger.scalar('x', 1)
    logger.write()
    time.sleep(0.1)
  err = capsys.readouterr().err
  assert err.count('no route') == 1
  server.broken = False
  logger.scalar('x', 1)
  logger.write()
  with logger:
    pass
  assert len(server.calls) == 1


def test_service_that_falls_behind_drops_with_an_error(monkeypatch):
  monkeypatch.setattr(outputlib.Service, 'LIMIT', 3)
  server = Server()
  service = outputlib.Service(server)
  with pytest.raises(OSError, match='Server lags behind by 3 logs'):
    for step in range(6):
      service(step, [])
  server.go_on.set()
  service.close()


def log_run(output, steps, capsys):
  service = outputlib.Service(output)
  for step in steps:
    service(step, [('x', step / 2), ('im age', IMAGE), ('video', VIDEO)])
  service.close()
  err = capsys.readouterr().err
  assert 'Warning: ' not in err, err
  return service.state()


def test_mlflow_keeps_numbers_pictures_and_settings(
    tmp_path, monkeypatch, capsys):
  mlflow = pytest.importorskip('mlflow')
  monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
  monkeypatch.setenv('MLFLOW_TRACKING_URI', str(tmp_path))
  run = log_run(outputlib.MLflowOutput(CONFIG), (1, 2), capsys)
  resumed = outputlib.MLflowOutput(CONFIG)
  resumed.run = run
  assert log_run(resumed, (3,), capsys) == run
  client = mlflow.MlflowClient()
  history = client.get_metric_history(run, 'x')
  assert [(x.step, x.value) for x in history] == [(1, 0.5), (2, 1), (3, 1.5)]
  data = client.get_run(run)
  assert data.data.params['rssm.deter'] == '9'
  assert data.info.run_name == 'toy_reach/dreamer/3'
  assert data.info.status == 'FINISHED'
  path = mlflow.artifacts.download_artifacts(
      run_id=run, artifact_path='video/3.gif')
  assert PIL.Image.open(path).n_frames == 4
  path = mlflow.artifacts.download_artifacts(
      run_id=run, artifact_path='im age/1.png')
  np.testing.assert_array_equal(np.asarray(PIL.Image.open(path)), IMAGE)


def test_wandb_keeps_numbers_pictures_and_settings(
    tmp_path, monkeypatch, capsys):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  run = log_run(outputlib.WandbOutput(tmp_path, CONFIG), (1, 2), capsys)
  time.sleep(1.1)  # A file is named by its second.
  resumed = outputlib.WandbOutput(tmp_path, CONFIG)
  resumed.run = run
  assert log_run(resumed, (3,), capsys) == run
  until = time.monotonic() + 20  # Another process writes with a delay.
  history = []
  while len(history) < 3 and time.monotonic() < until:
    history, config = [], {}
    for path in sorted(tmp_path.glob(f'wandb/offline-run-*/run-{run}.wandb')):
      rows, stored = read_wandb(path)
      history += rows
      config.update(stored)
  assert [(x['_step'], x['x']) for x in history] == [
      (1, 0.5), (2, 1), (3, 1.5)]
  assert config['rssm.deter'] == 9
  assert history[0]['video/_type'] == 'video-file'
  gif = next(tmp_path.glob(
      f"wandb/offline-run-*/files/{history[0]['video/path']}"))
  assert PIL.Image.open(gif).n_frames == 4


def read_wandb(path):
  """Returns the rows and the settings from the file of an offline run."""
  name = 'wandb.proto.wandb_internal_pb2'  # An optional package.
  wandb_internal_pb2 = importlib.import_module(name)
  rows, config = [], {}
  for data in read_records(path.read_bytes()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    for item in record.run.config.update:
      config[item.key] = json.loads(item.value_json)
    if record.HasField('history'):
      rows.append({
          x.key or '/'.join(x.nested_key): json.loads(x.value_json)
          for x in record.history.item})
      rows[-1]['_step'] = record.history.step.num
  return rows, config


def read_records(data, block=2 ** 15, head=7):
  """Yields the records of a LevelDB log that starts with wandb's header."""
  parts, at = [], head
  while at + head <= len(data):
    if block - at % block < head:
      at += block - at % block
      continue
    _, size, kind = struct.unpack('<IHB', data[at: at + head])
    parts.append(data[at + head: at + head + size])
    at += head + size
    if kind in (1, 4):  # A whole record or its last part.
      yield b''.join(parts)
      parts = []
