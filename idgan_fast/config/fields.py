"""What a field of the settings carries beside its type, its default and its docstring."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

OnResume = Literal["fixed", "stage 2", "remedy", "free"]


@dataclasses.dataclass(frozen=True)
class Traits:
    """What a field of the settings carries; `setting` explains each."""

    at_least: float = -math.inf
    at_most: float = math.inf
    on_resume: OnResume = "fixed"
    compiled: bool = True
    departure: bool = True
    recorded: bool = True


def setting(
    default: Any,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    on_resume: OnResume = "fixed",
    compiled: bool | None = None,
    departure: bool | None = None,
    recorded: bool = True,
) -> Any:
    """Return a dataclass field. A field without this has the defaults of `Traits`.

    at_least, at_most: the bounds of a number, which it may equal.
    on_resume: whether a resumed run may have another value. "fixed": no. "stage 2": until stage 2 has begun; every
    setting of `gan` may change until then. "remedy": yes, and a line says so, since a run that got stuck needs it.
    "free": yes, since the setting says how a run is kept, not what it computes.
    compiled: whether a compiled step depends on the value. departure: whether another value than the paper's is a
    departure from the paper. Both are true by default, and false for a free setting.
    recorded: whether config.yaml holds the value; false for what only says where and how a run was started.
    """
    compiled = on_resume != "free" if compiled is None else compiled
    departure = on_resume != "free" if departure is None else departure
    traits = Traits(at_least, at_most, on_resume, compiled, departure, recorded)
    return dataclasses.field(default=default, metadata={"traits": traits})


def settings_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Traits]]:
    """Yield (dotted key, value, traits) for every field of nested dataclasses, in their order."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value, field.metadata.get("traits", Traits())
