"""Work in parts on several threads: all of it, once, and what fails is told."""

from __future__ import annotations

import threading

import pytest

from weightmaps import threads as module
from weightmaps.threads import at_once, in_parts, in_turn, set_threads, threads


@pytest.fixture(params=[1, 2, 5])
def count(request):
    set_threads(request.param)
    yield request.param
    set_threads(None)


@pytest.mark.parametrize("length", [1, 3, 7, 1000])
def test_parts_cover_the_range_once(count, length):
    done = []
    in_parts(lambda a, b: done.extend(range(a, b)), length, 10 * module.THREAD_PIXELS)
    assert sorted(done) == list(range(length))


def test_little_work_stays_on_the_calling_thread():
    set_threads(4)
    try:
        seen = []
        in_parts(lambda a, b: seen.append((a, b, threading.get_ident())), 9, 1000)
    finally:
        set_threads(None)
    assert seen == [(0, 9, threading.get_ident())]


def test_each_thread_gives_its_result_and_all_run_at_the_same_time():
    meeting = threading.Barrier(3, timeout=20)

    def work():
        meeting.wait()
        return threading.get_ident()

    found = at_once(work, 3)
    assert found[0] == threading.get_ident()
    assert len(set(found)) == 3


@pytest.mark.parametrize("where", ["calling", "other"])
def test_an_error_of_any_thread_is_raised(where):
    caller, meeting = threading.get_ident(), threading.Barrier(2, timeout=20)

    def work():
        meeting.wait()
        if (threading.get_ident() == caller) == (where == "calling"):
            raise RuntimeError("it broke")

    with pytest.raises(RuntimeError, match="it broke"):
        at_once(work, 2)


def test_parts_in_turn_then_none_for_ever():
    take = in_turn("ab")
    assert [take(), take(), take(), take()] == ["a", "b", None, None]


def test_threads_follow_the_setting_then_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "none")
    assert threads() >= 1
    set_threads(3)
    try:
        assert threads() == 3
    finally:
        set_threads(None)
    with pytest.raises(ValueError, match="0 threads"):
        set_threads(0)
