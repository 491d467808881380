"""How much memory a tabular problem takes, told before it is taken."""

from __future__ import annotations

import os
import sys

from envs.errors import InvalidSetting

ARRAYS = 8
"""Of S A S numbers that planning holds at once: kernel, counts, centre, radius, their bounds, what is between."""
TOLD_FROM = 2**28
"""[bytes] from which the estimate is printed."""


def needed(states: int, actions: int, horizon: int) -> int:
    """[bytes] of playing and planning, about: ``8 (8 S^2 A + 6 H S A)``."""
    return 8 * (ARRAYS * states * states * actions + 6 * horizon * states * actions)


def available() -> int:
    """[bytes] that this machine has free; infinite, in effect, where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62


def check(bytes_needed: int, what: str, remedy: str, room: int | None = None) -> None:
    """Print a large estimate on the error stream, and refuse what does not fit.

    Args:
        room: [bytes]; None asks the machine.

    Raises:
        InvalidSetting: if more is needed than there is.
    """
    room = available() if room is None else room
    text = f"{what} takes about {bytes_needed / 2**30:.3g} GiB"
    if bytes_needed > TOLD_FROM:
        print(f"{text}; {room / 2**30:.3g} GiB are free.", file=sys.stderr, flush=True)
    if bytes_needed > room:
        raise InvalidSetting("states", f"{text}, but {room / 2**30:.3g} GiB are free", remedy)


def check_states(states: int, actions: int, horizon: int, room: int | None = None) -> None:
    """`check` for a dense problem of that size, before its arrays are made.

    Raises:
        InvalidSetting: if it does not fit.
    """
    check(
        needed(states, actions, horizon),
        f"A kernel of {states:,} states and {actions:,} actions with what planning adds",
        "Merge states, or use an algorithm with networks, such as those of algorithms.omlt_ddpg.",
        room,
    )
