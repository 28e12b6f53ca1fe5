"""Times functions in turns, so that other load on the machine affects all of them equally."""

import statistics
import time
from collections.abc import Callable


def time_in_turns(
    functions: dict[str, Callable[[], object]], rounds: int, prepare: Callable[[], object] = lambda: None
) -> dict[str, list[tuple[float, float]]]:
    """Returns the seconds of each function in each round: wall-clock time and processor time of this process.

    A first round warms up and is not counted. Every other round has the reverse order.

    Args:
        prepare: is called before each function and not timed.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name in sorted(functions, key=list(functions).index, reverse=number % 2 == 1):
            prepare()
            clock, busy = time.perf_counter(), time.process_time()
            functions[name]()
            if number > 0:
                seconds[name].append((time.perf_counter() - clock, time.process_time() - busy))
    return seconds


def medians(seconds: list[tuple[float, float]]) -> tuple[float, float]:
    """Returns the median wall-clock time and the median processor time."""
    clock, busy = zip(*seconds, strict=True)
    return statistics.median(clock), statistics.median(busy)
