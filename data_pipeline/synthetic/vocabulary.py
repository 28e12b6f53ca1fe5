"""Synonyms of colors, garments and traits in the captions, the default word first."""

COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "navy": ("navy", "dark blue", "navy blue"),
    "grey": ("grey", "gray"),
    "beige": ("beige", "tan", "cream", "khaki"),
    "purple": ("purple", "violet"),
    "red": ("red", "bright red"),
    "blue": ("blue", "light blue"),
    "black": ("black", "dark"),
    "white": ("white", "light"),
}
GARMENT_WORDS: dict[str, tuple[str, ...]] = {
    "t-shirt": ("t-shirt", "tee", "short-sleeved shirt", "top"),
    "shirt": ("shirt", "button-up shirt", "collared shirt"),
    "sweater": ("sweater", "pullover", "jumper"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket", "zip-up jacket"),
    "coat": ("coat", "long coat", "overcoat"),
    "dress": ("dress", "knee-length dress"),
    "trousers": ("trousers", "pants", "slacks"),
    "jeans": ("jeans", "denim pants", "denims"),
    "shorts": ("shorts",),
    "leggings": ("leggings", "tight pants"),
    "skirt": ("skirt", "knee-length skirt"),
    "sneakers": ("sneakers", "trainers", "running shoes"),
    "boots": ("boots", "ankle boots"),
    "shoes": ("shoes", "dress shoes"),
    "sandals": ("sandals",),
    "backpack": ("backpack", "rucksack"),
    "handbag": ("handbag", "purse"),
    "shoulder bag": ("shoulder bag", "messenger bag"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit hat"),
}
PATTERN_WORDS: dict[str, tuple[str, ...]] = {
    "striped": ("striped", "stripy"),
    "checked": ("checked", "plaid", "checkered"),
    "dotted": ("dotted", "polka dot", "spotted"),
}
PERSON_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "plain": {"man": ("man",), "woman": ("woman",)},
    "casual": {"man": ("guy", "dude", "fella"), "woman": ("lady", "girl", "gal")},
    "report": {"man": ("male", "male individual"), "woman": ("female", "female individual")},
}
AGE_WORDS = {
    "young": ("young", "young-looking"),
    "middle-aged": ("middle-aged", "mature"),
    "elderly": ("elderly", "old", "older"),
}
BUILD_WORDS = {
    "slim": ("slim", "thin", "slender"),
    "average": ("average-sized",),
    "heavy": ("heavy-set", "stocky", "overweight"),
}
HEIGHT_WORDS = {"short": ("short",), "average": ("average-height",), "tall": ("tall",)}
SKIN_WORDS = {
    "pale": ("pale", "fair", "light"),
    "olive": ("olive", "tanned"),
    "brown": ("brown",),
    "dark": ("dark", "very dark"),
}
HAIR_WORDS = {
    "shaved": ("shaved", "nearly bald", "buzz-cut"),
    "short": ("short", "short cropped"),
    "medium": ("medium-length", "chin-length"),
    "long": ("long", "shoulder-length long"),
}
HAIR_COLOR_WORDS = {
    "black": ("black", "dark"),
    "brown": ("brown", "brunette"),
    "blond": ("blond", "fair", "blonde"),
    "red": ("red", "ginger"),
    "grey": ("grey", "gray", "white"),
}
