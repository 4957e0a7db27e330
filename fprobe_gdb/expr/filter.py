"""Filters: which hits are worth a line. One text, checked and compiled for each probed function.

>>> found = compile_filter('count > 512 and comm == "cat"', {"vfs_read": scope})  # doctest: +SKIP
>>> found.predicates["vfs_read"](hit)  # doctest: +SKIP
True
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fprobe_gdb.errors import ExprError
from fprobe_gdb.expr.check import check, check_condition
from fprobe_gdb.expr.compile import NO_VALUE, number
from fprobe_gdb.expr.fitting import fit
from fprobe_gdb.expr.hit import HitScope
from fprobe_gdb.expr.kinds import INT, IntKind, ObjectKind
from fprobe_gdb.expr.lexer import duration_ns
from fprobe_gdb.expr.names import EXIT_ONLY, Scope, error_numbers, near
from fprobe_gdb.expr.parser import parse, parse_list
from fprobe_gdb.expr.syntax import names
from fprobe_gdb.expr.typed import Const, Typed

__all__ = [
    "Filter",
    "Predicate",
    "compile_filter",
    "errors_filter",
    "min_duration_filter",
    "needs_exit",
    "parse_duration",
]

_Key = TypeVar("_Key", bound=Hashable)


class Predicate:
    """One expression over the hits of one function; call it with a hit."""

    __slots__ = ("_test", "condition", "faults")

    def __init__(self, condition: Typed) -> None:
        #: What it asks.
        self.condition = condition
        self._test: Callable[[HitScope], int] = number(condition)
        #: Hits for which it could not be evaluated, and so was false: unreadable memory, an index outside its array,
        #: a division by zero.
        self.faults = 0

    def __call__(self, hit: HitScope) -> bool:
        """Whether the hit passes.

        :raise StaleValue: the hit belongs to an earlier stop of the guest.
        """
        try:
            return bool(self._test(hit))
        except NO_VALUE:
            self.faults += 1
            return False


@dataclass(frozen=True, slots=True)
class Filter(Generic[_Key]):
    """A filter for all probed functions."""

    text: str
    #: By the keys of the scopes that it was compiled for.
    predicates: Mapping[_Key, Predicate]
    #: The functions that it does not fit and that were left out, with the reason.
    unfit: Mapping[_Key, ExprError]

    @property
    def faults(self) -> int:
        """:attr:`Predicate.faults` of all functions."""
        return sum(predicate.faults for predicate in self.predicates.values())


def compile_filter(text: str, scopes: Mapping[_Key, Scope], *, skip_unfit: bool = False) -> Filter[_Key]:
    """Parse, check and compile a filter.

    :param scopes: the probed functions, by whatever tells them apart (name, ``entry_ip``).
    :param skip_unfit: leave out the functions that lack an argument or member, or have it with another type; they are
        in the result's ``unfit``.
    :raise ExprError: it is no expression, or fits no function.
    :raise ExprUnfit: it fits some functions only, and ``skip_unfit`` is not set.
    """
    node = parse(text)
    fitting = fit(text, scopes, lambda scope: Predicate(check_condition(node, scope, text)), skip_unfit=skip_unfit)
    return Filter(text, fitting.made, fitting.unfit)


def needs_exit(text: str) -> bool:
    """Whether an expression, or one of several between commas, uses what is known only at a function's exit.

    :raise ExprError: it is no expression.
    """
    found = (name.name.removeprefix("$") for _, node in parse_list(text) for name in names(node))
    return any(name in EXIT_ONLY for name in found)


def errors_filter(codes: Sequence[str], scopes: Mapping[_Key, Scope]) -> Filter[_Key]:
    """Calls that return an error, by the type of the return value; see ``is_err()``.

    Functions whose type cannot carry an error (``void``, ``bool``, structures, short unsigned numbers) never pass.

    :param codes: only these, by name (``ENOENT``, ``-ENOENT``) or number; none for all.
    :param scopes: of exits.
    :raise ExprError: a name that is no error's.
    """
    wanted = [_error_code(code) for code in codes]
    text = (
        f"is_err($retval) && $retval in ({', '.join(f'-{code}' for code in wanted)})" if wanted else "is_err($retval)"
    )
    node = parse(text)
    predicates = {
        key: Predicate(check_condition(node, scope, text) if _can_fail(scope) else Const(INT, 0))
        for key, scope in scopes.items()
    }
    return Filter(text, predicates, {})


def min_duration_filter(duration: str, scopes: Mapping[_Key, Scope]) -> Filter[_Key]:
    """Calls that took at least so long.

    :param duration: ``5us``, ``1.5ms``, ``2s``, or nanoseconds.
    :param scopes: of exits.
    :raise ExprError: it is no duration.
    """
    return compile_filter(f"$duration >= {parse_duration(duration)}", scopes)


def parse_duration(text: str) -> int:
    """Nanoseconds of ``5us``, ``1.5ms``, ``2s``, ``10ns`` or a plain number.

    :raise ExprError: it is no duration.
    """
    word = text.strip()
    found = duration_ns(word) if not (word.isascii() and word.isdecimal() and len(word) < 20) else int(word)
    if found is None or found >> 63:
        raise ExprError("no duration; write 5us, 1.5ms, 2s, or nanoseconds", text, 0)
    return found


def _error_code(code: str) -> int:
    word = code.strip().removeprefix("-")
    if word.isascii() and word.isdecimal() and len(word) <= 4 and 0 < int(word) <= 4095:
        return int(word)
    found = error_numbers().get(word.upper())
    if found is None:
        raise ExprError(f"no error is named {word[:40]!r}", code, 0, near(word.upper(), error_numbers()))
    return found


def _can_fail(scope: Scope) -> bool:
    if scope.proto is None:
        return True
    try:
        kind = check(parse("$retval"), scope, "$retval").kind
    except ExprError:
        return False
    return not isinstance(kind, ObjectKind) and not (isinstance(kind, IntKind) and kind.is_bool)
