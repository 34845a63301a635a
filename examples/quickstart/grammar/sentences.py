"""What a sentence says, drawn at random, and how the two languages say it."""

from __future__ import annotations

import random
import re

from grammar import english, german

from grammar.words import (  # isort: skip
    ADJECTIVES, ADVERBS, BE, HE, IT, NOUNS, PLACES, SHE, THEY, VERBS, WE, YOU, YOU_ALL, Adverb, Clause, Complement, I,
    NounPhrase, Slot, Verb, rows,
)  # fmt: skip

_LOCATIONS = {slot for slots in PLACES.values() for slot in slots}
_FEELINGS = [word for word in ADJECTIVES if "feeling" in word.classes]
_WITH_CLAUSE = [verb for verb in VERBS if verb.slots and verb.slots[0][0].case in ("dass", "ob", "zu")]
_PLAIN = [verb for verb in VERBS if verb not in _WITH_CLAUSE]
_ACTIONS = [verb for verb in _PLAIN if not verb.mark and not any(_LOCATIONS.issuperset(slots) for slots in verb.slots)]
_GOING = [verb for verb in VERBS if verb.slots and verb.slots[0] in (PLACES["R"], PLACES["V"])]
_CONJUNCTIONS = rows("conjunctions", 1)
_SETTINGS = {name: fields for name, *fields in rows("settings")}
_ANY = ["now", "now", "habit", "past", "past", "done", "future", "modal", "past modal"]


class Sentences:
    """An endless source of pairs, German and English; equal states of `rng` give equal pairs."""

    def __init__(self, rng: random.Random):
        self.rng, self.pick = rng, rng.choice

    def pair(self) -> tuple[str, str]:
        """Of one of the kinds below, without a noun or another long word that stands twice."""
        while True:
            pair = self.rng.choices([self.statement, self.reported, self.joined], [6, 2, 3])[0]()
            words = re.findall(r"\b[A-ZÄÖÜ]\w+|\w{6,}", pair[0])
            if len(words) == len(set(words)):
                return tuple(text[0].upper() + text[1:] for text in pair)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def noun_phrase(self, classes: frozenset[str], plain: bool = False) -> NounPhrase:
        """A noun of one of the classes; `plain` with the article der alone."""
        noun = self.pick([noun for noun in NOUNS if not noun.classes.isdisjoint(classes)])
        if plain or "name" in noun.classes:
            return NounPhrase(noun, "der" if plain else "")
        fitting = [word for word in ADJECTIVES if not word.classes.isdisjoint(noun.classes)]
        adjective = self.pick(fitting) if fitting and self.chance(0.2) else None
        phrase = NounPhrase(noun, plural=bool(noun.plural) and self.chance(0.2), adjective=adjective)
        if "kin" in noun.classes or "person" not in noun.classes and self.chance(0.15):
            if self.chance(0.3):
                people = [other for other in NOUNS if other.classes == {"person"}]
                return phrase._replace(determiner="der", owner=NounPhrase(self.pick(people), "der"))
            return phrase._replace(possessor=self.pick([I, YOU, HE, SHE, WE, YOU_ALL, THEY]))
        none = phrase.plural or "mass" in noun.classes
        return phrase._replace(determiner=self.pick(["der"] * 5 + ["" if none else "ein"] * 3 + ["dieser"]))

    def complement(self, slot: Slot, subject: NounPhrase) -> Complement:
        if "person" in slot.classes and self.chance(0.25):
            own = {I: (I, WE), WE: (I, WE), YOU: (YOU, YOU_ALL), YOU_ALL: (YOU, YOU_ALL)}.get(subject.row, ())
            return Complement(slot, NounPhrase(person=self.pick([row for row in range(8) if row not in (IT, *own)])))
        return Complement(slot, self.noun_phrase(slot.classes, plain=slot in _LOCATIONS))

    def subject(self, verb: Verb) -> NounPhrase:
        if verb.subjects == {"person"} and self.chance(0.45):
            return NounPhrase(person=self.pick([I, YOU, HE, SHE, WE, YOU_ALL, THEY]))
        return self.noun_phrase(verb.subjects)

    def clause(self, verb: Verb, setting: str = "plain", subject: NounPhrase | None = None) -> Clause:
        """In a setting of settings.txt; of verbs of state its tense alone, and those of luck have no modal verb."""
        subject = subject or self.subject(verb)
        clause = Clause(subject, verb, tuple(self.complement(self.pick(slots), subject) for slots in verb.slots))
        setting = "past" if verb.mark == "luck" and "modal" in setting else setting
        tense, modals, aspect, time, with_adverb, denied = _SETTINGS[setting]
        if verb.mark == "state":
            return clause._replace(tense="present" if tense == "present" else "perfect")
        adverbs, places = [], []
        if self.chance(float(with_adverb)):
            adverbs.append(self.pick([adverb for adverb in ADVERBS if time in adverb.tenses]))
        elif time and self.chance(0.1):
            places.append("T")
        if time and verb in _ACTIONS and self.chance(0.1):
            places.append("L")
        for slot in (self.pick(PLACES[letter]) for letter in places):
            phrase = self.noun_phrase(slot.classes, plain=True)
            adverbs.append(Adverb(german.prepositional(slot, phrase), english.prepositional(slot, phrase)))
        modal, negated = self.pick(modals.split(", ")), self.chance(float(denied))
        return clause._replace(adverbs=tuple(adverbs), tense=tense, modal=modal, aspect=aspect, negated=negated)

    def statement(self) -> tuple[str, str]:
        """A question, or after the subject, an adverb, or a complement that cannot be taken for the subject."""
        clause = self.clause(self.pick(_PLAIN), self.pick(_ANY))
        if self.chance(0.3):
            word, said = self.pick([("", ""), ("warum ", "why ")])
            return f"{word}{german.verb_first(clause)}?", f"{said}{english.sentence(clause, inverted=True)}?"
        fronts = [adverb for adverb in clause.adverbs if adverb.place != "verb"]
        for complement in () if clause.negated else clause.complements:
            slot, phrase = complement
            if phrase.determiner and (slot.preposition or slot.case == "D" or phrase.row == HE):
                fronts.append(complement)
        front = self.pick(fronts) if fronts and self.chance(0.4) else None
        return f"{german.main_clause(clause, front)}.", f"{english.sentence(clause, front)}."

    def reported(self) -> tuple[str, str]:
        """dass, ob and zu."""
        verb = self.pick(_WITH_CLAUSE)
        slot = verb.slots[0][0]
        main = Clause(self.subject(verb), verb, negated=slot.case == "ob" and verb.mark == "state" or self.chance(0.1))
        if slot.case == "zu":
            inner = self.clause(self.pick(_ACTIONS), subject=main.subject)
            main = main._replace(tense="perfect" if self.chance(0.6) else "present")
            return self._with(main, german.infinitive(inner), english.infinitive(inner))
        other = self.clause(self.pick(_PLAIN), self.pick(_ANY))
        return self._with(main, f"{slot.case} {german.verb_last(other)}", f"{slot.english} {english.sentence(other)}")

    def joined(self) -> tuple[str, str]:
        """Two clauses about one subject, and a conjunction; the second says er, sie, ..."""
        word, said, setting, kinds = self.pick(_CONJUNCTIONS)
        kind, subject = self.pick(kinds.split(", ")), self.subject(BE)
        main = self.clause(self.pick(_GOING if word == "um" else _ACTIONS), setting, subject)
        other = self.clause(self.pick(_ACTIONS), kind if kind in _SETTINGS else "plain", subject)
        other = other._replace(adverbs=(), negated=False)
        if kind == "infinitive":
            main = main._replace(negated=False)
            return self._with(main, f"um {german.infinitive(other)}", english.infinitive(other))
        if kind == "feeling":
            tense = "past" if setting == "past" else "present"
            other = Clause(subject, BE, tense=tense, feeling=self.pick(_FEELINGS), negated=self.chance(0.2))
        again = NounPhrase(person=subject.row)
        if self.chance(0.6):
            other = other._replace(subject=again)
            return self._with(main, f"{word} {german.verb_last(other)}", f"{said} {english.sentence(other)}")
        main = main._replace(subject=again)
        return (
            f"{word} {german.verb_last(other)}, {german.verb_first(main)}.",
            f"{said} {english.sentence(other)}, {english.sentence(main)}.",
        )

    def _with(self, main: Clause, other: str, translation: str) -> tuple[str, str]:
        return f"{german.main_clause(main)}, {other}.", f"{english.sentence(main)} {translation}."
