from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lensmount_server.hostcache import HostCache
from residents import FLOAT, adapter_of, version_id

LIMIT = 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6)), max_size=40))
def test_it_keeps_the_newest_within_its_limit(steps: list[tuple[bool, int]]) -> None:
    cache, model = HostCache(LIMIT * FLOAT), dict[str, int]()
    for puts, number in steps:
        adapter = adapter_of(version_id(number), floats=2 * number)
        if puts:
            cache.put(adapter)
            model.pop(adapter.content_hash, None)
            model[adapter.content_hash] = 2 * number
            while sum(model.values()) > LIMIT:
                model.pop(next(iter(model)))
        else:
            taken = cache.take(adapter.content_hash)
            assert (taken is not None) == (model.pop(adapter.content_hash, None) is not None)
            assert taken is None or taken.content_hash == adapter.content_hash
        assert len(cache) == len(model)
        assert {adapter.content_hash in cache} == {adapter.content_hash in model}
        assert cache.size_bytes == FLOAT * sum(model.values())
