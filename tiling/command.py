"""How a command of this project ends: one line, the right exit code, no torn pipe.

`run_app` lets a typer application read the command line and then runs what was asked for;
`finish` turns what that raises into one line and an exit code:
0 done; 1 our own bug; 2 usage; 3 bad input; 4 bad model file; 5 cannot write; 6 out of
memory; 7 locked or input changed; 8 NaN, or tiles that differ; 130 Ctrl-C; 143 SIGTERM; for its
like 128 and the number of the signal.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tiling import remedies
from tiling.disk import check_folder
from tiling.faults import Fault, UsageFault, WriteError
from tiling.memory import check_address_space
from tiling.signals import INTERRUPTED, Terminated, ending_by_exception, exit_code
from tiling.streams import close_quietly, open_closed_streams

if TYPE_CHECKING:
    import typer

__all__ = [
    "answer",
    "answering",
    "deferred",
    "finish",
    "note",
    "run_app",
    "tell",
    "tidy",
    "visible",
]

_LIMITS = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
# What threads, the loader of modules and libdeflate say where they get no memory.
_NO_ROOM = ("can't start new thread", "failed to map segment", "libdeflate_alloc_compressor",
            "could not create a primitive")  # fmt: skip


def visible(text: str) -> str:
    r"""The text as one line: what would steer a terminal, or hide in it, written as escapes.

    Names and descriptions come from files, and files are not trusted.

    Examples
    --------
    >>> print(visible("a\x1b[2Jb\nc"))
    a\x1b[2Jb\nc
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tell(*lines: str) -> None:
    """Write lines of result to standard output; where they cannot go, the work goes on."""
    try:
        sys.stdout.write(_shown(lines, sys.stdout.encoding))
    except (OSError, ValueError) as error:
        _give_up_stdout(error)


def answer(*lines: str) -> None:
    """Write lines that are all a command is for; that they cannot be written is its failure.

    Raises
    ------
    WriteError
        Standard output takes nothing; not where its reader has seen enough.
    """
    with answering():
        sys.stdout.write(_shown(lines, sys.stdout.encoding))


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """The same for whatever a block writes to standard output."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        close_quietly(sys.stdout)
    except OSError as error:
        close_quietly(sys.stdout)
        reason = f"cannot be written ({error.strerror}); send it where there is room"
        raise WriteError("standard output", reason) from error


def _give_up_stdout(error: Exception) -> None:
    """Say once that standard output takes nothing, unless its reader has just seen enough."""
    close_quietly(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        reason = getattr(error, "strerror", None) or error
        note(f"standard output cannot be written ({reason}); files are not concerned")


def note(line: str) -> None:
    """Write a line to standard error; that nobody can read it stops no work."""
    try:
        sys.stderr.write(_shown([line], sys.stderr.encoding))
        sys.stderr.flush()
    except (OSError, ValueError):
        close_quietly(sys.stderr)


def _shown(lines: Iterable[str], encoding: str | None) -> str:
    """Each of `lines` on a line of its own, whatever it holds and whatever the encoding."""
    text, known = "".join(f"{visible(line)}\n" for line in lines), encoding or "ascii"
    return text.encode(known, "backslashreplace").decode(known)


def deferred(
    command: Callable[..., object], least_mib: int = 0
) -> Callable[..., Callable[[], object]]:
    """The same command for typer to parse, handing its work back instead of doing it.

    Whatever the work raises, Ctrl-C included, then reaches `finish` untouched. It does not begin
    under a limit of the address space below `least_mib` MiB.
    """

    @functools.wraps(command)
    def later(**options: Any) -> Callable[[], object]:
        def work() -> object:
            check_address_space(least_mib)
            return command(**options)

        return work

    return later


def run_app(program: str, app: typer.Typer, argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` given to `app`, whose commands are `deferred`.

    Parameters
    ----------
    program
        Name shown in help and in front of errors.
    app
        The typer application.
    argv
        Words of the command line; by default those of this process. `--traceback` may stand
        anywhere.
    """
    from typer.main import get_command

    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    show_traceback = "--traceback" in words[:end]
    words = [word for word in words[:end] if word != "--traceback"] + words[end:]

    def parse_and_run() -> None:
        empty = [word for word in words if not word or re.fullmatch("--[a-z-]+=", word)]
        if empty:
            what = f"what follows {empty[0]}" if empty[0] else "a word of the command line"
            raise UsageFault(f"{what} is empty; was a variable of the shell not set?")
        try:
            command = _plainly_used(get_command(app))
            with answering():  # what it writes is help
                work = command.main(
                    args=words or ["--help"], prog_name=program, standalone_mode=False
                )
        except Fault:
            raise
        except Exception as error:
            text = getattr(error, "format_message", None)  # typer's own usage errors
            if text is None:
                raise
            raise UsageFault(f"{text()} (see {program} --help)") from error
        if work == INTERRUPTED:  # what typer makes of Ctrl-C while it reads the command line
            raise KeyboardInterrupt
        if callable(work):
            check_folder()
            work = work()
        if isinstance(work, int) and work:
            raise SystemExit(work)

    return finish(program, parse_and_run, show_traceback=show_traceback)


def _plainly_used(command: Any) -> Any:
    """The command, whose usage lines show `IMAGE` where typer would write `{IMAGE}`."""

    def plain(pieces: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
        return lambda context: [re.sub(r"[{}]", "", piece) for piece in pieces(context)]

    for part in (command, *getattr(command, "commands", {}).values()):
        part.collect_usage_pieces = plain(part.collect_usage_pieces)
    return command


def finish(program: str, command: Callable[[], object], *, show_traceback: bool = False) -> int:
    """Exit code of `command()`, with its failure told in one line on standard error.

    Parameters
    ----------
    program
        Name printed in front of the line.
    command
        The work, without arguments. Its return value is ignored, an int from `SystemExit` kept.
    show_traceback
        Also print the traceback (`--traceback`).
    """
    with ending_by_exception():
        open_closed_streams()
        code = _exit_code(program, command, show_traceback=show_traceback)
        try:
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            _give_up_stdout(error)
    return code


def _exit_code(program: str, command: Callable[[], object], *, show_traceback: bool) -> int:
    for stream in (sys.stdout, sys.stderr):  # a file name may hold what a locale cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        command()
    except (KeyboardInterrupt, Terminated) as stop:
        word = "terminated" if isinstance(stop, Terminated) else "interrupted"
        note(f"{program}: {word}{_hint(stop)}")
        return exit_code(stop)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # click and rich would leave with 1
            close_quietly(sys.stdout)
            return 0
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Fault as fault:
        return _told(program, str(fault), fault.exit_code, show_traceback)
    except BrokenPipeError:
        close_quietly(sys.stdout)
        return 0
    except MemoryError:
        return _told(program, "out of memory; use smaller tiles or blocks", 6, show_traceback)
    except Exception as error:  # noqa: BLE001 - the boundary of the program
        return _told(program, *_unforeseen(error), show_traceback)
    return 0


def tidy(program: str, *outputs: str | os.PathLike[str]) -> None:
    """Remove what dead runs of ours left where `outputs` will lie, and name it on standard error.

    That is the folder that is really written: the one a symbolic link leads to.
    """
    from tiling.safe_write import remove_stale_beside

    for path in remove_stale_beside(*outputs):
        note(f"{program}: removed {path}, left by a run that did not end")


def _hint(stop: BaseException) -> str:
    """The resume command, if whoever was interrupted attached one with `add_note`."""
    notes = getattr(stop, "__notes__", [])
    return "; " + "; ".join(notes) if notes else ""


def _unforeseen(error: Exception) -> tuple[str, int]:
    """What is told of an error that nothing has turned into a `Fault`, and its exit code."""
    number = error.errno if isinstance(error, OSError) else 0
    try:
        check_folder()
    except UsageFault as gone:  # deleted since: libraries that load look for it
        return str(gone), gone.exit_code
    if isinstance(error, OSError) and remedies.tells_of_the_system(error):
        where = getattr(error, "filename", None) or "output"
        return f"{where}: {os.strerror(number or 0)}; {remedies.of_writing(error)}", 5
    if "No usable temporary directory" in str(error):
        return "no folder for temporary files can be written; set TMPDIR to one that can", 5
    if number in _LIMITS or any(words in str(error) for words in _NO_ROOM):
        why = os.strerror(number) if number else error
        return f"{why}; raise the limits of files (ulimit -n), processes (-u) and memory (-v)", 6
    return f"this is a bug in unet2015, please report it: {type(error).__name__}: {error}", 1


def _told(program: str, text: str, code: int, show_traceback: bool) -> int:
    if show_traceback:
        traceback.print_exc(file=sys.stderr)
    note(f"{program}: {text}")
    return code
