"""Numbers as a reader wants to see them: few digits, aligned, powers of ten for tiny ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Value", "column_texts", "is_number", "setting_text", "text"]

Value = str | float | int | bool | None

ABSENT = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"


def text(value: Value) -> str:
    """A measured value: four decimals below ten, thin spaces, powers of ten where tiny or huge.

    A power is written ``10^{...}``, for the page to raise.

    Examples
    --------
    >>> [text(value) for value in (0.06471, 0.000353, 12.5, 0.0, True, "cpu")]
    ['0.0647', '0.000353', '12.50', '0', 'yes', 'cpu']
    >>> text(2.4e-7).isascii(), text(2.4e-7)[-8:]
    (False, ' 10^{\N{MINUS SIGN}7}')
    """
    if value is None:
        return ABSENT
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace(",", THIN)
    if not isinstance(value, (float, np.floating)):
        return str(value)
    size = abs(float(value))
    if not math.isfinite(size):
        return ABSENT if math.isnan(size) else str(value)
    if size == 0:
        return "0"
    if 1e-4 <= size < 1e5:
        return f"{float(value):.{_decimals(size)}f}"
    digits, power = f"{float(value):.1e}".split("e")
    return f"{digits} {TIMES} 10^{{{int(power)}}}".replace("-", MINUS)


def _decimals(size: float) -> int:
    return 6 if size < 1e-3 else 4 if size < 10 else 2


def column_texts(values: Sequence[Value]) -> list[str]:
    """The values of one column, figures with equally many decimals so that they align.

    Examples
    --------
    >>> column_texts([0.000353, 0.0045, 0.0, None])[:3]
    ['0.000353', '0.004500', '0.000000']
    >>> column_texts([3, 0.5])
    ['3', '0.5000']
    """
    floats = [abs(float(v)) for v in values if isinstance(v, (float, np.floating)) and is_number(v)]
    sizes = [size for size in floats if size > 0]
    if not sizes or min(sizes) < 1e-6 or max(sizes) >= 1e5:
        return [text(value) for value in values]
    decimals = _decimals(min(sizes))
    return [
        f"{float(value):.{decimals}f}"
        if isinstance(value, (float, np.floating)) and is_number(value)
        else text(value)
        for value in values
    ]


def setting_text(value: Value) -> str:
    """A chosen value, as it would be typed.

    Examples
    --------
    >>> [setting_text(value) for value in (10.0, 0.002, 1e-05, 60000, False, None)]
    ['10', '0.002', '1e-05', '60000', 'no', 'none']
    """
    if value is None:
        return "none"
    if isinstance(value, (bool, np.bool_)):
        return text(bool(value))
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (a truth value is none).

    Examples
    --------
    >>> [is_number(value) for value in (1, 2.5, float("nan"), True, "3")]
    [True, True, False, False, False]
    """
    number = isinstance(value, (int, float, np.integer, np.floating))
    return number and not isinstance(value, bool) and math.isfinite(value)
