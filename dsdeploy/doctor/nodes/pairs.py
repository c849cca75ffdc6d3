"""Who measures with whom at the same time."""

from __future__ import annotations


def rounds(count: int) -> list[list[tuple[int, int]]]:
    """All pairs of `count` nodes, so that no node is in two pairs of a round: one stays, the others
    move on by one seat (the circle method)."""
    seats = list(range(count + count % 2))  # an odd one sits out
    found = []
    for _ in range(len(seats) - 1):
        half = len(seats) // 2
        pairs = zip(seats[:half], reversed(seats[half:]), strict=True)
        found.append([(min(p), max(p)) for p in pairs if max(p) < count])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return found
