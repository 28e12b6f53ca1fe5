"""The one table layout that every data set of this project is turned into."""

from datasets import DatasetDict, Features, Image, List, Value

PERSON_FEATURES = Features(
    image=Image(),
    person_id=Value("int64"),
    camera_id=Value("int64"),
    outfit_id=Value("int64"),
    captions=List(Value("string")),
    identity_description=Value("string"),
    clothing_description=Value("string"),
)
"""One row is one image of one person.

- `image`: the picture, a PIL image once a row is read.
- `person_id`: who it is. The splits of one data set hold disjoint identities.
- `camera_id`: which camera took it; -1 where that is unknown.
- `outfit_id`: which clothes are worn. It tells apart at least the outfits of one person (the synthetic set numbers the
  person-outfit pairs, so there it is unique); -1 where that is unknown.
- `captions`: what people wrote about the image, each mixing body and clothing. Each is one text query.
- `identity_description`: what a multimodal model wrote about the body alone, or None.
- `clothing_description`: what a multimodal model wrote about the clothing alone, or None.
"""


def check_splits(splits: DatasetDict) -> None:
    """Checks that every split has the columns of `PERSON_FEATURES` and that no person is in two splits.

    Raises:
        ValueError: a column is missing, or an identity lies in two splits; the message lists them.
    """
    people: dict[str, set[int]] = {}
    for name, split in splits.items():
        missing = sorted(set(PERSON_FEATURES) - set(split.column_names))
        if missing:
            raise ValueError(
                f"split {name!r} has no column {', '.join(missing)}: see data_pipeline.schema.PERSON_FEATURES"
            )
        here = set(split.with_format(None)["person_id"])
        for other, there in people.items():
            shared = sorted(here & there)
            if shared:
                listed = ", ".join(map(str, shared[:10])) + (", …" if len(shared) > 10 else "")
                raise ValueError(
                    f"{len(shared)} person_id(s) lie in both split {other!r} and split {name!r}: {listed}; "
                    "identities must be disjoint over the splits"
                )
        people[name] = here
