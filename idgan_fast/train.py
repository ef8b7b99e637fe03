"""The main job, `python -m idgan_fast.train`."""

import sys
from collections.abc import Sequence

from idgan_fast import startup
from idgan_fast.errors import let_output_escape


def main(argv: Sequence[str] | None = None, prog: str = "python -m idgan_fast.train") -> int:
    """Train both stages of ID-GAN with the options in argv. Returns the exit status."""
    let_output_escape()
    startup.prepare()
    with startup.ending_quietly():
        from idgan_fast.run.command import run
    return run(sys.argv[1:] if argv is None else argv, prog)


if __name__ == "__main__":
    sys.exit(main())
