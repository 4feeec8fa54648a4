"""Tests reading files of robosuite, robomimic and Minari."""

import io
import json

import gymnasium
import h5py
import numpy as np
import pytest
from PIL import Image

from dreamingv2.tools import demonstrations

STEPS = 6


def write_robomimic(path, drop=(), **attrs):
  """Writes a file as robomimic does, with two demonstrations."""
  with h5py.File(path, 'w') as file:
    data = file.create_group('data')
    data.attrs['env_args'] = json.dumps({
        'env_name': 'Lift', 'env_kwargs': {'controller_configs': {
            'body_parts': {'right': {'type': 'OSC_POSE'}, 'torso': {}}}}})
    data.attrs.update(attrs)
    for number in (10, 2):
      group = data.create_group(f'demo_{number}')
      group.attrs['model_file'] = '<mujoco/>'
      values = {
          'states': np.full((STEPS, 3), number),
          'actions': np.full((STEPS, 2), 0.5),
          'rewards': np.arange(STEPS),
          'obs/agentview_image': np.full((STEPS, 8, 8, 3), number, np.uint8),
          'obs/eye_image': np.zeros((STEPS, 8, 8, 3), np.uint8),
          'obs/object': np.arange(STEPS * 2.0).reshape(STEPS, 2),
          'next_obs/agentview_image': np.full((STEPS, 8, 8, 3), 99, np.uint8)}
      for key, value in values.items():
        if key not in drop:
          group[key] = value
  return path


def write_minari(folder, jpeg=True, **meta):
  """Writes a dataset as Minari does: a Dict space, discrete actions."""
  (folder / 'data').mkdir(parents=True)
  box = lambda shape, dtype, high: {
      'type': 'Box', 'shape': shape, 'dtype': dtype,
      'low': np.zeros(shape).tolist(), 'high': np.full(shape, high).tolist()}
  spaces = {'type': 'Dict', 'subspaces': {
      'image': box([8, 8, 3], 'uint8', 255), 'speed': box([2], 'float64', 9),
      'mission': {'type': 'Text', 'max_length': 9}}}
  (folder / 'data/metadata.json').write_text(json.dumps({
      'data_format': 'hdf5', 'jpeg_encoding': jpeg, 'total_episodes': 2,
      'observation_space': json.dumps(spaces),
      'action_space': json.dumps(
          {'type': 'Discrete', 'n': 3, 'start': 1}), **meta}))
  images = np.full((STEPS + 1, 8, 8, 3), 40, np.uint8)
  with h5py.File(folder / 'data/main_data.hdf5', 'w') as file:
    for number in range(2):
      group = file.create_group(f'episode_{number}')
      group['observations/speed'] = np.full((STEPS + 1, 2), number, float)
      group['observations/mission'] = [b'go'] * (STEPS + 1)
      group['observations/image'] = images if not jpeg else np.stack([
          encode(x) for x in images])
      group['actions'] = np.arange(STEPS) % 3 + 1
      group['rewards'] = np.ones(STEPS)
      group['terminations'] = np.arange(STEPS) == STEPS - number
      group['truncations'] = np.arange(STEPS) == STEPS - 1
  return folder


def encode(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format='JPEG')
  return np.frombuffer(buffer.getvalue(), np.uint8)


def test_file_of_robomimic_is_read_in_the_order_of_its_numbers(tmp_path):
  two, ten = demonstrations.read(write_robomimic(tmp_path / 'a.hdf5'))
  assert two.name.endswith('demo_2') and ten.states.tolist()[0] == [10] * 3
  assert two.task == 'Lift' and two.model == '<mujoco/>'
  assert two.controllers == ({'right': 'OSC_POSE'},)
  assert two.actions.shape == (STEPS, 2) and two.rewards.tolist()[-1] == 5
  # The last observation is that after the last action, where it is known.
  assert two.obs['agentview_image'][:, 0, 0, 0].tolist() == [2] * STEPS + [99]
  assert len(two.obs['object']) == STEPS


def test_file_of_robosuite_has_states_alone(tmp_path):
  path = tmp_path / 'a.hdf5'
  info = json.dumps({'env_name': 'Lift', 'robots': ['Panda']})
  with h5py.File(path, 'w') as file:
    group = file.create_group('data/demo_1')
    group.parent.attrs.update(env='Lift', env_info=info)
    group.attrs['model_file'] = '<mujoco/>'
    group['states'], group['actions'] = np.zeros((4, 3)), np.zeros((4, 2))
  demo, = demonstrations.read(path)
  assert demo.obs is None and demo.rewards is None
  assert demo.task == 'Lift' and demo.controllers == ()


@pytest.mark.parametrize('jpeg', [True, False])
def test_dataset_of_minari_is_read_with_its_spaces(jpeg, tmp_path):
  one, two = demonstrations.read(write_minari(tmp_path / 'door', jpeg))
  observed, action = one.spaces
  assert isinstance(action, gymnasium.spaces.Discrete) and action.start == 1
  assert observed['speed'].shape == (2,)
  assert one.obs.keys() == {'image', 'speed'}
  assert one.obs['image'].shape == (STEPS + 1, 8, 8, 3)
  assert abs(one.obs['image'].astype(int) - 40).max() <= 2
  assert not one.terminal and two.terminal
  assert (two.obs['speed'] == 1).all()


def test_parts_of_a_dict_within_a_dict_have_joined_names(tmp_path):
  """As in the data of the kitchen; the rest cannot be observed."""
  box = {'type': 'Box', 'shape': [2], 'dtype': 'float64', 'low': [0, 0],
         'high': [9, 9]}
  folder = write_minari(tmp_path / 'kitchen', observation_space=json.dumps({
      'type': 'Dict', 'subspaces': {
          'speed': box, 'none': {'type': 'Dict', 'subspaces': {}},
          'goal': {'type': 'Dict', 'subspaces': {
              'door': box, 'say': {'type': 'Text', 'max_length': 9}}}}}))
  with h5py.File(folder / 'data/main_data.hdf5', 'r+') as file:
    for group in file.values():
      group.create_group('observations/none')
      group['observations/goal/door'] = np.full((STEPS + 1, 2), 7.0)
      group['observations/goal/say'] = [b'open'] * (STEPS + 1)
  demo, _ = demonstrations.read(folder)
  assert demo.obs.keys() == {'speed', 'goal/door'}
  assert list(demo.spaces[0]) == ['goal/door', 'goal/say', 'speed']
  tape = demonstrations.Tape(demo)
  assert tape.reset()[0]['goal/door'].tolist() == [7, 7]


@pytest.mark.parametrize('text', [
    '[1]', 'no JSON', '{"env_kwargs": null}',
    '{"controller_configs": "OSC"}',
    '{"controller_configs": {"body_parts": {"right": {}}}}'])
def test_description_of_another_form_is_no_hindrance(text, tmp_path):
  path = write_robomimic(tmp_path / 'a.hdf5', env_args=text, env='Door')
  demo, _ = demonstrations.read(path)
  assert demo.task == 'Door' and demo.controllers == ()


@pytest.mark.parametrize('changes, words', [
    ({'rewards': np.ones(STEPS - 1)}, r'rewards have the shape \(5,\), but'),
    ({'rewards': np.full(STEPS, np.nan)}, 'rewards are no finite numbers'),
    ({'actions': np.array([b'left'] * STEPS)}, 'actions are no finite numb'),
    ({'obs': {'x': np.ones((STEPS - 1, 2))}}, r'observations x .*\(5, 2\)'),
    ({'obs': np.ones((STEPS + 2, 2))}, r'observations have .*\(8, 2\)'),
    ({'states': np.ones((STEPS + 1, 2))}, r'states have .*\(7, 2\)')])
def test_demonstration_that_is_not_whole_is_told(changes, words):
  """Observations that ended early were repeated, and NaN was imported."""
  parts = {
      'obs': np.ones((STEPS + 1, 2)), 'rewards': np.ones(STEPS),
      'actions': np.ones((STEPS, 2))}
  good = demonstrations.Demo('a: 1', **parts)
  bad = demonstrations.Demo('a: 2', **{**parts, **changes})
  empty = demonstrations.Demo('a: 0', np.ones((0, 2)))
  assert list(demonstrations.whole([empty, good, empty])) == [good]
  with pytest.raises(ValueError, match=f'a: 2: its {words}'):
    list(demonstrations.whole([good, bad]))


def damage(path, change):
  with h5py.File(path, 'r+') as file:
    change(file)


@pytest.mark.parametrize('change, words', [
    (lambda x: x.unlink(), 'does not exist'),
    (lambda x: x.write_text('hello'), 'is not an HDF5 file'),
    (lambda x: damage(x, lambda f: f.pop('data')), "has no 'data'"),
    (lambda x: damage(x, lambda f: [f.pop('data'), f.create_group('data')]),
     "no group 'data/demo_1'"),
    (lambda x: damage(x, lambda f: f['data/demo_2'].pop('actions')),
     "/data/demo_2 has no 'actions'"),
    (lambda x: damage(x, lambda f: [
        f['data/demo_2'].pop('actions'), f.create_group('data/demo_2/actions')
    ]), '/data/demo_2/actions must be a dataset, but is a group'),
    (lambda x: damage(x, lambda f: [
        f['data/demo_2'].pop('obs'), f['data/demo_2'].update({'obs': 1})]),
     '/data/demo_2/obs must be a group, but is a dataset')])
def test_file_without_what_is_needed_is_named(change, words, tmp_path):
  path = write_robomimic(tmp_path / 'a.hdf5')
  change(path)
  with pytest.raises(ValueError, match=words) as info:
    list(demonstrations.read(path))
  assert '\n' not in str(info.value) and 'a.hdf5' in str(info.value)


@pytest.mark.parametrize('change, words', [
    (lambda x: (x / 'metadata.json').unlink(), 'it has no metadata.json'),
    (lambda x: (x / 'metadata.json').write_text('{}'), "'observation_space'"),
    (lambda x: (x / 'metadata.json').write_text('{"data_format": "arrow"}'),
     'stored as arrow; only hdf5'),
    *[(lambda x, text=text: (x / 'metadata.json').write_text(text),
       f'door.data.metadata.json {words}') for text, words in {
           '{"a": ': 'cannot be read: Expecting', '[1]': 'cannot be read',
           '{"observation_space": {}}': 'cannot be read: the JSON',
           '{"observation_space": "{}"}': "has no 'type'",
           '{"observation_space": "{\\"type\\": \\"Tuple\\"}"}':
           "cannot be read: Unknown space of Minari 'Tuple'"}.items()],
    (lambda x: (x / 'main_data.hdf5').unlink(), 'is not an HDF5 file'),
    (lambda x: damage(
        x / 'main_data.hdf5', lambda f: f['episode_0'].pop('rewards')),
     "/episode_0 has no 'rewards'"),
    (lambda x: damage(x / 'main_data.hdf5', lambda f: f[
        'episode_0/observations'].pop('speed')), "observations has no 'sp")])
def test_dataset_without_what_is_needed_is_named(change, words, tmp_path):
  folder = write_minari(tmp_path / 'door')
  change(folder / 'data')
  with pytest.raises(ValueError, match=words) as info:
    list(demonstrations.read(folder))
  assert '\n' not in str(info.value)


@pytest.mark.parametrize('space, actions, expected', [
    (gymnasium.spaces.Discrete(3, start=1), [2], [0, 1, 0]),
    (gymnasium.spaces.Box(-2, 6, (2,)), [[-2, 6]], [-1, 1]),
    (gymnasium.spaces.Box(np.float32([3, -1]), np.float32([3, 1])),
     [[3, 0.5]], [0, 0.5]),
    (gymnasium.spaces.Box(-2, 6, (2,)), [[-2, 2], [2, 2]], [-0.5, 0]),
    (gymnasium.spaces.Box(-np.inf, np.inf, (1,)), [[3.0]], [0.75]),
    (gymnasium.spaces.MultiDiscrete([2, 3]), [[1, 0], [1, 0]],
     [0, 0, 0, 1, 0, 0])])
def test_actions_become_those_of_the_agent(space, actions, expected):
  action = demonstrations.encode(space, np.array(actions), bound=4.0)
  assert action.tolist() == expected and action.dtype == np.float32


@pytest.mark.parametrize('space, actions, words', [
    (gymnasium.spaces.Discrete(3), [0, 1], 'set --action_repeat 1'),
    (gymnasium.spaces.Discrete(3), [-1], 'Discrete.3. has no choice -1'),
    (gymnasium.spaces.Box(-1, 1, (1,)), [[3.0]], 'lies outside')])
def test_actions_that_cannot_be_encoded_are_refused(space, actions, words):
  with pytest.raises(ValueError, match=words):
    demonstrations.encode(space, np.array(actions))


KNOWN = {
    'env_name': 'Lift', 'controllers': ({'right': 'OSC_POSE'},), 'action': 2,
    'state': 3}


@pytest.mark.parametrize('known, words', [
    ({'env_name': 'Door'}, "'Door'; known: Lift"),
    ({'controllers': ({'right': 'IK_POSE'},)},
     'with OSC_POSE, but the run has IK_POSE; set --robosuite.controller'),
    ({'action': 7}, r'actions of \(2,\) entries, but the run has 7'),
    ({'state': 9}, r'states of \(3,\) entries')])
def test_demonstrations_of_another_environment_are_refused(
    known, words, tmp_path):
  demo, _ = demonstrations.read(write_robomimic(tmp_path / 'a.hdf5'))
  demonstrations.check_same(demo, KNOWN)
  with pytest.raises(ValueError, match=words):
    demonstrations.check_same(demo, {**KNOWN, **known})
  demo.states = None
  with pytest.raises(ValueError, match="has no 'states'"):
    demonstrations.check_same(demo, KNOWN)
