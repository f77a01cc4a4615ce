"""The command `gnomon`, and `python -m gnomon`."""

import sys

from gnomon import interrupts


def main() -> None:
    """Run the command line. Ctrl-C is answered from here on, while the commands are imported too."""
    interrupts.install_handler()
    try:
        from gnomon.cli import main as run

        run()
    except (KeyboardInterrupt, Exception) as error:
        if not (interrupts.was_interrupted() or isinstance(error, KeyboardInterrupt)):
            raise
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
