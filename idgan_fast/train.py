"""The main job, `python -m idgan_fast.train`: parse the settings, run both stages, say in a line what went wrong."""

import contextlib
import sys
from collections.abc import Sequence

import torch

from idgan_fast.config import arguments
from idgan_fast.errors import UserError, in_words
from idgan_fast.run.console import Console
from idgan_fast.run.signals import StopSignal
from idgan_fast.run.trainer import Stopped, Trainer


def main(argv: Sequence[str] | None = None, prog: str = "python -m idgan_fast.train") -> int:
    """Run the command. Returns the exit status; what the user can mend is a line on standard error."""
    try:
        config = arguments.parse(sys.argv[1:] if argv is None else argv, prog)
        console = Console()
        with StopSignal() as stop:
            try:
                trainer = Trainer(config, console, stop)
                with contextlib.closing(trainer.folder):
                    trainer.run()
            except Stopped as stopped:
                assert stop.received is not None
                console.line(f"{stop.received.name}: {stopped}; the same command goes on from there")
                return 128 + stop.received
        return 0
    except UserError as error:
        line, status = str(error), 2
    except torch.OutOfMemoryError as error:
        line = f"out of memory: {str(error).splitlines()[0]}; try a smaller --vae.batch-size or --gan.batch-size"
        line += ", and idgan-fast memory, which predicts what a run needs"
        status = 2
    except OSError as error:
        where = error.filename or "in the run folder"
        line, status = f"{in_words(error)}: {where}; mend it, then the same command goes on", 2
    except KeyboardInterrupt:
        line, status = "interrupted before a checkpoint could be written", 130
    print(f"error: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
