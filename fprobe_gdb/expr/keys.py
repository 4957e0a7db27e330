"""What summaries add up: numbers for histograms, and keys for counting, made of the same expressions as filters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from fprobe_gdb.errors import ExprError
from fprobe_gdb.expr.check import check
from fprobe_gdb.expr.compile import NO_VALUE, number, text
from fprobe_gdb.expr.context import Context, as_text
from fprobe_gdb.expr.fitting import fit
from fprobe_gdb.expr.hit import HitScope
from fprobe_gdb.expr.kinds import IntKind, PointerKind
from fprobe_gdb.expr.names import Scope
from fprobe_gdb.expr.parser import parse, parse_list
from fprobe_gdb.expr.typed import RetVal, Typed
from fprobe_gdb.kernel.btf import EnumType
from fprobe_gdb.kernel.values import error_code, error_name

__all__ = ["Extraction", "Extractor", "KeyPart", "compile_keys", "compile_quantity"]

_Key = TypeVar("_Key", bound=Hashable)
_Item = TypeVar("_Item")
#: What a key is made of: a number, or text that says more than the number would.
Part = int | str


@dataclass(frozen=True, slots=True)
class KeyPart:
    """One expression of what is taken.

    :param show: of a number, what a key has of it; None for text. Equal for numbers that are shown alike.
    """

    node: Typed
    show: Callable[[int], Part] | None = None

    def take(self) -> Callable[[HitScope], Part]:
        """A closure for it."""
        if self.show is None:
            return text(self.node)
        number_of, show = number(self.node), self.show
        return lambda hit: show(number_of(hit))


class Extractor(Generic[_Item]):
    """Something to be taken of each hit of one function; call it with a hit."""

    __slots__ = ("_take", "faults", "parts")

    def __init__(self, parts: tuple[KeyPart, ...], take: Callable[[HitScope], _Item]) -> None:
        #: What it is made of; the one number of a quantity.
        self.parts = parts
        self._take = take
        #: Hits that have no value, see :attr:`Predicate.faults <fprobe_gdb.expr.filter.Predicate.faults>`.
        self.faults = 0

    def __call__(self, hit: HitScope) -> _Item | None:
        """The hit's value; None where it has none, which is counted."""
        try:
            return self._take(hit)
        except NO_VALUE:
            self.faults += 1
            return None


@dataclass(frozen=True, slots=True)
class Extraction(Generic[_Key, _Item]):
    """An extractor for each probed function."""

    #: The text of each expression: a heading for each part of a key.
    titles: tuple[str, ...]
    extractors: Mapping[_Key, Extractor[_Item]]
    #: The functions that were left out, with the reason.
    unfit: Mapping[_Key, ExprError]

    @property
    def faults(self) -> int:
        """:attr:`Extractor.faults` of all functions."""
        return sum(extractor.faults for extractor in self.extractors.values())


def compile_quantity(text_: str, scopes: Mapping[_Key, Scope], *, skip_unfit: bool = False) -> Extraction[_Key, int]:
    """A number of each hit, for ``--hist``: ``count``, ``duration``, ``retval``.

    Parameters and errors as :func:`~fprobe_gdb.expr.filter.compile_filter`.
    """
    node = parse(text_)

    def make(scope: Scope) -> Extractor[int]:
        typed = check(node, scope, text_)
        Context(scope, text_).need_number(typed, node.column, "a histogram")
        take = number(typed)
        return Extractor((KeyPart(typed, int),), lambda hit: int(take(hit)))

    fitting = fit(text_, scopes, make, skip_unfit=skip_unfit)
    return Extraction((text_.strip(),), fitting.made, fitting.unfit)


def compile_keys(
    text_: str, scopes: Mapping[_Key, Scope], *, skip_unfit: bool = False
) -> Extraction[_Key, tuple[Part, ...]]:
    """A key of each hit, for ``--count-by``: one expression, or several with commas between: ``comm, retval``.

    Enumerations, truth values and error codes in ``retval`` come by name, addresses as ``0x...``, strings (``char *``
    and character arrays) as their text, other numbers as numbers.

    Parameters and errors as :func:`~fprobe_gdb.expr.filter.compile_filter`.
    """
    nodes = parse_list(text_)

    def make(scope: Scope) -> Extractor[tuple[Part, ...]]:
        parts = []
        for _, node in nodes:
            typed = check(node, scope, text_)
            if as_text(typed) is None:
                Context(scope, text_).need_number(typed, node.column, "a key")
            parts.append(_part(typed))
        takes = [part.take() for part in parts]
        if len(takes) == 1:
            (only,) = takes
            return Extractor(tuple(parts), lambda hit: (only(hit),))
        return Extractor(tuple(parts), lambda hit: tuple([take(hit) for take in takes]))

    fitting = fit(text_, scopes, make, skip_unfit=skip_unfit)
    return Extraction(tuple(title for title, _ in nodes), fitting.made, fitting.unfit)


def _part(node: Typed) -> KeyPart:
    if (string := as_text(node)) is not None:
        return KeyPart(string)
    kind = node.kind
    show: Callable[[int], Part] = int
    if isinstance(kind, PointerKind) or (isinstance(kind, IntKind) and kind.is_address):
        show = _error_or_address if isinstance(node, RetVal) else hex
    elif isinstance(kind, IntKind) and kind.is_bool:
        show = _truth
    elif isinstance(kind, IntKind) and kind.type and isinstance(enum := kind.type.resolve(), EnumType):
        show = _Named(enum)
    elif isinstance(node, RetVal):
        show = _error_or_number
    return KeyPart(node, show)


# An enumerator's name.
@dataclass(frozen=True, slots=True)
class _Named:
    enum: EnumType

    def __call__(self, value: int) -> Part:
        return self.enum.names.get(value, value)


def _truth(value: int) -> Part:
    return "true" if value else "false"


def _error_or_number(value: int) -> Part:
    return error_name(value) or value if value < 0 else value


def _error_or_address(value: int) -> Part:
    code = error_code(value)
    return (error_name(code) if code is not None else None) or hex(value)
