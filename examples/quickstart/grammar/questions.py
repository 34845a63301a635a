"""What of a clause can be asked for."""

from __future__ import annotations

from grammar.clause import Clause, Prepositional
from grammar.draw import subject_class
from grammar.german import ACCUSATIVE, DATIVE

_ABOUT = {"auf": "worauf", "an": "woran", "mit": "womit", "um": "worum"}


def question_words(clause: Clause) -> list[tuple[str, str, str]]:
    """What can be asked for: the part left out, and the question word in both languages."""
    words = [("time", "wann", "when")] if not clause.time or clause.time.kind == "time" else []
    words.append(("", "warum", "why"))
    if subject_class(clause.subject) == "person":
        words += 2 * [("subject", "wer", "who")]
    if clause.accusative and not (clause.accusative.noun and "animal" in clause.accusative.noun.classes):
        person = clause.accusative.noun is None or clause.accusative.noun.animate
        words += 2 * [("accusative", "wen", "who") if person else ("accusative", "was", "what")]
    if clause.dative:
        words += 2 * [("dative", "wem", "who")]
    if clause.verb.frame in ("L", "X"):
        words += 2 * [("object", "wo", "where")]
    if clause.verb.frame in ("R", "AX"):
        words += 2 * [("object", "wohin", "where")]
    if "+" in clause.verb.frame and isinstance(clause.object, Prepositional):
        preposition, case, np = clause.object.german, clause.object.case, clause.object.np
        person = np.noun is None or np.noun.animate
        whom = {ACCUSATIVE: "wen", DATIVE: "wem"}[case]
        words += 2 * [
            (
                "object",
                f"{preposition} {whom}" if person else _ABOUT[preposition],
                "who" if person else "what",
            )
        ]
    return words
