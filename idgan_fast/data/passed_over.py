"""Which names are images, and a count by reason of all that is passed over beside them."""

import os
import re
from collections import Counter
from collections.abc import Iterable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# A folder in a path that is hidden, or that systems keep thumbnails, copies or deleted files in.
ASIDE = re.compile(r"(?:^|[/\\])(\.(?!\.?[/\\])[^/\\]*|@eaDir|__MACOSX|#recycle|\$RECYCLE\.BIN)[/\\]")
EXAMPLES = 4  # of each reason


class PassedOver:
    """Counts of files and folders by reason. `text` has them in a line."""

    def __init__(self) -> None:
        self._examples: dict[str, Counter[str]] = {}
        self._folders: set[str] = set()

    def add(self, reason: str, example: str) -> None:
        self._examples.setdefault(reason, Counter())[example] += 1

    def aside(self, path: str) -> bool:
        """Whether a path lies in a folder that is set aside; folders end in "/". The folder is counted once."""
        match = ASIDE.search(path)
        if match is None:
            return False
        folder = path[: match.end()]
        if folder not in self._folders:
            self._folders.add(folder)
            self.add("hidden or of thumbnails", f"{match[1]}/")
        return True

    def images(self, names: Iterable[str]) -> list[str]:
        """Return the images among names of files; the others are counted."""
        images = []
        for name in names:
            if self.aside(name):
                continue
            if is_image(name):
                images.append(name)
            elif left_by_macos(name):
                self.add("left by macOS", name)
            else:
                stem, suffix = os.path.splitext(os.path.basename(name))
                self.add("by suffix", suffix.lower() or (stem if stem.startswith(".") else "none"))
        return images

    def text(self) -> str:
        """Return what was passed over in a line, empty where nothing was."""
        if not self._examples:
            return ""
        reasons = []
        for reason, examples in sorted(self._examples.items()):
            first = sorted(examples, key=lambda example: (-examples[example], example))[:EXAMPLES]
            more = ", ..." if len(examples) > EXAMPLES else ""
            reasons.append(f"{examples.total():,} {reason} ({', '.join(first)}{more})")
        total = sum(examples.total() for examples in self._examples.values())
        return f"passed over {total:,} files and folders: {', '.join(reasons)}"


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not left_by_macos(name)


def left_by_macos(name: str) -> bool:
    """Whether a file holds what macOS keeps of another file, under its name."""
    return os.path.basename(name).startswith("._")
