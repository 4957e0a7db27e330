"""One expression over several functions, whose prototypes differ."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fprobe_gdb.errors import ExprError, ExprUnfit
from fprobe_gdb.expr.names import Scope

__all__ = ["Fitting", "fit"]

_Key = TypeVar("_Key", bound=Hashable)
_Made = TypeVar("_Made")
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Fitting(Generic[_Key, _Made]):
    """What was made for each function, and why nothing was made for the others."""

    made: Mapping[_Key, _Made]
    unfit: Mapping[_Key, ExprError]


def fit(
    text: str, scopes: Mapping[_Key, Scope], make: Callable[[Scope], _Made], *, skip_unfit: bool
) -> Fitting[_Key, _Made]:
    """Make something of an expression for each function that it fits.

    :param make: raises :class:`~fprobe_gdb.errors.ExprError` for a function that it does not fit.
    :raise ExprError: it fits none.
    :raise ExprUnfit: it fits some only, and ``skip_unfit`` is not set.
    """
    made: dict[_Key, _Made] = {}
    unfit: dict[_Key, ExprError] = {}
    for key, scope in scopes.items():
        try:
            made[key] = make(scope)
        except ExprError as error:
            unfit[key] = error
    if unfit and not made:
        raise _none(text, scopes, unfit)
    if unfit and not skip_unfit:
        raise _some(text, scopes, unfit)
    return Fitting(made, unfit)


def _none(text: str, scopes: Mapping[_Key, Scope], unfit: Mapping[_Key, ExprError]) -> ExprError:
    key, first = next(iter(unfit.items()))
    where = f"{scopes[key].func}(): " if len(unfit) == 1 else f"{scopes[key].func}() and {len(unfit) - 1} more: "
    return ExprError(where + first.message, text, first.column, first.near)


# The functions by what they lack.
def _some(text: str, scopes: Mapping[_Key, Scope], unfit: Mapping[_Key, ExprError]) -> ExprUnfit:
    first = next(iter(unfit.values()))
    by_reason: dict[str, list[str]] = {}
    for key, error in unfit.items():
        by_reason.setdefault(error.message, []).append(scopes[key].func)
    lines = [f"this does not fit {len(unfit)} of the {len(scopes)} functions:"]
    for reason, functions in by_reason.items():
        more = f" and {len(functions) - _NAMED} more" if len(functions) > _NAMED else ""
        lines.append(f"  {', '.join(f'{func}()' for func in functions[:_NAMED])}{more}: {reason}")
    return ExprUnfit("\n".join(lines), text, first.column, [scopes[key].func for key in unfit])
