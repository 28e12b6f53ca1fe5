"""Word lists (regular expressions) that detect body, clothing, refusals and the language.

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


def words_pattern(*patterns: str) -> re.Pattern[str]:
    """Compiles a pattern of lower-case texts that matches one of the given patterns between word boundaries.

    Patterns without IGNORECASE skip alternatives by their first letter, which makes a search several times faster.
    """
    return re.compile(r"\b(?:" + "|".join(patterns) + r")\b")


def word_set(words: str) -> frozenset[str]:
    """Returns the words of a text as a set."""
    return frozenset(words.split())


COLORS = (
    "black|white|gr[ae]y|silver|red|maroon|burgundy|pink|orange|yellow|gold(?:en)?|beige|tan|cream|khaki|brown|olive"
    "|green|teal|turquoise|blue|navy|purple|violet|lavender|mustard|charcoal|crimson|burgundy|lilac|mint|aqua|peach|coral|ivory|bronze|copper|dark|light|bright|pale|multi-?colou?red|colou?rful|denim"
)
_SHORT_HAIR = (
    rf"short(?:er|ish)?(?=[\s,-]+(?:(?:{COLORS}|blonde?|cropped|curly|wavy|straight|neat|spiky|and"
    r"|to)[\s,-]+)*(?:medium[\s-]length\s)?(?:hair|beard))"
)
PERSON = "wom[ae]n|m[ae]n|boys?|girls?|males?|females?|lad(?:y|ies)|gentlem[ae]n|guys?|dudes?|gals?|fellas?"
_AGE = (
    r"young(?:er)?|youth(?:ful)?|middle[\s-]aged?|midlife|grown|mature|pensioner|retirement|minor|year-old|elderly"
    "|old(?:er)?|senior|teen(?:age[rd]?|s)?|adolescent|child|kid|toddler|infant|adults?|aged|years|(?:early|mid"
    r"|late)[\s-](?:teens|twenties|thirties|forties|fifties|sixties)|twenties|thirties|forties|fifties|sixties"
    r"|seventies|\d0s"
)
_BUILD = (
    "slim|slender|thin|lean|skinny|petite|lanky|stocky|sturdy|heav(?:y|ier)|heavyset|overweight|obese|chubby|plump"
    r"|fat|muscular|athletic|fit|burly|broad[\s-]shouldered|build|built|body|physique|figure|frame|stout|wiry|curvy"
    "|portly|rotund|toned|weight|slight|rangy|willowy|brawny|full-figured"
)
_HAIR = (
    "hair(?:ed|style|cut|line)?|bald(?:ing)?|shaved|ponytail|pigtails|bun|braids?|bob|bangs|blonde?|brunette"
    r"|dreadlocks|afro|buzz[\s-]?cut|twists|(?:dread)?locs|cornrows|curls|crew[\s-]?cut|updo|fringe|mohawk|topknot"
    "|plaits?|tresses"
)
_SKIN = (
    rf"skin(?:ned|tone)?|complexion(?:ed)?|(?:black|white)(?=\s(?:{PERSON}|person|individual|adult)\b)|tanned"
    r"|mediterranean|biracial|caucasian|asian|african|hispanic|latin[oax]|european|arab|indian|middle[\s-]eastern"
    "|race|ethnic(?:ity|ally)?"
)

IDENTITY_ATTRIBUTES: dict[str, Attribute] = {
    "gender": Attribute("gender", words_pattern(PERSON, "he", "she", "his", "her")),
    "age": Attribute("age group (such as child, teenager, young adult, middle-aged, elderly)", words_pattern(_AGE)),
    "build": Attribute("body type (such as slim, average, athletic, heavy-set)", words_pattern(_BUILD)),
    "height": Attribute(
        "height (short, average or tall)",
        words_pattern(
            rf"(?!{_SHORT_HAIR})short(?:er|ish)?",
            "tall(?:er)?",
            "height",
            "stature",
            r"\d\s?(?:cm|feet|foot|ft)",
            r"\d\.\d+\s?m",
        ),
    ),
    "hair": Attribute("hair (length, color, style; say so if it is hidden)", words_pattern(_HAIR)),
    "skin": Attribute("skin tone or race", words_pattern(_SKIN)),
}
"""The choices of `--attributes`; all by default. The paper (section 3.3) lists race, gender, age and body type."""

_GARMENT = (
    r"(?:t-?|sweat|under|over)?shirts?|tees?|blouses?|polo|(?:tank|crop|halter)[\s-]tops?|sweaters?|jumpers?"
    "|pullovers?|cardigans?|hood(?:ie|y|ies)|jackets?|(?:over|rain|trench)?coats?|blazers?|suits?|vests?|waistcoats?"
    "|parkas?|windbreakers?|ponchos?|dress(?:es)?|anoraks?|gilets?|kurtas?|kurtis?|salwar|kameez|dhotis?|thobes?"
    r"|culottes|bermudas|capris|tops?(?=\sin\b)|gowns?|skirts?|trousers|pants|slacks|jeans|shorts|leggings|joggers"
    "|sweatpants|chinos|tights|stockings|(?:jump|track)suits?|overalls|dungarees|rompers?|tunics?|uniforms?|aprons?"
    "|robes?|capes?|cloaks?|shawls?|sar(?:i|ee)s?|kimonos?|abayas?|pyjamas|pajamas"
)
SHOES = (
    r"shoes?|sneakers?|trainers|boots?|booties|sandals?|slippers?|flip-?flops|loafers|(?:high\s|stiletto\s)heels"
    "|heels|moccasins|clogs|footwear|barefoot|brogues?|oxfords?|derb(?:y|ies)|pumps|wedges|espadrilles|mules|crocs"
    r"|plimsolls|wellingtons|wellies|stilettos|ballet\sflats|flats|cleats|slides|hightops|high-tops"
)
_ACCESSORY = (
    "accessor(?:y|ies)|(?:hand|shoulder)?bags?|backpacks?|rucksacks?|purses?|satchels?|totes?|suitcases?|luggage"
    r"|briefcases?|(?:base-?ball\s)?caps?|hats?|beanies?|hoods?|helmets?|scar(?:f|ves)|headscar(?:f|ves)|hijabs?"
    r"|turbans?|bandanas?|gloves?|mittens?|(?:neck|bow\s)?ties?|belts?|(?:wrist)?watch(?:es)?|bracelets?|necklaces?"
    "|bangles?|wristbands?|armbands?|pendants?|earrings?|jewell?e?ry|(?:eye|sun)?glasses|goggles|umbrellas?"
    r"|(?:face\s)?masks?|headphones|earphones|lanyards?|socks?|headbands?|hairbands?|hair\s(?:tie|clip|band|pin)s?"
    r"|(?:walking\s)?(?:cane|stick)s?|crossbody|messenger|pouch(?:es)?|duffels?|clutch|rings?|anklets?|berets?"
    "|visors?|durags?|snood|earbuds|airpods|(?:smart)?phones?|bottles?|badges?|holdall|lunchbox|folder|leash"
    "|crutch(?:es)?"
)

CLOTHING_ATTRIBUTES: dict[str, Attribute] = {
    "type": Attribute("the type of each garment", words_pattern(_GARMENT, "tops?")),
    "color": Attribute("the color of each garment", words_pattern(COLORS)),
    "pattern": Attribute(
        "its pattern (say plain where there is none)",
        words_pattern(
            "plain|solid|pattern(?:ed|s)?|strip(?:e|es|ed|y)|check(?:s|ed|ered)?|plaid|tartan|dot(?:s|ted)|polka"
            "|floral|flower(?:s|ed)|print(?:s|ed)?|graphics?|logos?|lettering|text|numbers?|camouflage|spotted"
            "|leopard|uni(?:colou?r|form)|single-colou?red|embroider(?:ed|y)|textured|unpatterned"
        ),
    ),
    "material": Attribute(
        "its material as far as it can be seen",
        words_pattern(
            "material|fabric|cotton|denim|leather|suede|wool(?:l?en)?|knit(?:ted)?|silk|linen|polyester|nylon|fleece"
            "|canvas|cloth|velvet|corduroy|lace|chiffon|satin|synthetic|down|puffer|quilted|mesh|jersey|jeans|fur"
            "|rubber|tweed|lightweight|woven"
        ),
    ),
    "shoes": Attribute("the shoes (say so if they cannot be seen)", words_pattern(SHOES)),
    "accessories": Attribute(
        "accessories such as bag, hat, glasses (say so if there are none)", words_pattern(_ACCESSORY)
    ),
}
"""The attributes of every clothing description."""
_ATTRIBUTES = IDENTITY_ATTRIBUTES | CLOTHING_ATTRIBUTES

# Without the words of `AMBIGUOUS_WORN`: each of these is a garment, a shoe or a bag in any context.
GARMENTS = (
    r"(?:t-?|sweat|under|over)?shirts?|tees|blouses?|(?:tank|crop|halter)[\s-]tops?|sweaters?|jumpers?|pullovers?"
    "|cardigans?|hoodies?|jackets?|(?:over|rain|trench)?coats?|blazers?|waistcoats?|parkas?|windbreakers?|ponchos?"
    "|skirts?|trousers|pants|slacks|jeans|shorts|leggings|joggers|sweatpants|chinos|tights|(?:jump|track)suits?"
    "|overalls|dungarees|tunics?|sar(?:i|ee)s?|kimonos?|abayas?|pyjamas|pajamas|kurtas?|anoraks?|shoes|sneakers?"
    r"|boots|sandals?|slippers?|flip-?flops|loafers|high\sheels|footwear|brogues|wellingtons|(?:hand|shoulder)bags?"
    r"|backpacks?|rucksacks?|purses?|satchels?|tote\sbags?|suitcases?|briefcases?|sunglasses|eyeglasses|spectacles"
    "|wristwatch(?:es)?|necklaces?|earrings?|bracelets?|umbrellas?|headphones|beanies?|gloves|turtlenecks?"
)
AMBIGUOUS_WORN = (
    r"(?<!on\s)(?<!at\sthe\s)tops?(?!\sof\b)|suits?|vests?|dress(?:es)?|gowns?|polo|uniforms?|robes?|capes?|cloaks?"
    "|shawls?|caps?|hats?|hoods?|helmets?|scar(?:f|ves)|headscar(?:f|ves)|hijabs?|turbans?|bandanas?|masks?|glasses"
    "|watch(?:es)?|belts?|ties?|bags?|heels|socks|headbands?|clothes|clothing|outfit|attire|trainers|rings?|visor"
    "|garments?|apron"
)

_WEARS = r"wear(?:s|ing)?(?!(?:[\s,]+[\w-]+){0,4}\s+(?:hair|beard|mo?ustache|ponytail|bun|braids?))"
_CLOTHING = words_pattern(
    _GARMENT,
    SHOES.replace("|barefoot", ""),
    _ACCESSORY,
    _WEARS,
    r"(?<!on\s)(?<!at\sthe\s)tops?(?!\s+of)",
    r"dressed|clad|cloth(?:es|ing)|outfits?|attire|garments?|apparel|sleeves?|sleeved|sleeveless|headwear|denim",
)
_BODY = words_pattern(
    PERSON,
    r"he|she|his|her|hers|him|himself|herself",
    r"young|youthful|elderly|middle[\s-]aged|teenage[rd]?|adult|toddler|senior|years\sold|in\s(?:his|her"
    r"|their)\s(?:\w+[\s-])?(?:teens|twenties|thirties|forties|fifties|sixties|\d0s)",
    "slender|stocky|overweight|obese|chubby|plump|muscular|heavy-?set|petite|lanky|burly|build|physique|stature"
    r"|body\stype|figure(?!-)|(?:slim|thin|skinny|athletic|heavy|average)\s(?:body|frame|person|individual)",
    r"tall(?!\s(?:leather\s|rubber\s)?(?:boots|socks|shoes|collar|hat|heels))|(?<!-)height(?!-)|short\s(?:person|individual)",
    r"hair(?![\s-]?(?:ties?|clips?|bands?|pins?|accessor\w*|bows?|ribbons?|nets?)\b)|\w+-haired|hair(?:style|cut"
    "|line)|bald(?:ing)?|beard(?:ed)?|mo?ustache|ponytail|pigtails|blonde?|brunette|dreadlocks",
    r"(?<!-)skin(?![-\s]?(?:tight|colou?red))|\w+-skinned|complexion|freckles|tattoos?|facial",
    r"caucasian|asian|african|hispanic|latin[oa]|middle[\s-]eastern|ethnicity",
)
_REFUSAL = words_pattern(
    r"i(?:'m|\sam)?\s(?:very\s|really\s)?(?:sorry|cannot|can\s?not|can't|won't|unable|not\sable|not\scomfortable)",
    r"i\sapologi[sz]e|as\san\sai|language\smodel",
    r"i\s(?:must|have\sto|will\snot|do\snot|don't|decline)\s(?:decline|describe|provide|identify|feel"
    r"|have\sthe\sability)|i\sdecline|(?:due\sto|for)\sprivacy|privacy\s(?:policy|reasons|concerns)"
    r"|not\sable\sto\s(?:assist|help|identify|describe|provide|comply)|(?:would\sbe\sin|not\s)appropriate"
    r"|no\sdescription\s(?:is\s)?(?:available|possible)|request\s(?:was\s)?(?:denied|declined)|sorry,\s(?:but|i|we"
    "|this)",
    r"(?:cannot|can't|unable\sto)\s(?:assist|help|comply|identify|describe|provide|fulfill?|analy[sz]e)",
    r"(?:against|violates?)\s(?:my|our|the)\s(?:\w+\s)?(?:policy|policies|guidelines)",
)
ENGLISH_WORDS = words_pattern(
    "i|a|an|the|and|with|of|in|on|is|are|has|have|to|who|person|wearing|wears|she|he|his|her|their|this|that|it|by"
    "|over|under|from|visible|no|not|or|as|at"
)
_COLOR = words_pattern(COLORS, _HAIR)
_FOREIGN = words_pattern(
    "der|das|und|seine?|trug|mann|frau|hombre|mujer|homme|femme|pelo|cheveux|haare|jung(?:er)?|joven|mit|ein|eine"
    "|einem|einen|trägt|ist|sich|im|auf|le|les|une?|du|et|avec|est|porte|dans|el|los|las|con|una|y|lleva|es|tiene|il"
    "|lo|gli|di|che|indossa|uma?|com|os|veste|está|em|het|een|van|draagt|jest|ma|na|z|w|og|på|det|är"
)


def named_attributes(text: str, attributes: Iterable[str]) -> list[str]:
    """Returns the attributes (keys of `IDENTITY_ATTRIBUTES` or `CLOTHING_ATTRIBUTES`) that a text names."""
    text = text.lower()
    return [name for name in attributes if _ATTRIBUTES[name].pattern.search(text)]


def clothing_words(text: str) -> list[str]:
    """Returns the words about clothing, as `found_words`."""
    return found_words(_CLOTHING, text)


def body_words(text: str) -> list[str]:
    """Returns the words about a body (gender, age, build, height, hair, skin), as `found_words`."""
    return found_words(_BODY, text)


def refusal_words(text: str) -> list[str]:
    """Returns the words of a refusal to answer, as `found_words`."""
    return found_words(_REFUSAL, text.replace("’", "'"))


def is_english(text: str) -> bool:
    """Checks by letters, function words and words about people whether a text is English."""
    if not text.isascii():
        letters = [letter for letter in text if letter.isalpha()]
        if sum(letter.isascii() for letter in letters) < 0.9 * len(letters):
            return False
    text = text.lower()
    foreign, english = len(_FOREIGN.findall(text)), len(ENGLISH_WORDS.findall(text))
    if foreign >= 2 and english < foreign:
        return False
    if english >= 0.15 * len(text.split()):
        return True
    known = english + len(_CLOTHING.findall(text)) + len(_BODY.findall(text)) + len(_COLOR.findall(text))
    return known >= 0.15 * len(text.split())


def found_words(pattern: re.Pattern[str], text: str) -> list[str]:
    """Returns the matches of a lower-case pattern in a text: in lower case, in order, each once."""
    return list(dict.fromkeys(pattern.findall(text.lower())))
