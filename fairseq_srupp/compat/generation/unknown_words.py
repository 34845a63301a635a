"""`--replace-unk`: the source's word, or what a dictionary of words has for it, takes the place of `<unk>`.

fairseq (0.12) takes the bare option for a file "@@ " (the default of another option), looks for alignments that it has
not computed, takes those that `--print-alignment` computes for numbers, counts words in a text whose subwords are joined
already, reads `<unk>` as the source's word in fairseq-interactive, and replaces nothing in the hub. May go when it
replaces tokens, by their alignment, with the words that were typed.

A word is replaced before subwords are joined, so its place is that of its token; a file has a source word, white space and
a target word in each line, and words that are not in it are copied.
"""

import contextlib
from typing import Any, Callable, Dict, Iterator, List

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap, wrap_command

_BARE = "@@ "  # what fairseq takes the option for that is given without a value

_source_texts: List[Callable] = []  # the last gives, for (task, sample), the source of each row as it was typed


class Alignment(list):
    """What fairseq's generator gives a hypothesis, with the words of its source."""

    def __init__(self, alignment: Any, words: List[str]):
        super().__init__(alignment)
        self.words = words


@contextlib.contextmanager
def _sources(texts: Callable) -> Iterator[None]:
    _source_texts.append(texts)
    try:
        yield
    finally:
        _source_texts.pop()


def load_dictionary(path: str) -> Dict[str, str]:
    """Source words to target words, of a file with both in each line.

    Raises: UserError if it cannot be read, or a line has one word alone.
    """
    words = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                columns = line.split()
                if len(columns) == 1:
                    raise UserError(f"--replace-unk {path}: line {number} has no second word, which replaces {columns[0]}")
                if columns:
                    words[columns[0]] = columns[1]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--replace-unk {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return words


def _targets_to_sources(alignment: Any, words: List[str]) -> Dict[int, int]:
    """Numbers of target tokens to those of the source's words that they look at most, both without end of sentence."""
    if len(alignment) and isinstance(alignment[0], list):  # soft: for each target token the source's probabilities
        rows = [[float(p) for p in row[: len(words)]] for row in alignment]
        return {target: row.index(max(row)) for target, row in enumerate(rows) if row}
    return {int(target): int(source) for source, target in alignment}


def replaced(tokens: Any, alignment: Any, words: List[str], dictionary: Dict[str, str], symbols: Any, but: Any) -> str:
    """A hypothesis's tokens, those in `but` left out, with a word in place of each `<unk>`."""
    sources = _targets_to_sources(alignment, words)
    kept, number = [], -1
    for token in tokens.tolist():
        number += token not in (symbols.eos(), symbols.pad())
        if token in but:
            continue
        source = sources.get(number)
        if token == symbols.unk() and source is not None and source < len(words):
            kept.append(dictionary.get(words[source], words[source]))
        else:
            kept.append(symbols[token])
    return " ".join(kept)


@contextlib.contextmanager
def _with_alignments(options: Any) -> Iterator[None]:
    """Within the block, options of generation that replace words ask for alignments too."""
    from omegaconf import OmegaConf, open_dict

    wanted = getattr(options, "replace_unk", None) is not None and not getattr(options, "print_alignment", None)
    if not wanted:
        yield
        return
    with open_dict(options) if OmegaConf.is_config(options) else contextlib.nullcontext():
        before = getattr(options, "print_alignment", None)
        options.print_alignment = "hard"
        try:
            yield
        finally:
            options.print_alignment = before


class _NoTarget:
    """The targets of data that have a source alone; fairseq-generate asks them for their text."""

    def __getitem__(self, index: int) -> None:
        return None

    def get_original_text(self, index: int) -> str:
        return ""


def _generate(original, cfg, output_file):
    def texts(task: Any, sample: Any) -> List[str]:
        data = task.dataset(cfg.dataset.gen_subset)
        if data.tgt is None:
            data.tgt = _NoTarget()
        return [data.src.get_original_text(number) for number in sample["id"].tolist()]

    with _sources(texts) if cfg.generation.replace_unk is not None else contextlib.nullcontext():
        return original(cfg, output_file)


def _make_batches(original, lines, cfg, task, max_positions, encode_fn):
    for batch in original(lines, cfg, task, max_positions, encode_fn):
        texts = [encode_fn(lines[number]) for number in batch.ids.tolist()]  # without what --constraints took off
        with _sources(lambda task, sample, texts=texts: texts):
            yield batch


def apply() -> None:
    from fairseq import hub_utils, tokenizer, utils
    from fairseq.data import data_utils
    from fairseq.data.base_wrapper_dataset import BaseWrapperDataset
    from fairseq.models import BaseFairseqModel, FairseqLanguageModel
    from fairseq.tasks.fairseq_task import FairseqTask

    @wrap(utils, "load_align_dict")
    def load_align_dict(original, replace_unk):
        if isinstance(replace_unk, str) and replace_unk.strip() and replace_unk != _BARE:
            return load_dictionary(replace_unk)
        return None if replace_unk is None else {}

    @wrap(BaseFairseqModel, "prepare_for_inference_")
    def prepare_for_inference_(original, self, cfg):
        with _with_alignments(getattr(cfg, "generation", None)):
            return original(self, cfg)

    @wrap(FairseqTask, "build_generator")
    def build_generator(original, self, models, args, *more, **kwargs):
        with _with_alignments(args):
            if getattr(args, "print_alignment", None) and isinstance(models[0], FairseqLanguageModel):
                option = "--print-alignment" if getattr(args, "replace_unk", None) is None else "--replace-unk"
                raise UserError(f"{option} needs a model of translation: a language model has no source to look at")
            return original(self, models, args, *more, **kwargs)

    @wrap(FairseqTask, "inference_step")
    def inference_step(original, self, generator, models, sample, *args, **kwargs):
        found = original(self, generator, models, sample, *args, **kwargs)
        if _source_texts:
            for text, hypotheses in zip(_source_texts[-1](self, sample), found):
                for hypothesis in hypotheses:
                    alignment = hypothesis["alignment"]
                    hypothesis["alignment"] = Alignment([] if alignment is None else alignment, tokenizer.tokenize_line(text))
        return found

    @wrap(utils, "post_process_prediction")
    def post_process_prediction(
        original, hypo_tokens, src_str, alignment, align_dict, tgt_dict, remove_bpe=None, extra_symbols_to_ignore=None
    ):
        if align_dict is None:
            return original(hypo_tokens, src_str, alignment, align_dict, tgt_dict, remove_bpe, extra_symbols_to_ignore)
        words = alignment.words if isinstance(alignment, Alignment) else tokenizer.tokenize_line(src_str)
        but = {tgt_dict.eos(), tgt_dict.bos(), *(extra_symbols_to_ignore or ())}
        text = replaced(hypo_tokens, alignment, words, align_dict, tgt_dict, but)
        text = data_utils.post_process(text, remove_bpe)
        return tgt_dict.encode_line(text, add_if_not_exist=True), text, alignment

    @wrap(hub_utils.GeneratorHubInterface, "sample")
    def sample(original, self, sentences, beam=1, verbose=False, **kwargs):
        if self.align_dict is None or isinstance(sentences, str):  # that comes again as a list
            return original(self, sentences, beam, verbose, **kwargs)
        texts = [self.apply_bpe(self.tokenize(sentence)) for sentence in sentences]
        found = self.generate([self.binarize(text) for text in texts], beam, verbose, **kwargs)
        symbols, translations = self.tgt_dict, []
        for text, (best, *_) in zip(texts, found):
            words, but = tokenizer.tokenize_line(text), {symbols.eos(), symbols.bos()}
            text = replaced(best["tokens"], best["alignment"], words, self.align_dict, symbols, but)
            translations.append(self.detokenize(self.remove_bpe(text)))
        return translations

    # --truncate-source and others wrap the text
    BaseWrapperDataset.get_original_text = lambda self, index: self.dataset.get_original_text(index)

    wrap_command("generate", "_main")(_generate)
    wrap_command("interactive", "make_batches")(_make_batches)
