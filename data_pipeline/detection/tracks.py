"""Follows people through the frames of a video, and chooses the best moments of each.

The association is that of ByteTrack (Zhang et al., ECCV 2022): boxes with high scores are matched first, those with low
scores only continue a track. Boxes are enlarged before they are compared (C-BIoU, Yang et al., WACV 2023), since a
person moves by half a width between two frames at 5 frames per second.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .detector import Boxes, Scores, overlaps

Moment = TypeVar("Moment")

LOW_SCORE = 0.1  # smallest score of a box that continues a track
_ENLARGED = 0.3  # share of width and height that is added at each side
_LEAST_OVERLAP = (0.15, 0.35)  # of the enlarged boxes, for high and low scores


@dataclass
class _Track:
    number: int
    box: NDArray[np.float64]  # [4], the last one
    velocity: NDArray[np.float64]  # [2], of the center, in pixels per second
    seconds: float  # time of the last box
    count: int = 1

    def predicted(self, seconds: float) -> NDArray[np.float64]:
        """Returns the box at a time by uniform motion, [4]."""
        return self.box + np.tile(self.velocity * (seconds - self.seconds), 2)

    def move(self, seconds: float, box: NDArray[np.float64]) -> None:
        """Continues the track with a box; the velocity is an exponential average."""
        if seconds > self.seconds:
            shift = (box[:2] + box[2:] - self.box[:2] - self.box[2:]) / 2
            share = 0.5 if self.count > 1 else 1.0
            self.velocity = (1 - share) * self.velocity + share * shift / (seconds - self.seconds)
        self.box, self.seconds, self.count = box, seconds, self.count + 1


class Tracker:
    """Assigns the boxes of successive frames to tracks, which are numbered from 1.

    Args:
        threshold: score from which a box begins a track.
        patience: seconds without a box after which a track ends.
    """

    def __init__(self, threshold: float, patience: float = 2.0) -> None:
        self._threshold = threshold
        self._patience = patience
        self._tracks: list[_Track] = []
        self._next = 1

    @property
    def live(self) -> set[int]:
        """Numbers of the tracks that further boxes may continue."""
        return {track.number for track in self._tracks}

    def update(self, seconds: float, boxes: Boxes, scores: Scores) -> NDArray[np.int64]:
        """Returns the track number of each box of the next frame, [N]; -1 for a low score without a track."""
        self._tracks = [track for track in self._tracks if seconds - track.seconds <= self._patience]
        numbers = np.full(len(boxes), -1, dtype=np.int64)
        is_high = scores >= self._threshold
        free = self._tracks
        for least, places in zip(_LEAST_OVERLAP, (np.flatnonzero(is_high), np.flatnonzero(~is_high)), strict=True):
            predicted = np.array([track.predicted(seconds) for track in free]).reshape(-1, 4)
            overlap = overlaps(_enlarged(predicted), _enlarged(boxes[places].astype(np.float64)))
            pairs = [pair for pair in zip(*linear_sum_assignment(-overlap), strict=True) if overlap[pair] >= least]
            for track, place in pairs:
                free[track].move(seconds, boxes[places[place]].astype(np.float64))
                numbers[places[place]] = free[track].number
            matched = {track for track, _ in pairs}
            free = [track for place, track in enumerate(free) if place not in matched]
        for place in np.flatnonzero(is_high & (numbers < 0)):
            numbers[place] = self._next
            self._tracks.append(_Track(self._next, boxes[place].astype(np.float64), np.zeros(2), seconds))
            self._next += 1
        return numbers


class BestMoments(Generic[Moment]):
    """Keeps the best moments of a track, spread in time, in memory that does not grow with its length.

    Time is divided into intervals, each of which keeps its best moment. If there are more than twice as many as
    requested, each two neighbors are merged.

    Args:
        count: number of moments to keep.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._width = 1e-3  # seconds
        self._best: dict[int, tuple[float, float, Moment]] = {}  # by interval: quality, seconds, moment

    def offer(self, seconds: float, quality: float, moment: Moment) -> None:
        """Adds a moment, if it is the best of its interval."""
        self._keep((quality, seconds, moment))
        while len(self._best) > 2 * self._count:
            self._width *= 2
            kept, self._best = [*self._best.values()], {}
            for each in kept:
                self._keep(each)

    def best(self) -> list[Moment]:
        """Returns the best moments in the order of time, from different intervals."""
        chosen = sorted(self._best.values(), key=lambda each: -each[0])[: self._count]
        return [moment for _, _, moment in sorted(chosen, key=lambda each: each[1])]

    def _keep(self, entry: tuple[float, float, Moment]) -> None:
        interval = int(entry[1] / self._width)
        if interval not in self._best or entry[0] > self._best[interval][0]:
            self._best[interval] = entry


def _enlarged(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    margin = _ENLARGED * (boxes[:, 2:] - boxes[:, :2])
    return np.hstack([boxes[:, :2] - margin, boxes[:, 2:] + margin])
