"""Batches of a stream in order, epoch after epoch, and resuming in the middle of one."""

import logging
import os
from typing import Any, Dict, Optional, Tuple

import torch
from fairseq.data.iterators import EpochBatchIterator
from torch import Tensor, nn

from ..compat.errors import UserError
from .stream_state_files import StateFileKeeper, UnusableState, read_state, write_state
from .streaming_dataset import SegmentKey, StreamingDataset

logger = logging.getLogger(__name__)


class StreamBatchIterator(EpochBatchIterator):
    """Segments of a rank's rows in their order, whatever the order of the text in them.

    Unlike its base, it does not share batches out among ranks: every rank walks all segments of its own rows.
    There are no worker processes and no thread that reads ahead: a segment is a copy of some memory, and handing it
    over would cost more. In training it also saves the stream state that a checkpoint in the middle of an epoch
    needs, see `before_save`.

    Args:
        dataset: the rows of this rank.
        epoch: the first epoch, from 1.
        model: the model that reads the stream; its `stream_states`, if it has any, are saved and restored.
        world_size, rank: of data-parallel training.
    """

    def __init__(
        self,
        dataset: StreamingDataset,
        *,
        epoch: int = 1,
        model: Optional[nn.Module] = None,
        world_size: int = 1,
        rank: int = 0,
    ):
        super().__init__(
            dataset,
            collate_fn=dataset.collater,
            batch_sampler=[[segment] for segment in range(len(dataset))],
            epoch=epoch,
            disable_shuffling=True,
            reuse_dataloader=False,
            persistent_workers=False,
        )
        dataset.set_epoch(epoch)
        self._model = model
        self._states = getattr(model, "stream_states", None)
        self._world_size = world_size
        self._rank = rank
        self._files = StateFileKeeper()
        self._saved: Optional[Tuple[int, int, int]] = None  # update, epoch, segments read

    def before_save(self, save_dir: str, num_updates: int) -> None:
        """Save this rank's stream state. Every rank calls this before rank 0 writes the checkpoint.

        At the end of an epoch there is nothing to save: the next one starts from zero.

        Raises:
            RuntimeError: the model's newest state is not the one after the last batch that was handed out.
        """
        self._saved = None
        if self._states is not None and not self.end_of_epoch():
            position = SegmentKey(self.dataset.split, self.epoch, self.iterations_in_epoch)
            exported = self._states.export(self.dataset.split)
            if exported is None or tuple(exported["key"]) != position:
                found = None if exported is None else tuple(exported["key"])
                raise RuntimeError(f"the newest stream state is {found}, but the data stand at {tuple(position)}")
            content = {**self._identity(num_updates, position), "state": _on(exported["state"], "cpu")}
            write_state(save_dir, num_updates, self._rank, content)
            self._saved = (num_updates, self.epoch, self.iterations_in_epoch)
        self._files.clean(save_dir, current=num_updates, rank=self._rank)

    def after_save(self, save_dir: str) -> None:
        """Delete the state files of checkpoints that are gone. Rank 0 calls this after it wrote the checkpoint."""
        self._files.clean(save_dir, current=self._saved[0] if self._saved else None)

    def state_dict(self) -> Dict[str, Any]:
        """Position, layout, and the update whose state files belong to it."""
        state = super().state_dict()
        at = (state["epoch"], state["iterations_in_epoch"])
        saved = self._saved is not None and self._saved[1:] == at
        return {**state, "stream": {**self._layout(), "update": self._saved[0] if saved else None}}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Go on where the state was taken.

        In the middle of an epoch the stream state comes from its file beside `state_dict["checkpoint_path"]`; if that
        cannot be used, the last segments before the position are read once more, with a warning.

        Raises:
            UserError: the text or its layout is another than then.
        """
        offset = state_dict.get("iterations_in_epoch", 0)
        if offset > 0:
            self._check_layout(state_dict.get("stream", {}))
        super().load_state_dict(state_dict)
        self.dataset.set_epoch(self.epoch)
        if offset > 0 and self._states is not None:
            self._restore(state_dict, SegmentKey(self.dataset.split, self.epoch, offset))

    def _layout(self) -> Dict[str, Optional[int]]:
        layout = self.dataset.layout
        return {
            "rows": layout.rows,
            "world_size": self._world_size,
            "tokens_per_sample": layout.tokens_per_sample,
            "pairs": layout.pairs,
            "shuffle_seed": self.dataset.shuffle_seed,
        }

    def _identity(self, update: int, position: SegmentKey) -> Dict[str, Any]:
        return {**self._layout(), "update": update, "rank": self._rank, "key": tuple(position)}

    def _check_layout(self, saved: Dict[str, Any]) -> None:
        names = {"rows": "rows", "world_size": "ranks", "tokens_per_sample": "tokens per sample", "pairs": "pairs"}
        layout = self._layout()
        differences = [
            f"{layout[name]} {words} instead of {saved.get(name, 'unknown')}"
            for name, words in names.items()
            if layout[name] != saved.get(name)
        ]
        if layout["shuffle_seed"] != saved.get("shuffle_seed"):
            now, then = (_order(seed) for seed in (layout["shuffle_seed"], saved.get("shuffle_seed")))
            differences.append(f"sentences {now} instead of {then}")
        if differences:
            raise UserError(
                f"the checkpoint was saved in the middle of an epoch, and this run has {', '.join(differences)}: "
                "use the same data, --batch-size, --tokens-per-sample, --shuffle-sentences and number of processes, or "
                "start the data over with --reset-dataloader"
            )

    def _restore(self, state_dict: Dict[str, Any], position: SegmentKey) -> None:
        update, path = state_dict["stream"].get("update"), state_dict.get("checkpoint_path")
        try:
            if update is None or path is None:
                raise UnusableState("the checkpoint names no stream state")
            content = read_state(os.path.dirname(path), update, self._rank, self._identity(update, position))
            if fault := self._states.fault(content.get("state"), len(self.dataset.rows)):
                raise UnusableState(f"the stream state of update {update} is of no use: {fault}")
            state = _on(content["state"], self._device())
        except UnusableState as reason:
            state = self._replay(position, reason)
        self._states.restore({"key": tuple(position), "state": state})

    @torch.no_grad()
    def _replay(self, position: SegmentKey, reason: UnusableState) -> Any:
        """The state after the last segments before the position, read from a state of zeros.

        They fill the memory, and two more let the recurrence and the deeper layers' memory settle.
        """
        max_memory = getattr(self._model, "max_memory", lambda: self.dataset.tokens_per_sample)()
        count = min(position.segment, -(-max_memory // self.dataset.tokens_per_sample) + 2)
        logger.warning(f"{reason}: reading the last {count} segment(s) again to rebuild the stream state")
        device, training = self._device(), self._model.training
        self._model.train()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for i in range(count):
                batch = self.dataset[position.segment - count + i]
                net_input = _on(batch["net_input"], device)
                self._model(**{**net_input, "stream": SegmentKey(position.split, position.epoch, i)})
        self._model.train(training)
        return self._states.export(position.split)["state"]

    def _device(self) -> torch.device:
        return next(self._model.parameters()).device


def _order(seed: Optional[int]) -> str:
    return "in the order of the text" if seed is None else f"shuffled with --seed {seed}"


def _on(nested: Any, device: Any) -> Any:
    """The same dicts and lists with copies of their tensors on a device. A copy of a slice has storage of its own,
    where saving the slice itself would save all that it was cut from."""
    if isinstance(nested, Tensor):
        return nested.detach().to(device, copy=True)
    if isinstance(nested, dict):
        return {name: _on(value, device) for name, value in nested.items()}
    if isinstance(nested, (list, tuple)):
        return [_on(value, device) for value in nested]
    return nested
