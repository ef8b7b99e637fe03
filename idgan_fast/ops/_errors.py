"""Errors of the operators: one line that begins with the name of the public function that was called."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class OperatorError(Exception):
    """What was wrong, what was wanted, what came. `function` is the public function that the user called."""

    function: str | None = None

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.function is None else f"{self.function}: {text}"


class ArgumentValueError(OperatorError, ValueError):
    """An argument has a wrong value or shape."""


class ArgumentTypeError(OperatorError, TypeError):
    """An argument has a wrong type or dtype."""


class BackendError(OperatorError, RuntimeError):
    """A backend was asked for by name and cannot run. One line, with the reason."""


def public(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Marks a public operator: errors that it raises bear its name, also those of operators that it calls."""

    @wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except OperatorError as error:
            error.function = function.__name__
            raise

    return call
