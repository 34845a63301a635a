"""What a sentence says, before either language says it: noun phrases and clauses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from grammar.lexicon import Adjective, Noun, Verb

# Persons of the verb: first, second and third, singular and plural.
PERSONS = ("I", "thou", "he", "she", "it", "we", "ye", "they")


@dataclass(frozen=True)
class NP:
    """A noun with its determiner, a name, or a pronoun.

    `determiner`: the, a, this, every, a possessive (I, thou, he, she, we, ye, they), or "" (bare plural or
    mass noun). `pronoun` is one of PERSONS and leaves `noun` None, unless the pronoun stands for that noun.
    """

    noun: Noun | None = None
    determiner: str = "the"
    plural: bool = False
    adjective: Adjective | None = None
    name: str = ""
    gender: str = ""  # of a name
    pronoun: str = ""

    @property
    def person(self) -> str:
        """The pronoun that this phrase agrees with, by its grammar (a neuter noun: it)."""
        if self.pronoun:
            return self.pronoun
        if self.plural:
            return "they"
        return {"m": "he", "f": "she", "n": "it"}[self.gender or self.noun.gender]

    @property
    def indefinite(self) -> bool:
        return self.noun is not None and not self.pronoun and self.determiner in ("", "a")


@dataclass(frozen=True)
class Prepositional:
    """A prepositional phrase: German preposition and case, English preposition ("" for none)."""

    german: str
    case: str
    english: str
    np: NP


@dataclass(frozen=True)
class Adverb:
    """An adverbial as both languages write it; `kind` is time, frequency, manner or place."""

    german: str
    english: str
    kind: str = "time"


@dataclass(frozen=True)
class Clause:
    """One clause. `tense`: present, perfect (English past), past (modal, haben and sein only), future, done
    (schon, noch nicht: English present perfect). `aspect`: of the English present, simple or progressive.
    """

    subject: NP
    verb: Verb
    tense: str = "present"
    aspect: str = "simple"
    modal: str = ""
    negated: bool = False
    fond: bool = False  # gern: "like to"
    accusative: NP | None = None
    dative: NP | None = None
    object: Prepositional | None = None  # the verb's own prepositional object, or where its motion goes
    place: Prepositional | Adverb | None = None
    time: Adverb | None = None
    front: str = ""  # what stands before the finite verb: "" for the subject, else time, place or accusative
    predicate: Predicate | None = None

    def but(self, **changes) -> Clause:
        return replace(self, **changes)


@dataclass(frozen=True)
class Predicate:
    """What stands with sein / be: an adjective, perhaps compared with somebody or something."""

    german: str
    english: str
    than: NP | None = field(default=None)
