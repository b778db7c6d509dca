"""What the sites send, and when."""

import time


def paced(count, rate, size):
    """Give the number and the data of events, so many a second (0: unpaced), from a thread."""
    padding = "x" * size
    started = time.monotonic()
    for number in range(count):
        if rate:
            time.sleep(max(0.0, started + number / rate - time.monotonic()))
        yield number, f'{{"t": {time.monotonic_ns()}, "n": {number}, "padding": "{padding}"}}'
