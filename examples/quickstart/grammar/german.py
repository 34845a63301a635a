"""German: cases and endings, and the place of the verb (second, first or last)."""

from __future__ import annotations

import re

from grammar.words import ENDINGS, IRREGULAR, PRONOUNS, Adverb, Clause, Complement, NounPhrase, Slot

_CONTRACTED = {"in dem": "im", "in das": "ins", "an dem": "am", "an das": "ans", "zu dem": "zum", "zu der": "zur"}


def _ending(kind: str, case: str, phrase: NounPhrase) -> str:
    return ENDINGS[kind, case][3 if phrase.plural else "mfn".index(phrase.noun.gender)].strip("-")


def noun_phrase(phrase: NounPhrase, case: str, kein: bool = False) -> str:
    """The phrase in case N, A, D or G; `kein` stands for ein or for no article."""
    noun = phrase.noun
    if phrase.person is not None:
        return PRONOUNS[phrase.person][0]["NAD".index(case)]
    determiner = "kein" if kein else phrase.determiner
    if phrase.possessor is not None:
        determiner = PRONOUNS[phrase.possessor][0][4]
    kind = determiner if determiner in ("der", "dieser") else "ein"
    shown = _ending(kind, case, phrase) if determiner else ""
    words = [shown if kind == "der" else determiner.replace("dieser", "dies") + shown]
    words[0] = words[0].replace("euere", "eure")
    if phrase.adjective:
        words.append(phrase.adjective.stem + _ending("weak" if shown else "strong", case, phrase))
    if phrase.plural:
        words.append(noun.plural + ("n" if case == "D" and noun.plural[-1] not in "ns" else ""))
    else:
        weak = noun.gender == "m" and noun.genitive.endswith("n")  # den, dem, des Jungen
        words.append(noun.genitive if case == "G" or weak and case != "N" else noun.singular)
    if phrase.owner:
        words.append(noun_phrase(phrase.owner, "G"))
    return " ".join(filter(None, words))


def prepositional(slot: Slot, phrase: NounPhrase, kein: bool = False) -> str:
    """The phrase in the slot's case, after its preposition if it has one: im Park."""
    text = f"{slot.preposition} {noun_phrase(phrase, slot.case, kein)}".strip()
    start = " ".join(text.split()[:2])
    return text.replace(start, _CONTRACTED[start], 1) if start in _CONTRACTED else text


def finite(infinitive: str, row: int, third: str = "", past: bool = False) -> str:
    """A verb in the present, or an irregular one in the past; `third` is its form with er."""
    person = (0, 1, 2, 2, 2, 3, 4, 5)[row]
    if infinitive in IRREGULAR:
        present, *former = IRREGULAR[infinitive]
        e = "" if past and former[0].endswith("e") else "e"
        return former[0] + ("", "st", "", e + "n", "t", e + "n")[person] if past else present[person]
    stem = re.sub("e?n$", "", infinitive)
    needs_e = re.search("([td]|[^aeiouäöülrhmn][mn]|ch[mn])$", stem)
    du = third.removesuffix("t")
    return (
        re.sub("el$", "l", stem) + "e", du + ("t" if du.endswith(("s", "ß", "z")) else "st"), third,
        infinitive, stem + ("et" if needs_e else "t"), infinitive,
    )[person]  # fmt: skip


def _predicate(clause: Clause) -> tuple[str, str]:
    """The finite verb, and what closes a main clause."""
    verb, row = clause.verb, clause.subject.row
    if clause.modal:
        return finite(clause.modal, row, past=clause.tense == "past"), verb.prefix + verb.infinitive
    if clause.tense in ("perfect", "pluperfect"):
        return finite(verb.auxiliary, row, past=clause.tense == "pluperfect"), verb.participle
    return finite(verb.infinitive, row, verb.third, clause.tense == "past"), verb.prefix


def _middle(clause: Clause, without=None) -> list[str]:
    """Between the verb's two places: subject, pronouns, adverbs, dative, accusative, nicht, and the rest."""
    given = [complement for complement in clause.complements if complement is not without]
    bare = sorted((c for c in given if not c.slot.preposition), key=lambda c: c.slot.case)  # accusative, dative
    kein = clause.negated and bool(bare) and bare[0].phrase.indefinite
    return [
        *([noun_phrase(clause.subject, "N")] if clause.subject is not without else []),
        *([PRONOUNS[clause.subject.row][0][3]] if clause.verb.reflexive else []),
        *(prepositional(*c) for c in bare if c.phrase.person is not None),
        *(adverb.german for adverb in clause.adverbs if adverb is not without),
        *(prepositional(*c, kein and c is bare[0]) for c in bare[::-1] if c.phrase.person is None),
        *(["nicht"] if clause.negated and not kein else []),
        *(prepositional(*c) for c in given if c.slot.preposition),
        *([clause.feeling.german] if clause.feeling else []),
    ]


def verb_first(clause: Clause, without=None) -> str:
    """hat sie das Fenster aufgemacht; `without` is a part of the clause that stands elsewhere."""
    word, closing = _predicate(clause)
    return " ".join(filter(None, [word, *_middle(clause, without), closing]))


def main_clause(clause: Clause, front: Adverb | Complement | None = None) -> str:
    """Verb second, after the subject or after `front`, an adverb or a complement of the clause."""
    if front is None:
        return f"{noun_phrase(clause.subject, 'N')} {verb_first(clause, clause.subject)}"
    return f"{front.german if isinstance(front, Adverb) else prepositional(*front)} {verb_first(clause, front)}"


def verb_last(clause: Clause) -> str:
    """As after weil: sie das Fenster aufmacht, aufgemacht hat."""
    word, closing = _predicate(clause)
    return " ".join([*_middle(clause), f"{closing}{'' if closing == clause.verb.prefix else ' '}{word}"])


def infinitive(clause: Clause) -> str:
    """das Fenster aufzumachen."""
    zu = f"{clause.verb.prefix}zu" if clause.verb.prefix else "zu "
    return " ".join([*_middle(clause, clause.subject), zu + clause.verb.infinitive])
