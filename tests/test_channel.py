"""The queue between the threads of a run: order, ends, errors, and Ctrl-C at any instruction."""

from __future__ import annotations

import sys
import threading

import pytest

from tiling import channel as module
from tiling.channel import Channel, ClosedError

ACTIONS = {
    "put": lambda channel: channel.put("b"),
    "get": lambda channel: channel.get(),
    "finish": lambda channel: channel.finish(),
    "close": lambda channel: channel.close(),
}


def started(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(thread):
    thread.join(timeout=60)
    return not thread.is_alive()


def test_items_pass_in_order_through_a_short_queue():
    channel = Channel(2)

    def fill():
        for k in range(1000):
            channel.put(k)
        channel.finish()

    thread = started(fill)
    assert list(channel) == list(range(1000))
    assert ended(thread)
    with pytest.raises(ClosedError):
        channel.get()


def test_a_full_queue_makes_its_writer_wait():
    channel, done = Channel(2), []
    thread = started(lambda: [(channel.put(k), done.append(k)) for k in range(3)])
    while len(done) < 2:
        pass
    thread.join(timeout=0.05)
    assert thread.is_alive()
    assert channel.get() == 0
    assert ended(thread)


@pytest.mark.parametrize("end", ["close", "fail"])
@pytest.mark.parametrize("side", ["put", "get"])
def test_who_waits_is_told_of_the_end_at_once(end, side):
    channel, raised = Channel(1), []
    if side == "put":
        channel.put("a")

    def work():
        try:
            ACTIONS[side](channel)
        except (ClosedError, KeyError) as error:
            raised.append(type(error))

    thread = started(work)
    if end == "close":
        channel.close()
    else:
        channel.fail(KeyError("first"))
        channel.fail(ValueError("second"))
    assert ended(thread)
    assert raised == [ClosedError if end == "close" else KeyError]
    with pytest.raises(raised[0]):
        channel.check()


def interrupted_at(number, work):
    """Run `work` with a KeyboardInterrupt at its `number`-th instruction; whether it came."""
    seen = 0

    def trace(frame, event, _argument):
        nonlocal seen
        if frame.f_code.co_filename not in (module.__file__, threading.__file__):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    except ClosedError:
        return False
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("action", ACTIONS)
def test_ctrl_c_at_any_instruction_blocks_nobody(action):
    number = 1
    while True:
        channel = Channel(2)
        channel.put("a")
        if not interrupted_at(number, lambda channel=channel: ACTIONS[action](channel)):
            break
        assert ended(started(channel.close)), f"instruction {number}"
        for other in ("get", "put"):
            told = []

            def use(name=other, channel=channel, told=told):
                try:
                    ACTIONS[name](channel)
                except ClosedError:
                    told.append(True)

            assert ended(started(use)), f"instruction {number}"
            assert told == [True]
        number += 1
    assert number > 5
