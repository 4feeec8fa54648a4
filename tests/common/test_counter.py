import json

from dreamingv2.common.counter import Counter


def test_counter_behaves_like_the_int_it_holds():
  counter = Counter(3)
  counter.increment()
  counter.increment(6)
  assert counter == 10 and counter != 9 and int(counter) == 10
  assert 9 < counter <= 10 < 11 and counter > Counter(9)
  assert counter == Counter(10) and list(range(counter))[-1] == 9
  assert counter.value == 10


def test_counter_state_comes_back_through_json():
  counter = Counter()
  counter.restore(json.loads(json.dumps(Counter(7).state())))
  counter.increment()
  assert counter == 8
