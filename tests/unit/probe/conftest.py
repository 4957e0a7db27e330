"""What most tests of the probe core start from."""

from __future__ import annotations

import pytest

from tests.unit.probe.made_up_kernel import kernel_of
from tests.unit.probe.scripted_guest import ScriptedGuest


@pytest.fixture
def guest() -> ScriptedGuest:
    """A guest of two possible CPUs with the functions f, g, h, i."""
    return ScriptedGuest(kernel_of("f", "g", "h", "i"))
