"""Nouns, adjectives and verbs of both languages, with what grammar needs to know of them.

They stand in words/, a word a line, German first. Inflected forms are written out only where the rules in
`german.py` and `english.py` would get them wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Noun:
    """A noun. `oblique` is the accusative and dative singular, another form than `singular` in weak nouns."""

    gender: str  # m, f, n
    singular: str
    oblique: str
    plural: str
    english: str
    english_plural: str
    classes: frozenset[str]

    @property
    def mass(self) -> bool:
        return "mass" in self.classes

    @property
    def animate(self) -> bool:
        return bool(self.classes & {"person", "kin", "animal"})


@dataclass(frozen=True)
class Adjective:
    """`stem` takes the endings (teuer: teur-); `classes` are the classes of noun that it goes with."""

    german: str
    stem: str
    english: str
    classes: frozenset[str]


@dataclass(frozen=True)
class Verb:
    """A verb of both languages and its frame.

    `prefix` is separable. `thou` and `it` are the present with du and er where the stem changes, else "".
    `frame` tells the objects: "-", "A", "D", "DA", "L" (place), "R" (direction), "X" (spot on furniture,
    dative), "AX" (object and spot, accusative), or preposition, case and English preposition, "auf+A=for".
    `particle` is an English adverb; in the list, +up may stand before the object (pick up the friend), =along
    may not. `linker` is an English preposition before the object: look ~for; !to marks a receiver that always
    has it: explain it to the child. * marks verbs without an English progressive form.
    """

    prefix: str
    infinitive: str
    thou: str
    it: str
    participle: str
    auxiliary: str  # haben or sein
    reflexive: bool
    frame: str
    subjects: frozenset[str]
    objects: frozenset[str]
    english: str
    english_past: str
    english_participle: str
    particle: str
    linker: str
    stative: bool

    @property
    def full_infinitive(self) -> str:
        return self.prefix + self.infinitive


def _noun(line: str) -> Noun:
    gender, german, plural, english, classes = line.split()
    singular, _, oblique = german.partition("~")
    one, _, many = english.replace("_", " ").partition("/")
    return Noun(
        gender,
        singular,
        oblique or singular,
        "" if plural == "-" else plural,
        one,
        many,
        frozenset(classes.split(",")),
    )


def _adjective(line: str) -> Adjective:
    german, english, classes = line.split()
    word, _, stem = german.partition("/")
    return Adjective(word, stem or word, english, frozenset(classes.split(",")))


def _verb(line: str) -> Verb:
    german, participle, frame, objects, english, *subjects = (column.strip() for column in line.split(";"))
    reflexive = german.startswith("sich ")
    infinitive, *changed = german.removeprefix("sich ").split()
    prefix, _, rest = infinitive.rpartition("|")
    thou, it = changed or ("", "")
    words = english.split()
    marks = {word[0]: word[1:].replace("_", " ") for word in words if word[0] in "+=~!*"}
    forms = [word for word in words if word[0] not in "+=~!*"]
    past, done = forms[1:] or ("", "")
    particle = "+" + marks["+"] if "+" in marks else marks.get("=", "")
    return Verb(
        prefix=prefix,
        infinitive=rest,
        thou=thou,
        it=it,
        participle=participle.removeprefix("ist "),
        auxiliary="sein" if participle.startswith("ist ") else "haben",
        reflexive=reflexive,
        frame=frame,
        subjects=frozenset(subjects[0].split(",") if subjects else ("person",)),
        objects=frozenset(objects.split(",")),
        english=forms[0],
        english_past=past,
        english_participle=done,
        particle=particle,
        linker="!to" if "!" in marks else marks.get("~", ""),
        stative="*" in marks,
    )


def _words(kind: str) -> list[str]:
    lines = (Path(__file__).parent / "words" / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


NOUNS = [_noun(line) for line in _words("nouns")]
ADJECTIVES = [_adjective(line) for line in _words("adjectives")]
VERBS = [_verb(line) for line in _words("verbs")]
