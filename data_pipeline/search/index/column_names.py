"""Names of the columns of an index and its shards, and of metadata columns in exports."""

from collections.abc import Collection, Sequence

KEY_COLUMNS = ("path", "_size", "_mtime_ns", "_text")
CONTENT = "_content"  # digest of the embedded file
ASPECT = "_aspect"  # width divided by height


def public_names(names: Sequence[str], taken: Collection[str] = ("path",)) -> dict[str, str]:
    """Returns the name of each metadata column in an index: its own, or `metadata_NAME`.

    Names that begin with `_` are internal, and SQL ignores upper and lower case.
    """
    public: dict[str, str] = {}
    lower = {*taken}
    for name in names:
        new = name
        if not name or name.startswith("_") or name.lower() in lower:
            new = f"metadata_{name.lstrip('_')}"
        while new.lower() in lower or (new != name and new in names):
            new += "_"
        lower.add(new.lower())
        public[name] = new
    return public
