"""The quick start: its German and English, its corpus, its text, and the whole demo with tiny models."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
QUICKSTART = REPOSITORY / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import corpus  # noqa: E402
import demo  # noqa: E402
import stdlib_text  # noqa: E402
from grammar import english, german  # noqa: E402
from grammar.sentences import Sentences  # noqa: E402
from grammar.words import (  # noqa: E402
    ADJECTIVES,
    BE,
    HE,
    NOUNS,
    PLACES,
    PRONOUNS,
    SHE,
    THEY,
    VERBS,
    WE,
    YOU,
    YOU_ALL,
    Adverb,
    Clause,
    Complement,
    I,
    NounPhrase,
)  # fmt: skip

TODAY, OFTEN = Adverb("heute", "today"), Adverb("oft", "often", place="verb")
PAST, OLD_PAST = {"tense": "perfect"}, {"tense": "pluperfect"}
NOW, WILL, DONE = {"aspect": "progressive"}, {"aspect": "will"}, {"tense": "perfect", "aspect": "done"}
NOT = {"negated": True}


def noun(word, determiner="der", adjective=None, **rest):
    """By its German or, where that is two words, by its English."""
    found = next(n for n in NOUNS if word in (n.singular, n.english))
    adjective = adjective and next(a for a in ADJECTIVES if adjective in (a.german, a.english))
    return NounPhrase(found, determiner, adjective=adjective, **rest)


def one(row):
    return NounPhrase(person=row)


def clause(subject, german_verb, *phrases, english_verb=None, adverbs=(), **rest):
    """The phrases are the verb's complements in the order of verbs.txt, each in the first slot that fits it."""
    subject = one(subject) if isinstance(subject, int) else noun(subject) if isinstance(subject, str) else subject
    verb = next(
        v for v in VERBS
        if (v.prefix + v.infinitive, v.reflexive) == (german_verb.removeprefix("sich "), german_verb.startswith("sich "))
        and len(v.slots) == len(phrases) and english_verb in (None, v.english[0])
    )  # fmt: skip
    complements = []
    for slots, phrase in zip(verb.slots, phrases):
        phrase = one(phrase) if isinstance(phrase, int) else noun(phrase) if isinstance(phrase, str) else phrase
        fits = [s for s in slots if phrase.noun is None or not s.classes.isdisjoint(phrase.noun.classes)]
        complements.append(Complement(fits[0], phrase))
    return Clause(subject, verb, tuple(complements), adverbs, **rest)


OPENING = clause("Frau", "aufmachen", "Fenster")
GIVING = clause("Kind", "geben", "Junge", noun("Apfel", "ein"))
CLEANING = clause(noun("Vater", "", possessor=I), "aufräumen", noun("Zimmer", "", possessor=HE, adjective="big"))
MAIN_CLAUSES = [
    (OPENING, "die Frau macht das Fenster auf", "the woman opens the window"),
    (OPENING._replace(**PAST), "die Frau hat das Fenster aufgemacht", "the woman opened the window"),
    (OPENING._replace(modal="wollen"), "die Frau will das Fenster aufmachen", "the woman wants to open the window"),
    (OPENING._replace(modal="müssen", **NOT), "die Frau muss das Fenster nicht aufmachen",
     "the woman does not have to open the window"),
    (OPENING._replace(modal="dürfen", tense="past"), "die Frau durfte das Fenster aufmachen",
     "the woman was allowed to open the window"),
    (OPENING._replace(modal="können", **NOT), "die Frau kann das Fenster nicht aufmachen",
     "the woman cannot open the window"),
    (OPENING._replace(adverbs=(TODAY,), **WILL), "die Frau macht heute das Fenster auf",
     "the woman will open the window today"),
    (OPENING._replace(adverbs=(OFTEN,)), "die Frau macht oft das Fenster auf", "the woman often opens the window"),
    (GIVING, "das Kind gibt dem Jungen einen Apfel", "the child gives the boy an apple"),
    (GIVING._replace(**NOT), "das Kind gibt dem Jungen keinen Apfel", "the child does not give the boy an apple"),
    (CLEANING._replace(**NOW), "mein Vater räumt sein großes Zimmer auf", "my father is tidying up his big room"),
    (clause(I, "abholen", SHE, **PAST), "ich habe sie abgeholt", "I picked her up"),
    (clause(I, "abholen", noun("Lehrer", "ein", "nett"), **PAST), "ich habe einen netten Lehrer abgeholt",
     "I picked up a nice teacher"),
    (clause(WE, "helfen", noun("Mann", plural=True, adjective="alt")), "wir helfen den alten Männern",
     "we help the old men"),
    (clause(SHE, "trinken", noun("Milch", "", "kalt"), **PAST, **NOT), "sie hat keine kalte Milch getrunken",
     "she did not drink any cold milk"),
    (clause(THEY, "warten", "Zug", **NOW), "sie warten auf den Zug", "they are waiting for the train"),
    (clause(YOU, "sich freuen", noun("Fest", "dieser")), "du freust dich auf dieses Fest",
     "you look forward to this party"),
    (clause(HE, "laufen", "Garten", english_verb="run", **PAST), "er ist in den Garten gelaufen",
     "he ran into the garden"),
    (clause(HE, "arbeiten", "Garten", **NOW), "er arbeitet im Garten", "he is working in the garden"),
    (clause(YOU_ALL, "einladen", noun("Student", "ein")), "ihr ladet einen Studenten ein", "you invite a student"),
    (clause("Maler", "reparieren", noun("lock", "")._replace(determiner="der", owner=noun("Nachbar")), **DONE),
     "der Maler hat das Schloss des Nachbarn repariert", "the painter has repaired the neighbour's lock"),
    (clause("Maler", "malen", noun("castle", "der", "alt"), **PAST), "der Maler hat das alte Schloss gemalt",
     "the painter painted the old castle"),
    (clause(YOU, "anfangen", noun("job", "dieser")), "du fängst mit dieser Arbeit an", "you begin with this job"),
    (clause("Arzt", "ankommen", **NOT), "der Arzt kommt nicht an", "the doctor does not arrive"),
    (Clause(one(THEY), BE, tense="past", feeling=next(a for a in ADJECTIVES if a.german == "müde")),
     "sie waren müde", "they were tired"),
]  # fmt: skip


@pytest.mark.parametrize("said, german_words, english_words", MAIN_CLAUSES, ids=lambda value: str(value)[:30])
def test_main_clauses(said, german_words, english_words):
    assert (german.main_clause(said), english.sentence(said)) == (german_words, english_words)


def test_the_verb_is_second_first_or_last():
    past = OPENING._replace(adverbs=(TODAY,), **PAST)
    front = german.main_clause(past, TODAY), english.sentence(past, TODAY)
    assert front == ("heute hat die Frau das Fenster aufgemacht", "today the woman opened the window")
    helping = clause("Arzt", "helfen", "Mann")
    front = german.main_clause(helping, helping.complements[0]), english.sentence(helping, helping.complements[0])
    assert front == ("dem Mann hilft der Arzt", "the doctor helps the man")
    asked = german.verb_first(past), english.sentence(past, inverted=True)
    assert asked == ("hat die Frau heute das Fenster aufgemacht", "did the woman open the window today")
    assert german.verb_last(OPENING) == "die Frau das Fenster aufmacht"
    assert german.verb_last(past) == "die Frau heute das Fenster aufgemacht hat"
    assert german.verb_last(OPENING._replace(**OLD_PAST)) == "die Frau das Fenster aufgemacht hatte"
    assert english.sentence(OPENING._replace(**OLD_PAST)) == "the woman had opened the window"
    assert german.infinitive(OPENING) == "das Fenster aufzumachen"
    assert german.infinitive(clause(WE, "sich ausruhen")) == "uns auszuruhen"
    assert english.infinitive(clause(WE, "anziehen", "Hut")) == "to put on the hat"


@pytest.mark.parametrize(
    "case, words",
    [
        ("N", "der alte Mann, ein alter Mann, meine alte Katze, ein altes Auto, alte Männer, kein alter Mann, "
              "frisches Brot, dieser Student, keine alten Männer, euer neues Haus"),
        ("A", "den alten Mann, einen alten Mann, meine alte Katze, ein altes Auto, alte Männer, keinen alten Mann, "
              "frisches Brot, diesen Studenten, keine alten Männer, euer neues Haus"),
        ("D", "dem alten Mann, einem alten Mann, meiner alten Katze, einem alten Auto, alten Männern, "
              "keinem alten Mann, frischem Brot, diesem Studenten, keinen alten Männern, eurem neuen Haus"),
        ("G", "des alten Mannes, eines alten Mannes, meiner alten Katze, eines alten Autos, alter Männer, "
              "keines alten Mannes, frischen Brotes, dieses Studenten, keiner alten Männer, eures neuen Hauses"),
    ],
)  # fmt: skip
def test_cases(case, words):
    old, men = noun("Mann", "ein", "alt"), noun("Mann", "", "alt", plural=True)
    phrases = [noun("Mann", "der", "alt"), old, noun("Katze", "", "alt", possessor=I), noun("Auto", "ein", "alt"), men]
    said = [german.noun_phrase(phrase, case) for phrase in phrases] + [german.noun_phrase(old, case, kein=True)]
    said += [german.noun_phrase(noun("Brot", "", "frisch"), case), german.noun_phrase(noun("Student", "dieser"), case)]
    said += [german.noun_phrase(men, case, kein=True)]
    said += [german.noun_phrase(noun("Haus", "", "neu", possessor=YOU_ALL), case)]
    assert ", ".join(said) == words


@pytest.mark.parametrize(
    "verb, forms",
    [
        ("kaufen", "kaufe kaufst kauft kaufen kauft kaufen"),
        ("arbeiten", "arbeite arbeitest arbeitet arbeiten arbeitet arbeiten"),
        ("öffnen", "öffne öffnest öffnet öffnen öffnet öffnen"),
        ("füttern", "füttere fütterst füttert füttern füttert füttern"),
        ("wechseln", "wechsle wechselst wechselt wechseln wechselt wechseln"),
        ("kommen", "komme kommst kommt kommen kommt kommen"),
        ("sitzen", "sitze sitzt sitzt sitzen sitzt sitzen"),
        ("lesen", "lese liest liest lesen lest lesen"),
        ("laden", "lade lädst lädt laden ladet laden"),
        ("wohnen", "wohne wohnst wohnt wohnen wohnt wohnen"),
    ],
)
def test_present_tense(verb, forms):
    third = next(row.third for row in VERBS if row.infinitive == verb)
    assert [german.finite(verb, row, third) for row in (I, YOU, HE, WE, YOU_ALL, THEY)] == forms.split()


def test_word_lists_fit_together():
    """Each verb, adverbial and adjective finds nouns, each noun a place."""
    slots = [slot for verb in VERBS for places in verb.slots for slot in places if slot.case in "AD"]
    slots += [slot for places in PLACES.values() for slot in places]
    wanted = {name for slot in slots for name in slot.classes}.union(*(verb.subjects for verb in VERBS))
    assert wanted <= {name for noun in NOUNS for name in noun.classes}
    assert [noun.singular for noun in NOUNS if wanted.isdisjoint(noun.classes)] == []
    said = {name for noun in NOUNS for name in noun.classes} | {"feeling"}
    assert [word.german for word in ADJECTIVES if not word.classes <= said] == []
    assert [(len(forms), len(translations)) for forms, translations in PRONOUNS] == [(5, 3)] * 8


def test_sentences_are_whole():
    sentences = Sentences(random.Random(3))
    pairs = {sentences.pair() for _ in range(2000)}
    assert len(pairs) > 1900
    for pair in pairs:
        for text in pair:
            assert re.fullmatch(r"[A-ZÄÖÜ][\wß'-]*(,? [\wäöüßÄÖÜ'-]+)*[.?]", text), text
            assert "None" not in text


def test_corpus_has_no_sentence_twice_on_either_side(tmp_path):
    sizes = corpus.write_corpus(tmp_path / "one")
    assert sizes == {"train": 7000, "valid": 400, "test": 600}
    for language in ("de", "en"):
        lines = [
            re.sub(r"\W+", " ", line).strip().lower()
            for split in sizes
            for line in (tmp_path / "one" / f"{split}.{language}").read_text(encoding="utf-8").splitlines()
        ]
        assert len(lines) == len(set(lines)) == 8000


def test_corpus_depends_on_the_seed_alone(tmp_path):
    again = [
        subprocess.run(
            [
                sys.executable,
                QUICKSTART / "corpus.py",
                "--output",
                tmp_path / f"{seed}{hashing}",
                "--train",
                "200",
                "--valid",
                "10",
                "--test",
                "10",
                "--seed",
                seed,
            ],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hashing},
        )
        and (tmp_path / f"{seed}{hashing}" / "train.de").read_bytes()
        for seed, hashing in (("1", "1"), ("1", "2"), ("2", "1"))
    ]
    assert again[0] == again[1] != again[2]


def test_few_words_of_the_test_set_are_new(tmp_path):
    corpus.write_corpus(tmp_path)
    for language in ("de", "en"):
        known, new = (
            set(re.findall(r"\w+", (tmp_path / f"{split}.{language}").read_text(encoding="utf-8").lower()))
            for split in ("train", "test")
        )
        assert len(new - known) <= 0.02 * len(new)


def test_standard_library_text(tmp_path):
    library = tmp_path / "lib"
    sources = [f"{folder}{number}.py" for folder in ("a", "email/b") for number in range(20)]
    for name in (*sources, "test/f.py", "site-packages/g.py", "encodings/h.py", "i.txt"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(f"# {name}\n" * 10)
    (library / "long.py").write_text("# long\n" * 100)
    (library / "table.py").write_text("x" * 300_000)
    counts = stdlib_text.write_text(library, tmp_path / "out", valid=600, test=1000, most=10_000)
    texts = {split: (tmp_path / "out" / f"{split}.txt").read_text() for split in counts}
    assert 600 <= len(texts["valid"]) < 720 and 1000 <= len(texts["test"]) < 1200 and "# long" in texts["train"]
    assert sorted(line for text in texts.values() for line in set(text.splitlines())) == sorted(
        ["# long", *(f"# {name}" for name in sources)]
    )
    assert sum(files for files, _ in counts.values()) == 41 and counts["test"][1] == len(texts["test"])
    again = stdlib_text.write_text(library, tmp_path / "again", valid=600, test=1000, most=10_000)
    assert again == counts and (tmp_path / "again" / "train.txt").read_text() == texts["train"]
    with pytest.raises(ValueError, match="too few"):
        stdlib_text.write_text(library, tmp_path / "out", valid=3000, test=3000, most=10_000)


def test_demo_refuses_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("all my work")
    refused = run_demo("--out", tmp_path)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert f"{tmp_path} holds something else" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_demo_clears_what_an_earlier_one_left(tmp_path):
    demo.fresh_folder(tmp_path / "out")
    stale, note = tmp_path / "out" / "lm" / "checkpoints" / "old.pt", tmp_path / "out" / "note.txt"
    stale.parent.mkdir(parents=True)
    stale.touch(), note.touch()
    demo.fresh_folder(tmp_path / "out")
    assert not stale.exists() and note.exists()


def test_demo_runs_through(tmp_path):
    out = tmp_path / "out"
    done = run_demo("--quick", "--out", out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    table = (out / "results.txt").read_text()
    assert re.search(r"language model +[\d,]+ .* [\d.]+ bits per byte", table)
    assert re.search(r"translation +[\d,]+ .* [\d.]+ BLEU", table)
    for name in (
        "lm.png",
        "translation.png",
        "lm/sample.txt",
        "lm/checkpoints/checkpoint_best.pt",
        "translation/checkpoints/checkpoint_best.pt",
        "lm/train.log",
    ):
        assert (out / name).stat().st_size > 50 and Path(name).name in done.stdout
    assert (out / "lm" / "sample.txt").read_text().startswith("def main(")


def run_demo(*arguments):
    """examples/quickstart/demo.py as a user runs it, from the repository's root."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, QUICKSTART / "demo.py", *map(str, arguments)],
        cwd=REPOSITORY,
        text=True,
        capture_output=True,
        env=environment,
        timeout=300,
    )
