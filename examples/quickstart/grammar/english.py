"""Clauses in English: agreement, tense, auxiliaries with do-support, particles and the order of objects."""

from __future__ import annotations

from grammar.clause import NP, Adverb, Clause, Prepositional
from grammar.lexicon import Verb

_SUBJECTS = dict(I="I", thou="you", he="he", she="she", it="it", we="we", ye="you", they="they")
_OBJECTS = dict(I="me", thou="you", he="him", she="her", it="it", we="us", ye="you", they="them")
_POSSESSIVES = dict(I="my", thou="your", he="his", she="her", it="its", we="our", ye="your", they="their")
_THIRD = ("he", "she", "it")
_DOUBLED = {"get", "put", "swim", "run", "sit", "shop", "plan", "begin", "win", "forget"}

# Modals of German: a plain auxiliary with its past, or a verb phrase that takes an infinitive with to.
_AUXILIARIES = {"können": ("can", "could"), "sollen": ("should", ""), "möchten": ("would like to", "")}
_TO_VERBS = {"müssen": ("have", "has", "had"), "wollen": ("want", "wants", "wanted")}


def person_of(np: NP) -> str:
    """The English pronoun of a phrase: things and animals are it, whatever their German gender."""
    if np.plural or np.pronoun == "they":
        return "they"
    if np.noun is not None and not np.noun.classes & {"person", "kin"}:
        return "it"
    return np.person


def noun_phrase(np: NP, role: str = "object", negated: bool = False) -> str:
    """The phrase as "subject" or "object"; `negated` puts any where there is no article."""
    if np.pronoun:
        return (_SUBJECTS if role == "subject" else _OBJECTS)[person_of(np)]
    if np.name:
        return np.name
    words = [np.adjective.english] if np.adjective else []
    words.append(np.noun.english_plural or plural(np.noun.english) if np.plural else np.noun.english)
    return " ".join(filter(None, [_determiner(np, words[0], negated), *words]))


def plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def prepositional(phrase: Prepositional | Adverb) -> str:
    if isinstance(phrase, Adverb):
        return phrase.english
    return _join(phrase.english, noun_phrase(phrase.np))


def third_person(verb: str) -> str:
    if verb in ("go", "do"):
        return verb + "es"
    return {"have": "has", "be": "is"}.get(verb) or plural(verb)


def past(verb: Verb) -> str:
    return verb.english_past or _regular_past(verb.english)


def participle(verb: Verb) -> str:
    return verb.english_participle or past(verb)


def gerund(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb in _DOUBLED:
        return verb + verb[-1] + "ing"
    return (verb[:-1] if verb.endswith("e") and not verb.endswith(("ee", "be")) else verb) + "ing"


def statement(clause: Clause, without: str = "") -> str:
    """A main or subordinate clause: subject, verb, complements; a fronted time stands first."""
    operator, verb = _verb(clause, clause.negated)
    adverb = _frequency(clause)
    negation = "not" if clause.negated else ""
    subject = "" if without == "subject" else noun_phrase(clause.subject, "subject")
    front = clause.time.english if clause.front == "time" and clause.time.kind == "time" else ""
    return _tidy(
        front, subject, operator, negation, adverb, verb, *_complements(clause, without, fronted=bool(front))
    )


def question(clause: Clause, without: str = "") -> str:
    """Auxiliary, subject, the rest; `without` leaves out what was asked for."""
    operator, verb = _verb(clause, do_support=True)
    return _tidy(
        operator,
        noun_phrase(clause.subject, "subject"),
        _frequency(clause),
        verb,
        *_complements(clause, without),
    )


def infinitive(clause: Clause) -> str:
    """The bare infinitive with its complements; the caller says to, or nothing in a command."""
    return _tidy(clause.verb.english, *_complements(clause))


def ing_clause(clause: Clause) -> str:
    return _tidy(gerund(clause.verb.english), *_complements(clause))


def _verb(clause: Clause, do_support: bool) -> tuple[str, str]:
    """The auxiliary that carries not and turns round in questions ("" where there is none), and the rest."""
    verb, person, tense = clause.verb, person_of(clause.subject), clause.tense
    base = "like to " + verb.english if clause.fond else verb.english
    if clause.modal in _AUXILIARIES:
        now, then = _AUXILIARIES[clause.modal]
        auxiliary, _, rest = (then if tense == "past" else now).partition(" ")
        return auxiliary, _join(rest, base)
    if clause.modal == "dürfen":
        return _be(person, tense), "allowed to " + base
    if clause.modal:
        plain, third, then = _TO_VERBS[clause.modal]
        return _lexical(plain, third, then, person, tense, do_support, " to " + base)
    if verb.english == "be":
        return ("will", "be") if tense == "future" else (_be(person, tense), "")
    if tense == "future":
        return "will", base
    if tense == "done":
        return _have(person), participle(verb)
    if clause.aspect == "since":
        return _have(person), participle(verb) if verb.stative else "been " + gerund(verb.english)
    if tense == "present" and clause.aspect == "progressive" and not verb.stative:
        return _be(person, tense), gerund(verb.english)
    if clause.fond:
        return _lexical("like", "likes", "liked", person, tense, do_support, " to " + verb.english)
    return _lexical(verb.english, third_person(verb.english), past(verb), person, tense, do_support, "")


def _lexical(
    plain: str, third: str, then: str, person: str, tense: str, do_support: bool, rest: str
) -> tuple[str, str]:
    gone = tense in ("past", "perfect")
    if do_support:
        return "did" if gone else "does" if person in _THIRD else "do", plain + rest
    return "", (then if gone else third if person in _THIRD else plain) + rest


def _complements(clause: Clause, without: str = "", fronted: bool = False) -> list[str]:
    parts = _objects(clause, without)
    if clause.predicate:
        parts.append(clause.predicate.english)
        if clause.predicate.than:
            parts.append("than " + noun_phrase(clause.predicate.than))
    if clause.object and without != "object":
        parts.append(prepositional(clause.object))
    elif clause.object and "+" in clause.verb.frame:
        parts.append(clause.object.english)  # who is he waiting for
    if clause.place and without != "place":
        parts.append(prepositional(clause.place))
    if clause.tense == "done" and clause.negated:
        parts.append("yet")
    if clause.time and not fronted and without != "time" and clause.time.kind == "time":
        parts.append(clause.time.english)
    return parts


def _objects(clause: Clause, without: str) -> list[str]:
    """Objects and particle: picks the friend up, picks up the friend, gives her a book, gives it to her."""
    verb, particle, linker = clause.verb, _particle(clause.verb), clause.verb.linker.removeprefix("!")
    accusative = (
        noun_phrase(clause.accusative, negated=clause.negated and not clause.fond)
        if clause.accusative
        else ""
    )
    dative = noun_phrase(clause.dative) if clause.dative else ""
    if not accusative:
        return [particle, linker, "" if without == "dative" else dative]
    if dative:
        if without == "accusative":
            return [particle, "to " + dative]
        if without == "dative":
            return [accusative, particle, "to"]
        if verb.linker == "!to" or clause.accusative.pronoun:
            return [accusative, particle, "to " + dative]
        return [dative, accusative, particle]
    if without == "accusative":
        return [particle, linker]
    if particle == "to know" or (verb.particle.startswith("+") and not clause.accusative.pronoun):
        return [particle, accusative]
    return [linker, accusative, particle]


def _particle(verb: Verb) -> str:
    return verb.particle.removeprefix("+")


def _frequency(clause: Clause) -> str:
    if clause.tense == "done" and not clause.negated:
        return "already"
    return clause.time.english if clause.time and clause.time.kind == "frequency" else ""


def _determiner(np: NP, following: str, negated: bool) -> str:
    if np.determiner == "a" and not np.plural:
        return "an" if following[0].lower() in "aeiou" else "a"
    if np.determiner in ("", "a"):
        return "any" if negated else ""
    if np.determiner == "this":
        return "these" if np.plural else "this"
    return _POSSESSIVES.get(np.determiner) or np.determiner


def _be(person: str, tense: str) -> str:
    gone = tense in ("past", "perfect")
    if person == "I":
        return "was" if gone else "am"
    if person in _THIRD:
        return "was" if gone else "is"
    return "were" if gone else "are"


def _have(person: str) -> str:
    return "has" if person in _THIRD else "have"


def _regular_past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + (verb[-1] if verb in _DOUBLED else "") + "ed"


def _join(*words: str) -> str:
    return " ".join(filter(None, words))


def _tidy(*words: str) -> str:
    return _join(*words).replace("can not", "cannot")
