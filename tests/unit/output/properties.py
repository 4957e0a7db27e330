"""How properties are tested here."""

from hypothesis import settings

__all__ = ["PROPERTY"]

#: A busy machine is no failure, so no example has a deadline of its own.
PROPERTY = settings(max_examples=80)
