"""C's arithmetic on numbers that are within the range of their kind already.

What C leaves undefined is what an x86 does: overflow wraps (kernels are built with ``-fno-strict-overflow``), and a
shift's count is taken modulo the width. Division by zero has no value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from fprobe_gdb.expr.hit import HitScope
from fprobe_gdb.expr.kinds import IntKind, wrap

__all__ = ["arithmetic"]

Number = Callable[[HitScope], int]

# Of two numbers of a kind, these give a number of that kind.
_CLOSED = {"&": operator.and_, "|": operator.or_, "^": operator.xor}
_WRAPPING = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def arithmetic(sign: str, kind: IntKind, left: Number, right: Number) -> Number:
    """A closure for ``left sign right``."""
    if sign in _CLOSED:
        closed = _CLOSED[sign]
        return lambda hit: closed(left(hit), right(hit))
    if sign in _WRAPPING:
        wrapping = _WRAPPING[sign]
        return lambda hit: wrap(wrapping(left(hit), right(hit)), kind)
    top = kind.bits - 1
    match sign:
        case "<<":
            return lambda hit: wrap(left(hit) << (right(hit) & top), kind)
        case ">>":
            return lambda hit: left(hit) >> (right(hit) & top)
        case "/":
            return lambda hit: wrap(_quotient(left(hit), right(hit)), kind)
        case "%":
            return lambda hit: _remainder(left(hit), right(hit))
    raise AssertionError(f"no operator {sign}")


# C rounds towards zero.
def _quotient(left: int, right: int) -> int:
    found = abs(left) // abs(right)
    return found if (left < 0) == (right < 0) else -found


def _remainder(left: int, right: int) -> int:
    found = abs(left) % abs(right)
    return -found if left < 0 else found
