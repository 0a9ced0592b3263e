"""Codecs run beside each other; every item once, and no thread is left behind."""

from __future__ import annotations

import threading

import pytest

from tiling import codec_threads
from tiling.codec_threads import on_threads


@pytest.fixture(params=[1, 2, 8])
def threads(request, monkeypatch):
    monkeypatch.setattr(codec_threads, "codec_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_every_item_is_worked_on_once(threads, count):
    done = []
    on_threads(done.append, range(count))
    assert sorted(done) == list(range(count))


def test_they_work_at_the_same_time(threads):
    together = threading.Barrier(threads, timeout=20)
    on_threads(lambda _: together.wait(), range(threads))


@pytest.mark.parametrize("error", [ValueError, IndexError, KeyboardInterrupt])
def test_an_error_is_raised_when_no_thread_is_left(threads, error):
    before = set(threading.enumerate())
    begun = []

    def work(number):
        begun.append(number)
        if number == 3:
            raise error("three")

    with pytest.raises(error, match="three"):
        on_threads(work, range(100_000))
    assert set(threading.enumerate()) <= before
    assert begun.count(3) == 1
    assert len(begun) < 100_000


def test_the_number_of_threads_is_that_of_the_processors_and_bounded(monkeypatch):
    monkeypatch.setattr(codec_threads.os, "sched_getaffinity", lambda _: {1, 5, 7}, raising=False)
    assert codec_threads.codec_threads() == 3
    monkeypatch.delattr(codec_threads.os, "sched_getaffinity")
    monkeypatch.setattr(codec_threads.os, "cpu_count", lambda: 128)
    assert codec_threads.codec_threads() == 8
