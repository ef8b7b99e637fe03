"""How much may be measured and drawn: what a run and its device can afford, and who hears how far it is."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor


def unheard(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""


class Budget:
    """A time for measuring and drawing, which is divided by shares.

    seconds: of all of it. tell(what, images done, of how many): is called before each batch, and may raise to stop.
    A share that cannot pay for the images of a figure pays for fewer of them, as many as `least`, so that a slow
    device measures less and not longer; whoever shows the figure states the number of images.
    """

    def __init__(self, seconds: float = math.inf, tell: Callable[[str, int, int], None] = unheard) -> None:
        self.seconds, self._tell = seconds, tell
        self._seconds_per_image = 0.0  # of the last figure

    def affordable(self, most: int, *, least: int, share: float) -> int:
        """How many images the share pays for at the speed so far: `most` where nothing is known of it yet."""
        if self._seconds_per_image == 0.0 or math.isinf(self.seconds):
            return most
        return min(most, max(least, int(share * self.seconds / self._seconds_per_image)))

    def batches(self, what: str, parts: Sequence[Tensor], *, least: int, share: float) -> Iterator[Tensor]:
        """Yield the parts in order, until the share is spent and `least` rows of them are done."""
        start, done, total = time.monotonic(), 0, sum(map(len, parts))
        for part in parts:
            self._tell(what, done, total)
            yield part
            done += len(part)
            seconds = time.monotonic() - start
            self._seconds_per_image = seconds / done
            if seconds > share * self.seconds and done >= least:
                break
        self._tell(what, total, total)
