"""`idgan-fast COMMAND ...` and `python -m idgan_fast COMMAND ...`."""

import sys
from collections.abc import Sequence
from importlib import import_module

from idgan_fast import startup
from idgan_fast.errors import let_output_escape, nearest, print_error

# The module and what the command does. Modules have main(argv, prog) -> exit status, and are imported when asked for.
COMMANDS = {
    "train": ("idgan_fast.train", "train both stages of ID-GAN"),
    "doctor": ("idgan_fast.tools.doctor", "show what is installed and usable, and check every operator here"),
    "pack": ("idgan_fast.tools.pack", "resize pictures into a zip or tar shards, for faster and smaller data"),
    "memory": ("idgan_fast.tools.memory", "predict the peak memory of a training run without running it"),
    "roofline": ("idgan_fast.tools.roofline", "predict flops, bytes and time of every layer on A100, H100 and H200"),
    "tune": ("idgan_fast.tools.tune", "measure the fastest tiles of a preset's layers on this GPU, for later runs"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, with the others. Returns its exit status."""
    let_output_escape()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: idgan-fast COMMAND [options]\n")
        for name, (_, text) in COMMANDS.items():
            print(f"  {name:10} {text}")
        print("\nidgan-fast COMMAND --help shows a command's options.")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        print_error(f"no command named {name}; {nearest(name, COMMANDS)}")
        return 2
    startup.prepare()
    with startup.ending_quietly():
        command = import_module(COMMANDS[name][0])
    return startup.unless_output_closes(lambda: command.main(arguments[1:], f"idgan-fast {name}"))


if __name__ == "__main__":
    sys.exit(main())
