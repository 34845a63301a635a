"""The word lists in words/ as tables, and what a clause is made of.

Where a word has several translations, each is an entry of its own, and nothing tells which one is drawn.
"""

from __future__ import annotations

import re
from collections import namedtuple
from pathlib import Path
from typing import NamedTuple

Noun = namedtuple("Noun", "gender singular genitive plural english english_plural classes")
Adjective = namedtuple("Adjective", "german stem english classes")
Adverb = namedtuple("Adverb", "german english tenses place", defaults=((), "end"))
# A place for a noun in one of the cases N, A, D and G, with its preposition; or for a clause: dass, ob, zu.
Slot = namedtuple("Slot", "preposition case english classes")
# Without its prefix where it is split off; English is infinitive, past, participle; for each complement, `slots` has
# those of which one is drawn.
Verb = namedtuple("Verb", "prefix infinitive third auxiliary participle english particle slots mark subjects reflexive")
Complement = namedtuple("Complement", "slot phrase")


class NounPhrase(NamedTuple):
    """A noun with what stands beside it, or a pronoun: the row `person` of PRONOUNS."""

    noun: Noun | None = None
    determiner: str = ""  # der, ein, dieser or nothing
    possessor: int | None = None  # row of mein, dein, ...
    plural: bool = False
    adjective: Adjective | None = None
    owner: NounPhrase | None = None  # in the genitive
    person: int | None = None

    @property
    def row(self) -> int:
        """Of the pronoun that it is or that stands for it."""
        return self.person if self.person is not None else THEY if self.plural else HE + "mfn".index(self.noun.gender)

    @property
    def indefinite(self) -> bool:
        plain = self.person is None and self.possessor is None and "name" not in self.noun.classes
        return plain and self.determiner in ("", "ein")


class Clause(NamedTuple):
    subject: NounPhrase
    verb: Verb
    complements: tuple[Complement, ...] = ()
    adverbs: tuple[Adverb, ...] = ()
    tense: str = "present"  # present, past (of sein and modal verbs), perfect, pluperfect
    modal: str = ""  # a modal verb or werden
    negated: bool = False
    aspect: str = ""  # of English: progressive, done (has opened), will or nothing
    feeling: Adjective | None = None  # after sein


def rows(name: str, translated: int = 0) -> list[list[str]]:
    """The fields of each line of words/`name`.txt; one row for each of the translations (a|b) in field `translated`."""
    text = (Path(__file__).parent / "words" / f"{name}.txt").read_text(encoding="utf-8")
    fields = [re.split("; *", line) for line in text.splitlines() if line and line[0] != "#"]
    return [[*row[:translated], word, *row[translated + 1 :]] for row in fields for word in row[translated].split("|")]


def _classes(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


def s_form(word: str) -> str:
    """The plural of a noun, the third person of a verb."""
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search("(s|x|z|ch|sh|[^aeiou]o)$", word) else "s")


def _slots(text: str) -> tuple[Slot, ...]:
    """Of auf+A=for:line, or of a letter in prepositions.txt."""
    preposition, case, english, classes = re.fullmatch(r"(?:(\w+)\+)?(\w+)(?:=([\w |]*))?(?::(.*))?", text).groups("")
    return PLACES.get(case) or tuple(Slot(preposition, case, e, _classes(classes)) for e in english.split("|"))


def _verb(german, third, perfect, english, complements="", mark="", subjects="person") -> Verb:
    prefix, _, infinitive = german.removeprefix("sich ").rpartition("|")
    auxiliary, participle = perfect.split()
    forms, _, particle = english.partition(" ")
    regular = forms + ("d" if forms.endswith("e") else "ed")
    return Verb(
        prefix, infinitive, third, {"hat": "haben", "ist": "sein"}[auxiliary], participle,
        tuple(forms.split("/")) if "/" in forms else (forms, regular, regular), particle,
        tuple(map(_slots, complements.split())), mark, _classes(subjects), german.startswith("sich "),
    )  # fmt: skip


PRONOUNS = [tuple(side.split() for side in row) for row in rows("pronouns")]  # German and English forms
I, YOU, HE, SHE, IT, WE, YOU_ALL, THEY = range(8)  # noqa: E741
ENDINGS = {(kind, case): forms.split() for kind, case, forms in rows("endings")}
IRREGULAR = {row[0]: (row[1].split(), *row[2:3]) for row in rows("irregular")}
MODALS = {row[0]: (row[3] + ", ").split(", ")[:3] for row in rows("irregular") if row[3:]}
ADVERBS = [Adverb(german, word, tenses.split(","), place) for german, word, tenses, place in rows("adverbs", 1)]
ADJECTIVES = [Adjective(*(row[0].split("/") * 2)[:2], row[1], _classes(row[2])) for row in rows("adjectives", 1)]
NOUNS = [
    Noun(gender, *german.replace(" -", " ").split(" "), one, many or s_form(one), _classes(classes))
    for gender, german, word, classes in rows("nouns", 2)
    for one, _, many in [word.partition("/")]
]
PLACES: dict[str, tuple[Slot, ...]] = {}
for _letter, _text in rows("prepositions"):
    PLACES[_letter] = (*PLACES.get(_letter, ()), *_slots(_text))
VERBS = [_verb(*row) for row in rows("verbs", 3)]
BE = _verb("sein", "ist", "ist gewesen", "be/was/been", mark="state")
