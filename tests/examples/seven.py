"""One of the held-out scans: the example that both versions of the digits show.

Written down once more, so that nobody has to load torch for it.
"""

SEVEN: list[list[float]] = [
    [0, 0, 3, 11, 16, 15, 2, 0],
    [0, 4, 16, 10, 4, 16, 4, 0],
    [0, 7, 6, 0, 5, 16, 1, 0],
    [0, 0, 0, 0, 10, 12, 0, 0],
    [0, 0, 0, 9, 16, 16, 10, 0],
    [0, 0, 0, 6, 15, 6, 1, 0],
    [0, 0, 0, 13, 9, 0, 0, 0],
    [0, 0, 1, 15, 2, 0, 0, 0],
]
