"""Draws noun phrases and clauses at random, such that their words go together."""

from __future__ import annotations

import random
from typing import Sequence, TypeVar

from grammar import phrases
from grammar.clause import NP, Adverb, Clause, Prepositional
from grammar.german import ACCUSATIVE, DATIVE
from grammar.lexicon import ADJECTIVES, NOUNS, VERBS, Noun, Verb

T = TypeVar("T")
_CASES = {"A": ACCUSATIVE, "D": DATIVE}
_SPEAKERS = {"I": "we", "we": "we", "thou": "ye", "ye": "ye"}

# Kinds of verb phrase: tense, aspect, adverbs of time that go with it, weight.
_SETTINGS = {
    "plain": ("present", "progressive", (), 14),
    "habit": ("present", "simple", phrases.HABITS, 10),
    "now": ("present", "progressive", phrases.NOW, 8),
    "soon": ("present", "progressive", phrases.FUTURE, 8),
    "often": ("present", "simple", phrases.FREQUENCY, 8),
    "will": ("future", "simple", phrases.FUTURE, 8),
    "did": ("perfect", "simple", (), 10),
    "ago": ("perfect", "simple", phrases.PAST, 14),
    "done": ("done", "simple", (), 5),
    "fond": ("present", "simple", (), 4),
    "modal": ("present", "simple", (), 12),
    "modal soon": ("present", "simple", phrases.FUTURE, 8),
    "modal ago": ("past", "simple", phrases.PAST, 6),
}
PAST_SETTINGS = ("did", "ago", "modal ago")
PRESENT_SETTINGS = ("plain", "now", "modal", "soon", "modal soon")


# What one likes to do: with gern.
_PLEASURES = (
    "lesen schreiben essen trinken kochen backen malen zeichnen hören tanzen singen schwimmen lernen "
    "arbeiten helfen spielen einkaufen fernsehen zuhören tragen"
).split()


class Drawer:
    """All random choices come from `rng`."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.rng.random() * len(items))]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def weighted(self, weights: dict[T, float]) -> T:
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def noun(self, classes: frozenset[str]) -> Noun:
        # Class first, then word, so that small classes are heard as often as large ones.
        wanted = self.pick(sorted(classes))
        return self.pick([noun for noun in NOUNS if wanted in noun.classes])

    def noun_phrase(self, classes: frozenset[str], owner: NP | None = None, definite: bool = False) -> NP:
        """A full noun phrase; `owner`, the subject, may own it (his, her, their)."""
        noun = self.noun(classes)
        owners = ["I", "thou", "we"] + 2 * self._owner(owner) if "person" not in noun.classes else ["the"]
        own = "own" in noun.classes
        plural = bool(noun.plural) and self.chance(0.2)
        if "kin" in noun.classes and "person" not in noun.classes:
            determiner = self.pick(owners)
        elif definite or own and noun.singular == "Arbeit":
            determiner = self.weighted({"the": 7, "this": 1, self.pick(owners): 2})
        elif own:
            determiner = ""
        else:
            determiner = self.weighted(
                {
                    "the": 5,
                    "a": 0 if noun.mass else 4,
                    "": 3 if noun.mass or plural else 0,
                    "this": 1,
                    self.pick(owners): 2,
                }
            )
        fitting = [
            adjective
            for adjective in ADJECTIVES
            if adjective.classes & noun.classes
            and not (noun.mass and adjective.german in ("klein", "groß", "lang", "kurz"))
        ]
        adjective = self.pick(fitting) if fitting and not own and self.chance(0.25) else None
        return NP(noun, determiner, plural, adjective)

    def subject(self, classes: frozenset[str]) -> NP:
        kind = self.weighted({"pronoun": 4, "name": 2, "noun": 4})
        if "person" not in classes or kind == "noun":
            if classes == {"person"} and self.chance(0.3):
                classes = frozenset({"kin"})
            return self.noun_phrase(classes, definite=True)
        return (
            self.name()
            if kind == "name"
            else NP(pronoun=self.pick(("I", "thou", "he", "she", "we", "ye", "they")))
        )

    def name(self, unlike: NP | None = None) -> NP:
        name, gender = self.pick([row for row in phrases.NAMES if unlike is None or row[0] != unlike.name])
        return NP(name=name, gender=gender)

    def object(self, classes: frozenset[str], subject: NP, case: str, definite: bool = False) -> NP:
        people = bool(classes & {"person"})
        if people and self.chance(0.3):
            return self._person_pronoun(subject, case)
        if people and self.chance(0.2):
            return self.name(unlike=subject)
        phrase = self.noun_phrase(classes, subject, definite)
        while phrase.noun == subject.noun:
            phrase = self.noun_phrase(classes, subject, definite)
        if (
            not people
            and not phrase.noun.animate
            and not phrase.plural
            and "own" not in phrase.noun.classes
            and self.chance(0.12)
        ):
            return NP(phrase.noun, pronoun=phrase.person)
        return phrase

    def verb(self, *frames: str) -> Verb:
        return self.pick([verb for verb in VERBS if not frames or verb.frame in frames])

    def bare_clause(self, verb: Verb, subject: NP | None = None, definite: bool = False) -> Clause:
        """The clause of a verb and its complements, in the present, affirmative."""
        subject = subject or self.subject(verb.subjects)
        clause = Clause(subject, verb)
        if verb.frame in ("A", "AX", "DA"):
            clause = clause.but(accusative=self.object(verb.objects, subject, ACCUSATIVE, definite))
        if verb.frame == "D":
            clause = clause.but(dative=self.object(verb.objects, subject, DATIVE, definite=True))
        elif verb.frame == "DA":
            receiver = self.object(frozenset({"person", "kin"}), subject, DATIVE, definite=True)
            clause = clause.but(dative=receiver)
        elif verb.frame in ("X", "AX"):
            clause = clause.but(object=self._spot(DATIVE if verb.frame == "X" else ACCUSATIVE))
        elif verb.frame == "R":
            clause = clause.but(object=self.goal())
        elif verb.frame == "L":
            clause = clause.but(object=self.place(homely=verb.infinitive == "wohnen"))
        elif "+" in verb.frame:
            preposition, _, rest = verb.frame.partition("+")
            np = self.object(verb.objects, subject, _CASES[rest[0]], definite=True)
            if np.pronoun and np.noun is not None:  # German says darauf, damit of things
                np = NP(np.noun)
            clause = clause.but(object=Prepositional(preposition, _CASES[rest[0]], rest[2:], np))
        elif (
            verb.frame in ("-", "A")
            and self.chance(0.15)
            and not (verb.prefix or verb.stative or verb.reflexive)
        ):
            clause = clause.but(place=self.place())
        return clause

    def clause(
        self,
        subject: NP | None = None,
        settings: Sequence[str] = (),
        verb: Verb | None = None,
        negation: float = 0.18,
        definite: bool = False,
    ) -> Clause:
        """A clause with tense, modal, time and negation; `settings` limits the choice among _SETTINGS."""
        setting = self.weighted(
            {key: row[3] for key, row in _SETTINGS.items() if not settings or key in settings}
        )
        tense, aspect, times, _ = _SETTINGS[setting]
        verb = verb or self._verb_for(setting, subject)
        clause = self.bare_clause(verb, subject, definite).but(tense=tense, aspect=aspect)
        if times:
            clause = clause.but(time=self.pick(times))
        if setting.startswith("modal"):
            modals = {"können": 4, "müssen": 4, "wollen": 4, "dürfen": 2}
            if tense == "present":
                modals |= {"sollen": 2, "möchten": 3}
            clause = clause.but(modal=self.weighted(modals))
        if setting == "fond":
            clause = clause.but(fond=True, accusative=_in_general(clause.accusative))
        if setting != "often" and self.chance(0.3 if setting == "done" else negation):
            clause = clause.but(negated=True)
        return clause

    def fronted(self, clause: Clause) -> Clause:
        """Perhaps with time, place or object before the verb, which puts the subject behind it."""
        accusative = clause.accusative
        if clause.time and clause.time.kind == "time" and self.chance(0.5):
            return clause.but(front="time")
        if (
            accusative
            and accusative.noun
            and not accusative.pronoun
            and not accusative.indefinite
            and accusative.noun.gender == "m"
            and not accusative.plural
            and self.chance(0.25)
        ):
            return clause.but(front="accusative")
        return clause

    def place(self, homely: bool = False) -> Prepositional | Adverb:
        if self.chance(0.3):
            return self.pick(phrases.AT_REST[-len(phrases.CITIES) :] if homely else phrases.AT_REST)
        place = self.pick([place for place in phrases.PLACES if place.home or not homely])
        return Prepositional(
            place.rest, DATIVE, place.rest_english, NP(place.noun, "the", adjective=self._place_adjective())
        )

    def goal(self) -> Prepositional | Adverb:
        if self.chance(0.3):
            return self.pick(phrases.GOALS)
        place = self.pick(phrases.PLACES)
        preposition, _, case = place.goal.partition("+")
        return Prepositional(
            preposition,
            _CASES[case],
            place.goal_english,
            NP(place.noun, "the", adjective=self._place_adjective()),
        )

    def _place_adjective(self):
        return self.pick(phrases.PLACE_ADJECTIVES) if self.chance(0.2) else None

    def _spot(self, case: str) -> Prepositional:
        noun, prepositions = self.pick(phrases.SPOTS)
        preposition = self.pick(prepositions)
        return Prepositional(preposition, case, phrases.SPOT_ENGLISH[preposition], NP(noun))

    def _verb_for(self, setting: str, subject: NP | None) -> Verb:
        fitting = [verb for verb in VERBS if subject is None or subject_class(subject) in verb.subjects]
        if setting == "fond":
            fitting = [verb for verb in fitting if verb.full_infinitive in _PLEASURES]
        elif setting in ("now", "soon", "done"):
            fitting = [verb for verb in fitting if not verb.stative and verb.frame != "X"]
        elif setting.startswith("modal"):
            fitting = [verb for verb in fitting if verb.frame != "X"]
        if setting not in ("plain", "did"):
            fitting = [verb for verb in fitting if verb.full_infinitive not in ("kennen", "lieben")]
        return self.pick(fitting)

    def _person_pronoun(self, subject: NP, case: str) -> NP:
        persons = ["I", "thou", "he", "she", "we", "ye"] + ["they"] * (case == DATIVE)
        speaker = _SPEAKERS.get(subject.pronoun)
        return NP(pronoun=self.pick([p for p in persons if _SPEAKERS.get(p, p) != (speaker or "")]))

    @staticmethod
    def _owner(subject: NP | None) -> list[str]:
        """The possessive that goes back to the subject, where both languages agree on it."""
        if subject is None or (subject.noun is not None and not subject.noun.animate):
            return []
        if subject.noun is not None and not subject.plural and "animal" in subject.noun.classes:
            return []
        return [] if subject.person == "it" else [subject.person]


def subject_class(subject: NP) -> str:
    """person, animal or a class of things."""
    if subject.noun is None or subject.noun.classes & {"person", "kin"}:
        return "person"
    return "animal" if "animal" in subject.noun.classes else next(iter(sorted(subject.noun.classes)))


def _in_general(np: NP | None) -> NP | None:
    """No article: he likes to read books."""
    if np is None or np.noun is None:
        return np
    return NP(np.noun, "", not np.noun.mass, np.adjective)


def again(np: NP) -> NP | None:
    """The pronoun that takes a phrase up again; None where the languages differ (das Mädchen: es, she)."""
    if np.pronoun:
        return np
    if np.noun is not None and np.noun.animate and not np.plural and np.person == "it":
        return None
    return NP(np.noun, pronoun=np.person, plural=np.plural, gender=np.gender)
