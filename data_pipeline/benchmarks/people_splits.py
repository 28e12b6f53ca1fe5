"""Who is trained on and who is held out: whole people, drawn by a seed."""

import random
from collections.abc import Collection

VALIDATION_SHARE = 0.05
FOLDER_SHARES = {"validation": 0.1, "test": 0.1}  # the rest is train


def hold_out(people: Collection[int], count: int | None, seed: int, what: str) -> tuple[set[int], str]:
    """The people of train that become the validation split, and a note that says so.

    Args:
        people: the ids of train.
        count: how many; by default 5 %, at least one. At least one person stays in train; a single one stays there.
        seed: the draw depends on it and on the ids alone.
        what: the data set, for the messages.

    Raises:
        ValueError: `count` leaves nobody to train on, or is not positive.
    """
    unique = sorted(set(people))
    if count is None:
        if len(unique) == 1:
            return set(), f"{what}: there is no validation split, and train has one person, so none can be held out"
        count = max(1, round(VALIDATION_SHARE * len(unique)))
    if not 1 <= count < len(unique):
        raise ValueError(
            f"{what}: val_people is {count}, but train has {len(unique)} people, of whom 1 to {len(unique) - 1} can be "
            "held out for validation"
        )
    held_out = set(random.Random(f"hold out/{seed}").sample(unique, count))
    return held_out, (
        f"{what}: there is no validation split, so {count} of the {len(unique)} people of train are held out for it, "
        f"drawn by seed {seed}"
    )


def divide(people: Collection[int], seed: int) -> dict[int, str]:
    """The split of each person: 80 % train, 10 % validation, 10 % test, at least one in each.

    Raises:
        ValueError: fewer than three people.
    """
    unique = sorted(set(people))
    if len(unique) < 3:
        raise ValueError(f"{len(unique)} people cannot be divided into train, validation and test")
    random.Random(f"divide/{seed}").shuffle(unique)
    split_of: dict[int, str] = {}
    for split, share in FOLDER_SHARES.items():
        for person in unique[len(split_of) : len(split_of) + max(1, round(share * len(unique)))]:
            split_of[person] = split
    return {person: split_of.get(person, "train") for person in unique}
