import pytest

from dreamingv2.common import command
from dreamingv2.common.config import Config
from dreamingv2.common.flags import Flags

FLAGS = Flags({
    'configs': ['defaults'],
    'encoder': {'layers': [400, 400]},
    'jit': True,
    'opt': {'lr': 1e-4, 'wd': 1e-6},
    'replay': {'capacity': 2000000},
    'task': 'Lift',
    'wd': 0.5,
})


@pytest.mark.parametrize('argv, expected', [
    ('', {}),
    ('--task Door', {'task': 'Door'}),
    ('--task=Door', {'task': 'Door'}),
    ('--task=a=b', {'task': 'a=b'}),
    ('--task=', {'task': ''}),
    ('--jit False', {'jit': False}),
    ('--configs a b', {'configs': ('a', 'b')}),
    ('--configs a,b c', {'configs': ('a', 'b', 'c')}),
    ('--configs=a,b --task x', {'configs': ('a', 'b'), 'task': 'x'}),
    ('--encoder.layers 1e2', {'encoder.layers': (100,)}),
    ('--replay.capacity 1e5', {'replay.capacity': 100000}),
    ('--opt.lr -3e-4', {'opt.lr': -3e-4}),
    (r'--.*\.wd 1e-3', {'opt.wd': 1e-3}),
    (r'--.*wd=1e-3', {'opt.wd': 1e-3, 'wd': 1e-3}),
    ('--task a --task b', {'task': 'b'}),
])
def test_parse_sets_just_what_was_given(argv, expected):
  default = FLAGS.parse([])
  parsed = FLAGS.parse(argv.split())
  assert {k: v for k, (_, v) in default.diff(parsed).items()} == expected
  assert isinstance(parsed, Config)


@pytest.mark.parametrize('argv, words', [
    ('--tusk Door', ['--tusk', 'nearest: task']),
    ('--capacity 3', ['--capacity', 'nearest: replay.capacity']),
    (r'--.*\.decay 1', [r'--.*\.decay']),
    ('--opt 1', ['--opt', 'opt.lr', 'opt.wd']),
    ('--task', ['--task', 'string']),
    ('--jit --task x', ['--jit', 'True/False']),
    ('--configs', ['--configs', 'list of strings']),
    ('--replay.capacity 2.5', ['--replay.capacity', 'int', "'2.5'"]),
    ('--jit yes', ['--jit', 'True/False', "'yes'"]),
    ('--opt.lr fast', ['--opt.lr', 'float', "'fast'"]),
    (r'--.*\.wd fast', [r'--.*\.wd', 'opt.wd', 'float', "'fast'"]),
    ('--encoder.layers 4,x', ['--encoder.layers', 'int', "'x'"]),
    ('--task a b', ['--task', 'one value', "'a b'"]),
    ('Door', ['Door', '--key value']),
    ('-task Door', ['-task']),
])
def test_parse_refuses_and_names_flag_value_and_type(argv, words):
  with pytest.raises(ValueError) as error:
    FLAGS.parse(argv.split())
  assert all(word in str(error.value) for word in words), error.value
  assert '\n' not in str(error.value)


def test_known_only_leaves_the_rest_of_the_line_in_order():
  argv = '--task Door --configs a b --.*wd 3 --help'.split()
  config, remaining = Flags(configs=['x']).parse(argv, known_only=True)
  assert config.configs == ('a', 'b')
  assert remaining == ['--task', 'Door', '--.*wd', '3', '--help']


def test_known_only_still_refuses_a_wrong_value():
  with pytest.raises(ValueError, match='--n'):
    Flags(n=1).parse(['--n', 'x', '--other', '1'], known_only=True)


def test_parse_reads_the_command_line_of_the_process(monkeypatch):
  monkeypatch.setattr('sys.argv', ['train.py', '--task', 'Door'])
  assert FLAGS.parse().task == 'Door'


@pytest.mark.parametrize('argv', [['--help'], ['--task', 'x', '-h']])
def test_help_prints_every_key_with_type_and_default_and_ends(capsys, argv):
  with pytest.raises(SystemExit) as ending:
    FLAGS.parse(argv)
  lines = [' '.join(x.split()) for x in capsys.readouterr().out.split('\n')]
  assert ending.value.code == 0
  flags = [line.split()[0] for line in lines if line[:2] == '--']
  assert flags == [f'--{key}' for key in FLAGS.parse([]).flat]
  assert '--opt.wd float (default: 1e-06)' in lines
  assert '--encoder.layers int ... (default: 400 400)' in lines


def test_parse_flags_of_a_config_sets_values_in_a_new_one():
  config = Config({'opt': {'lr': 1e-4}, 'task': 'Lift'})
  assert config.parse_flags(['--opt.lr', '3e-4']).opt.lr == 3e-4
  assert config.opt.lr == 1e-4
  parsed, remaining = config.parse_flags(['--logdir', 'x'], known_only=True)
  assert parsed == config and remaining == ['--logdir', 'x']


def test_document_adds_headings_comments_and_defaults():
  parser = command.Parser('tool')
  Flags({'a': '', 'b': {'lr': 1, 'x': 1.5}, 'c': {'lr': 2}, 'd': ('%',)}
        ).document(parser, {
            'a': ('Run. How it runs.', 'A name.'), 'b': ('Run', 'Of b.'),
            'b.lr': ('Run', 'Rate...'), 'b.x': ('Run', '50%.'),
            'c.lr': ('More', ''), 'd': ('More', '')})
  text = ' '.join(parser.format_help().split())
  assert text.endswith(
      "Run: How it runs. --a string A name (default: '') b: Of b. "
      '--b.lr int Rate... (default: 1) --b.x float 50% (default: 1.5) '
      'More: --c.lr int Rate... (default: 2) --d string ... (default: %)')
