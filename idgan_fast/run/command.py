"""The main job as a command: run both stages, and say in a line what went wrong."""

import contextlib
import sys
from collections.abc import Sequence

from idgan_fast.config import arguments
from idgan_fast.errors import UserError, in_words, out_of_memory, print_error, printable
from idgan_fast.run.console import Console
from idgan_fast.run.signals import StopSignal
from idgan_fast.run.trainer import Stopped, Trainer


def run(argv: Sequence[str], prog: str) -> int:
    """Run the command. Returns the exit status; what the user can mend is a line on standard error."""
    try:
        config = arguments.parse(argv, prog)
        with StopSignal() as stop:
            console = Console(on_closed=stop.output_closed)
            try:
                trainer = Trainer(config, console, stop)
                with contextlib.closing(trainer.folder), contextlib.closing(console):
                    trainer.run()
            except Stopped as stopped:
                assert stop.received is not None
                line = f"{stop.received.name}: {stopped}; the same command goes on from there"
                print(printable(line), file=sys.stderr) if console.closed else console.line(line)
                return 128 + stop.received
        return 0
    except UserError as error:
        line, status = str(error), 2
    except KeyboardInterrupt:
        line, status = "interrupted before a checkpoint could be written", 130
    except (RuntimeError, MemoryError, OSError) as error:
        memory = out_of_memory(error)
        if memory is not None:
            line = f"out of memory: {memory}; try a smaller --vae.batch-size or --gan.batch-size, or fewer --workers"
            line += "; idgan-fast memory predicts what a run needs"
        elif isinstance(error, OSError):
            line = f"{in_words(error)}: {error.filename or 'in the run folder'}; mend it, then the same command goes on"
        else:
            raise
        status = 2
    print_error(line)
    return status
