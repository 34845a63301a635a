"""The words of the quick start's German-English corpus: nouns, adjectives and verbs with what grammar needs of them.

One word a line, German first. Inflected forms are written out only where the rules in `german.py` and `english.py`
would get them wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Noun:
    """A noun of both languages. `oblique` is the accusative and dative singular, another form in weak nouns only."""

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
    `frame` tells the objects: "-", "A", "D", "DA", "L" (place), "R" (direction), "X" (spot on furniture, dative),
    "AX" (object and spot, accusative), or a preposition with its case and English counterpart, "auf+A=for".
    `particle` is an English adverb (pick the friend up); `linker` an English preposition before the plain object.
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

    @cached_property
    def takes_accusative(self) -> bool:
        return self.frame in ("A", "DA", "AX")

    @property
    def full_infinitive(self) -> str:
        return self.prefix + self.infinitive


_NOUNS = """
m Mann Männer man/men person
f Frau Frauen woman/women person
n Kind Kinder child/children person
n Mädchen Mädchen girl person
m Junge~Jungen Jungen boy person
m Lehrer Lehrer teacher person
f Lehrerin Lehrerinnen teacher person
m Arzt Ärzte doctor person
f Ärztin Ärztinnen doctor person
m Nachbar~Nachbarn Nachbarn neighbour person
f Nachbarin Nachbarinnen neighbour person
m Student~Studenten Studenten student person
f Studentin Studentinnen student person
m Schüler Schüler pupil person
m Gast Gäste guest person
m Koch Köche cook person
m Kellner Kellner waiter person
m Polizist~Polizisten Polizisten policeman/policemen person
m Bäcker Bäcker baker person
m Maler Maler painter person
f Verkäuferin Verkäuferinnen saleswoman/saleswomen person
m Bruder Brüder brother kin
f Schwester Schwestern sister kin
m Vater - father kin
f Mutter - mother kin
m Sohn Söhne son kin
f Tochter Töchter daughter kin
m Onkel Onkel uncle kin
f Tante Tanten aunt kin
f Großmutter - grandmother kin
m Großvater - grandfather kin
m Freund Freunde friend kin
f Freundin Freundinnen friend kin
m Kollege~Kollegen Kollegen colleague kin
f Kollegin Kolleginnen colleague kin
m Chef - boss kin
m Hund Hunde dog animal
f Katze Katzen cat animal
n Pferd Pferde horse animal
m Vogel Vögel bird animal
f Kuh Kühe cow animal
m Apfel Äpfel apple food
n Ei Eier egg food,cooked
m Kuchen Kuchen cake food,baked
f Banane Bananen banana food
f Kartoffel Kartoffeln potato/potatoes food,cooked
m Fisch Fische fish/fish food,cooked
f Suppe Suppen soup food,cooked
f Birne Birnen pear food
n Brot - bread food,baked,mass
m Käse - cheese food,mass
n Fleisch - meat food,cooked,mass
m Reis - rice food,cooked,mass
f Schokolade - chocolate food,mass
n Obst - fruit food,mass
n Wasser - water drink,mass
f Milch - milk drink,mass
m Kaffee - coffee drink,mass
m Tee - tea drink,mass
m Saft - juice drink,mass
m Wein - wine drink,mass
n Buch Bücher book text,small,gift
f Zeitung Zeitungen newspaper text,small
m Brief Briefe letter text,small,mail
f Geschichte Geschichten story/stories text,tale
n Gedicht Gedichte poem text,tale
m Bericht Berichte report text,mail
m Roman Romane novel text,gift
f Nachricht Nachrichten message text,mail
m Mantel Mäntel coat clothes,small
f Jacke Jacken jacket clothes,small
n Hemd Hemden shirt clothes,small
m Hut Hüte hat clothes,small
n Kleid Kleider dress clothes,small,gift
m Schuh Schuhe shoe clothes,small
m Rock Röcke skirt clothes,small
m Pullover Pullover sweater clothes,small,gift
n Auto Autos car vehicle,lock
n Fahrrad Fahrräder bicycle vehicle,lock
m Bus Busse bus line
m Zug Züge train line
n Schiff Schiffe ship line
n Fenster Fenster window open,clean
f Tür Türen door open,lock,clean
m Koffer Koffer suitcase open,pack,small,upright
m Schrank Schränke cupboard open,big
f Flasche Flaschen bottle open,small,upright
n Paket Pakete parcel open,pack,small,mail,parcel
f Kiste Kisten box open,pack,small,upright
n Radio Radios radio device
m Fernseher Fernseher television device
m Computer Computer computer device
f Lampe Lampen lamp device,small,upright
f Heizung Heizungen heater device
f Waschmaschine Waschmaschinen washing_machine device
m Tisch Tische table big,clean
m Stuhl Stühle chair big
n Bild Bilder picture picture,small,gift
n Foto Fotos photo picture,small
f Karte Karten map picture,small
m Schlüssel Schlüssel key small
f Uhr Uhren watch small,gift
f Tasche Taschen bag small,pack,gift,upright
m Ball Bälle ball small,gift
n Handy Handys phone small,device
f Kamera Kameras camera small,device,gift
f Blume Blumen flower small,gift
f Tasse Tassen cup small,dish,upright
m Teller Teller plate small,dish,upright
n Messer Messer knife/knives small,dish
m Regenschirm Regenschirme umbrella small
n Haus Häuser house building,home,lock
f Wohnung Wohnungen flat home,room,lock
f Brücke Brücken bridge building
n Zimmer Zimmer room room,lock
f Werkstatt Werkstätten workshop room,lock
f Rechnung Rechnungen bill bill,mail
m Film Filme film show
n Lied Lieder song song
f Musik - music song,mass
n Konzert Konzerte concert show,event
n Spiel Spiele game show,game
n Fest Feste party/parties event
f Reise Reisen trip plan,task
f Prüfung Prüfungen exam plan,task
m Sommer - summer season
m Urlaub - holiday season
f Sprache Sprachen language language
f Frage Fragen question question
n Wort Wörter word question
f Adresse Adressen address note
f Nummer Nummern number note
m Name~Namen Namen name note
f Zeit - time own,mass
n Geld - money own,mass
f Arbeit - work own,task,mass
"""

_ADJECTIVES = """
alt old person,animal,text,clothes,vehicle,device,building,picture,song,big,open,event
jung young person,animal
freundlich friendly person,kin
klug clever person,animal,kin
fleißig hard-working person
berühmt famous person
groß tall person
groß big animal,building,open,big,device,room,picture,gift
klein little person,animal
klein small building,open,big,device,room,picture,gift,food
neu new text,clothes,vehicle,device,building,picture,song,small,big,room
schön beautiful clothes,building,picture,song,gift,event,room,animal
teuer/teur expensive clothes,vehicle,device,picture,gift,building
billig cheap clothes,vehicle,device,small
schwer heavy pack,big
schwer difficult question,language,game
rot red clothes,vehicle,small,open
blau blue clothes,vehicle,small,open
grün green clothes,vehicle,small,open
schwarz black clothes,vehicle,animal,device
weiß white clothes,vehicle,animal,building
frisch fresh food
gut good food,drink,text,show,song
süß sweet baked
kalt cold drink
heiß hot drink,cooked
interessant interesting text,show,plan
lang long text,plan,song,show
kurz short text,plan,song,show
langweilig boring text,show
spannend exciting tale,game,event
"""

# Columns: German with prefix| (and du, er where the stem changes); participle (ist: with sein); frame; objects;
# English with its irregular forms; subjects where they are not persons.
_VERBS = """
kaufen; gekauft; A; food,drink,clothes,text,vehicle,small,home; buy bought bought
verkaufen; verkauft; A; clothes,vehicle,home,picture; sell sold sold
suchen; gesucht; A; small,clothes,animal; look ~for
finden; gefunden; A; small,clothes,animal; find found found
brauchen; gebraucht; A; clothes,vehicle,small,own; need *
sehen siehst sieht; gesehen; A; person,kin,animal,building,show; see saw seen *
kennen; gekannt; A; person,kin,tale,song; know knew known *
lesen liest liest; gelesen; A; text; read read read
schreiben; geschrieben; A; text; write wrote written
essen isst isst; gegessen; A; food; eat ate eaten
trinken; getrunken; A; drink; drink drank drunk
kochen; gekocht; A; cooked; cook
backen; gebacken; A; baked; bake
waschen wäschst wäscht; gewaschen; A; clothes,vehicle; wash
ab|waschen wäschst wäscht; abgewaschen; A; dish; wash
tragen trägst trägt; getragen; A; clothes; wear wore worn
malen; gemalt; A; picture,animal,building; paint
zeichnen; gezeichnet; A; picture,animal,building; draw drew drawn
reparieren; repariert; A; vehicle,device; repair
bezahlen; bezahlt; A; bill; pay paid paid
fotografieren; fotografiert; A; person,kin,animal,building; photograph
besuchen; besucht; A; person,kin; visit
hören; gehört; A; song; listen ~to
bauen; gebaut; A; building,big; build built built
putzen; geputzt; A; clean,room; clean
treffen triffst trifft; getroffen; A; person,kin; meet met met
fragen; gefragt; A; person,kin; ask
holen; geholt; A; food,drink,small; fetch
verlieren; verloren; A; small,game; lose lost lost
vergessen vergisst vergisst; vergessen; A; small,note,event; forget forgot forgotten
bestellen; bestellt; A; food,drink; order
verstehen; verstanden; A; question,language,person; understand understood understood *
lieben; geliebt; A; kin,animal,song; love *
füttern; gefüttert; A; animal; feed fed fed
öffnen; geöffnet; A; open; open
gewinnen; gewonnen; A; game; win won won
bekommen; bekommen; A; mail,gift; receive
planen; geplant; A; event,plan; plan
auf|machen; aufgemacht; A; open; open
zu|machen; zugemacht; A; open; close
ab|schließen; abgeschlossen; A; lock; lock
an|rufen; angerufen; A; person,kin; call
ab|holen; abgeholt; A; person,kin,parcel; pick +up
ein|laden lädst lädt; eingeladen; A; person,kin; invite
kennen|lernen; kennengelernt; A; person; get got got =to_know
an|ziehen; angezogen; A; clothes; put put put +on
aus|ziehen; ausgezogen; A; clothes; take took taken +off
an|probieren; anprobiert; A; clothes; try +on
ein|schalten; eingeschaltet; A; device; turn +on
aus|schalten; ausgeschaltet; A; device; turn +off
mit|nehmen nimmst nimmt; mitgenommen; A; small,animal; take took taken =along
mit|bringen; mitgebracht; A; food,drink,small; bring brought brought =along
zurück|bringen; zurückgebracht; A; small,text; bring brought brought +back
auf|räumen; aufgeräumt; A; room; tidy +up
weg|werfen wirfst wirft; weggeworfen; A; text,small,food; throw threw thrown +away
aus|packen; ausgepackt; A; pack; unpack
an|sehen siehst sieht; angesehen; A; picture,animal,building; look ~at
auf|schreiben; aufgeschrieben; A; note,tale,question; write wrote written +down
vor|bereiten; vorbereitet; A; event,plan; prepare
stellen; gestellt; AX; upright; put put put
legen; gelegt; AX; text,clothes,picture; lay laid laid
liegen; gelegen; X; -; lie lay lain; text,clothes,picture
stehen; gestanden; X; -; stand stood stood; upright
helfen hilfst hilft; geholfen; D; person,kin; help
danken; gedankt; D; person,kin; thank
antworten; geantwortet; D; person,kin; answer
folgen; ist gefolgt; D; person,kin,animal; follow
gratulieren; gratuliert; D; person,kin; congratulate
zu|hören; zugehört; D; person,kin; listen ~to
zu|sehen siehst sieht; zugesehen; D; person,kin,animal; watch
geben gibst gibt; gegeben; DA; food,drink,small,text; give gave given
zeigen; gezeigt; DA; picture,text,clothes,vehicle; show showed shown
schicken; geschickt; DA; mail,picture; send sent sent
bringen; gebracht; DA; food,drink,small; bring brought brought
leihen; geliehen; DA; vehicle,text,clothes; lend lent lent
erzählen; erzählt; DA; tale; tell told told
vor|lesen liest liest; vorgelesen; DA; text; read read read !to
erklären; erklärt; DA; question,game,picture; explain !to
zurück|geben gibst gibt; zurückgegeben; DA; small,vehicle,text; give gave given +back !to
warten; gewartet; auf+A=for; person,kin,line,mail; wait
denken; gedacht; an+A=of; person,kin,plan,season; think thought thought
sprechen sprichst spricht; gesprochen; mit+D=to; person,kin; talk
spielen; gespielt; mit+D=with; person,animal; play
an|fangen fängst fängt; angefangen; mit+D=; task; begin began begun
auf|passen; aufgepasst; auf+A=after; animal,kin; look
teil|nehmen nimmst nimmt; teilgenommen; an+D=in; event,game; take took taken =part
sich freuen; gefreut; auf+A=to; plan,event,show,season; look =forward
sich kümmern; gekümmert; um+A=of; kin,animal; take took taken =care
sich erinnern; erinnert; an+A=; person,kin,tale; remember *
schlafen schläfst schläft; geschlafen; -; -; sleep slept slept; person,animal
arbeiten; gearbeitet; -; -; work
lachen; gelacht; -; -; laugh
weinen; geweint; -; -; cry
tanzen; getanzt; -; -; dance
singen; gesungen; -; -; sing sang sung
schwimmen; ist geschwommen; -; -; swim swam swum; person,animal
lernen; gelernt; -; -; study
sich beeilen; beeilt; -; -; hurry
auf|stehen; ist aufgestanden; -; -; get got got =up
ein|schlafen schläfst schläft; ist eingeschlafen; -; -; fall fell fallen =asleep; person,animal
auf|wachen; ist aufgewacht; -; -; wake woke woken =up; person,animal
an|kommen; ist angekommen; -; -; arrive; person,line
ab|fahren fährst fährt; ist abgefahren; -; -; leave left left; person,line
zurück|kommen; ist zurückgekommen; -; -; come came come =back; person,animal
weg|laufen läufst läuft; ist weggelaufen; -; -; run ran run =away; animal,person
ein|kaufen; eingekauft; -; -; shop
fern|sehen siehst sieht; ferngesehen; -; -; watch =television
sich aus|ruhen; ausgeruht; -; -; rest
um|ziehen; ist umgezogen; -; -; move
wohnen; gewohnt; L; -; live *
bleiben; ist geblieben; L; -; stay
sitzen; gesessen; L; -; sit sat sat; person,animal
gehen; ist gegangen; R; -; go went gone
laufen läufst läuft; ist gelaufen; R; -; run ran run; person,animal
fahren fährst fährt; ist gefahren; R; -; drive drove driven
kommen; ist gekommen; R; -; come came come
"""


def _noun(line: str) -> Noun:
    gender, german, plural, english, classes = line.split()
    singular, _, oblique = german.partition("~")
    one, _, many = english.replace("_", " ").partition("/")
    return Noun(gender, singular, oblique or singular, "" if plural == "-" else plural, one, many,
                frozenset(classes.split(",")))


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
        prefix=prefix, infinitive=rest, thou=thou, it=it, participle=participle.removeprefix("ist "),
        auxiliary="sein" if participle.startswith("ist ") else "haben", reflexive=reflexive, frame=frame,
        subjects=frozenset(subjects[0].split(",") if subjects else ("person",)), objects=frozenset(objects.split(",")),
        english=forms[0], english_past=past, english_participle=done, particle=particle,
        linker="!to" if "!" in marks else marks.get("~", ""), stative="*" in marks)


NOUNS = [_noun(line) for line in _NOUNS.strip().splitlines()]
ADJECTIVES = [_adjective(line) for line in _ADJECTIVES.strip().splitlines()]
VERBS = [_verb(line) for line in _VERBS.strip().splitlines()]
