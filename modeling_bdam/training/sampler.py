"""Identity-balanced batches (P people x K images) that do not depend on the number of processes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler
from transformers.utils import logging

logger = logging.get_logger(__name__)

RowKey = tuple[int, int, int]  # (row index, index of the row that supplies its texts, augmentation seed)


class IdentityBalancedSampler(Sampler[RowKey]):
    """Yields `(row index, text row index, augmentation seed)` in blocks of P people x K images per person.

    A block is one global batch of `batch_size * num_processes` rows, which accelerate divides over the processes:
    together they see in each step exactly the rows that one process with the whole batch sees, in the same order.

    In each epoch the images of a person are shuffled and split into groups of K. The last group is filled with other
    images of the person, repeated if there are fewer than K. So every image occurs in each epoch, except those in
    groups that do not fill a last block. A person occurs twice in a block only if no other person is left. With K = 1
    the epoch is a plain shuffle of the rows.

    With `kinds`, such as rows with and without descriptions, each block has rows of one kind, so that all processes
    compute the same losses in a step; the blocks of the kinds are shuffled.

    Order and seeds depend only on `seed`, the epoch (`set_epoch`) and the global batch size.

    Args:
        person_ids: person of each row, [N].
        images_per_person: K.
        batch_size: rows per batch and process.
        seed: must be equal on every process.
        num_processes: number of processes that share the stream.
        kinds: kind of each row, [N]; a kind that does not fill one block is left out with a warning.

    Raises:
        ValueError: `batch_size` is no multiple of K, or the rows do not fill one block.

    Example:
        >>> sampler = IdentityBalancedSampler([7, 7, 7, 8, 8, 9], images_per_person=2, batch_size=4, seed=0)
        >>> len(sampler)  # 4 groups of 2 images: 2 of person 7, 1 each of persons 8 and 9
        8
        >>> people = [[7, 7, 7, 8, 8, 9][row] for row, text_row, seed in sampler]
        >>> [len(set(people[start : start + 4])) for start in (0, 4)]  # people per batch
        [2, 2]
    """

    def __init__(
        self,
        person_ids: Sequence[int],
        images_per_person: int,
        batch_size: int,
        seed: int,
        num_processes: int = 1,
        kinds: Sequence[int] | None = None,
    ) -> None:
        if images_per_person < 1 or batch_size < 1 or batch_size % images_per_person:
            raise ValueError(
                f"The batch size of a process ({batch_size}) must be a multiple of images_per_person "
                f"({images_per_person}), so that no batch divides the group of images of a person."
            )
        self.images_per_person = images_per_person
        self.groups_per_block = batch_size * num_processes // images_per_person
        self.seed = seed
        self.epoch = 0
        self.text_rows = np.arange(len(person_ids))

        # Rows of each person, [people][rows], and number of blocks, by kind
        self.kinds: list[tuple[list[np.ndarray], int]] = []
        kind_of_row = np.zeros(len(person_ids), dtype=np.int64) if kinds is None else np.asarray(kinds)
        for kind in np.unique(kind_of_row):
            rows = np.flatnonzero(kind_of_row == kind)
            people = np.unique(np.asarray(person_ids[:], dtype=np.int64)[rows], return_inverse=True)[1]
            by_person = rows[np.argsort(people, kind="stable")]
            rows_of_person = np.split(by_person, np.cumsum(np.bincount(people))[:-1])
            groups = sum(-(-len(each) // images_per_person) for each in rows_of_person)
            problem = (
                f"{len(rows)} training images of {len(rows_of_person)} people make {groups} groups of "
                f"{images_per_person}, one batch of all processes takes {self.groups_per_block}: lower the batch size"
            )
            if groups >= self.groups_per_block:
                self.kinds.append((rows_of_person, groups // self.groups_per_block))
            elif len(rows) == len(kind_of_row):
                raise ValueError(problem)
            else:
                logger.warning(f"with other texts than the rest, so left out: {problem}")
        self.num_blocks = sum(blocks for _, blocks in self.kinds)
        if self.num_blocks == 0:
            raise ValueError(
                f"the {len(person_ids)} training images with and without descriptions do not fill one batch of all "
                f"processes ({batch_size * num_processes} rows of one kind): lower the batch size"
            )

    def use_texts(self, text_rows: np.ndarray | None) -> None:
        """Sets the texts of the rows. The length of an epoch is unchanged: if rows are left out, the others repeat.

        Args:
            text_rows: index of the row that supplies the texts of each row, [N]; -1 leaves it out. None: own texts.

        Raises:
            ValueError: every row, or every row of one kind, is left out.
        """
        if text_rows is None:
            text_rows = np.arange(len(self.text_rows))
        if any((text_rows[np.concatenate(rows_of_person)] < 0).all() for rows_of_person, _ in self.kinds):
            raise ValueError("text_rows leaves out every row; at least one must be >= 0")
        self.text_rows = text_rows

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, which determines the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_blocks * self.groups_per_block * self.images_per_person

    def __iter__(self) -> Iterator[RowKey]:
        rng = np.random.default_rng([self.seed, self.epoch])
        blocks: list[np.ndarray] = []
        for rows_of_person, count in self.kinds:
            groups: list[np.ndarray] = []
            while len(groups) < count * self.groups_per_block:
                groups += self._groups_in_order(rows_of_person, rng)
            blocks += np.split(np.concatenate(groups[: count * self.groups_per_block]), count)
        order = rng.permutation(len(blocks)) if len(self.kinds) > 1 else range(len(blocks))
        rows = np.concatenate([blocks[number] for number in order])
        augmentation_seeds = rng.integers(2**63, size=len(self))
        yield from zip(rows.tolist(), self.text_rows[rows].tolist(), augmentation_seeds.tolist(), strict=True)

    def _groups_in_order(self, rows_of_person: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """Shuffles the groups [K] of the epoch so that the people of a block are distinct where possible."""
        groups: list[tuple[int, np.ndarray]] = []  # (person, rows [K])
        for person, rows in enumerate(rows_of_person):
            rows = rows[self.text_rows[rows] >= 0]
            groups += [(person, group) for group in _split_into_groups(rows, self.images_per_person, rng)]
        waiting = [groups[position] for position in rng.permutation(len(groups))]
        if self.images_per_person == 1:
            return [group for _, group in waiting]

        ordered: list[np.ndarray] = []
        while waiting:
            block: list[np.ndarray] = []
            passed_over: list[tuple[int, np.ndarray]] = []
            present: set[int] = set()
            scanned = 0
            while scanned < len(waiting) and len(block) < self.groups_per_block:
                person, group = waiting[scanned]
                scanned += 1
                if person in present:
                    passed_over.append((person, group))
                else:
                    present.add(person)
                    block.append(group)
            missing = self.groups_per_block - len(block)  # > 0 only if no other person is left
            block += [group for _, group in passed_over[:missing]]
            waiting = passed_over[missing:] + waiting[scanned:]
            ordered += block
        return ordered


class KeyedDataset(Dataset[dict[str, Any]]):
    """Data set with the keys of the sampler: `dataset[index, text_index, seed]` is row `text_index` with the `image` of
    row `index` and an `augmentation_seed`; `dataset[index]` is the row itself.

    Wraps any object with `__getitem__(int) -> dict` and `__len__`.

    Attributes:
        pair_weights: weight of each row in a loss, [N], added as `pair_weight` to the rows of the sampler's keys; None
            adds none.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.pair_weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | RowKey) -> dict[str, Any]:
        if isinstance(key, tuple):
            index, text_index, augmentation_seed = key
            row = dict(self.rows[text_index], augmentation_seed=augmentation_seed)
            if self.pair_weights is not None:
                row["pair_weight"] = float(self.pair_weights[index])
            return row if index == text_index else row | {"image": self.rows[index]["image"]}
        return self.rows[key]


class CaptionPairs:
    """The pairs of an image and a caption of a data set in the common schema, each a row with one caption.

    An epoch over them shows each caption once, as the field counts epochs. A row without captions, which is trained on
    its descriptions, stays one row. Images are not copied.

    Args:
        rows: the data set.
        pairs: row and number of the caption of each pair, [N, 2]; by default all.
    """

    def __init__(self, rows: Any, pairs: np.ndarray | None = None) -> None:
        self.rows = rows
        if pairs is None:
            counts = [max(1, len(captions)) for captions in rows["captions"]]
            numbers = np.repeat(np.arange(len(counts)), counts)
            pairs = np.stack([numbers, np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)], axis=1)
        self.pairs = pairs

    @property
    def column_names(self) -> Any:
        """Names of the columns of the data set."""
        return self.rows.column_names

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | str) -> Any:
        """Returns the row of a pair by its number, or a column of all pairs by its name."""
        if isinstance(key, str):
            column = self.rows[key]
            column = column if isinstance(column, list) else column[:]
            values = ((column[row], number) for row, number in self.pairs.tolist())
            return [value[number : number + 1] if key == "captions" else value for value, number in values]
        row, number = self.pairs[key].tolist()
        found = self.rows[row]
        return found | {"captions": found["captions"][number : number + 1]}

    def select(self, numbers: np.ndarray) -> "CaptionPairs":
        """Returns some of the pairs."""
        return CaptionPairs(self.rows, self.pairs[numbers])


def _split_into_groups(rows: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffles the rows [n] of one person and splits them into groups [ceil(n / size), size].

    The last group is filled with repeats; it holds an image twice only if the person has fewer than `size` images.
    """
    if len(rows) == size == 1:  # often a million times, and one row needs no random number
        return rows[None]
    shuffled = rng.permutation(rows)
    lacking = -len(rows) % size
    # The head of the shuffled rows is disjoint from the last group unless n < size, where it has to repeat.
    return np.concatenate([shuffled, np.resize(shuffled, lacking)]).reshape(-1, size)
