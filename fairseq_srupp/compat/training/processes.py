"""Several processes on the CPU, and under torchrun.

fairseq (0.12) spawns one process per GPU, so none on the CPU; ignores torchrun's environment unless the
number of GPUs, or `--distributed-world-size`, is above 1; divides by the number of GPUs; gathers Python
objects through CUDA memory; and gives DistributedDataParallel a device number, which it must not have on the
CPU. Training on the CPU with `--distributed-world-size N --distributed-backend gloo`, or under `torchrun
--nproc-per-node N`, needs all of these. May go when fairseq runs there by itself.

A UserError in one of the spawned processes ends the program with its line, once. Under torchrun on several machines
nobody tells the processes of the others that one has failed, and they wait for it (30 minutes under gloo): here the
one that fails leaves word in torchrun's store, where the others look every second. Nor does fairseq notice that the
checkpoint to go on from is on one machine only: its processes then wait for each other.
"""

import contextlib
import datetime
import logging
import os
import re
import socket
import sys
import threading
from typing import Any, Callable, Dict, Iterator

import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.inputs import known_mistakes
from fairseq_srupp.compat.options.devices import check, on_cpu
from fairseq_srupp.compat.patch import wrap

_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")  # what torchrun sets
_FAILED = "fairseq_srupp/failed"  # in torchrun's store: the rank that failed first


class UserMistake(Exception):
    """The line of a UserError on its way to the parent process: torch's launcher hands over no SystemExit."""


def run_process(index: int, main: Callable, cfg: Any, kwargs: Dict[str, Any], processes: int) -> None:
    """What a spawned process does; `index` counts those of this machine from 0."""
    from fairseq.distributed import utils as distributed_utils

    from fairseq_srupp import compat

    compat.apply()
    if on_cpu(cfg) and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        with known_mistakes():
            distributed_utils.distributed_main(index, main, cfg, kwargs)
    except UserError as error:
        raise UserMistake(str(error)) from error


def _spawn(main: Callable, cfg: Any, kwargs: Dict[str, Any], processes: int) -> None:
    kwargs["start_rank"] = cfg.distributed_training.distributed_rank
    cfg.distributed_training.distributed_rank = None  # assigned by each process
    # That the other processes are ended needs no line of its own; the exception says what happened.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    try:
        torch.multiprocessing.spawn(fn=run_process, args=(main, cfg, kwargs, processes), nprocs=processes)
    except torch.multiprocessing.ProcessRaisedException as error:
        line = re.search(rf"{UserMistake.__name__}: (.+)", str(error))
        if line is None:
            raise
        raise UserError(line.group(1)) from error


@contextlib.contextmanager
def _failures_shared() -> Iterator[None]:
    """Within the block, an error of this process ends the others of torchrun, on all machines, and theirs this one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        yield
        return
    address, port, rank = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), os.environ["RANK"]
    store = torch.distributed.TCPStore(address, port, is_master=False, timeout=datetime.timedelta(seconds=60))
    ended = threading.Event()

    def line() -> str:
        return f"fairseq_srupp: rank {store.get(_FAILED).decode()} has failed, and said why"

    def watch() -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone: torchrun has ended, and ends this process
            while not ended.wait(1):
                if store.check([_FAILED]):
                    sys.stdout.flush()
                    print(line(), file=sys.stderr, flush=True)
                    os._exit(1)  # the main thread may wait in a collective operation

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        ended.set()
        watcher.join()
        if not (isinstance(error, SystemExit) and not error.code):
            with contextlib.suppress(RuntimeError):
                first = store.compare_set(_FAILED, "", rank).decode()
                if first != rank and not isinstance(error, UserError):  # such as a lost connection
                    raise UserError(line()) from error
        raise
    finally:
        ended.set()


def _infer_on_cpu(training: Any) -> None:
    """How the processes find each other: what fairseq's infer_init_method does, for CPUs."""
    if all(name in os.environ for name in _LAUNCHER):
        training.distributed_init_method = "env://"
        training.distributed_world_size = int(os.environ["WORLD_SIZE"])
        training.distributed_rank = int(os.environ["RANK"])
        training.device_id = 0
        training.distributed_no_spawn = True  # the launcher has done it
        return
    if training.distributed_port <= 0:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            training.distributed_port = probe.getsockname()[1]
    training.distributed_init_method = f"tcp://localhost:{training.distributed_port}"
    training.nprocs_per_node = training.distributed_world_size


def call_main(original: Callable, cfg: Any, main: Callable, **kwargs: Any) -> Any:
    """Runs `main(cfg)` in this process or in as many as `cfg` asks for; `original` is fairseq's call_main."""
    from fairseq.distributed import utils as distributed_utils

    training = cfg.distributed_training
    if cfg.common.tpu or training.pipeline_model_parallel:
        check(cfg)
        return original(cfg, main, **kwargs)
    if training.distributed_init_method is None:
        if training.distributed_world_size == 1 and all(name in os.environ for name in _LAUNCHER):
            training.distributed_world_size = int(os.environ["WORLD_SIZE"])
        check(cfg)
        if on_cpu(cfg) and training.distributed_world_size > 1:
            _infer_on_cpu(training)
        else:
            distributed_utils.infer_init_method(training)
    if training.distributed_init_method is None:
        return original(cfg, main, **kwargs)
    if training.distributed_no_spawn:
        # torch puts the rank before what ends with a traceback; a line of ours is none
        with _failures_shared(), known_mistakes():
            return original(cfg, main, **kwargs)
    local = training.nprocs_per_node if on_cpu(cfg) else torch.cuda.device_count()
    _spawn(main, cfg, kwargs, min(local, training.distributed_world_size))


def apply() -> None:
    from fairseq.distributed import utils as distributed_utils
    from fairseq.file_io import PathManager
    from fairseq.models import distributed_fairseq_model
    from fairseq.trainer import Trainer

    wrap(distributed_utils, "call_main")(call_main)

    @wrap(Trainer, "load_checkpoint")
    def load_checkpoint(original, self, filename, *args, **kwargs):
        if self.data_parallel_world_size > 1:
            here = PathManager.isfile(filename)
            found = distributed_utils.all_gather_list(here, group=self.data_parallel_process_group)
            if len(set(found)) > 1:
                raise UserError(
                    f"rank {found.index(True)} finds {filename} and rank {found.index(False)} does not: all machines "
                    "need to share one --save-dir"
                )
        return original(self, filename, *args, **kwargs)

    @wrap(distributed_utils, "all_gather_list")
    def all_gather_list(original, data, group=None, max_size=16384):
        from fairseq import utils

        group = distributed_utils.get_global_group() if group is None else group
        if distributed_utils.use_xla() or torch.distributed.get_backend(group) != "gloo":
            return original(data, group=group, max_size=max_size)
        gathered = [None] * distributed_utils.get_world_size(group)
        torch.distributed.all_gather_object(gathered, utils.move_to_cpu(data), group=group)
        return gathered

    data_parallel = distributed_fairseq_model.DistributedDataParallel

    def data_parallel_anywhere(module, device_ids=None, output_device=None, **kwargs):
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            device_ids = output_device = None
        return data_parallel(module, device_ids=device_ids, output_device=output_device, **kwargs)

    distributed_fairseq_model.DistributedDataParallel = data_parallel_anywhere
