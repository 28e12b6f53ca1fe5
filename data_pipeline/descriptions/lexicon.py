"""Word lists (regular expressions) that detect body, clothing, refusals, talk about the picture, and the language.

The lists favor precision over recall: words that can describe both a body and a garment ("slim", "short", "tall boots")
count only if their neighbors decide it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """An attribute that a description should name: its wording in the prompt, and a pattern of texts that name it."""

    wording: str
    pattern: re.Pattern[str]


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(patterns) + r")\b", re.IGNORECASE)


_COLORS = (
    "black|white|gr[ae]y|silver|red|maroon|burgundy|pink|orange|yellow|gold(?:en)?|beige|tan|cream|khaki|brown|olive"
    "|green|teal|turquoise|blue|navy|purple|violet|lavender|dark|light|bright|pale|multi-?colou?red|colou?rful|denim"
)
_SHORT_HAIR = (
    rf"short(?:er|ish)?(?=[\s,-]+(?:(?:{_COLORS}|blonde?|cropped|curly|wavy|straight|neat|spiky|and|to)[\s,-]+)*"
    r"(?:medium[\s-]length\s)?(?:hair|beard))"
)
_PERSON = "wom[ae]n|m[ae]n|boys?|girls?|males?|females?|lad(?:y|ies)|gentlem[ae]n|guys?|dudes?|gals?|fellas?"
_AGE = (
    r"young(?:er)?|youthful|middle[\s-]aged|mature|elderly|old(?:er)?|senior|teen(?:age[rd]?|s)?|adolescent|child|kid"
    r"|toddler|infant|adults?|aged|years|(?:early|mid|late)[\s-](?:teens|twenties|thirties|forties|fifties|sixties)"
    r"|twenties|thirties|forties|fifties|sixties|seventies|\d0s"
)
_BUILD = (
    r"slim|slender|thin|lean|skinny|petite|lanky|stocky|sturdy|heav(?:y|ier)|heavyset|overweight|obese|chubby|plump"
    r"|fat|muscular|athletic|fit|burly|broad[\s-]shouldered|build|built|body|physique|figure|frame"
)
_HAIR = (
    r"hair(?:ed|style|cut|line)?|bald(?:ing)?|shaved|ponytail|pigtails|bun|braids?|bob|bangs|blonde?|brunette"
    r"|dreadlocks|afro|buzz[\s-]?cut"
)
_SKIN = (
    r"skin(?:ned)?|complexion|caucasian|asian|african|hispanic|latin[oax]|european|arab|indian|middle[\s-]eastern|race"
    r"|ethnic(?:ity|ally)?"
)

IDENTITY_ATTRIBUTES: dict[str, Attribute] = {
    "gender": Attribute("gender", _words(_PERSON, "he", "she", "his", "her")),
    "age": Attribute("age group (such as child, teenager, young adult, middle-aged, elderly)", _words(_AGE)),
    "build": Attribute("body type (such as slim, average, athletic, heavy-set)", _words(_BUILD)),
    "height": Attribute(
        "height (short, average or tall)",
        _words(rf"(?!{_SHORT_HAIR})short(?:er|ish)?", "tall(?:er)?", "height", "stature"),
    ),
    "hair": Attribute("hair (length, color, style; say so if it is hidden)", _words(_HAIR)),
    "skin": Attribute("skin tone or race", _words(_SKIN)),
}
"""The choices of `--attributes`; all by default. The paper (section 3.3) lists race, gender, age and body type."""

_GARMENT = (
    r"(?:t-?|sweat|under|over)?shirts?|tees?|blouses?|polo|(?:tank|crop|halter)[\s-]tops?|sweaters?|jumpers?|pullovers?"
    r"|cardigans?|hood(?:ie|y|ies)|jackets?|(?:over|rain|trench)?coats?|blazers?|suits?|vests?|waistcoats?|parkas?"
    r"|windbreakers?|ponchos?|dress(?:es)?|gowns?|skirts?|trousers|pants|slacks|jeans|shorts|leggings|joggers"
    r"|sweatpants|chinos|tights|stockings|(?:jump|track)suits?|overalls|dungarees|rompers?|tunics?|uniforms?|aprons?"
    r"|robes?|capes?|cloaks?|shawls?|sar(?:i|ee)s?|kimonos?|abayas?|pyjamas|pajamas"
)
_SHOES = (
    r"shoes?|sneakers?|trainers|boots?|booties|sandals?|slippers?|flip-?flops|loafers|(?:high\s|stiletto\s)heels|heels"
    r"|moccasins|clogs|footwear|barefoot"
)
_ACCESSORY = (
    r"accessor(?:y|ies)|(?:hand|shoulder)?bags?|backpacks?|rucksacks?|purses?|satchels?|totes?|suitcases?|luggage"
    r"|briefcases?|(?:base-?ball\s)?caps?|hats?|beanies?|hoods?|helmets?|scar(?:f|ves)|headscar(?:f|ves)|hijabs?"
    r"|turbans?|bandanas?|gloves?|mittens?|(?:neck|bow\s)?ties?|belts?|(?:wrist)?watch(?:es)?|bracelets?|necklaces?"
    r"|bangles?|wristbands?|armbands?|pendants?|earrings?|jewell?e?ry|(?:eye|sun)?glasses|goggles|umbrellas?"
    r"|(?:face\s)?masks?|headphones|earphones|lanyards?|socks?|headbands?|hairbands?|hair\s(?:tie|clip|band|pin)s?"
)

CLOTHING_ATTRIBUTES: dict[str, Attribute] = {
    "type": Attribute("the type of each garment", _words(_GARMENT, "tops?")),
    "color": Attribute("the color of each garment", _words(_COLORS)),
    "pattern": Attribute(
        "its pattern (say plain where there is none)",
        _words(
            r"plain|solid|pattern(?:ed|s)?|strip(?:e|es|ed|y)|check(?:s|ed|ered)?|plaid|tartan|dot(?:s|ted)|polka|floral"
            r"|flower(?:s|ed)|print(?:s|ed)?|graphics?|logos?|lettering|text|numbers?|camouflage|spotted|leopard"
            r"|uni(?:colou?r|form)|single-colou?red|embroider(?:ed|y)|textured|unpatterned"
        ),
    ),
    "material": Attribute(
        "its material as far as it can be seen",
        _words(
            r"material|fabric|cotton|denim|leather|suede|wool(?:l?en)?|knit(?:ted)?|silk|linen|polyester|nylon|fleece"
            r"|canvas|cloth|velvet|corduroy|lace|chiffon|satin|synthetic|down|puffer|quilted|mesh|jersey|jeans|fur|rubber"
            r"|tweed|lightweight|woven"
        ),
    ),
    "shoes": Attribute("the shoes (say so if they cannot be seen)", _words(_SHOES)),
    "accessories": Attribute("accessories such as bag, hat, glasses (say so if there are none)", _words(_ACCESSORY)),
}
"""The attributes of every clothing description."""

_WEARS = r"wear(?:s|ing)?(?!(?:[\s,]+[\w-]+){0,4}\s+(?:hair|beard|mo?ustache|ponytail|bun|braids?))"
_CLOTHING = _words(
    _GARMENT,
    _SHOES.replace("|barefoot", ""),
    _ACCESSORY,
    _WEARS,
    r"(?<!on\s)(?<!at\sthe\s)tops?(?!\s+of)",
    r"dressed|clad|cloth(?:es|ing)|outfits?|attire|garments?|apparel|sleeves?|sleeved|sleeveless|headwear|denim",
)
_BODY = _words(
    _PERSON,
    r"he|she|his|her|hers|him|himself|herself",
    r"young|youthful|elderly|middle[\s-]aged|teenage[rd]?|adult|toddler|senior|years\sold"
    r"|in\s(?:his|her|their)\s(?:\w+[\s-])?(?:teens|twenties|thirties|forties|fifties|sixties|\d0s)",
    r"slender|stocky|overweight|obese|chubby|plump|muscular|heavy-?set|petite|lanky|burly|build|physique|stature"
    r"|body\stype|figure(?!-)|(?:slim|thin|skinny|athletic|heavy|average)\s(?:body|frame|person|individual)",
    r"tall(?!\s(?:leather\s|rubber\s)?(?:boots|socks|shoes|collar|hat|heels))|(?<!-)height(?!-)|short\s(?:person|individual)",
    r"hair(?![\s-]?(?:ties?|clips?|bands?|pins?|accessor\w*|bows?|ribbons?|nets?)\b)|\w+-haired|hair(?:style|cut|line)"
    r"|bald(?:ing)?|beard(?:ed)?|mo?ustache|ponytail|pigtails|blonde?|brunette|dreadlocks",
    r"(?<!-)skin(?![-\s]?(?:tight|colou?red))|\w+-skinned|complexion|freckles|tattoos?|facial",
    r"caucasian|asian|african|hispanic|latin[oa]|middle[\s-]eastern|ethnicity",
)
_REFUSAL = _words(
    r"i(?:'m|\sam)?\s(?:very\s|really\s)?(?:sorry|cannot|can\s?not|can't|won't|unable|not\sable|not\scomfortable)",
    r"i\sapologi[sz]e|as\san\sai|language\smodel",
    r"(?:cannot|can't|unable\sto)\s(?:assist|help|comply|identify|describe|provide|fulfill?|analy[sz]e)",
    r"(?:against|violates?)\s(?:my|our|the)\s(?:\w+\s)?(?:policy|policies|guidelines)",
)
_PICTURE = r"(?:image|photo(?:graph)?|picture|frame|footage|snapshot|screenshot|scene)"
_META = _words(
    rf"(?:the|this|that|given|provided)\s{_PICTURE}",
    r"(?:is|are|as)\s(?:shown|depicted|pictured|displayed)",
    r"(?:identity|clothing)[\s_]description|json|as\srequested|based\son|here\s(?:is|are)|here's|note\sthat",
    r"n/a|not\sspecified|lorem\sipsum",
)
_ENGLISH = _words(
    r"a|an|the|and|with|of|in|on|is|are|has|have|to|who|person|wearing|wears|she|he|his|her|their|this|that|it|by|over"
    r"|under|from|visible|no|not|or|as|at"
)
_FOREIGN = _words(
    r"der|das|und|mit|ein|eine|einem|einen|trägt|ist|sich|im|auf|le|les|une?|du|et|avec|est|porte|dans|el|los|las|con"
    r"|una|y|lleva|es|tiene|il|lo|gli|di|che|indossa|uma?|com|e|os|veste|está|em|het|een|van|draagt|jest|ma|na|z|w|og"
    r"|på|det|är"
)


def named_attributes(text: str, attributes: Iterable[str]) -> list[str]:
    """Returns the attributes (keys of `IDENTITY_ATTRIBUTES` or `CLOTHING_ATTRIBUTES`) that a text names.

    Raises:
        KeyError: an unknown attribute.
    """
    known = {**IDENTITY_ATTRIBUTES, **CLOTHING_ATTRIBUTES}
    return [name for name in attributes if known[name].pattern.search(text)]


def clothing_words(text: str) -> list[str]:
    """Returns the words about clothing: in lower case, in order, each once."""
    return _found(_CLOTHING, text)


def body_words(text: str) -> list[str]:
    """Returns the words about a body (gender, age, build, height, hair, skin), as `clothing_words`."""
    return _found(_BODY, text)


def refusal_words(text: str) -> list[str]:
    """Returns the words of a refusal to answer, as `clothing_words`."""
    return _found(_REFUSAL, text.replace("’", "'"))


def meta_words(text: str) -> list[str]:
    """Returns the words about the picture or the task instead of the person, as `clothing_words`."""
    return _found(_META, text)


def is_english(text: str) -> bool:
    """Checks by letters and function words whether a text is English."""
    letters = [letter for letter in text if letter.isalpha()]
    if sum(letter.isascii() for letter in letters) < 0.9 * len(letters):
        return False
    foreign = len(_FOREIGN.findall(text))
    return foreign < 2 or len(_ENGLISH.findall(text)) >= foreign


def _found(pattern: re.Pattern[str], text: str) -> list[str]:
    return list(dict.fromkeys(match.lower() for match in pattern.findall(text)))
