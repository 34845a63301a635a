"""English: agreement, do-support, progressive and perfect forms, the place of objects and adverbs."""

from __future__ import annotations

import re

from grammar.words import HE, IT, MODALS, PRONOUNS, SHE, Adverb, Clause, Complement, NounPhrase, Slot, s_form

_BE = ("am are is is is are are are".split(), "was were was was was were were were".split())  # present, past


def noun_phrase(phrase: NounPhrase, case: int = 1, negated: bool = False) -> str:
    """The phrase as subject (`case` 0) or object; `negated` says any where there is no article."""
    noun = phrase.noun
    if phrase.person is not None:
        return PRONOUNS[phrase.person][1][case]
    text = f"{phrase.adjective.english} " if phrase.adjective else ""
    text += noun.english_plural if phrase.plural else noun.english
    article = {
        "ein": "an" if text[0] in "aeiou" else "a",
        "der": "the",
        "dieser": "these" if phrase.plural else "this",
        "": "any" if negated and phrase.indefinite else "",
    }[phrase.determiner]
    if phrase.possessor is not None:
        article = PRONOUNS[phrase.possessor][1][2]
    if phrase.owner:
        article = noun_phrase(phrase.owner) + "'s"
    return f"{article} {text}".strip()


def prepositional(slot: Slot, phrase: NounPhrase, negated: bool = False) -> str:
    return f"{slot.english} {noun_phrase(phrase, 1, negated)}".strip()


def _ing(verb: str) -> str:
    if re.search("[^e]e$", verb):
        return verb[:-1] + "ing"
    doubled = re.fullmatch("[^aeiou]*[aeiou][bdgmnpt]|begin|forget|cancel", verb)
    return verb + verb[-1] * bool(doubled) + "ing"


def _predicate(clause: Clause, support: bool) -> tuple[str, str]:
    """The auxiliary, if there is one or `support` asks for do, and the rest of the verb."""
    base, past, participle = clause.verb.english
    row, former = clause.subject.row, clause.tense != "present"
    third, more, modal = row in (HE, SHE, IT), "", "werden" if clause.aspect == "will" else clause.modal
    if modal:
        word, word_past, more = MODALS[modal]
        more = f"{more} {base}".strip()
        if word not in ("have", "want"):
            return _BE[former][row] if word == "be" else word_past if former else word, more
        base, past = word, word_past
    elif base == "be" or clause.aspect == "progressive":
        return _BE[former][row], "" if base == "be" else _ing(base)
    elif clause.tense == "pluperfect" or clause.aspect == "done":
        return "had" if clause.tense == "pluperfect" else "has" if third else "have", participle
    if support:
        return "did" if former else "does" if third else "do", f"{base} {more}".strip()
    present = "has" if base == "have" else s_form(base)
    return "", f"{past if former else present if third else base} {more}".strip()


def _tail(clause: Clause, front: Adverb | None = None) -> list[str]:
    """What follows the verb: objects with the particle before nouns and after pronouns, the rest, adverbs."""
    direct = [complement for complement in clause.complements if not complement.slot.english]
    words = [prepositional(*complement, clause.negated) for complement in direct]
    pronoun = bool(direct) and direct[-1].phrase.person is not None
    words.insert(len(words) if pronoun else 0, clause.verb.particle)
    words += [prepositional(*c, clause.negated) for c in clause.complements if c.slot.english]
    words += [clause.feeling.english] if clause.feeling else []
    # Places stand before times.
    return words + [a.english for a in clause.adverbs[::-1] if a.place != "verb" and a is not front]


def sentence(clause: Clause, front: Adverb | Complement | None = None, inverted: bool = False) -> str:
    """A statement with the subject or an adverb first (`front`; a complement stays behind), `inverted` a question."""
    auxiliary, rest = _predicate(clause, inverted or clause.negated)
    start = [noun_phrase(clause.subject, 0), auxiliary]
    words = [*(start[::-1] if inverted else start), "not" if clause.negated else ""]
    words += [adverb.english for adverb in clause.adverbs if adverb.place == "verb"] + [rest, *_tail(clause, front)]
    words.insert(0, front.english if isinstance(front, Adverb) else "")
    return " ".join(filter(None, words)).replace("can not", "cannot")


def infinitive(clause: Clause) -> str:
    return " ".join(filter(None, ["to", clause.verb.english[0], *_tail(clause)]))
