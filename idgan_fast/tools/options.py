"""The parser of the commands that have a few options of their own."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from idgan_fast.config.arguments import LARGEST_WHOLE, require_values
from idgan_fast.errors import UserError, nearest, shown


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are a `UserError` of one line."""

    def __init__(self, prog: str | None, description: str | None) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=formatter, allow_abbrev=False)

    def error(self, message: str) -> Any:
        raise UserError(f"{message}; {self.prog} --help shows what there is")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The options; argv: None for those of this process. Raises UserError; SystemExit after --help."""
        argv = sys.argv[1:] if argv is None else argv
        require_values(argv)
        options, unknown = self.parse_known_args(argv)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            raise UserError(f"{unknown[0]}: no such option; {nearest(unknown[0].split('=')[0], flags)}")
        return options


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """The type of an option that is a number from `least` to `most`, for `add_argument`."""

    def convert(text: str) -> int:
        largest = min(most, LARGEST_WHOLE)
        too_many_digits = len(text) > 20
        if text.isdecimal() and not too_many_digits and least <= int(text) <= largest:
            return int(text)
        too_large = text.isdecimal() and (too_many_digits or int(text) > largest)
        wanted = f"from {least} to {largest}" if too_large or most < math.inf else f"of {least} or more"
        raise argparse.ArgumentTypeError(f"must be a whole number {wanted}, got {shown(text)}")

    return convert


def positive_number(text: str) -> float:
    """The type of an option that is a finite number above 0, for `add_argument`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {shown(text)}")
    return value
