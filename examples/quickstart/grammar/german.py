"""Clauses in German: verb second, first and last, separable prefixes, case, agreement, order."""

from __future__ import annotations

import re

from grammar.clause import NP, Adverb, Clause, Prepositional
from grammar.lexicon import Verb

NOMINATIVE, ACCUSATIVE, DATIVE = "nominative", "accusative", "dative"

_PERSON_INDEX = {"I": 0, "thou": 1, "he": 2, "she": 2, "it": 2, "we": 3, "ye": 4, "they": 5}

_PRONOUNS = {
    NOMINATIVE: dict(I="ich", thou="du", he="er", she="sie", it="es", we="wir", ye="ihr", they="sie"),
    ACCUSATIVE: dict(I="mich", thou="dich", he="ihn", she="sie", it="es", we="uns", ye="euch", they="sie"),
    DATIVE: dict(I="mir", thou="dir", he="ihm", she="ihr", it="ihm", we="uns", ye="euch", they="ihnen"),
}
_REFLEXIVES = dict(I="mich", thou="dich", he="sich", she="sich", it="sich", we="uns", ye="euch", they="sich")
_POSSESSIVES = dict(I="mein", thou="dein", he="sein", she="ihr", it="sein", we="unser", ye="euer", they="ihr")

# Each row: masculine, feminine, neuter, plural.
_GENDERS = "mfnp"
_ARTICLES = {
    NOMINATIVE: ("der", "die", "das", "die"),
    ACCUSATIVE: ("den", "die", "das", "die"),
    DATIVE: ("dem", "der", "dem", "den"),
}
_RELATIVES = {**_ARTICLES, DATIVE: ("dem", "der", "dem", "denen")}
_STRONG = {
    NOMINATIVE: ("er", "e", "es", "e"),
    ACCUSATIVE: ("en", "e", "es", "e"),
    DATIVE: ("em", "er", "em", "en"),
}
_WEAK = {
    NOMINATIVE: ("e", "e", "e", "en"),
    ACCUSATIVE: ("en", "e", "e", "en"),
    DATIVE: ("en", "en", "en", "en"),
}

_FINITE = {
    "sein": ("bin", "bist", "ist", "sind", "seid", "sind"),
    "haben": ("habe", "hast", "hat", "haben", "habt", "haben"),
    "werden": ("werde", "wirst", "wird", "werden", "werdet", "werden"),
    "wissen": ("weiß", "weißt", "weiß", "wissen", "wisst", "wissen"),
    "können": ("kann", "kannst", "kann", "können", "könnt", "können"),
    "müssen": ("muss", "musst", "muss", "müssen", "müsst", "müssen"),
    "wollen": ("will", "willst", "will", "wollen", "wollt", "wollen"),
    "dürfen": ("darf", "darfst", "darf", "dürfen", "dürft", "dürfen"),
    "sollen": ("soll", "sollst", "soll", "sollen", "sollt", "sollen"),
    "möchten": ("möchte", "möchtest", "möchte", "möchten", "möchtet", "möchten"),
}
_PAST_STEMS = {
    "haben": "hatte",
    "können": "konnte",
    "müssen": "musste",
    "wollen": "wollte",
    "dürfen": "durfte",
}
_FINITE_PAST = {
    "sein": ("war", "warst", "war", "waren", "wart", "waren"),
    **{
        verb: tuple(stem + ending for ending in ("", "st", "", "n", "t", "n"))
        for verb, stem in _PAST_STEMS.items()
    },
}

# Stems with an e before t and st: arbeit-et, öffn-et, zeichn-et, but lern-t, wohn-t, räum-t.
_NEEDS_E = re.compile(r"[td]$|[^aeiouäöülrhmn][mn]$|ch[mn]$")

_CONTRACTED = {
    "in dem": "im",
    "in das": "ins",
    "an dem": "am",
    "an das": "ans",
    "zu dem": "zum",
    "zu der": "zur",
    "bei dem": "beim",
    "von dem": "vom",
}


def pronoun(person: str, case: str) -> str:
    return _PRONOUNS[case][person]


def relative_pronoun(np: NP, case: str) -> str:
    return _RELATIVES[case][_column(np)]


def noun_phrase(np: NP, case: str, negated: bool = False) -> str:
    """The phrase in a case; `negated` turns a, some and nothing into kein."""
    if np.pronoun:
        return pronoun(np.pronoun, case)
    if np.name:
        return np.name
    determiner = "no" if negated and np.indefinite else np.determiner
    column = _column(np)
    words = [_determiner(determiner, case, column)]
    if np.adjective:
        words.append(np.adjective.stem + _adjective_ending(determiner, case, column))
    words.append(_noun(np, case))
    return " ".join(filter(None, words))


def prepositional(phrase: Prepositional | Adverb) -> str:
    if isinstance(phrase, Adverb):
        return phrase.german
    preposition, words = phrase.german, noun_phrase(phrase.np, phrase.case)
    if phrase.np.noun is not None and not phrase.np.pronoun and phrase.np.determiner == "the":
        article, _, rest = words.partition(" ")
        together = f"{preposition} {article}"
        return f"{_CONTRACTED.get(together, together)} {rest}"
    return f"{preposition} {words}"


def conjugate(infinitive: str, person: str, thou: str = "", it: str = "") -> str:
    """The present tense; `thou` and `it` are the forms with du and er where the stem changes."""
    index = _PERSON_INDEX[person]
    if infinitive in _FINITE:
        return _FINITE[infinitive][index]
    if (index == 1 and thou) or (index == 2 and it):
        return thou if index == 1 else it
    stem = infinitive.removesuffix("n").removesuffix("e")
    link = "e" if _NEEDS_E.search(stem) else ""
    hissing = stem.endswith(("s", "ß", "z", "x"))
    first = stem + "e"
    return (
        first,
        stem + link + ("t" if hissing else "st"),
        stem + link + "t",
        infinitive,
        stem + link + "t",
        infinitive,
    )[index]


def imperative(verb: Verb) -> str:
    """The command to one person (du): nimm, mach, warte; without the prefix."""
    stem = verb.infinitive.removesuffix("n").removesuffix("e")
    if verb.it and "ä" not in verb.it:
        return verb.it.removesuffix("t")
    return stem + ("e" if _NEEDS_E.search(stem) or stem.endswith("er") else "")


def main_clause(clause: Clause) -> str:
    """Verb second: the subject or what `clause.front` names, the finite verb, the rest."""
    finite, closing = _verb(clause)
    if not clause.front:
        return _join(
            noun_phrase(clause.subject, NOMINATIVE), finite, *middle(clause, without="subject"), *closing
        )
    fronted = {
        "time": lambda: clause.time.german,
        "place": lambda: prepositional(clause.place),
        "accusative": lambda: noun_phrase(clause.accusative, ACCUSATIVE),
    }[clause.front]()
    return _join(fronted, finite, *middle(clause, without=clause.front), *closing)


def verb_first(clause: Clause, without: str = "") -> str:
    """A question, or the main clause after what stands before it; `without` leaves out what was asked for."""
    finite, closing = _verb(clause)
    return _join(finite, *middle(clause, without=without), *closing)


def verb_last(clause: Clause, without: str = "") -> str:
    """A subordinate clause after its conjunction or relative pronoun."""
    finite, closing = _verb(clause)
    if closing == [clause.verb.prefix]:
        return _join(*middle(clause, without=without), clause.verb.prefix + finite)
    return _join(*middle(clause, without=without), *closing, finite)


def infinitive_clause(clause: Clause) -> str:
    """An infinitive with zu, which stands inside a separable verb: aufzumachen."""
    verb = clause.verb
    infinitive = f"{verb.prefix}zu{verb.infinitive}" if verb.prefix else f"zu {verb.infinitive}"
    return _join(*middle(clause, without="subject"), infinitive)


def command(clause: Clause) -> str:
    return _join(
        imperative(clause.verb), *middle(clause, without="subject", particle="bitte"), clause.verb.prefix
    )


def middle(clause: Clause, without: str = "", particle: str = "") -> list[str]:
    """What stands between the finite verb and the end: pronouns, time, dative, definite accusative, negation,
    indefinite accusative, place, prepositional object, predicate. `particle` (bitte) follows the pronouns."""
    subject = "" if without == "subject" else noun_phrase(clause.subject, NOMINATIVE)
    reflexive = _REFLEXIVES[clause.subject.person] if clause.verb.reflexive else ""
    accusative = None if without == "accusative" else clause.accusative
    dative = None if without == "dative" else clause.dative
    parts = [subject, reflexive] if clause.subject.pronoun else [reflexive, subject]
    parts += [
        noun_phrase(np, case)
        for np, case in ((accusative, ACCUSATIVE), (dative, DATIVE))
        if np and np.pronoun
    ]
    parts.append(particle)

    definite = [
        noun_phrase(np, case)
        for np, case in ((dative, DATIVE), (accusative, ACCUSATIVE))
        if np and not np.pronoun and not np.indefinite
    ]
    time = [
        clause.time.german if clause.time and without != "time" else "",
        "schon" if clause.tense == "done" and not clause.negated else "",
    ]
    # nicht, schon and seit follow what is known: er kauft das Brot heute nicht, but er kauft heute das Brot.
    known_first = clause.negated or clause.tense == "done" or clause.aspect == "since"
    parts += definite + time if known_first else time + definite

    indefinite = accusative is not None and accusative.indefinite
    no_object = clause.negated and indefinite and not clause.fond
    parts.append(_negation(clause, no_object))
    if indefinite:
        parts.append(noun_phrase(accusative, ACCUSATIVE, negated=no_object))
    if clause.place and without != "place":
        parts.append(prepositional(clause.place))
    if clause.object and without != "object":
        parts.append(prepositional(clause.object))
    if clause.predicate:
        parts.append(clause.predicate.german)
        if clause.predicate.than:
            parts.append("als " + noun_phrase(clause.predicate.than, NOMINATIVE))
    return parts


def _negation(clause: Clause, no_object: bool) -> str:
    words = []
    if clause.negated:
        words += ["noch"] * (clause.tense == "done") + ["nicht"] * (not no_object)
    if clause.fond:
        words.append("gern")
    return " ".join(words)


def _verb(clause: Clause) -> tuple[str, list[str]]:
    """The finite form without its prefix, and what closes the clause."""
    verb, person = clause.verb, clause.subject.person
    if clause.modal:
        forms = _FINITE_PAST if clause.tense == "past" else _FINITE
        return forms[clause.modal][_PERSON_INDEX[person]], [verb.full_infinitive]
    if clause.tense == "past":
        return _FINITE_PAST[verb.infinitive][_PERSON_INDEX[person]], []
    if clause.tense == "future":
        return conjugate("werden", person), [verb.full_infinitive]
    if clause.tense in ("perfect", "done"):
        return conjugate(verb.auxiliary, person), [verb.participle]
    return conjugate(verb.infinitive, person, verb.thou, verb.it), [verb.prefix] if verb.prefix else []


def _column(np: NP) -> int:
    return _GENDERS.index("p" if np.plural else np.gender or np.noun.gender)


def _determiner(determiner: str, case: str, column: int) -> str:
    if not determiner or (determiner == "a" and column == 3):
        return ""
    if determiner == "the":
        return _ARTICLES[case][column]
    if determiner in ("this", "every"):
        return {"this": "dies", "every": "jed"}[determiner] + _STRONG[case][column]
    stem = {"a": "ein", "no": "kein"}.get(determiner) or _POSSESSIVES[determiner]
    ending = "" if _bare(case, column) else _STRONG[case][column]
    return "eur" + ending if stem == "euer" and ending else stem + ending


def _bare(case: str, column: int) -> bool:
    """Where ein and its kind have no ending: the adjective after it shows gender and case instead."""
    return (case == NOMINATIVE and column in (0, 2)) or (case == ACCUSATIVE and column == 2)


def _adjective_ending(determiner: str, case: str, column: int) -> str:
    shown = determiner and not (determiner == "a" and column == 3)
    like_article = determiner in ("the", "this", "every")
    if not shown or (not like_article and _bare(case, column)):
        return _STRONG[case][column]
    return _WEAK[case][column]


def _noun(np: NP, case: str) -> str:
    if not np.plural:
        return np.noun.singular if case == NOMINATIVE else np.noun.oblique
    plural = np.noun.plural
    return plural + "n" if case == DATIVE and not plural.endswith(("n", "s")) else plural


def _join(*words: str) -> str:
    return " ".join(filter(None, words))
