"""Prints how many synthetic rows a second one core makes: drawing, JPEG encoding and all texts.

Run it as `python -m tests.benchmarks.synthetic_rate`.
"""

import argparse
import itertools
import time

from data_pipeline.synthetic.dataset import synthetic_row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=200, help="people to draw, six images each")
    people = parser.parse_args().people
    for shot in range(30):  # fills the caches of patterns and noise
        synthetic_row(1, 0, 0, shot)
    start, busy = time.perf_counter(), time.process_time()
    for person_id, outfit, shot in itertools.product(range(people), range(2), range(3)):
        synthetic_row(0, person_id, outfit, shot)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    # Processor time is what one core needs; other work on the machine only makes the clock run ahead of it.
    print(
        f"{people * 6} rows: {people * 6 / busy:.0f} images/s of one core (wanted: 300); {seconds:.2f} s by the clock"
    )


if __name__ == "__main__":
    main()
