"""Places, times, predicates, names and prepositions: the phrases that fill a clause around its verb."""

from __future__ import annotations

from dataclasses import dataclass, replace

from grammar.clause import Adverb, Predicate
from grammar.lexicon import Adjective, Noun, Verb


@dataclass(frozen=True)
class Place:
    """A noun with its prepositions: at rest (dative) and as a goal ("in+A": preposition and case)."""

    noun: Noun
    rest: str
    rest_english: str
    goal: str
    goal_english: str
    home: bool  # one can live there


_PLACES = """
f Stadt Städte city/cities in in in+A to live
n Dorf Dörfer village in in in+A to live
m Park Parks park in in in+A to
n Büro Büros office in in in+A to
f Schule Schulen school in at in+A to
m Garten Gärten garden in in in+A into
f Küche Küchen kitchen in in in+A into
n Restaurant Restaurants restaurant in in in+A to
m Markt Märkte market auf at auf+A to
m Bahnhof Bahnhöfe station an at zu+D to
m Flughafen Flughäfen airport an at zu+D to
m Strand Strände beach/beaches an on an+A to
m See Seen lake an at an+A to live
m Fluss Flüsse river an at an+A to
f Bibliothek Bibliotheken library/libraries in in in+A to
n Museum Museen museum in in in+A to
n Kino Kinos cinema in at in+A to
n Krankenhaus Krankenhäuser hospital in in in+A to
m Wald Wälder forest in in in+A into
f Kirche Kirchen church/churches in in in+A to
n Hotel Hotels hotel in in in+A to live
m Supermarkt Supermärkte supermarket in in in+A to
"""


def _place(line: str) -> Place:
    gender, german, plural, english, rest, rest_english, goal, goal_english, *live = line.split()
    one, _, many = english.partition("/")
    return Place(
        Noun(gender, german, german, plural, one, many, frozenset({"place"})),
        rest,
        rest_english,
        goal,
        goal_english,
        bool(live),
    )


PLACES = [_place(line) for line in _PLACES.strip().splitlines()]
PLACE_ADJECTIVES = [
    Adjective(german, german, english, frozenset({"place"}))
    for german, english in (
        ("alt", "old"),
        ("klein", "small"),
        ("groß", "big"),
        ("neu", "new"),
        ("schön", "beautiful"),
    )
]

CITIES = (
    ("Berlin", "Berlin"),
    ("Hamburg", "Hamburg"),
    ("Köln", "Cologne"),
    ("Wien", "Vienna"),
    ("München", "Munich"),
)
AT_REST = [
    Adverb("zu Hause", "at home", "place"),
    Adverb("hier", "here", "place"),
    Adverb("dort", "there", "place"),
    Adverb("draußen", "outside", "place"),
    *(Adverb("in " + german, "in " + english, "place") for german, english in CITIES),
]
GOALS = [
    Adverb("nach Hause", "home", "place"),
    *(Adverb("nach " + german, "to " + english, "place") for german, english in CITIES),
]

# Furniture and the prepositions that suit it; at rest they take the dative, as a goal the accusative.
SPOTS = [
    (Noun(gender, german, german, "", english, "", frozenset()), prepositions.split(","))
    for gender, german, english, prepositions in (
        ("m", "Tisch", "table", "auf,unter,neben"),
        ("m", "Schrank", "cupboard", "in,auf,neben,hinter"),
        ("n", "Bett", "bed", "auf,unter,neben"),
        ("n", "Sofa", "sofa", "auf,hinter,neben"),
        ("m", "Boden", "floor", "auf"),
        ("m", "Stuhl", "chair", "auf,unter,neben"),
        ("f", "Tür", "door", "vor,hinter,neben"),
        ("n", "Fenster", "window", "vor,neben"),
        ("f", "Kiste", "box", "in,neben"),
    )
]
SPOT_ENGLISH = {
    "auf": "on",
    "unter": "under",
    "neben": "next to",
    "hinter": "behind",
    "vor": "in front of",
    "in": "in",
}


def _adverbs(text: str, kind: str = "time") -> list[Adverb]:
    return [Adverb(*(part.strip() for part in pair.split("=")), kind) for pair in text.split(",")]


HABITS = _adverbs(
    "jeden Tag=every day, jeden Morgen=every morning, jeden Abend=every evening, jede Woche=every week, "
    "am Wochenende=at the weekend, im Sommer=in summer, im Winter=in winter, nach der Schule=after school"
)
NOW = _adverbs("jetzt=now, heute=today, im Moment=at the moment")
FUTURE = _adverbs(
    "morgen=tomorrow, morgen früh=tomorrow morning, nächste Woche=next week, nächstes Jahr=next year, "
    "bald=soon, heute Abend=this evening, am Montag=on Monday, am Freitag=on Friday, "
    "in einer Stunde=in an hour, in zwei Tagen=in two days"
)
PAST = _adverbs(
    "gestern=yesterday, gestern Abend=yesterday evening, letzte Woche=last week, letztes Jahr=last year, "
    "vor zwei Tagen=two days ago, vor einer Stunde=an hour ago, am Dienstag=on Tuesday, "
    "am Sonntag=on Sunday, heute Morgen=this morning"
)
FREQUENCY = _adverbs("oft=often, immer=always, manchmal=sometimes, selten=rarely, nie=never", "frequency")
SINCE = _adverbs(
    "seit zwei Jahren=for two years, seit einer Woche=for a week, seit drei Monaten=for three months, "
    "seit einem Jahr=for a year, seit gestern=since yesterday, seit fünf Tagen=for five days"
)

NAMES = (
    ("Anna", "f"),
    ("Maria", "f"),
    ("Julia", "f"),
    ("Lena", "f"),
    ("Sophie", "f"),
    ("Peter", "m"),
    ("Thomas", "m"),
    ("Paul", "m"),
    ("Jan", "m"),
    ("Felix", "m"),
)


def _predicates(text: str) -> list[Predicate]:
    return [Predicate(*(part.strip() for part in pair.split("="))) for pair in text.split(",")]


FEELINGS = _predicates(
    "müde=tired, krank=sick, glücklich=happy, traurig=sad, zufrieden=satisfied, nervös=nervous, "
    "reich=rich, arm=poor, allein=alone, böse=angry, hungrig=hungry, durstig=thirsty, stolz=proud"
)
QUALITIES = _predicates("neu=new, alt=old, gut=good, schön=beautiful")
ANIMATE_MORE = _predicates(
    "älter=older, jünger=younger, größer=taller, klüger=smarter, schneller=faster, stärker=stronger"
)
THING_MORE = _predicates(
    "älter=older, größer=bigger, kleiner=smaller, teurer=more expensive, schöner=more beautiful, "
    "billiger=cheaper, schwerer=heavier, besser=better"
)

PERSONS_ONLY = frozenset({"person"})


def plain_verb(
    infinitive: str, participle: str, english: str, past: str, thou: str = "", it: str = "", objects: str = ""
) -> Verb:
    """A verb with haben and no prefix whose frame its sentence supplies."""
    return Verb(
        "",
        infinitive,
        thou,
        it,
        participle,
        "haben",
        False,
        "A" if objects else "-",
        PERSONS_ONLY,
        frozenset(objects.split(",")),
        english,
        past,
        past,
        "",
        "",
        True,
    )


BE = replace(plain_verb("sein", "gewesen", "be", "was"), auxiliary="sein")
HAVE = plain_verb("haben", "gehabt", "have", "had", objects="animal,vehicle,small,own,kin,home")
LIKE = plain_verb("gefallen", "gefallen", "like", "", "gefällst", "gefällt")

# Verbs that take what is said, and verbs that take an infinitive with zu.
REPORTS = [
    plain_verb("wissen", "gewusst", "know", "knew"),
    plain_verb("glauben", "geglaubt", "believe", ""),
    plain_verb("sagen", "gesagt", "say", "said"),
    plain_verb("hoffen", "gehofft", "hope", ""),
    plain_verb("hören", "gehört", "hear", "heard"),
    plain_verb("denken", "gedacht", "think", "thought"),
]
ATTEMPTS = [
    replace(plain_verb("versuchen", "versucht", "try", ""), stative=False),
    plain_verb("vergessen", "vergessen", "forget", "forgot", "vergisst", "vergisst"),
    plain_verb("versprechen", "versprochen", "promise", "", "versprichst", "verspricht"),
    plain_verb("beschließen", "beschlossen", "decide", ""),
]
