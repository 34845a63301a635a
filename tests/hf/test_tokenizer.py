"""The tokenizer gives the numbers that fairseq gives."""

import json
import random

import pytest
from exported import STREAM, TRANSLATION, WORDS, checkpoint, run_export, write_dictionaries
from fairseq.data import Dictionary

from fairseq_srupp.data.byte_symbols import BYTE_SYMBOLS, symbols_of_text

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
import fairseq_srupp.hf  # noqa: E402, F401

LINES = ["w1 w2  w30\tw4", "", "  w5 unknown </s> <pad> x</s>y", "w1", "<unk> w7\u00a0w8"]


def load(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def saved(tokenizer, folder):
    tokenizer.save_pretrained(folder)
    return load(folder)


def encode(dictionary, line):
    return dictionary.encode_line(line, add_if_not_exist=False).tolist()


def test_words_of_two_dictionaries(awake, tmp_path):
    write_dictionaries(tmp_path)
    _, task, path = checkpoint(tmp_path, awake, TRANSLATION)
    run_export(path, tmp_path / "hf")
    for tokenizer in (load(tmp_path / "hf"), saved(load(tmp_path / "hf"), tmp_path / "again")):
        for line in LINES:
            assert tokenizer(line).input_ids == encode(task.source_dictionary, line)
            target = tokenizer(text_target=line).input_ids
            assert target == encode(task.target_dictionary, line) != tokenizer(line).input_ids or not line
            text = task.target_dictionary.string(target, extra_symbols_to_ignore=[1])
            assert tokenizer.decode(target, skip_special_tokens=True) == text
            assert tokenizer(line, add_special_tokens=False).input_ids == encode(task.source_dictionary, line)[:-1]
        batch = tokenizer(LINES, text_target=LINES, padding=True)
        assert batch["input_ids"][3] == [task.source_dictionary.index("w1"), 2] + [1] * (len(batch["input_ids"][2]) - 2)
        assert batch["attention_mask"][3][:3] == [1, 1, 0] and "token_type_ids" not in batch


def test_bytes(awake, tmp_path):
    with open(tmp_path / "dict.txt", "w") as file:
        file.writelines(f"{symbol} 1\n" for symbol in BYTE_SYMBOLS[:250])
    _, task, path = checkpoint(tmp_path, awake, STREAM)
    run_export(path, tmp_path / "hf")
    choose = random.Random(1)
    texts = ["", "</s> <pad>\n\n", "héé\udcff"]
    texts += ["".join(map(chr, choose.choices(range(1, 0x2FFF), k=50))) for _ in range(20)]
    for tokenizer in (load(tmp_path / "hf"), saved(load(tmp_path / "hf"), tmp_path / "again")):
        assert tokenizer.padding_side == "left"
        for text in texts:
            ids = tokenizer(text).input_ids
            assert ids == [task.source_dictionary.index(symbol) for symbol in symbols_of_text(text)]
            assert tokenizer.decode(ids) == text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@pytest.fixture
def pieces(tmp_path):
    import sentencepiece

    choose = random.Random(1)
    words = ["".join(choose.choices("abcdefgh", k=choose.randint(1, 6))) for _ in range(60)]
    lines = [" ".join(choose.choices(words, k=8)) for _ in range(300)]
    (tmp_path / "text").write_text("\n".join(lines))
    options = {"model_prefix": str(tmp_path / "spm"), "vocab_size": 60, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "text"), **options)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    order = list(range(3, len(model)))
    choose.shuffle(order)  # fairseq orders by frequency
    for name in ("dict.txt", "dict.de.txt", "dict.en.txt"):
        (tmp_path / name).write_text("".join(f"{model.id_to_piece(i)} 1\n" for i in order[:-3]))
    return model, lines


def test_sentencepiece(awake, tmp_path, pieces, capsys):
    model, lines = pieces
    _, task, path = checkpoint(tmp_path, awake, TRANSLATION)
    run_export(path, tmp_path / "hf", "--sentencepiece-model", tmp_path / "spm.model")
    for tokenizer in (load(tmp_path / "hf"), saved(load(tmp_path / "hf"), tmp_path / "again")):
        for line in [*lines[:50], "", "ab xyz\u2028cd", " <s> a"]:
            ids = tokenizer(line).input_ids
            text = " ".join(model.encode(line, out_type=str))
            assert ids == encode(task.source_dictionary, text)
            expected = task.target_dictionary.string(ids, bpe_symbol="sentencepiece")
            assert tokenizer.decode(ids, skip_special_tokens=True) == expected
    assert any(3 in tokenizer(line).input_ids for line in lines)  # pieces that the dictionary does not have
    capsys.readouterr()
    run_export(path, tmp_path / "words")
    assert "pieces of SentencePiece: without --sentencepiece-model" in capsys.readouterr().out


def test_made_up_words_keep_their_numbers(awake, tmp_path):
    dictionary = Dictionary()
    for word in WORDS[:5]:
        dictionary.add_symbol(word)
    dictionary.finalize(padding_factor=8)
    dictionary.save(str(tmp_path / "dict.txt"))
    run_export(checkpoint(tmp_path, awake, STREAM)[2], tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "vocab.json").read_text()) == dictionary.symbols
    assert load(tmp_path / "hf").vocab_size == len(load(tmp_path / "hf")) == len(dictionary) == 16
