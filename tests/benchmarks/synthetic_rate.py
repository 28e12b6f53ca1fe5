"""Synthetic rows per second on one core: `python -m tests.benchmarks.synthetic_rate`.

Measures drawing, JPEG encoding and the texts. Target: 300 images per second of processor time.
"""

import argparse
import itertools
import time

from data_pipeline.synthetic.dataset import synthetic_row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200, help="people to draw, six images each")
    people = parser.parse_args().people
    for shot in range(30):  # fills the caches of patterns and noise
        synthetic_row(1, 0, 0, shot)
    start, busy = time.perf_counter(), time.process_time()
    for person_id, outfit, shot in itertools.product(range(people), range(2), range(3)):
        synthetic_row(0, person_id, outfit, shot)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    count = people * 6
    print(f"{count} rows: {count / busy:.0f} images/s of processor time (target: 300); {seconds:.2f} s of clock time")


if __name__ == "__main__":
    main()
