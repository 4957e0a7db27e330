"""Numbers as people read them."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fprobe_gdb.output.quantities import duration, error_code, guest_time, retval
from tests.unit.output.properties import PROPERTY

UNITS_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


@pytest.mark.parametrize(
    ("time_ns", "shown"),
    [
        (0, "    0.000000"),
        (499, "    0.000000"),
        (500, "    0.000001"),  # ftrace rounds half up: ns2usecs()
        (999_999_500, "    1.000000"),
        (41_927_366_000, "   41.927366"),
        (123_456_000_001_000, "123456.000001"),
    ],
)
def test_guest_time(time_ns, shown):
    assert guest_time(time_ns) == shown


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (0, "0ns"),
        (999, "999ns"),
        (1_000, "1.0us"),
        (12_900, "12.9us"),
        (999_949, "999.9us"),
        (999_950, "1.0ms"),  # would be 1000.0us
        (999_950_000, "1.0s"),
        (90_000_000_000, "90.0s"),
        (-5, "-5ns"),
        (-1_500, "-1.5us"),
    ],
)
def test_duration(ns, shown):
    assert duration(ns) == shown


@PROPERTY
@given(st.integers(0, 2**63))
def test_duration_is_off_by_half_a_tenth_at_most(ns):
    number, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", duration(ns)).groups()
    assert abs(Fraction(number) * UNITS_NS[unit] - ns) <= Fraction(UNITS_NS[unit], 20)
    assert unit == "s" or Fraction(number) < 1000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0x0"),
        (0x1000, "0x1000"),
        (2**64 - 1, "0xffffffffffffffff (-1 -EPERM)"),
        (2**64 - 2, "0xfffffffffffffffe (-2 -ENOENT)"),
        (2**64 - 4095, "0xfffffffffffff001 (-4095)"),  # MAX_ERRNO, which has no name
        (2**64 - 4096, "0xfffffffffffff000"),
        (2**32 - 2, "0xfffffffe (-2 -ENOENT)"),  # int: mov $-2,%eax clears the upper half
        (2**31, "0x80000000"),  # the most negative int, no error code
        (2**33 - 2, "0x1fffffffe"),  # bits above an int: not one
        (2**64 - 512, "0xfffffffffffffe00 (-512 -ERESTARTSYS)"),  # the kernel's own
        (2**64 - 524, "0xfffffffffffffdf4 (-524 -ENOTSUPP)"),
        (2**64 - 95, "0xffffffffffffffa1 (-95 -EOPNOTSUPP)"),  # ENOTSUP in user space
        (2**64 - 11, "0xfffffffffffffff5 (-11 -EAGAIN)"),
        (2**64 - 35, "0xffffffffffffffdd (-35 -EDEADLK)"),
    ],
)
def test_retval(value, shown):
    assert retval(value) == shown


@PROPERTY
@given(st.integers(-4095, -1))
def test_error_code_of_both_widths(code):
    assert error_code(code % 2**64) == error_code(code % 2**32) == code


@PROPERTY
@given(st.integers(0, 2**64 - 4096).filter(lambda value: not 2**32 - 4095 <= value < 2**32))
def test_other_values_are_no_error_codes(value):
    assert error_code(value) == 0
