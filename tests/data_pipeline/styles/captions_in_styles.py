"""Captions in known styles: the synthetic ones without their images, and some like those of a benchmark."""

import random

from data_pipeline.synthetic.captions import CAPTION_STYLES, write_caption
from data_pipeline.synthetic.dataset import caption_styles
from data_pipeline.synthetic.people import describe_person, describe_shot

LIKE_CUHK_PEDES = (
    "The man is wearing a white t-shirt with a black logo on the front, dark gray shorts and black and white sneakers.",
    "She is carrying a small pink purse in her left hand and has long, dark hair pulled back in a ponytail.",
    "A girl with a red hair band is wearing blue jeans, a black hooded sweatshirt, and brown leather boots.",
    "The man can be seen from behind. He is wearing a white tee shirt with short sleeves. His shorts are gray.",
    "A girl in her mid-twenties walks with her head down; she's wearing a pale-blue denim jacket over a floral dress.",
    "Young Asian male with glasses, backpack on both shoulders, looking at his cell phone.",
    "This lady has a striped shirt on, tight blue jeans, and is holding an umbrella in one hand.",
    "an old man with grey hair, he is walking with a cane and wearing a brown vest over a long-sleeved shirt",
    "The boy's backpack is red and black. His shoes are white with green stripes.",
    "A tall, thin man with a bald head is wearing a pair of khaki cargo pants, flip flops, and an orange tank top.",
    "Her hair is brown and shoulder length. She is wearing a knee-length black skirt and high heels.",
)
"""Invented sentences, in the style of the annotators of CUHK-PEDES."""


def synthetic_captions(people: int, seed: int = 0, first: int = 0) -> tuple[list[str], list[str]]:
    """Captions of `load_synthetic`, twelve per person, and the style of each."""
    captions, styles = [], []
    for number in range(first, first + people):
        person = describe_person(seed, number)
        for outfit in range(2):
            for shot in range(3):
                photo = describe_shot(seed, number, outfit, shot)
                for index, style in enumerate(caption_styles(seed, number, outfit, shot, 2)):
                    rng = random.Random(f"{seed}/{number}/{outfit}/{shot}/caption {index}")
                    written = write_caption(CAPTION_STYLES[style], person.traits, person.outfits[outfit], photo, rng)
                    captions.append(written)
                    styles.append(style)
    return captions, styles


OTHER_STYLES = {
    "possessive": "{He} looks like a {person}. {His} top is a {upper}. {His} bottoms are {lower}. {His} feet: {shoes}.",
    "order": "Look for a {person} dressed in a {upper} and {lower}, carrying a {bag} over one shoulder.",
    "slashes": "{PERSON} / {upper} / {lower} / {shoes} / {bag}",
    "garments": "You would notice a {upper} first, then {lower} and {shoes}, all worn by a {person}.",
    "participle": "Wearing a {upper} with {lower}, the {person} is walking while holding a {bag} in {his} left hand.",
    "doubting": "i think it's a {person}, not sure, wears a {upper} and possibly {lower}, with what could be {shoes}",
}
"""Styles and words that the synthetic set does not use."""

_OTHER_WORDS = {
    "upper": "burgundy corduroy blazer|teal cardigan|mustard tunic|quilted lilac parka|sleeveless red blouse|anorak",
    "lower": "charcoal chinos|faded dungarees|turquoise track pants|tartan kilts|ivory culottes|pinstripe trousers",
    "shoes": "tan loafers|suede moccasins|neon running shoes|espadrilles|high heels|scuffed work boots",
    "bag": "canvas tote|rolling suitcase|bright duffel bag|wicker basket|folded umbrella|leather satchel",
    "person": "teenage boy|gentleman|plump grandmother|bearded hiker|tourist|freckled schoolgirl|bald man|toddler",
}


def captions_in_other_styles(count: int, seed: int) -> tuple[list[str], list[str]]:
    """`count` captions, and the style of each."""
    rng = random.Random(seed)
    captions, styles = [], []
    for _ in range(count):
        style = rng.choice(list(OTHER_STYLES))
        words = {name: rng.choice(choices.split("|")) for name, choices in _OTHER_WORDS.items()}
        he, his = rng.choice((("he", "his"), ("she", "her")))
        words |= {"He": he.title(), "his": his, "His": his.title(), "PERSON": words["person"].upper()}
        captions.append(OTHER_STYLES[style].format(**words))
        styles.append(style)
    return captions, styles
