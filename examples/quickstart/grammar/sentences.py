"""The kinds of sentence: how clauses join, what is asked, what stands first; each in German and English."""

from __future__ import annotations

import re

from grammar import english, german, phrases
from grammar.clause import NP, Clause, Predicate
from grammar.draw import PAST_SETTINGS, PRESENT_SETTINGS, Drawer, again, subject_class
from grammar.german import ACCUSATIVE, DATIVE, NOMINATIVE
from grammar.lexicon import ADJECTIVES, NOUNS, VERBS, Verb
from grammar.questions import question_words

Pair = tuple[str, str]

_VERBS = {verb.full_infinitive: verb for verb in VERBS}
_THINGS = frozenset({"clothes", "vehicle", "device", "building", "picture"})
# Nothing that one sets out to do, orders or promises.
_MISHAPS = set(
    "verlieren bekommen vergessen einschlafen aufwachen gewinnen ankommen weinen lachen weglaufen "
    "abfahren tragen".split()
)
# What may come next, with the same object.
_NEXT = {
    first: then.split()
    for first, then in (
        line.split(":")
        for line in """
suchen:finden
finden:mitnehmen kaufen zurückbringen fotografieren
kaufen:essen trinken lesen tragen auspacken anprobieren verkaufen reparieren
bestellen:essen trinken bezahlen
holen:essen trinken auspacken waschen reparieren
sehen:treffen fotografieren kaufen füttern einladen
einladen:treffen abholen fragen
anrufen:treffen besuchen fragen
treffen:einladen verstehen fragen fotografieren
bekommen:lesen öffnen auspacken aufmachen anprobieren
schreiben:lesen wegwerfen
lesen:verstehen wegwerfen zurückbringen
anprobieren:kaufen anziehen ausziehen
verlieren:suchen finden
waschen:anziehen verkaufen
öffnen:zumachen auspacken
aufmachen:zumachen putzen
reparieren:verkaufen einschalten waschen
einschalten:ausschalten reparieren
mitnehmen:vergessen zurückbringen verlieren
mitbringen:essen trinken vergessen
kochen:essen
backen:essen
auspacken:anprobieren lesen anziehen wegwerfen
malen:verkaufen wegwerfen
zeichnen:malen fotografieren
fotografieren:zeichnen malen
aufräumen:putzen abschließen
""".strip().splitlines()
    )
}


class Sentences(Drawer):
    """One method a kind of sentence: a German-English pair, or None where the words drawn do not suit."""

    def pair(self) -> Pair | None:
        """One sentence of a random kind, from a capital to its full stop."""
        drawn = getattr(self, self.weighted(KINDS))()
        if drawn is None or _repeats(drawn[0]):
            return None
        return tuple(text[0].upper() + text[1:] for text in drawn)

    def statement(self) -> Pair:
        clause = self.fronted(self.clause())
        return german.main_clause(clause) + ".", english.statement(clause) + "."

    def yes_no(self) -> Pair:
        clause = self.clause(negation=0)
        return german.verb_first(clause) + "?", english.question(clause) + "?"

    def asked(self) -> Pair:
        """A question for time, reason, subject, object or place."""
        clause = self.clause(negation=0)
        without, word, translation = self.pick(question_words(clause))
        if without == "time":
            clause = clause.but(time=None)
        if without == "subject":
            clause = clause.but(subject=NP(pronoun="he"))
            said = english.statement(clause, without)
        else:
            said = english.question(clause, without)
        return f"{word} {german.verb_first(clause, without)}?", f"{translation} {said}?"

    def reported(self) -> Pair:
        """Ich weiß, dass ...; ich weiß nicht, ob, wann, warum ..."""
        report = self.pick(phrases.REPORTS)
        head = Clause(self.subject(report.subjects), report)
        if report.infinitive == "hören" or self.chance(0.3):
            head = head.but(tense="perfect")
        word, translation, inner = "dass", "that", self.clause()
        if report.infinitive == "wissen" and self.chance(0.6):
            word, translation = self.weighted(
                {("ob", "whether"): 3, ("wann", "when"): 2, ("warum", "why"): 2}
            )
            head = head.but(negated=True)
            inner = self.clause(settings=("plain", "did", "ago", "soon", "will", "modal"), negation=0)
        if word == "wann":
            inner = inner.but(time=None)
        return (
            f"{german.main_clause(head)}, {word} {german.verb_last(inner)}.",
            f"{english.statement(head)} {translation} {english.statement(inner)}.",
        )

    def reason(self) -> Pair | None:
        """Two clauses about one person, joined by weil, obwohl, denn or deshalb."""
        settings = PAST_SETTINGS if self.chance(0.45) else PRESENT_SETTINGS
        main = self.clause(settings=settings)
        subject = again(main.subject)
        if subject is None or subject_class(main.subject) != "person":
            return None
        cause = self._cause(subject, settings)
        if main.time and cause.time:
            cause = cause.but(time=None)
        link = self.weighted({"weil": 5, "obwohl": 3, "denn": 2, "deshalb": 2})
        if link == "denn":
            return (
                f"{german.main_clause(main)}, denn {german.main_clause(cause)}.",
                f"{english.statement(main)}, because {english.statement(cause)}.",
            )
        if link == "deshalb":
            first, second = cause.but(subject=main.subject), main.but(subject=subject)
            return (
                f"{german.main_clause(first)}, deshalb {german.verb_first(second)}.",
                f"{english.statement(first)}, so {english.statement(second)}.",
            )
        return self._joined(main, link, {"weil": "because", "obwohl": "although"}[link], cause)

    def condition(self) -> Pair | None:
        """wenn, bevor and sobald with the present; als with the perfect."""
        past = self.chance(0.3)
        word, translation = (
            ("als", "when")
            if past
            else self.weighted({("wenn", "when"): 4, ("bevor", "before"): 2, ("sobald", "as soon as"): 2})
        )
        main = self.clause(settings=("did",) if past else ("habit", "will", "modal")).but(time=None)
        subject = again(main.subject)
        if subject is None or subject_class(main.subject) != "person":
            return None
        other = self.clause(subject, ("did",) if past else ("now",), negation=0).but(
            aspect="simple", time=None
        )
        if other.verb.stative or other.verb.frame == "X" or other.verb == main.verb:
            return None
        return self._joined(main, word, translation, other)

    def purpose(self) -> Pair | None:
        """um ... zu and ohne ... zu after a verb of motion."""
        main = self.fronted(
            self.clause(settings=("did", "ago", "now", "will"), verb=self.verb("R"), negation=0)
        )
        goal = self.bare_clause(self._deed(), main.subject).but(place=None)
        if subject_class(main.subject) != "person":
            return None
        if self.chance(0.3):
            return (
                f"{german.main_clause(main)}, ohne {german.infinitive_clause(goal)}.",
                f"{english.statement(main)} without {english.ing_clause(goal)}.",
            )
        return (
            f"{german.main_clause(main)}, um {german.infinitive_clause(goal)}.",
            f"{english.statement(main)} to {english.infinitive(goal)}.",
        )

    def attempt(self) -> Pair:
        """Verbs that take an infinitive with zu."""
        subject, verb = self.subject(phrases.PERSONS_ONLY), self.pick(phrases.ATTEMPTS)
        present = verb.infinitive == "versuchen" and self.chance(0.5)
        head = Clause(subject, verb, tense="present" if present else "perfect", aspect="progressive")
        goal = self.bare_clause(self._deed(), subject).but(place=None)
        return (
            f"{german.main_clause(head)}, {german.infinitive_clause(goal)}.",
            f"{english.statement(head)} to {english.infinitive(goal)}.",
        )

    def relative(self) -> Pair | None:
        """A noun with a relative clause in which it is subject, accusative or dative."""
        role = self.weighted({"subject": 3, "accusative": 4, "dative": 2})
        if role == "subject":
            inner = self.clause(settings=("plain", "did", "ago", "habit", "modal"), negation=0.1)
        else:
            inner = self.bare_clause(self.verb("A" if role == "accusative" else "D"), definite=True)
            inner = inner.but(tense=self.pick(("perfect", "present")), aspect="progressive")
        head: NP = getattr(inner, role)
        if head.noun is None or head.pronoun or "kin" in head.noun.classes:
            return None
        head = NP(head.noun, "the", head.plural, head.adjective)
        case = {"subject": NOMINATIVE, "accusative": ACCUSATIVE, "dative": DATIVE}[role]
        human = "person" in head.noun.classes
        said = f"{german.relative_pronoun(head, case)} {german.verb_last(inner, role)}"
        translation = f"{'who' if human and role == 'subject' else 'that'} {english.statement(inner, role)}"
        if self.chance(0.5):
            frame = self._being(head)
            rest = german.verb_first(frame, "subject")
            finite, _, predicate = english.statement(frame, "subject").partition(" ")
            return (
                f"{german.noun_phrase(head, NOMINATIVE)}, {said}, {rest}.",
                f"{english.noun_phrase(head)} {translation} {finite} {predicate}.",
            )
        fitting = [
            _VERBS[verb]
            for verb in ("kennen", "sehen", "brauchen", "suchen", "verkaufen", "bekommen")
            if _VERBS[verb].objects & head.noun.classes
        ]
        if not fitting:
            return None
        frame = Clause(
            self.subject(phrases.PERSONS_ONLY), self.pick(fitting), aspect="progressive", accusative=head
        )
        return (f"{german.main_clause(frame)}, {said}.", f"{english.statement(frame)} {translation}.")

    def described(self) -> Pair:
        """sein with an adjective, in the present or past, plain or compared."""
        person = self.chance(0.55)
        clause = self._being(
            self.subject(phrases.PERSONS_ONLY) if person else self.noun_phrase(_THINGS, definite=True),
            compared=0.4,
        )
        if self.chance(0.25):
            clause = clause.but(negated=False)
            return german.verb_first(clause) + "?", english.question(clause) + "?"
        return german.main_clause(clause) + ".", english.statement(clause) + "."

    def there_is(self) -> Pair:
        """es gibt takes the accusative."""
        drawn = self.noun_phrase(frozenset({"food", "vehicle", "device", "animal", "small"}))
        thing = NP(drawn.noun, "" if drawn.plural or drawn.noun.mass else "a", drawn.plural, drawn.adjective)
        place, negated = self.place(), self.chance(0.4)
        noun, spot = german.noun_phrase(thing, ACCUSATIVE, negated), german.prepositional(place)
        said = english.noun_phrase(thing)
        if negated:
            said = "no " + said.removeprefix("an ").removeprefix("a ")
        said = f"there {'are' if thing.plural else 'is'} {said} {english.prepositional(place)}."
        return f"{spot} gibt es {noun}." if self.chance(0.4) else f"es gibt {spot} {noun}.", said

    def liking(self) -> Pair:
        """gefallen: the German dative is the English subject."""
        thing, person = self.noun_phrase(_THINGS, definite=True), self.subject(phrases.PERSONS_ONLY)
        tense, negated = "perfect" if self.chance(0.3) else "present", self.chance(0.3)
        liked = Clause(person, phrases.LIKE, tense=tense, negated=negated, accusative=thing)
        pleases = Clause(thing, phrases.LIKE, tense=tense, negated=negated, dative=person)
        if person.pronoun or self.chance(0.6):
            return german.main_clause(pleases) + ".", english.statement(liked) + "."
        rest = german.verb_first(pleases, "dative")
        return f"{german.noun_phrase(person, DATIVE)} {rest}.", english.statement(liked) + "."

    def order(self) -> Pair:
        """A command to one person, with bitte."""
        clause = self.bare_clause(self._deed(), NP(pronoun="thou"), definite=True)
        return german.command(clause) + "!", f"please {english.infinitive(clause)}!"

    def contrast(self) -> Pair | None:
        """und or aber; the second clause takes up subject and object: den Schlüssel, ihn; the key, it."""
        first = self.clause(settings=("did", "ago", "now"), negation=0, verb=_VERBS[self.pick(sorted(_NEXT))])
        thing, subject = first.accusative, again(first.subject)
        if subject is None or thing.noun is None or thing.pronoun or again(thing) is None:
            return None
        fitting = [
            verb
            for verb in map(_VERBS.get, _NEXT[first.verb.full_infinitive])
            if verb.objects & thing.noun.classes
        ]
        if not fitting:
            return None
        second = Clause(subject, self.pick(fitting), accusative=again(thing))
        if first.tense == "perfect" and self.chance(0.5):
            second = second.but(tense="perfect")
            return (
                f"{german.main_clause(first)} und {german.verb_first(second, 'subject')}.",
                f"{english.statement(first)} and {english.statement(second, 'subject')}.",
            )
        if first.tense == "perfect" and self.chance(0.4):
            second = second.but(negated=True, tense="perfect")
        else:
            chosen = second.verb.infinitive not in ("finden", "verstehen", "verlieren", "vergessen")
            second = second.but(
                negated=True, modal=self.pick(("wollen", "können", "dürfen")) if chosen else "können"
            )
        return (
            f"{german.main_clause(first)}, aber {german.main_clause(second)}.",
            f"{english.statement(first)}, but {english.statement(second)}.",
        )

    def since(self) -> Pair:
        """The German present with seit is the English present perfect."""
        verb = _VERBS[self.pick(("wohnen", "arbeiten", "lernen", "warten", "suchen", "kennen"))]
        clause = self.fronted(self.bare_clause(verb).but(aspect="since", time=self.pick(phrases.SINCE)))
        return german.main_clause(clause) + ".", english.statement(clause) + "."

    def _joined(self, main: Clause, word: str, translation: str, other: Clause) -> Pair:
        """Main and subordinate clause in either order; the first one names the subject."""
        if self.chance(0.4):
            first, second = other.but(subject=main.subject), main.but(subject=other.subject)
            return (
                f"{word} {german.verb_last(first)}, {german.verb_first(second)}.",
                f"{translation} {english.statement(first)}, {english.statement(second)}.",
            )
        return (
            f"{german.main_clause(main)}, {word} {german.verb_last(other)}.",
            f"{english.statement(main)} {translation} {english.statement(other)}.",
        )

    def _cause(self, subject: NP, settings: tuple[str, ...]) -> Clause:
        past = settings is PAST_SETTINGS
        kind = self.weighted({"feeling": 3, "lack": 2, "event": 4})
        if kind == "feeling":
            return self._being(subject, tense="past" if past else "present")
        if kind == "lack":
            noun = self.pick([noun for noun in NOUNS if "own" in noun.classes])
            return Clause(
                subject,
                phrases.HAVE,
                tense="past" if past else "present",
                accusative=NP(noun, ""),
                negated=True,
            )
        return self.clause(subject, ("did", "modal ago") if past else ("modal", "modal soon", "soon"))

    def _being(self, subject: NP, tense: str = "", compared: float = 0) -> Clause:
        person = subject_class(subject) == "person"
        predicate = self.pick(phrases.FEELINGS if person else _qualities(subject))
        if self.chance(compared):
            more = self.pick(phrases.ANIMATE_MORE if person else phrases.THING_MORE)
            than = self.subject(phrases.PERSONS_ONLY) if person else self.noun_phrase(_THINGS, definite=True)
            if not than.pronoun and (than.noun, than.name) != (subject.noun, subject.name):
                predicate = Predicate(more.german, more.english, than)
        return Clause(
            subject,
            phrases.BE,
            tense=tense or ("past" if self.chance(0.35) else "present"),
            predicate=predicate,
            negated=self.chance(0.2),
        )

    def _deed(self) -> Verb:
        return self.pick(
            [
                verb
                for verb in VERBS
                if verb.frame in ("A", "DA", "D", "AX", "-")
                and not verb.stative
                and not verb.reflexive
                and "person" in verb.subjects
                and verb.full_infinitive not in _MISHAPS
            ]
        )


def _qualities(thing: NP) -> list[Predicate]:
    fitting = [word for word in ADJECTIVES if word.classes & thing.noun.classes and word != thing.adjective]
    return [
        Predicate(word.german, word.english) for word in fitting if word.german != "kurz"
    ] or phrases.QUALITIES


def _repeats(text: str) -> bool:
    """Whether a noun, a name or another long word is there twice: Paul says that Paul ..."""
    words = [word for word in re.findall(r"\w+", text) if word[0].isupper() or len(word) > 5]
    return len(words) != len(set(words))


# How often each kind is drawn.
KINDS = {
    "statement": 30,
    "yes_no": 8,
    "asked": 9,
    "reported": 11,
    "reason": 10,
    "condition": 6,
    "purpose": 6,
    "attempt": 5,
    "relative": 10,
    "described": 6,
    "there_is": 3,
    "liking": 4,
    "order": 4,
    "contrast": 6,
    "since": 3,
}
