"""fairseq's transformer as CTranslate2 runs it: the other model of decoding.py."""

from argparse import Namespace

import torch
from translation import Size, transformer_options

try:
    import ctranslate2
    from ctranslate2.converters import FairseqConverter
except ImportError:
    ctranslate2 = None

TYPES = {"fp32": "float32", "int8": "int8_float32"}
SPECIAL = {"<s>", "<pad>", "</s>"}


def version() -> "str | None":
    """Of CTranslate2; None: it is not installed."""
    return ctranslate2 and ctranslate2.__version__


def convert(model, task, size: Size, args, folder: str) -> str:
    """The folder of the converted model, by CTranslate2's own converter, which wants a checkpoint and dictionaries."""
    path, data, languages = f"{folder}/model.pt", folder, ("source", "target")
    if args.checkpoints:
        path, data, languages = args.checkpoints[1], args.data, (task.cfg.source_lang, task.cfg.target_lang)
    else:
        for language, dictionary in zip(languages, (task.source_dictionary, task.target_dictionary)):
            dictionary.save(f"{folder}/dict.{language}.txt")
        options = {"arch": "transformer_iwslt_de_en", "task": "translation", **vars(transformer_options(size))}
        torch.save({"args": Namespace(**options), "model": model.state_dict()}, path)
    converter = FairseqConverter(path, data, source_lang=languages[0], target_lang=languages[1])
    return converter.convert(f"{folder}/converted")


class CTranslate2:
    """A model in decoding, with the interface of translation.Decoding.

    length: how many words each hypothesis has; None: as many as the model wants, at most `longest`.
    """

    def __init__(self, folder: str, precision: str, threads: int, dictionary, *, beam: int, length: "int | None", longest: int):
        self.dictionary, self.length, self.found = dictionary, length, {}
        self.translator = ctranslate2.Translator(folder, compute_type=TYPES[precision], intra_threads=threads, inter_threads=1)
        self.options = {
            "beam_size": beam, "length_penalty": 1.0, "max_input_length": 0,
            "min_decoding_length": length or 1, "max_decoding_length": length or longest,
        }  # fmt: skip

    def prepare(self, batches) -> None:
        """What is read of each batch: its sentences as words."""
        for sample in batches:
            sentences = [[self.dictionary[i] for i in row] for row in sample["net_input"]["src_tokens"].tolist()]
            sample["words"] = [[word for word in sentence if word not in SPECIAL] for sentence in sentences]

    def decode(self, batches) -> "tuple[int, int]":
        """Returns the sentences, and the words of their best hypotheses."""
        best = []
        for sample in batches:
            hypotheses = [found.hypotheses[0] for found in self.translator.translate_batch(sample["words"], **self.options)]
            self.found.update(zip(sample["id"].tolist(), hypotheses))
            best += hypotheses
        if self.length is not None and {len(words) for words in best} != {self.length}:
            raise SystemExit("CTranslate2: hypotheses without the length that was asked for: no figures")
        return len(best), sum(map(len, best))

    def words(self) -> "dict[int, list[str]]":
        """The best hypothesis of each pair, by its index."""
        return self.found
