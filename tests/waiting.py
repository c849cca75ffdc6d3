"""What comes to pass in another process or thread is waited for, and not for ever."""

import time


def until(condition, seconds=60, every=0.02):
    """What the condition gives, when it is true of it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(every)
    return found
