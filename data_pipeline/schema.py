"""Defines the table layout of every data set of this project."""

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
"""One row is one image of one person; -1 means unknown.

- `image`: a PIL image when a row is read.
- `person_id`: the identity. The splits of one data set have disjoint identities.
- `camera_id`: the camera.
- `outfit_id`: the outfit, unique at least within one person (in the synthetic set, unique over all people).
- `captions`: captions by people, each about body and clothing. Each is one text query.
- `identity_description`: a multimodal model's description of the body only, or None.
- `clothing_description`: a multimodal model's description of the clothing only, or None.
"""

_TEXT = Value("string")
_GARMENT = dict.fromkeys(("type", "color", "pattern", "material"), _TEXT)
ATTRIBUTE_FEATURES = Features(
    identity_attributes=dict.fromkeys(("gender", "age", "build", "height", "hair", "skin"), _TEXT),
    clothing_attributes={"garments": List(_GARMENT), "shoes": _TEXT, "accessories": List(_TEXT)},
)
"""Optional columns of a set whose descriptions have fields; see `data_pipeline.descriptions.attributes`.

Each value is a short phrase such as "short black hair", "not visible", or None if it was not requested.
"""


def check_splits(splits: DatasetDict) -> None:
    """Checks that every split has the columns of `PERSON_FEATURES` and that no person is in two splits.

    Raises:
        ValueError: a column is missing, or people are in two splits; the message lists them.
    """
    people: dict[str, set[int]] = {}
    for name, split in splits.items():
        if missing := ", ".join(sorted(set(PERSON_FEATURES) - set(split.column_names))):
            raise ValueError(f"split {name!r} has no column {missing}: see data_pipeline.schema.PERSON_FEATURES")
        here = set(split.with_format(None)["person_id"][:])
        for other, there in people.items():
            if shared := sorted(here & there):
                listed = ", ".join(map(str, shared[:10])) + (", …" if len(shared) > 10 else "")
                raise ValueError(
                    f"{len(shared)} person_id(s) are in both split {other!r} and split {name!r}: {listed}; "
                    "identities must be disjoint over the splits"
                )
        people[name] = here
