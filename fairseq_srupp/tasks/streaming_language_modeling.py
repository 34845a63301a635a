"""`--task streaming_language_modeling`: language models trained and evaluated on one contiguous stream of text."""

import logging
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from fairseq import utils
from fairseq.data import (
    Dictionary,
    IdDataset,
    ListDataset,
    NestedDictionaryDataset,
    NumelDataset,
    PadDataset,
)
from fairseq.data.indexed_dataset import get_available_dataset_impl
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.logging.meters import safe_round
from fairseq.sequence_scorer import SequenceScorer
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II
from torch import Tensor, nn

from ..compat.errors import UserError
from ..data import byte_bpe  # noqa: F401 (registers --bpe raw_bytes)
from ..data.byte_symbols import BYTE_SYMBOLS, all_bytes
from ..data.stream_iterator import StreamBatchIterator
from ..data.streaming_dataset import RowLayout, SegmentKey, StreamingDataset
from ..data.token_stream import load_token_stream

logger = logging.getLogger(__name__)

_TRAINING_STREAM = "train"
"""Name of the training stream in segment keys, whatever --train-subset is; evaluation never uses it."""
_TYPED_STREAM = "typed"
"""Name of texts that are scored, each a stream of its own."""
_NOT_GIVEN = object()


def _bits_per_character(meters: Dict[str, Any]) -> float:
    # criteria log nll_loss only where it is not the loss
    return safe_round(meters["nll_loss" if "nll_loss" in meters else "loss"].avg, 4)


@dataclass
class StreamingLanguageModelingConfig(FairseqDataclass):
    """Options of --task streaming_language_modeling."""

    data: Optional[str] = field(default=None, metadata={"help": "folder with dict.txt and the splits' data"})
    tokens_per_sample: int = field(
        default=512,
        metadata={"help": "T: length of a segment, over which training back-propagates (rows: --batch-size)"},
    )
    max_target_positions: Optional[int] = field(
        default=None, metadata={"help": "longest segment of models that have a limit (default: --tokens-per-sample)"}
    )
    shuffle_sentences: bool = field(
        default=False,
        metadata={
            "help": "train on the sentences (lines) of the text in an order of each epoch's own, made from --seed and the "
            "epoch; for texts whose sentences are in no order, such as the Billion Word corpus"
        },
    )
    seed: int = II("common.seed")
    # fairseq's transformer_lm takes its own option of this name from the task's.
    add_bos_token: bool = field(default=False, metadata={"help": "not possible with this task"})
    dataset_impl: Optional[ChoiceEnum(get_available_dataset_impl())] = II("dataset.dataset_impl")


@register_task("streaming_language_modeling", dataclass=StreamingLanguageModelingConfig)
class StreamingLanguageModelingTask(FairseqTask):
    """Language modeling on a stream: the text of a split, cut into rows that are read side by side.

    A text of N tokens has N - 1 pairs of input and target, all of which are scored in evaluation, whatever the
    number of rows. Models that have `stream_states` carry their state from segment to segment; others (fairseq's
    transformer_lm) read each segment by itself.

    Args:
        cfg: options.
        dictionary: of input and output.
    """

    reads_streams = True
    """Models with a memory decode as they are evaluated here: each position sees the --mem-len positions before it."""

    def __init__(self, cfg: StreamingLanguageModelingConfig, dictionary: Dictionary):
        super().__init__(cfg)
        self.dictionary = dictionary
        self.reads_bytes = all_bytes(dictionary.symbols)
        self.model: Optional[nn.Module] = None
        self.stream_states = None

    @classmethod
    def setup_task(cls, cfg: StreamingLanguageModelingConfig, **kwargs: Any) -> "StreamingLanguageModelingTask":
        """Load the dictionary.

        Raises:
            UserError: there is none, or an option that the task cannot follow.
        """
        if cfg.add_bos_token:
            raise UserError("--add-bos-token is not possible with --task streaming_language_modeling")
        if not cfg.data:
            raise UserError("--task streaming_language_modeling needs the folder with the data")
        path = os.path.join(utils.split_paths(cfg.data)[0], "dict.txt")
        if not os.path.isfile(path):
            raise UserError(f"no dictionary: {path} is missing")
        try:
            dictionary = Dictionary.load(path)
        except Exception as error:  # fairseq raises several kinds, Exception itself among them
            raise UserError(f"{path} is no dictionary: {error}") from error
        logger.info(f"dictionary: {len(dictionary)} types")
        return cls(cfg, dictionary)

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> nn.Module:
        """Build the model that will read the streams."""
        self.model = super().build_model(cfg, from_checkpoint)
        self.stream_states = getattr(self.model, "stream_states", None)
        if self.stream_states is None:
            logger.info(f"{type(self.model).__name__} has no stream memory: it reads each segment by itself")
        return self.model

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        """Load a split as one stream.

        Raises:
            UserError: it is missing, too short, or not of the dictionary; impossible --tokens-per-sample.
        """
        if self.cfg.tokens_per_sample < 1:
            # fairseq-eval-lm subtracts --context-window before the task sees either.
            raise UserError(
                f"--tokens-per-sample must be at least 1, not {self.cfg.tokens_per_sample}; "
                "leave out --context-window, if it was given"
            )
        paths = utils.split_paths(self.cfg.data)
        path = os.path.join(paths[(epoch - 1) % len(paths)], split)
        stream = load_token_stream(path, self.dictionary, self.cfg.dataset_impl, combine)
        self.datasets[split] = StreamingDataset(stream, split, self.cfg.tokens_per_sample, self.dictionary.pad())

    def get_batch_iterator(
        self,
        dataset,
        max_tokens=None,
        max_sentences=None,
        max_positions=None,
        ignore_invalid_inputs=False,
        required_batch_size_multiple=1,
        seed=1,
        num_shards=1,
        shard_id=0,
        num_workers=0,
        epoch=1,
        data_buffer_size=0,
        disable_iterator_cache=False,
        skip_remainder_batch=False,
        grouped_shuffling=False,
        update_epoch_batch_itr=_NOT_GIVEN,
    ):
        """Lay a stream out in max_sentences rows for each of num_shards ranks, and iterate over its segments.

        Arguments are fairseq's; those that would filter, shuffle or resize batches have no effect on a stream, nor
        have num_workers and data_buffer_size.

        Raises:
            UserError: training without --batch-size, or with more rows than the text has pairs; --shuffle-sentences
                without sentences.
        """
        if not isinstance(dataset, StreamingDataset):
            return super().get_batch_iterator(
                dataset,
                max_tokens=max_tokens,
                max_sentences=max_sentences,
                max_positions=max_positions,
                ignore_invalid_inputs=ignore_invalid_inputs,
                required_batch_size_multiple=required_batch_size_multiple,
                seed=seed,
                num_workers=num_workers,
                epoch=epoch,
                data_buffer_size=data_buffer_size,
                disable_iterator_cache=disable_iterator_cache,
            )
        # Of fairseq's callers, only the one that trains passes this argument.
        training = update_epoch_batch_itr is not _NOT_GIVEN
        key = (dataset, self.model, training, max_sentences, num_shards, shard_id)
        if not disable_iterator_cache and key in self.dataset_to_epoch_iter:
            return self.dataset_to_epoch_iter[key]
        iterator = StreamBatchIterator(
            self._rows(dataset, training, max_sentences, num_shards, shard_id),
            epoch=epoch,
            model=self.model if training else None,
            world_size=num_shards,
            rank=shard_id,
        )
        if not disable_iterator_cache:
            self.dataset_to_epoch_iter[key] = iterator
        return iterator

    def _rows(self, dataset: StreamingDataset, training: bool, rows: Optional[int], ranks: int, rank: int) -> StreamingDataset:
        pairs, tokens_per_sample = len(dataset.stream) - 1, self.cfg.tokens_per_sample
        if rows is not None and rows < 1:
            raise UserError(f"--batch-size (or --batch-size-valid) must be at least 1, not {rows}")
        if training:
            if rows is None:
                raise UserError("--task streaming_language_modeling needs --batch-size, the number of rows per process")
            if pairs < rows * ranks:
                raise UserError(
                    f"{dataset.split} has {pairs + 1:,} tokens: too few for {rows * ranks:,} rows "
                    f"(--batch-size {rows} on {ranks} process(es))"
                )
            layout = RowLayout.training(pairs, rows * ranks, tokens_per_sample)
            name = _TRAINING_STREAM
            memory = getattr(self.model, "max_memory", lambda: tokens_per_sample)()
            if memory < tokens_per_sample:
                logger.warning(
                    f"--mem-len {memory} is shorter than --tokens-per-sample {tokens_per_sample}: training attends to up to "
                    f"{memory + tokens_per_sample - 1} positions before, evaluation and generation to {memory}"
                )
        else:
            rows = rows or 1
            layout = RowLayout.evaluation(pairs, rows * ranks, tokens_per_sample)
            name = f"{dataset.split} (evaluated)" if dataset.split == _TRAINING_STREAM else dataset.split
        logger.info(
            f"{dataset.split}: {pairs + 1:,} tokens in {layout.rows:,} rows of {layout.length:,}, "
            f"{layout.segments:,} segments each"
            + (f"; the last {layout.trimmed:,} are left out to make the rows equally long" if layout.trimmed else "")
        )
        keyed = self.model is None or self.stream_states is not None
        seed = self._shuffle_seed(dataset) if training else None
        return StreamingDataset(dataset.stream, name, tokens_per_sample, dataset.pad, layout, rank * rows, rows, keyed, seed)

    def _shuffle_seed(self, dataset: StreamingDataset) -> Optional[int]:
        if not self.cfg.shuffle_sentences:
            return None
        sentences = len(dataset.stream.sentence_lengths())
        if sentences < 2:
            raise UserError(
                f"--shuffle-sentences needs sentences, but {dataset.split} is one whole text, as data of prepare-bytes are: "
                "leave it out, or use data of fairseq-preprocess, where each line is a sentence"
            )
        logger.info(f"{dataset.split}: {sentences:,} sentences in an order of each epoch's own")
        return self.cfg.seed

    def eval_lm_dataloader(
        self,
        dataset: StreamingDataset,
        max_tokens: Optional[int] = None,
        batch_size: Optional[int] = None,
        max_positions: Optional[int] = None,
        num_shards: int = 1,
        shard_id: int = 0,
        num_workers: int = 1,
        data_buffer_size: int = 10,
        context_window: int = 0,
    ):
        """The batches of fairseq-eval-lm: one row, or --batch-size rows.

        Raises:
            UserError: --context-window, which is not what gives a model with memory its context.
        """
        if context_window > 0:
            raise UserError(
                "--context-window has no meaning with --task streaming_language_modeling: "
                "the model's memory is its context, --model-overrides \"{'mem_len': N}\" sets its length"
            )
        return self.get_batch_iterator(
            dataset,
            max_sentences=batch_size,
            num_shards=num_shards,
            shard_id=shard_id,
        ).next_epoch_itr(shuffle=False)

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """Log what the criterion logs (perplexity per word), and of byte data bits per character, "bpc"."""
        super().reduce_metrics(logging_outputs, criterion)
        if self.reads_bytes:
            metrics.log_derived("bpc", _bits_per_character)

    def build_dataset_for_inference(
        self, src_tokens: List[Tensor], src_lengths: List[int], constraints: Any = None, **kwargs: Any
    ) -> NestedDictionaryDataset:
        """Prompts to continue or texts to score, each a stream of its own: inputs and what follows them.

        The end-of-sentence symbol that fairseq appends to typed lines is taken off. An empty prompt becomes the
        newline of byte text, or the end-of-sentence symbol.
        """
        if constraints is not None:
            raise UserError("--constraints is not possible with --task streaming_language_modeling")
        pad, eos = self.dictionary.pad(), self.dictionary.eos()
        unknown = sum(int((tokens == self.dictionary.unk()).sum()) for tokens in src_tokens)
        if unknown:
            kind = "byte(s)" if self.reads_bytes else "word(s)"
            logger.warning(f"{unknown} {kind} of the input are not in the dictionary: the model reads <unk> in their place")
        newline = self.dictionary.index(BYTE_SYMBOLS[ord("\n")])
        start = eos if newline == self.dictionary.unk() else newline
        texts = [tokens[:-1] if len(tokens) and tokens[-1] == eos else tokens for tokens in src_tokens]
        texts = [text.long() if len(text) else torch.tensor([start]) for text in texts]
        targets = [torch.cat((text[1:], torch.tensor([pad]))) for text in texts]
        source, target = ListDataset(texts), ListDataset(targets)
        return NestedDictionaryDataset(
            {
                "id": IdDataset(),
                "net_input": {
                    "src_tokens": PadDataset(source, pad_idx=pad, left_pad=False),
                    "src_lengths": NumelDataset(source, reduce=False),
                },
                "target": PadDataset(target, pad_idx=pad, left_pad=False),
            },
            sizes=[np.array([len(text) for text in texts])],
        )

    def inference_step(
        self,
        generator,
        models: List[nn.Module],
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
    ) -> List[List[Dict[str, Any]]]:
        """Continue each prompt, or score each text (`score_reference`).

        A stream begins with its first token, not with an end of sentence, so the prompt's first token stands where
        fairseq's generator would put that symbol. Hypotheses begin with the prompt, whose first token scores 0.

        Raises:
            UserError: fairseq-generate on a stream.
        """
        if "stream" in sample["net_input"]:
            raise UserError("fairseq-generate cannot continue a stream; use fairseq-interactive or fairseq-eval-lm")
        if isinstance(generator, SequenceScorer):
            if all(hasattr(model, "stream_states") for model in models):  # as they are evaluated
                net_input = {**sample["net_input"], "stream": SegmentKey(_TYPED_STREAM, 1, 0)}
                sample = {**sample, "net_input": net_input}
            return generator.generate(models, sample)
        prompt = sample["net_input"]["src_tokens"]
        room = int(generator.max_len_a * prompt.size(1) + generator.max_len_b)
        if prompt.size(1) > room:
            logger.warning(
                f"a prompt of {prompt.size(1)} tokens leaves nothing of the {room} that --max-len-a and --max-len-b allow"
            )
        first, rest = prompt[:, :1], prompt[:, 1:]
        with torch.no_grad():
            hypotheses = generator.generate(
                models,
                sample,
                prefix_tokens=rest if rest.size(1) else None,
                bos_token=first.repeat(1, generator.beam_size).flatten(),
            )
        for token, hypotheses_of_prompt in zip(first, hypotheses):
            for hypothesis in hypotheses_of_prompt:
                scores = hypothesis["positional_scores"]
                hypothesis["tokens"] = torch.cat((token.to(hypothesis["tokens"]), hypothesis["tokens"]))
                hypothesis["positional_scores"] = torch.cat((scores.new_zeros(1), scores))
        return hypotheses

    @property
    def source_dictionary(self) -> Dictionary:
        """The dictionary."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The dictionary."""
        return self.dictionary
