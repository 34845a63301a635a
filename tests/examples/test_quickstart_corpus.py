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
from grammar import english, german, phrases  # noqa: E402
from grammar.clause import NP, Adverb, Clause, Predicate, Prepositional  # noqa: E402
from grammar.lexicon import ADJECTIVES, NOUNS, VERBS  # noqa: E402
from grammar.sentences import KINDS, Sentences  # noqa: E402

VERB = {verb.full_infinitive: verb for verb in VERBS}
MORNING = Adverb("heute Morgen", "this morning")


def noun(german_word, determiner="the", plural=False, adjective=None):
    word = next(word for word in NOUNS if word.singular == german_word)
    return NP(word, determiner, plural, adjective and next(a for a in ADJECTIVES if a.german == adjective))


def said(clause):
    return german.main_clause(clause), english.statement(clause)


I, HE, SHE, THEY = (NP(pronoun=person) for person in ("I", "he", "she", "they"))
OPENING = Clause(noun("Frau"), VERB["aufmachen"], accusative=noun("Fenster"))


def test_separable_verbs_part_and_meet():
    assert said(OPENING) == ("die Frau macht das Fenster auf", "the woman opens the window")
    assert german.verb_last(OPENING) == "die Frau das Fenster aufmacht"
    assert german.infinitive_clause(OPENING) == "das Fenster aufzumachen"
    assert said(OPENING.but(tense="perfect")) == (
        "die Frau hat das Fenster aufgemacht",
        "the woman opened the window",
    )
    assert said(OPENING.but(modal="müssen", negated=True)) == (
        "die Frau muss das Fenster nicht aufmachen",
        "the woman does not have to open the window",
    )
    order = OPENING.but(subject=NP(pronoun="thou"), accusative=noun("Tür"))
    assert german.command(order) == "mach bitte die Tür auf"
    picking = Clause(I, VERB["abholen"], "perfect", accusative=SHE)
    assert said(picking) == ("ich habe sie abgeholt", "I picked her up")
    assert said(picking.but(accusative=noun("Lehrer"))) == (
        "ich habe den Lehrer abgeholt",
        "I picked up the teacher",
    )


def test_verb_is_second_first_or_last():
    clause = OPENING.but(tense="perfect", time=MORNING)
    assert said(clause.but(front="time")) == (
        "heute Morgen hat die Frau das Fenster aufgemacht",
        "this morning the woman opened the window",
    )
    assert german.verb_first(clause) == "hat die Frau heute Morgen das Fenster aufgemacht"
    assert english.question(clause) == "did the woman open the window this morning"
    assert german.verb_last(clause) == "die Frau heute Morgen das Fenster aufgemacht hat"
    going = Clause(HE, VERB["gehen"], "perfect", object=phrases.GOALS[0], negated=True)
    assert said(going) == ("er ist nicht nach Hause gegangen", "he did not go home")
    seen = Clause(HE, VERB["suchen"], accusative=noun("Schlüssel"), front="accusative", aspect="progressive")
    assert said(seen) == ("den Schlüssel sucht er", "he is looking for the key")


@pytest.mark.parametrize(
    "case, words",
    [
        (
            german.NOMINATIVE,
            [
                "der alte Mann",
                "ein alter Mann",
                "meine alte Katze",
                "ein altes Auto",
                "alte Männer",
                "kein alter Mann",
                "frisches Brot",
                "dieser Student",
                "keine alten Männer",
            ],
        ),
        (
            german.ACCUSATIVE,
            [
                "den alten Mann",
                "einen alten Mann",
                "meine alte Katze",
                "ein altes Auto",
                "alte Männer",
                "keinen alten Mann",
                "frisches Brot",
                "diesen Studenten",
                "keine alten Männer",
            ],
        ),
        (
            german.DATIVE,
            [
                "dem alten Mann",
                "einem alten Mann",
                "meiner alten Katze",
                "einem alten Auto",
                "alten Männern",
                "keinem alten Mann",
                "frischem Brot",
                "diesem Studenten",
                "keinen alten Männern",
            ],
        ),
    ],
)
def test_cases(case, words):
    old = noun("Mann", "a", adjective="alt")
    men = noun("Mann", "", True, "alt")
    drawn = [
        noun("Mann", adjective="alt"),
        old,
        noun("Katze", "I", adjective="alt"),
        noun("Auto", "a", adjective="alt"),
        men,
    ]
    assert [german.noun_phrase(np, case) for np in drawn] + [
        german.noun_phrase(old, case, negated=True),
        german.noun_phrase(noun("Brot", "", adjective="frisch"), case),
        german.noun_phrase(noun("Student", "this"), case),
        german.noun_phrase(men, case, negated=True),
    ] == words


@pytest.mark.parametrize(
    "verb, forms",
    [
        ("kaufen", "kaufe kaufst kauft kaufen kauft kaufen"),
        ("arbeiten", "arbeite arbeitest arbeitet arbeiten arbeitet arbeiten"),
        ("öffnen", "öffne öffnest öffnet öffnen öffnet öffnen"),
        ("zeichnen", "zeichne zeichnest zeichnet zeichnen zeichnet zeichnen"),
        ("füttern", "füttere fütterst füttert füttern füttert füttern"),
        ("kommen", "komme kommst kommt kommen kommt kommen"),
        ("sitzen", "sitze sitzt sitzt sitzen sitzt sitzen"),
        ("lesen", "lese liest liest lesen lest lesen"),
        ("wohnen", "wohne wohnst wohnt wohnen wohnt wohnen"),
        ("einladen", "lade lädst lädt laden ladet laden"),
    ],
)
def test_present_tense(verb, forms):
    verb = VERB[verb]
    assert [
        german.conjugate(verb.infinitive, person, verb.thou, verb.it)
        for person in ("I", "thou", "it", "we", "ye", "they")
    ] == forms.split()


def test_negation_and_do_support():
    buying = Clause(HE, VERB["kaufen"], accusative=noun("Buch", "a"), negated=True)
    assert said(buying) == ("er kauft kein Buch", "he does not buy a book")
    assert said(buying.but(accusative=noun("Brot", ""), tense="perfect")) == (
        "er hat kein Brot gekauft",
        "he did not buy any bread",
    )
    assert said(buying.but(accusative=noun("Buch"), time=MORNING, tense="perfect")) == (
        "er hat das Buch heute Morgen nicht gekauft",
        "he did not buy the book this morning",
    )
    assert said(buying.but(tense="done")) == ("er hat noch kein Buch gekauft", "he has not bought a book yet")
    assert (
        english.question(Clause(SHE, VERB["kennen"], accusative=noun("Arzt"))) == "does she know the doctor"
    )
    assert english.statement(buying.but(modal="können")) == "he cannot buy a book"


def test_objects_prepositions_and_predicates():
    giving = Clause(noun("Kind"), VERB["geben"], dative=noun("Junge"), accusative=noun("Apfel", "a"))
    assert said(giving) == ("das Kind gibt dem Jungen einen Apfel", "the child gives the boy an apple")
    it = NP(noun("Apfel").noun, pronoun="he")
    assert said(giving.but(accusative=it)) == (
        "das Kind gibt ihn dem Jungen",
        "the child gives it to the boy",
    )
    waiting = Clause(THEY, VERB["warten"], object=Prepositional("auf", german.ACCUSATIVE, "for", noun("Zug")))
    assert said(waiting) == ("sie warten auf den Zug", "they wait for the train")
    spot = Prepositional("in", german.DATIVE, "in", NP(phrases.PLACES[2].noun))
    assert said(Clause(I, VERB["arbeiten"], place=spot)) == ("ich arbeite im Park", "I work in the park")
    happy = Clause(
        noun("Freundin", "I"),
        VERB["freuen"],
        object=Prepositional("auf", german.ACCUSATIVE, "to", noun("Fest")),
    )
    assert german.verb_first(happy) == "freut sich meine Freundin auf das Fest"
    taller = Predicate("größer", "taller", than=noun("Bruder", "she"))
    assert said(Clause(SHE, phrases.BE, "past", predicate=taller)) == (
        "sie war größer als ihr Bruder",
        "she was taller than her brother",
    )


def test_relative_pronouns_take_gender_of_the_noun_and_case_of_the_clause():
    helping = Clause(I, VERB["helfen"], dative=noun("Mann", plural=True))
    assert german.relative_pronoun(helping.dative, german.DATIVE) == "denen"
    assert (
        german.verb_last(helping, "dative") == "ich helfe"
        and english.statement(helping, "dative") == "I help"
    )
    assert [
        german.relative_pronoun(noun("Koffer"), case) for case in (german.NOMINATIVE, german.ACCUSATIVE)
    ] == ["der", "den"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sentence_is_whole(kind):
    sentences = Sentences(random.Random(3))
    pairs = [pair for pair in (getattr(sentences, kind)() for _ in range(300)) if pair]
    assert len(set(pairs)) > 30
    for pair in pairs:
        for text in pair:
            assert re.fullmatch(r"[\wäöüßÄÖÜé-]+(,? [\wäöüßÄÖÜé-]+)*[.?!]", text), text
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


def test_no_word_of_the_test_set_is_new(tmp_path):
    corpus.write_corpus(tmp_path)
    for language in ("de", "en"):
        known, new = (
            set(re.findall(r"\w+", (tmp_path / f"{split}.{language}").read_text(encoding="utf-8").lower()))
            for split in ("train", "test")
        )
        assert len(new - known) <= 0.01 * len(new)


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
    assert (
        600 <= len(texts["valid"]) < 720 and 1000 <= len(texts["test"]) < 1200 and "# long" in texts["train"]
    )
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
