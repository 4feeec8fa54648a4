import copy
import pickle

import pytest

from dreamingv2.common import config as configs
from dreamingv2.common.config import Config

NESTED = {
    'encoder': {'act': 'elu', 'layers': [400, 400]},
    'jit': True,
    'model_opt': {'lr': 1e-4, 'wd': 1e-6},
    'rssm': {'deter': 200, 'act': 'elu'},
    'task': 'Lift',
}


@pytest.fixture
def config():
  return Config(NESTED)


def test_access_reaches_the_same_value_every_way(config):
  assert config.rssm.deter == config['rssm.deter'] == 200
  assert config['rssm']['deter'] == config.flat['rssm.deter'] == 200
  assert dict(**config.rssm) == {'deter': 200, 'act': 'elu'}
  assert 'rssm.deter' in config and 'rssm.stoch' not in config
  assert Config({'rssm.deter': 1}) == Config(rssm={'deter': 1})


def test_access_to_an_unknown_name_offers_the_nearest(config):
  with pytest.raises(AttributeError, match='nearest: rssm.deter'):
    config.rssm_deter  # noqa: B018
  with pytest.raises(KeyError, match='nearest: rssm.deter'):
    config['deter']
  assert config.get('nothing', 3) == 3


def test_config_never_changes(config):
  with pytest.raises(AttributeError, match='immutable'):
    config.task = 'Door'
  with pytest.raises(TypeError):
    config['task'] = 'Door'
  with pytest.raises(AttributeError, match='immutable'):
    config.rssm.deter = 1
  assert config.encoder.layers == (400, 400)
  other = config.update(task='Door')
  assert (config.task, other.task) == ('Lift', 'Door')


@pytest.mark.parametrize('update, key, value', [
    ({'rssm.deter': '1e6'}, 'rssm.deter', 1000000),
    ({'rssm.deter': 1e6}, 'rssm.deter', 1000000),
    ({'rssm.deter': '9007199254740993'}, 'rssm.deter', 9007199254740993),
    ({'rssm': {'deter': 3}}, 'rssm.deter', 3),
    ({'model_opt.lr': 1}, 'model_opt.lr', 1.0),
    ({'model_opt.lr': '3e-4'}, 'model_opt.lr', 3e-4),
    ({'jit': 'False'}, 'jit', False),
    ({'task': 16}, 'task', '16'),
    ({'encoder.layers': ['1e3', 2.0]}, 'encoder.layers', (1000, 2)),
    ({'encoder.layers': []}, 'encoder.layers', ()),
])
def test_update_converts_to_the_type_of_the_old_value(
    config, update, key, value):
  new = config.update(update)
  assert new[key] == value and type(new[key]) is type(value)
  assert set(config.diff(new)) == {key}


@pytest.mark.parametrize('update, words', [
    ({'rssm.deter': 2.5}, ["'rssm.deter'", 'int', '2.5']),
    ({'rssm.deter': True}, ['int', 'True']),
    ({'rssm.deter': 'nan'}, ['int', "'nan'"]),
    ({'rssm.deter': [1]}, ['int', '[1]']),
    ({'rssm.deter': None}, ['int', 'None']),
    ({'model_opt.lr': 'fast'}, ["'model_opt.lr'", 'float', "'fast'"]),
    ({'model_opt.lr': False}, ['float', 'False']),
    ({'jit': 1}, ['True/False', '1']),
    ({'jit': 'false'}, ['True/False', "'false'"]),
    ({'task': True}, ['string', 'True']),
    ({'encoder.layers': 400}, ['list of ints', '400']),
    ({'encoder.layers': '400'}, ['list of ints', "'400'"]),
    ({'encoder.layers': [0.5]}, ['int', '0.5']),
])
def test_update_refuses_what_does_not_convert(config, update, words):
  with pytest.raises(ValueError) as error:
    config.update(update)
  assert all(word in str(error.value) for word in words), error.value
  assert '\n' not in str(error.value)


def test_update_with_a_pattern_sets_every_match_and_no_more(config):
  new = config.update({r'.*\.act': 'relu'})
  assert set(config.diff(new)) == {'encoder.act', 'rssm.act'}
  new = config.update({r'(encoder|model)\.act': 'relu'})
  assert set(config.diff(new)) == {'encoder.act'}
  new = config.update({'rssm': {'de.*': 1}})
  assert set(config.diff(new)) == {'rssm.deter'}
  # A dot alone is not a pattern, and a pattern must match the whole key.
  with pytest.raises(configs.UnknownKey):
    Config({'a.b': 1, 'axb': 2}).update({'a.c': 1})
  with pytest.raises(configs.UnknownKey):
    config.update({'act$': 'relu'})


@pytest.mark.parametrize('update, words', [
    ({'rsm': {'deter': 1}}, ["'rsm.deter'", 'nearest: rssm.deter']),
    ({'deter': 1}, ['nearest: rssm.deter']),
    ({r'.*\.decay': 1}, [r'.*\.decay']),
    ({'rssm': 1}, ['group', 'rssm.deter', 'rssm.act']),
    ({'task.name': 1}, ["'task.name'"]),
    ({'(': 1}, ['no regular expression']),
    ({'rssm': {}}, ['empty group']),
    ({3: 1}, ['must be a string']),
])
def test_update_refuses_keys_that_name_nothing(config, update, words):
  with pytest.raises(ValueError) as error:
    config.update(update)
  assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize('mapping, words', [
    ({'a': None}, ["'a'", 'None']),
    ({'a': {'b': [1, 'x']}}, ["'a.b'", 'one type']),
    ({'a': [[1]]}, ["'a'"]),
    ({'a b': 1}, ["'a b'"]),
    ({'a..b': 1}, ["'a..b'"]),
    ({'a': {'update': 1}}, ["'a.update'", 'method']),
    ({'a': 1, 'a.b': 2}, ["'a.b'", 'below']),
    ({'a.b': 2, 'a': 1}, ["'a'", 'twice']),
])
def test_construction_refuses_what_it_cannot_hold(mapping, words):
  with pytest.raises(ValueError) as error:
    Config(mapping)
  assert all(word in str(error.value) for word in words), error.value


def test_save_and_load_keep_values_and_types(tmp_path):
  values = {
      'floats': [1e-5, 1e20, 0.1, 5e-324, -0.0, 1e16],
      'inf': float('inf'), 'one': 1.0, 'int': 10 ** 20, 'yes': True,
      'strings': [
          '1e6', '1e-5', '0x1f', '010', '.5', 'yes', 'None', 'null', '~', '',
          'True', '1:30', '2020-01-01', '# c', 'a: b', '- x', r'.*\.wd$', '$^',
          'a\nb', ' é ', '?|x', '"', "'", 'word ' * 60, '*', '&a', '!t', '@'],
      'group': {'none': 'none', 'x': '1e5', 'deep': {'empty': []}},
  }
  config = Config(values)
  config.save(tmp_path / 'config.yaml')
  loaded = Config.load(tmp_path / 'config.yaml')
  assert repr(loaded) == repr(config)
  assert list(loaded.flat) == list(config.flat)


def test_load_reads_scientific_notation_as_numbers(tmp_path):
  path = tmp_path / 'config.yaml'
  path.write_text('a: 1e-5\nb: 1e6\nc: -1E+3\nd: .5\ne: yes\nf: off\n')
  assert Config.load(path).flat == {
      'a': 1e-5, 'b': 1e6, 'c': -1e3, 'd': 0.5, 'e': 'yes', 'f': 'off'}


@pytest.mark.parametrize('text', ['a: [', 'a: 1\na: 2', '- 1', '', 'a: }'])
def test_load_names_the_file_it_cannot_read(tmp_path, text):
  path = tmp_path / 'config.yaml'
  path.write_text(text)
  with pytest.raises(ValueError, match=r'config\.yaml') as error:
    Config.load(path)
  assert '\n' not in str(error.value)


def test_diff_names_keys_that_differ_and_that_one_lacks(config):
  other = Config(
      {**{k: v for k, v in config.flat.items() if k != 'jit'}, 'new': 1})
  other = other.update({'rssm.deter': 5})
  assert config.diff(other) == {
      'jit': (True, None), 'rssm.deter': (200, 5), 'new': (None, 1)}
  assert config.diff(config.update()) == {}


def test_config_survives_pickle_and_deepcopy(config):
  for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
    assert other == config and other.rssm.deter == 200


@pytest.mark.parametrize('text, words', [
    ('a: &a [x]\nb: [*a, *a]', '2: aliases such as .a are not read'),
    ('a: &a {x: 1}\nb: {<<: *a}', 'aliases'),
    ('a: ' + '[' * 90_000, 'too deeply nested'),
    ('- ' * 9000, 'too deeply nested'),
    ('a: ' + 'x' * 200_000, '200,003 characters of YAML; at most 131,072'),
    ('a: 2020-99-99', 'month must be in 1..12'),
    ('a: ' + '1' * 9000, '4300 digits'),
    ('a: !!python/object:os.system x', 'could not determine a constructor'),
    (b'\xff', 'not UTF-8')])
def test_yaml_that_would_cost_too_much_or_is_odd_is_refused(
    text, words, tmp_path):
  path = tmp_path / 'config.yaml'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(ValueError, match=words) as error:
    configs.read_yaml(path)
  assert str(error.value).startswith(str(path))


def test_comments_of_many_resumes_make_no_config_too_large(tmp_path):
  path = tmp_path / 'config.yaml'
  path.write_text('# train.py --steps 7\n' * 50_000 + 'a: 1\n')
  assert configs.read_yaml(path) == {'a': 1}


def test_config_is_read_from_regular_files_only(tmp_path):
  (tmp_path / 'config.yaml').mkdir()
  with pytest.raises(ValueError, match='is a folder'):
    configs.read_yaml(tmp_path / 'config.yaml')
