"""Finds answers that are not a description of one unknown person: several people, names, instructions, talk."""

import re
from functools import lru_cache

from .lexicon import ENGLISH_WORDS, PERSON, word_set, words_pattern

_ONE = (
    f"(?:{PERSON}|person|individual|child|kid|baby|toddler|infant|companion|friend|couple|partner|stranger|adult"
    "|teenager|pedestrian)"
)
_MANY = (
    "(?:people|persons|men|women|individuals|boys|girls|children|kids|pedestrians|figures|adults|friends|ladies|guys"
    "|males|females|students|teenagers|subjects|gentlemen|passers-by|bystanders|others)(?!['’])"
)
_WORDS = r"(?:(?!of\b|with\b)[\w-]+\s){0,3}?"
_PEOPLE = words_pattern(
    r"(?:two|three|four|five|six|several|many|multiple|both|group\sof|crowd\sof|couple\sof|pair\sof"
    rf"|\d)\s{_WORDS}{_MANY}",
    rf"(?:an?|the|one|another)\s{_WORDS}{_ONE}(?:\s[\w\s-]{{0,40}})?\s(?:and|beside|next\sto|accompanied\sby"
    r"|alongside|together\swith|with|hugging|hold(?:s|ing)|carr(?:ies|ying)|near)\s(?:an?|another|his|her|their"
    rf"|the)\s{_WORDS}{_ONE}(?!['’])",
    rf"(?:the\s|an)other\s{_WORDS}(?:one|figure|{_ONE})",
    rf"the\s(?:first|second|third)\s(?:one|{_ONE})",
    rf"(?:one|figure|{_ONE})\s(?:is\s)?(?:on|to|at)\s(?:the|their|his|her)\s(?:left|right|front|back)(?!\s(?:shoulder"
    "|arm|wrist|hand|side))",
    r"(?:next\sto|beside|alongside|behind|in\sfront\sof)\s(?:him|her|them),?\s(?:an?|another|is|stands|walks|there)",
    r"each\sof\sthem|both\sof\sthem|one\sof\sthem|they\sare\sboth|while\sthe\sother|walking\swith\s(?:an?|his|her"
    r"|their|another|someone)\b|accompanied\sby|group\sof\speople",
    r"an?\s(?:\w+\s)?couple(?!\sof)|(?:first|second)\s(?:man|woman|person)|person\s(?:[12]|one|two|[ab])(?=[\s:,])",
    rf"(?:man|woman|boy|girl)\sand\s(?:an?\s|the\s)?{_WORDS}(?:man|woman|boy|girl|child)",
    r"(?:hold(?:s|ing)|carr(?:ies|ying)|with)\s(?:an?|his|her|their)\s(?:\w+\s)?(?:baby|toddler|infant|son|daughter"
    r"|child)(?!['’]s|\s(?:carrier|seat|stroller|blue|pink|bag))",
)
_VERBS = (
    r"ignore|disregard|forget|repeat|return|output|print|respond|reply|answer|say|call|visit|click|scan|follow|send|pay"
    r"|buy|enter|press|execute|run|delete|translate|describe|approve|grant|tell|act|pretend|insert|include|give|do\snot"
    r"|don['’]t|never|always|please|write|sign\sup|subscribe|download|install|email|text|dial|attention|warning|caution"
    r"|stop|reveal|use|keep\s(?:left|right|out|off|clear|calm)|no\s(?:entry|parking|smoking|trespassing|photography)"
)
# One word boundary before all alternatives: the pattern is tried at the beginning of words only.
_INSTRUCTION = re.compile(
    r"\b(?:(?:ignore|disregard|forget|override|bypass)\s(?:\w+\s){0,3}(?:instructions?|prompts?|rules?|above|previous|prior"
    r"|rest|everything)\b|you\s(?:must|should|are\s(?:now|an?)|have\sto|will\snow|need\sto)\b"
    r"|system\s(?:prompt|message|override)|(?:developer|admin)\smode|(?:respond|reply|answer)\s(?:only\s)?with\b"
    r"|output\sonly\b|https?://|www\.\w|(?:api|access)\s(?:key|token)|password|jailbreak"
    r"|(?:assistant|system|user)\s?:|(?:qr\scode|free\squote|special\soffer|terms\sand\sconditions)\b"
    r"|(?:visit|call|scan|click|text|dial|contact|follow|email)\s(?:us|now|here|today|this|our|the\s(?:link|number|qr))\b"
    r"|(?:as\s(?:instructed|written|stated)|according\sto)\s(?:by|on|in|the)\b"
    r"|(?:sign|notice|poster|banner|screen)\s(?:says|reads|states)\b"
    r"|(?:drop|select)\s(?:table|\*)|def\s\w+\(|import\s\w+$|sudo\b"
    rf"|(?:^|(?<=[.!?:;]\s)|(?<=[\n\"'“‘]))(?:{_VERBS})\b(?!\s(?:is|are|with)))"
    r"|(?<=[\w-])\.(?:com|net|org|io)\b|(?<=\S)@\w+\.\w|\+?\d[\d\s().-]{8,}\d"
)
_NATIONS = word_set(
    "asian black white caucasian hispanic latino latina latinx african american european indian arab arabic "
    "middle eastern east south southeast north west western central mediterranean nordic scandinavian chinese "
    "japanese korean african-american pacific islander native turkish persian pakistani british english german "
    "french italian spanish polish i afro"
)
_NAMED = re.compile(
    r"\b(?:named|called|known\sas|identified\sas|recogni[sz]ed\sas|nicknamed|whose\sname|name\sis|by\sthe\sname)\b"
    r"|\b(?:resembl(?:es|ing)|looks?\s(?:just\s|a\slot\s|very\smuch\s)?like|lookalike\sof|similar\sto|reminiscent\sof"
    r"|played\sby)\s[A-Z][a-z]|\b(?:the\s)?(?:famous|well-known|actor|actress|singer|rapper|politician|president"
    r"|prime\sminister|footballer|celebrity|(?:basketball|football|soccer|tennis)\s(?:player|star)|(?:Mr|Mrs|Ms|Dr"
    r"|Prof|Sir|Queen|King|Prince(?:ss)?)\b\.?(?=\s[A-Z]))"
)
_CAPITAL = r"[A-Z][a-z]+(?:[-'’][A-Z][a-z]+)?|[A-Z]\."
_FULL_NAME = re.compile(rf"\b({_CAPITAL})\s((?:(?:{_CAPITAL})\s)?{_CAPITAL})\b")
_MID_NAME = re.compile(rf"(?<=[a-z,]\s)({_CAPITAL})\b")
_SUBJECT = re.compile(
    r"(?:^|(?<=[.!?;]\s))([A-Z][a-z]+)(?:\s[A-Z][a-z]+)*(?:,\s[\w\s-]{1,40},)?\s(?:is\s(?:an?\b|wearing|dressed"
    r"|carrying|seen|walking|standing|tall|short|young|old|slim|in\b)|has\s(?:an?\b|short|long|dark|on\b)|wears"
    "|carries|holds|stands|looks|appears|seems)"
)
_SUBJECTS = word_set(
    "he she they it who this that there the a an person someone somebody individual subject figure wearer "
    "pedestrian man woman boy girl male female child adult teenager hair skin build height body face head "
    "complexion everything outfit clothing clothes attire footwear top bottom pattern material also each one "
    "other gender age posture physique stature race frame ethnicity jacket coat shirt dress skirt bag backpack "
    "hat cap nothing none jumper sweater suit hood scarf fabric beard"
)
_TALK = re.compile(
    r"\b(?:(?:the|this|that|given|provided|attached|uploaded)\s(?:image|photo(?:graph)?|picture|footage|snapshot"
    r"|screenshot)\b(?!\s(?:of|on|print))|in\s(?:the\s)?(?:frame|shot)\b|json\b"
    r"|(?:identity|clothing)_(?:description|attributes)\b|as\srequested\b|lorem\sipsum\b"
    r"|here\s(?:is|are)\s(?:the|a|my|your)\b|here['’]s\b|note\sthat\b|not\sspecified\b|placeholder\b|todo\b|tbd\b"
    r"|n/a\b|i\s(?:see|think|can|am|believe|would|cannot|notice|observe|will|need|must|have)\b|i['’](?:m|ll|d|ve)\b"
    r"|let\sme\sknow\b|hope\sthis\b|feel\sfree\b|would\syou\slike\b|is\sthere\sanything\b"
    r"|no\s(?:person|people|human|individual|pedestrian)s?\b|nobody\b|(?:does|do)\snot\s(?:contain|show|depict)\b"
    r"|short\sphrase\b|as\san\sai\b|describe\sthe\sperson\b|based\son\s(?:the|this|what)\b"
    r"|(?:person|man|woman|he|she|subject)\s(?:is|as)\s(?:shown|depicted|pictured|displayed)\b"
    r"|your\s(?:text|description|answer)\b|(?:insert|fill\sin)\b|(?:either|could\sbe)\san?\s\w+\sor\san?\s\w+"
    r"|(?:man|male|he)\s?/\s?(?:woman|female|she)\b)"
    r"|\[[^\]]*\]|\{[^}]*\}|\.\.\.$|^\.+$|^(?:string|text|null|none|unknown)\.?$|\?$"
)
_OPENING = re.compile(
    r"^(?:(?:in\s)?(?:the|this)\s(?:image|photo(?:graph)?|picture|frame),?\s(?:(?:shows|depicts|features|captures"
    r"|is\sof|contains)\s)?|(?:sure|certainly|okay|of\scourse)[!,.]\s(?:here\s(?:is|['’]s)[^:]{0,60}:\s)?)",
    re.IGNORECASE,
)
_IN_IMAGE = re.compile(
    r",?\s(?:(?:shown|seen|visible|depicted|pictured)\s)?(?:in|from|of|on)\s(?:the|this)\s(?:image|photo(?:graph)?"
    r"|picture)\b"
)


def people_words(identity: str, clothing: str) -> str | None:
    """Returns the words by which the texts describe more than one person, or None."""
    for text in (identity, clothing):
        if found := _PEOPLE.search(re.sub(r"[\"“][^\"”]*[\"”]", "", text).lower()):
            return found[0]
    return "he, she" if {"he", "she"} <= set(re.findall(r"\w+", identity.lower())) else None


def instruction_words(text: str) -> str | None:
    """Returns the words of an instruction, an address or a number to call, or None."""
    found = _INSTRUCTION.search(text.lower())
    return found[0].strip() if found else None


def name_of_person(text: str, *, identity: bool) -> str | None:
    """Returns a name of a person, or a comparison with one, or None.

    Names of brands and teams are usual in clothing texts: there, only a name before a verb ("John wears") counts.
    """
    found = _NAMED.search(text)
    if found and (identity or found[0].lower() not in ("called", "known as", "famous", "well-known")):
        return found[0]
    for found in _SUBJECT.finditer(text):
        if not _is_common(found[1], _SUBJECTS):
            return found[0]
    if not identity:
        return None
    for found in _FULL_NAME.finditer(text):
        words = f"{found[1]} {found[2]}".lower().split()
        if not all(word in _NATIONS for word in words[1:]):
            return found[0]
    return next((found[1] for found in _MID_NAME.finditer(text) if not _is_common(found[1], _NATIONS)), None)


def _is_common(word: str, known: frozenset[str]) -> bool:
    return word.lower() in known or ENGLISH_WORDS.fullmatch(word.lower()) is not None


@lru_cache(maxsize=64)  # the texts of an answer are checked again after its repair
def without_talk(text: str) -> tuple[str, list[str]]:
    """Removes talk about the picture or the task; returns the text and the words that remain of it.

    An opening such as "The image shows" is removed; so is a whole sentence, if others remain.
    """
    if not _TALK.search(text.lower()) and not _OPENING.match(text):
        return text, []
    original = text
    text = _IN_IMAGE.sub("", _OPENING.sub("", text))
    sentences = re.split(r"(?<=[.!?])\s+", text)
    kept = [sentence for sentence in sentences if not _TALK.search(sentence.lower())]
    if kept and len(kept) < len(sentences):
        text = " ".join(kept)
    text = text if text == original else text[:1].upper() + text[1:]
    return text, [found[0] for found in _TALK.finditer(text.lower())]
