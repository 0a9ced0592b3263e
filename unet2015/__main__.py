"""`python -m unet2015`: the command line."""

from unet2015.cli import run

if __name__ == "__main__":
    run()
