"""The command line as a program: `unet2015`, `python -m unet2015`."""

import signal


def run() -> None:
    """Run the command line of this process; Ctrl-C while it is loaded ends it without a word."""
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored
    if plain:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from unet2015.cli import run as run_loaded

    if plain:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_loaded()


if __name__ == "__main__":
    run()
