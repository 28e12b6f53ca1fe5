"""Under which terms the data sets are given out, as far as this project knows; for the cards."""

_RESEARCH = "given out by its authors for non-commercial research"

LICENCES = {
    "synthetic": "drawn by this package, Apache-2.0; shows no real person",
    "cuhk-pedes": _RESEARCH,
    "icfg-pedes": f"{_RESEARCH}; its images are MSMT17's",
    "rstpreid": f"{_RESEARCH}; its images are MSMT17's",
    "ufine6926": _RESEARCH,
    "prcc": _RESEARCH,
    "ltcc": _RESEARCH,
    "celeb-reid": _RESEARCH,
    "celeb-reid-light": _RESEARCH,
    "market-1501": _RESEARCH,
    "msmt17": _RESEARCH,
}


def licence_of(name: str) -> str:
    """The terms of a data set, by its `--dataset_name`."""
    return LICENCES.get(name, "not known to this package: ask whoever gave it out")
