"""The command line as a program: `unet2015`, `python -m unet2015`."""

import _signal as signal  # type: ignore[import-not-found]  # `signal` takes a while to load
import os


def _stop(number: int, _frame: object) -> None:
    """Say it in one line, and end as whoever knows no Ctrl-C ends: shells stop their loops then."""
    try:
        os.write(2, b"unet2015: interrupted\n")
    finally:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def run() -> None:
    """Run the command line of this process; Ctrl-C while it is loaded ends it at once."""
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored
    if plain:
        signal.signal(signal.SIGINT, _stop)
    from unet2015.cli import run as run_loaded

    if plain:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_loaded()


if __name__ == "__main__":
    run()
