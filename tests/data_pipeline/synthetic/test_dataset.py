"""The synthetic pedestrians: determinism, differences, and the content of the texts."""

import io
import re
from collections import defaultdict
from pathlib import Path
from unittest import mock

import PIL.Image
import pytest
from datasets import Dataset, DatasetDict, Image

from data_pipeline.schema import PERSON_FEATURES, check_splits
from data_pipeline.synthetic import dataset as synthetic
from data_pipeline.synthetic.captions import CAPTION_STYLES
from data_pipeline.synthetic.dataset import SYNTHETIC_SETS, load_synthetic, synthetic_caption_styles, synthetic_row
from data_pipeline.synthetic.people import NUM_OUTFITS, describe_person, describe_shot

GARMENT_WORDS = (
    "shirt sweater hoodie jacket coat dress trousers jeans shorts leggings skirt sneakers boots shoes sandals backpack "
    "handbag bag cap beanie hat striped checked dotted print wear wears wearing dressed clothes clothing outfit"
)
BODY_WORDS = (
    "man woman male female person he she his her him guy lady young middle aged elderly old adult slim heavy build "
    "body tall short height hair shaved blond skin pale olive dark"
)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _bytes(split: Dataset) -> list[bytes]:
    return [row["image"]["bytes"] for row in split.cast_column("image", Image(decode=False))]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def splits(cache_dir: str) -> DatasetDict:
    return load_synthetic(30, 4, 8, cache_dir=cache_dir)


def test_load_synthetic_layout_and_order(splits: DatasetDict) -> None:
    assert {name: split.num_rows for name, split in splits.items()} == {"train": 180, "validation": 24, "test": 48}
    for split in splits.values():
        assert split.features == PERSON_FEATURES
        assert list(split["outfit_id"]) == sorted(split["outfit_id"])
        assert [outfit // NUM_OUTFITS for outfit in split["outfit_id"]] == list(split["person_id"])
    assert splits["test"][0]["image"].size == (64, 128)
    check_splits(splits)
    assert sum(len(set(split["person_id"])) for split in splits.values()) == 42
    assert len(set(_bytes(splits["train"]))) == 180  # all images differ


@pytest.fixture(scope="module")
def few(cache_dir: str) -> DatasetDict:
    return load_synthetic(3, 1, 1, cache_dir=cache_dir)


def test_load_synthetic_is_deterministic(few: DatasetDict, tmp_path: Path) -> None:
    again = load_synthetic(3, 1, 1, cache_dir=str(tmp_path), num_proc=2)
    for name, split in few.items():
        assert again[name].remove_columns("image").to_list() == split.remove_columns("image").to_list()
        assert _bytes(again[name]) == _bytes(split)
    assert synthetic_row(1, 0, 0, 0) != synthetic_row(0, 0, 0, 0)


def test_load_synthetic_more_rows_keep_the_others(few: DatasetDict, tmp_path: Path) -> None:
    more = load_synthetic(4, 1, 1, images_per_outfit=4, captions_per_image=3, cache_dir=str(tmp_path))["train"]
    kept = more.select([index for index in range(3 * 8) if index % 4 < 3])
    assert _bytes(kept) == _bytes(few["train"])
    assert [captions[:2] for captions in kept["captions"]] == few["train"]["captions"][:]
    assert kept["clothing_description"][:] == few["train"]["clothing_description"][:]


def test_load_synthetic_additional_people_keep_the_test_split(tmp_path: Path) -> None:
    with mock.patch.object(synthetic, "TRAIN_PEOPLE_BEFORE_TEST", 3):
        few, more = (load_synthetic(count, 1, 2, cache_dir=str(tmp_path / str(count))) for count in (3, 5))
    people = {name: sorted(set(split["person_id"])) for name, split in more.items()}
    assert people == {"train": [0, 1, 2, 100_000, 100_001], "validation": [3], "test": [4, 5]}
    assert _bytes(more["test"]) == _bytes(few["test"])


def test_load_synthetic_redraws_only_after_a_code_change(cache_dir: str, splits: DatasetDict) -> None:
    with mock.patch.object(synthetic, "synthetic_row", side_effect=AssertionError("drawn again")):
        load_synthetic(30, 4, 8, cache_dir=cache_dir)
        with (
            mock.patch.object(synthetic, "_recipe", return_value="another drawing"),
            pytest.raises(Exception, match="generating the dataset"),
        ):
            load_synthetic(30, 4, 8, cache_dir=cache_dir)


def test_describe_person_draws_two_different_outfits() -> None:
    for person_id in range(500):
        first, second = describe_person(0, person_id).outfits
        assert (first.upper_type, first.upper_color) != (second.upper_type, second.upper_color)


def test_describe_person_outfits_are_independent_of_build() -> None:
    share = defaultdict(list)
    for person_id in range(3000):
        person = describe_person(0, person_id)
        share[person.traits.build].append(person.outfits[0].upper_color == "black")
    slim, heavy = (sum(share[build]) / len(share[build]) for build in ("slim", "heavy"))
    assert abs(slim - heavy) < 0.05


def test_descriptions_separate_body_and_clothing(splits: DatasetDict) -> None:
    for part, forbidden in (("identity", GARMENT_WORDS), ("clothing", BODY_WORDS)):
        for text in splits["train"][f"{part}_description"]:
            assert not _words(text) & _words(forbidden), text


def test_identity_description_states_every_trait(splits: DatasetDict) -> None:
    for row in splits["train"].remove_columns("image"):
        traits = describe_person(0, row["person_id"]).traits
        stated = row["identity_description"].lower()
        looks = (f"{traits.hair_length} {traits.hair_color} hair", f"{traits.skin_tone} skin")
        for fact in (*looks, traits.gender, traits.age, traits.build, traits.height):
            assert re.search(rf"\b{fact}\b", stated), (fact, stated)


def test_identity_description_is_mostly_one_template() -> None:
    """For most people the description is a function of the traits, so that equal people have equal texts."""
    texts = [synthetic_row(0, person_id, 0, 0, 1, (32, 16))["identity_description"] for person_id in range(200)]
    assert sum(" height. " in text for text in texts) > 100


def test_clothing_description_names_the_upper_garment(splits: DatasetDict) -> None:
    for row in splits["train"].remove_columns("image"):
        outfit = describe_person(0, row["person_id"]).outfits[row["outfit_id"] % NUM_OUTFITS]
        assert outfit.upper_type in row["clothing_description"].lower()
        assert outfit.upper_color in row["clothing_description"].lower()


def test_captions_omit_hidden_hair_and_height() -> None:
    hidden = {"hair": 0, "height": 0}
    for person_id in range(150):
        person, shot = describe_person(0, person_id), describe_shot(0, person_id, 0, 0)
        text = " ".join(synthetic_row(0, person_id, 0, 0, 8, (32, 16))["captions"])
        if person.outfits[0].hat and person.traits.hair_length in ("shaved", "short"):
            hidden["hair"] += 1
            # One length in 25 is misjudged, and a longer one would be visible
            assert not re.search(r"(shaved|bald|buzz-cut|short[\w ]*) hair", text), text
        if shot.feet > 1.02:
            hidden["height"] += 1
            assert not re.search(r"\btall\b|average-height", text), text
    assert min(hidden.values()) > 5


def test_captions_misjudge_traits_as_often_as_colors() -> None:
    wrong = total = 0
    for person_id in range(400):
        traits = describe_person(0, person_id).traits
        for caption in synthetic_row(0, person_id, 0, 0, 8, (32, 16))["captions"]:
            found = re.search(r"\b(slim|thin|slender|heavy-set|stocky|overweight)\b", caption)
            if found is not None:
                total += 1
                wrong += ("slim" if found[0] in ("slim", "thin", "slender") else "heavy") != traits.build
    assert 0.01 < wrong / total < 0.07


@pytest.mark.parametrize("name", SYNTHETIC_SETS)
def test_texts_omit_hidden_shoes(name: str) -> None:
    hidden = 0
    for person_id in range(60):
        row = synthetic_row(0, person_id, 1, 0, 8, name=name)
        if not describe_shot(0, person_id, 1, 0).shows_shoes:
            hidden += 1
            text = " ".join([*row["captions"], row["clothing_description"]])
            assert not re.search(r"shoes|sneakers|trainers|boots|sandals", text), text
    assert hidden > 5


def test_station_shows_the_same_people_with_other_pixels_and_words(few: DatasetDict, cache_dir: str) -> None:
    station = load_synthetic(3, 1, 1, name="synthetic-station", cache_dir=cache_dir)
    for column in ("person_id", "outfit_id", "camera_id"):
        assert list(station["train"][column]) == list(few["train"][column])
    assert not set(_bytes(station["train"])) & set(_bytes(few["train"]))
    for text in ("identity_description", "clothing_description"):
        assert not set(station["train"][text]) & set(few["train"][text])
    forms = r"Wanted: a|(I saw|There was|I noticed) a|[^.]* / [^.]*[^.]$"
    assert all(re.match(forms, caption) for row in station["train"]["captions"] for caption in row)
    again = load_synthetic(3, 1, 1, name="synthetic-station", cache_dir=f"{cache_dir}/again")
    assert station["train"].to_dict() == again["train"].to_dict()


def test_caption_styles_differ_in_form(splits: DatasetDict) -> None:
    forms = {
        "classic": r"The .* is wearing ",
        "terse": r"[^.]*, [^.]*[^.]$",
        "prose": r"(In this picture|The photo|Walking along).* who has put on .*\.$",
        "clothes first": r".* on (a|an) .*\.$",
        "casual": r"[a-z].* in .*[^.]$",
        "report": r"Subject: .*Upper body clothed in",
        "person first": r"(A|An) .* (is dressed in|wears|has on) ",
        "from where": r"(Walking towards|Seen from|Turned to) .* stands out.*: this is ",
    }
    assert set(forms) == set(CAPTION_STYLES)
    styles = synthetic_caption_styles(splits["train"])
    for captions, names in zip(splits["train"]["captions"], styles, strict=True):
        assert len(set(names)) == len(names)
        for caption, name in zip(captions, names, strict=True):
            assert re.match(forms[name], caption), (name, caption)
    assert {name for names in styles for name in names} == set(forms)


def test_captions_omit_attributes(splits: DatasetDict) -> None:
    captions = [caption for row in splits["train"]["captions"] for caption in row]
    assert 0.3 < sum("hair" in caption for caption in captions) / len(captions) < 0.65
    assert 0.1 < sum("skin" in caption for caption in captions) / len(captions) < 0.35


def test_station_draws_narrow_images() -> None:
    for person_id in range(30):  # some strangers are beside the frame
        row = synthetic_row(0, person_id, 0, 0, image_size=(96, 24), name="synthetic-station")
        with PIL.Image.open(io.BytesIO(row["image"]["bytes"])) as photo:
            assert photo.size == (24, 96)


def test_load_synthetic_image_size(tmp_path: Path) -> None:
    wide = load_synthetic(1, 1, 1, images_per_outfit=1, image_size=(96, 48), cache_dir=str(tmp_path))
    assert wide["train"][0]["image"].size == (48, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_test_people": 0}, "num_test_people must be at least 1, got 0"),
        ({"captions_per_image": 0}, "captions_per_image must be at least 1"),
        ({"name": "synthetic-night"}, "name must be synthetic or synthetic-station, got 'synthetic-night'"),
        ({"image_size": (8, 4)}, r"image_size \(height, width\) must be at least"),
    ],
)
def test_load_synthetic_refuses_bad_sizes(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_synthetic(**arguments)
