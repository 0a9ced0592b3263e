"""`python -m weightmaps`: weight maps without the rest of the house, without torch."""

import signal


def run() -> None:
    """Run the command line of this process; Ctrl-C while it is loaded ends it without a word."""
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored
    if plain:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from weightmaps.cli import main

    if plain:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(main())


if __name__ == "__main__":
    run()
