import pickle

import numpy as np

from hisdiff._kept import Kept


def test_what_was_used_last_is_kept_within_the_limit_and_nothing_without_a_key():
    made = []

    def make(name, n=10):
        return lambda: made.append(name) or np.zeros(n)

    kept = Kept(200)
    for key in ("a", "b", "a", "c", "a", "b", None, None):
        kept.get(key, make(key))
    assert made == ["a", "b", "c", "b", None, None]  # of three, b was not used for longest
    kept.get("large", make("large", 100))
    kept.get("large", make("large", 100))
    assert made[-2:] == ["large", "large"]
    few = pickle.loads(pickle.dumps(Kept(10**6, most=2)))
    for key in ("a", "b", "c", "b", "a"):
        few.get(key, make(key))
    assert made[-4:] == ["a", "b", "c", "a"]
