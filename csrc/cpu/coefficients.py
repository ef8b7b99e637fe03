"""Prints the constants of vmath.h: interpolation at Chebyshev nodes in 60 digits. Needs mpmath, which torch brings."""

from collections.abc import Callable

from mpmath import atanh, chebyfit, expm1, floor, ldexp, log, mp, mpf, sqrt

mp.dps = 60


def after_two_terms(r: mpf) -> mpf:
    """(e^r - 1 - r) / r^2"""
    return (expm1(r) - r) / r**2 if abs(r) > 1e-20 else mpf(1) / 2


def after_one_term(z: mpf) -> mpf:
    """(atanh(s) / s - 1) / s^2 at z = s^2"""
    s = sqrt(z)
    return (atanh(s) / s - 1) / z if z > 1e-20 else mpf(1) / 3


def show(name: str, f: Callable[[mpf], mpf], interval: list[mpf], terms: int) -> None:
    coefficients, error = chebyfit(f, interval, terms, error=True)
    print(f"{name}, error {mp.nstr(error, 2)}, highest power first:")
    print("  " + ", ".join(mp.nstr(c, 17) for c in coefficients))


half, third = log(2) / 2, mpf(1) / 3
for kind, bits, terms in (("float", 16, (6, 5)), ("double", 42, (11, 10))):
    high = ldexp(floor(ldexp(log(2), bits)), -bits)
    print(f"{kind}: ln 2 = {mp.nstr(high, 17)} + {mp.nstr(log(2) - high, 17)}, 1 / ln 2 = {mp.nstr(1 / log(2), 17)}")
    show("exponential", after_two_terms, [-half, half], terms[0])
    show("logarithm", after_one_term, [mpf(0), third**2], terms[1])
