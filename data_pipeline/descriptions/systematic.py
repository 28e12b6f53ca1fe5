"""Stop rule for systematic failure: when most of the recent answers are rejected for one reason, all others will be."""

from collections import Counter, deque
from collections.abc import Sequence

from .answers import Problem

WINDOW, LEAST = 30, 25  # stops if at least 25 of the last 30 answers were rejected for the same reason
PROBE = 20  # images of the first batch, which costs a day if all of them fail
_CUT_OFF = "cut off"
_REMEDIES = {
    _CUT_OFF: "raise --max-tokens",
    "empty": "raise --max-tokens (reasoning uses them up), drop the response format (--structured none), "
    "or use another model",
    "schema": "use another response format (--structured object or none) or another model",
    "unparsable": "use another response format (--structured schema, object or none) or another model",
    "refusal": "use another model, or other prompts (--prompts)",
    "filtered": "use another model or server",
    "length": "change --min-words and --max-words, or use another model",
    "coverage": "lower --min-coverage, request fewer --attributes, or use another model",
    "duplicate": "raise --temperature, or use another model",
}
_OTHERS = "use another model, or other prompts (--prompts)"


class StopRule:
    """Counts the reasons of the recent answers, and all `kept` ones."""

    def __init__(self) -> None:
        self.kept = 0
        self._recent: deque[tuple[str, set[str]]] = deque(maxlen=4 * WINDOW)  # no reason if it was kept
        self._example: dict[str, str] = {}

    def add(self, key: str, problems: Sequence[Problem], answer: str = "") -> None:
        """Records an answer: its store key, its problems (none if it was kept), and its text as an example."""
        reasons = {_CUT_OFF if _CUT_OFF in problem.detail else problem.kind for problem in problems}
        self.kept += not reasons
        self._recent.append((key, reasons))
        self._example |= dict.fromkeys(reasons, " ".join(answer.split())[:160])

    @property
    def is_failing(self) -> bool:
        """Whether the last answers were all rejected: fewer requests should be in flight, and no image is at fault."""
        return all(reasons for _, reasons in list(self._recent)[-LEAST // 2 :])

    def reason_to_stop(self, least: int = LEAST) -> str | None:
        """Returns the reason, an example and a remedy if at least so many recent answers had the same reason."""
        recent = list(self._recent)[-WINDOW:]
        counts = Counter(reason for _, reasons in recent for reason in reasons)
        reason, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
        if count < least:
            return None
        example = self._example[reason]
        return (
            f"{count} of the last {len(recent)} answers were rejected for the same reason ({reason}), such as "
            f"{example!r}: {_REMEDIES.get(reason, _OTHERS)}"
        )

    def rejected_keys(self) -> list[str]:
        """Returns the store keys of the recent rejected answers."""
        return list(dict.fromkeys(key for key, reasons in self._recent if reasons))
