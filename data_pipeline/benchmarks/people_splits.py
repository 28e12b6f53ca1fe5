"""Assigns whole people to splits, drawn with a seed."""

import random
from collections.abc import Collection

VALIDATION_SHARE = 0.05
FOLDER_SHARES = {"validation": 0.1, "test": 0.1}  # the rest is train


def hold_out(people: Collection[int], count: int | None, seed: int, name: str) -> tuple[set[int], str]:
    """Draws `count` of the train people as validation split, and returns them with a note for the user.

    The default is 5 %, at least one; a single person stays in train. The draw depends only on the seed and the ids.
    Raises `ValueError` if `count` is not positive or leaves train empty; `name` is the data set, for the messages.
    """
    unique = sorted(set(people))
    if count is None:
        if len(unique) == 1:
            return set(), f"{name}: there is no validation split, and train has one person, so none can be held out"
        count = max(1, round(VALIDATION_SHARE * len(unique)))
    if not 1 <= count < len(unique):
        people_here = f"train has {len(unique)} people; hold out 1 to {len(unique) - 1} of them"
        raise ValueError(f"{name}: val_people is {count}, but {people_here}")
    held_out = set(random.Random(f"hold out/{seed}").sample(unique, count))
    return held_out, (
        f"{name}: there is no validation split, so {count} of the {len(unique)} people of train are held out for it, "
        f"drawn with seed {seed}"
    )


def divide(people: Collection[int], seed: int) -> dict[int, str]:
    """Returns the split of each of three or more people: 80 % train, 10 % validation, 10 % test, at least one each."""
    unique = sorted(set(people))
    random.Random(f"divide/{seed}").shuffle(unique)
    split_of: dict[int, str] = {}
    for split, share in FOLDER_SHARES.items():
        for person in unique[len(split_of) : len(split_of) + max(1, round(share * len(unique)))]:
            split_of[person] = split
    return {person: split_of.get(person, "train") for person in unique}
