"""The sentences of an epoch, in the same batches and order however often the run was stopped.

fairseq (0.12) sorts the sentences into batches once, when training begins, with the seed of that epoch, and goes
through the same batches in a new order in every epoch. A run that is resumed in epoch 3 makes them with the seed of
epoch 3: other batches, of which it skips as many as had been read, so that sentences are read twice or not at all. The
state of the iterator, in the checkpoint, therefore names the epoch whose seed made the batches, and they are made
with it again. An uninterrupted run has the batches of fairseq; so has one resumed from a checkpoint without the record.

`reuse_dataloader`, in fairseq always on, keeps the worker processes from epoch to epoch, with their copy of the
dataset, and with it the shuffling of the first epoch: masks and crops that should be new in each epoch stay the same
(but not with `--num-workers 0`), `--curriculum 1` never shuffles, and both change when the run is resumed. Each epoch of
training gets a data loader of its own. `--fix-batches-to-gpus` is forgotten on resuming; it is part of the state here.

May go when fairseq saves how its batches were made, and tells its workers the epoch.
"""

from fairseq_srupp.compat.patch import wrap


def apply() -> None:
    from fairseq.data.iterators import EpochBatchIterator
    from fairseq.trainer import Trainer

    @wrap(Trainer, "get_train_iterator")
    def get_train_iterator(original, self, epoch, *args, shard_batch_itr=True, **kwargs):
        made = original(self, epoch, *args, shard_batch_itr=shard_batch_itr, **kwargs)
        dataset, kept = self.task.datasets.get(self.cfg.dataset.train_subset), self.task.dataset_to_epoch_iter

        def made_in(epoch):
            """The iterator that this run would have, had it begun in `epoch`."""
            del kept[dataset]
            again = original(self, epoch, load_dataset=False, shard_batch_itr=shard_batch_itr)
            kept[dataset] = made
            return again

        # Others are made, or make their batches, anew in each epoch.
        if kept.get(dataset) is made and not callable(made.batch_sampler) and not hasattr(made, "made_in"):
            made.batches_epoch, made.made_in = epoch, made_in
        return made

    @wrap(EpochBatchIterator, "state_dict")
    def state_dict(original, self):
        state = {**original(self), "fix_batches_to_gpus": getattr(self, "fix_batches_to_gpus", False)}
        if hasattr(self, "batches_epoch"):
            state["batches_epoch"] = self.batches_epoch
        return state

    @wrap(EpochBatchIterator, "load_state_dict")
    def load_state_dict(original, self, state_dict):
        self.fix_batches_to_gpus = state_dict.get("fix_batches_to_gpus", False)
        epoch = state_dict.get("batches_epoch")
        if epoch is not None and epoch != getattr(self, "batches_epoch", epoch):
            vars(self).update(vars(self.made_in(epoch)))  # the seed too may depend on the epoch
            self.batches_epoch = epoch
            self.dataset.set_epoch(state_dict["epoch"])
        original(self, state_dict)

    @wrap(EpochBatchIterator, "_get_iterator_for_epoch")
    def get_iterator_for_epoch(original, self, epoch, shuffle, fix_batches_to_gpus=None, offset=0):
        if fix_batches_to_gpus is None:  # load_state_dict does not say
            fix_batches_to_gpus = getattr(self, "fix_batches_to_gpus", False)
        return original(self, epoch, shuffle, fix_batches_to_gpus=fix_batches_to_gpus, offset=offset)

    @wrap(EpochBatchIterator, "next_epoch_itr")
    def next_epoch_itr(original, self, shuffle=True, fix_batches_to_gpus=False, set_dataset_epoch=True):
        if set_dataset_epoch and self._next_epoch_itr is None:  # validation, without an epoch, keeps its workers
            self.dataloader = None
        self.fix_batches_to_gpus = fix_batches_to_gpus
        return original(self, shuffle, fix_batches_to_gpus, set_dataset_epoch)
