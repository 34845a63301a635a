"""Processes that are forked compute on one thread.

OpenMP's threads do not come along into a forked process, and GNU's OpenMP, which torch is built with, waits for them
there for ever: in a child of a process that has used several threads, this op and every operator of torch would hang.
torch.utils.data.DataLoader does the same in its workers. May go when OpenMP survives a fork.
"""

import os

import torch

if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
