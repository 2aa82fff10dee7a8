"""The bounded cache: what is kept, who makes a value, and who waits for it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from sam_variants.spaces_demo.caches import BoundedCache


def test_the_cache_counts_and_forgets() -> None:
    cache: BoundedCache[str] = BoundedCache(10, len)
    assert [cache.get(word, partial(str, word)) for word in ("aaaa", "bbbb", "aaaa", "cc", "dd")]
    assert ("bbbb" in cache, "aaaa" in cache, cache.used) == (False, True, 8)
    assert cache.get("long", lambda: "x" * 11) == "x" * 11
    assert ("long" in cache, cache.used) == (False, 8)
    cache.clear()
    assert (len(cache), cache.used) == (0, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_waits_for_nobody_it_does_not_have() -> None:
    """ZeroGPU forks while other visitors' threads work."""
    cache = BoundedCache[int](5, lambda value: 1)
    begun, may_end = threading.Event(), threading.Event()

    def make() -> int:
        begun.set()
        assert may_end.wait(10)
        return 1

    thread = threading.Thread(target=cache.get, args=("a", make))
    thread.start()
    assert begun.wait(10)
    child = multiprocessing.get_context("fork").Process(target=lambda: cache.get("a", lambda: 2), daemon=True)
    child.start()
    child.join(10)
    may_end.set()
    thread.join()
    assert child.exitcode == 0
    child.kill()


def test_who_waits_for_a_failure_tries_again() -> None:
    cache: BoundedCache[str] = BoundedCache(10, len)
    started, tries = threading.Event(), []

    def fail_once() -> str:
        tries.append(1)
        started.set()
        while len(tries) == 1 and cache._making["key"].num_threads != 2:
            time.sleep(0.001)
        if len(tries) == 1:
            raise ValueError("the first time")
        return "good"

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.get, "key", fail_once)
        assert started.wait(10)
        second = threads.submit(cache.get, "key", fail_once)
        with pytest.raises(ValueError, match="the first time"):
            first.result(10)
        assert second.result(10) == "good"
    assert not cache._making
