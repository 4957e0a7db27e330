"""Numbers in expressions: a value behaves as its number, and a pointer as C's pointers do."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fprobe_gdb.errors import MemoryFault

if TYPE_CHECKING:
    from fprobe_gdb.kernel.values.value import Value

__all__ = ["Arithmetic"]


class Arithmetic:
    """Comparison and arithmetic for :class:`~fprobe_gdb.kernel.values.value.Value`.

    Results are plain ``int``, except a pointer plus or minus a number, which is a pointer. A fault is equal to nothing;
    anything else done with it raises :class:`~fprobe_gdb.errors.MemoryFault`.
    """

    __slots__ = ()

    @abstractmethod
    def __int__(self) -> int: ...

    @abstractmethod
    def _advanced(self, elements: int) -> Value | None: ...

    @abstractmethod
    def _distance(self, other: Any) -> int | None: ...

    def __index__(self) -> int:
        return int(self)

    def __bool__(self) -> bool:
        """Whether the number is not 0, or the pointer not NULL.

        :raise MemoryFault: it cannot be read.
        """
        return int(self) != 0

    # A structure has no number and is equal to nothing but itself.
    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, (int, Arithmetic)):
            return NotImplemented
        try:
            return int(self) == int(other)
        except (MemoryFault, TypeError):
            return False

    def __hash__(self) -> int:
        return hash(int(self))

    def __lt__(self, other: Any) -> bool:
        return self._with(operator.lt, other)  # type: ignore[no-any-return]

    def __le__(self, other: Any) -> bool:
        return self._with(operator.le, other)  # type: ignore[no-any-return]

    def __gt__(self, other: Any) -> bool:
        return self._with(operator.gt, other)  # type: ignore[no-any-return]

    def __ge__(self, other: Any) -> bool:
        return self._with(operator.ge, other)  # type: ignore[no-any-return]

    def __add__(self, other: Any) -> Any:
        if isinstance(other, (int, Arithmetic)) and (moved := self._advanced(int(other))) is not None:
            return moved
        return self._with(operator.add, other)

    def __radd__(self, other: Any) -> Any:
        return self + other

    def __sub__(self, other: Any) -> Any:
        if (distance := self._distance(other)) is not None:
            return distance
        if isinstance(other, (int, Arithmetic)) and (moved := self._advanced(-int(other))) is not None:
            return moved
        return self._with(operator.sub, other)

    def __rsub__(self, other: Any) -> Any:
        return other - int(self) if isinstance(other, int) else NotImplemented

    def __mul__(self, other: Any) -> Any:
        return self._with(operator.mul, other)

    def __floordiv__(self, other: Any) -> Any:
        return self._with(operator.floordiv, other)

    def __mod__(self, other: Any) -> Any:
        return self._with(operator.mod, other)

    def __and__(self, other: Any) -> Any:
        return self._with(operator.and_, other)

    def __or__(self, other: Any) -> Any:
        return self._with(operator.or_, other)

    def __xor__(self, other: Any) -> Any:
        return self._with(operator.xor, other)

    def __lshift__(self, other: Any) -> Any:
        return self._with(operator.lshift, other)

    def __rshift__(self, other: Any) -> Any:
        return self._with(operator.rshift, other)

    __rmul__ = __mul__
    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def __neg__(self) -> int:
        return -int(self)

    def __invert__(self) -> int:
        return ~int(self)

    def __abs__(self) -> int:
        return abs(int(self))

    def _with(self, operation: Callable[[Any, Any], Any], other: Any) -> Any:
        if not isinstance(other, (int, Arithmetic)):
            return NotImplemented
        return operation(int(self), int(other))
