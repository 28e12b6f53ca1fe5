"""Association of boxes to tracks, and the choice of moments."""

import numpy as np
import pytest

from data_pipeline.detection.tracks import BestMoments, Tracker


def walker(start: float, speed: float, top: float = 50.0, seconds: float = 0.0) -> list[float]:
    """Returns the box of a person of 40 x 100 pixels."""
    left = start + speed * seconds
    return [left, top, left + 40, top + 100]


def follow(paths: list[tuple[float, float, float]], frames: int, hidden: dict[int, range] | None = None) -> list[set]:
    """Tracks walkers (start, speed, top) at 5 frames per second; returns the track numbers of each."""
    tracker = Tracker(0.5)
    seen: list[set] = [set() for _ in paths]
    for frame in range(frames):
        shown = [place for place in range(len(paths)) if frame not in (hidden or {}).get(place, ())]
        boxes = np.array([walker(*paths[place], frame / 5) for place in shown], dtype=np.float32).reshape(-1, 4)
        for place, number in zip(shown, tracker.update(frame / 5, boxes, np.full(len(shown), 0.9)), strict=True):
            seen[place].add(int(number))
    return seen


@pytest.mark.parametrize(
    ("paths", "hidden"),
    [
        ([(0, 60, 50), (300, -60, 58), (120, 0, 20)], {}),  # two who cross, one who waits
        ([(0, 150, 50)], {}),  # three quarters of the width between two frames
        ([(0, 60, 50), (300, -60, 58)], {0: range(10, 18)}),  # hidden for 1.6 seconds
    ],
)
def test_update_keeps_one_track_for_each_walk(paths: list, hidden: dict) -> None:
    seen = follow(paths, 26, hidden)
    assert all(len(numbers) == 1 for numbers in seen)
    assert len(set.union(*seen)) == len(paths)


def test_update_begins_a_new_track_after_a_long_gap() -> None:
    assert len(follow([(0, 10, 50)], 40, {0: range(10, 25)})[0]) == 2


def test_update_uses_low_scores_only_to_continue_a_track() -> None:
    tracker, box = Tracker(0.5), np.array([walker(0, 0)], dtype=np.float32)
    scores = [0.3, 0.9, 0.3]
    assert [int(tracker.update(t / 5, box, np.array([s]))[0]) for t, s in enumerate(scores)] == [-1, 1, 1]


@pytest.mark.parametrize("length", [1, 3, 40, 5000])
def test_best_moments_are_good_and_spread_in_time(length: int) -> None:
    best: BestMoments[int] = BestMoments(3)
    for number in range(length):
        best.offer(number / 5, 2.0 if number == length // 2 else number % 7 / 7, number)
        assert len(best._best) <= 6
    chosen = best.best()
    assert len(chosen) == min(3, length) and chosen == sorted(chosen) and length // 2 in chosen
    assert length < 7 or min(np.diff(chosen)) > length / 50
