"""Which layers of a stack attend (section 5)."""

from typing import Iterable, List, Optional


def attention_layer_indices(layers: int, every_n: int = 1, explicit: Optional[Iterable[int]] = None) -> List[int]:
    """The 1-based layers that attend: the explicit list, or each multiple of every_n (section 5).

    Raises:
        ValueError: a layer that does not exist, or every_n below 1.
    """
    if explicit is not None:
        chosen = sorted(set(explicit))
        missing = [i for i in chosen if not 1 <= i <= layers]
        if missing:
            raise ValueError(f"attention layer {missing[0]} does not exist: there are layers 1 to {layers}")
        return chosen
    if not 1 <= every_n <= layers:
        raise ValueError(f"attention every {every_n} layers: must be between 1 and the number of layers ({layers})")
    return list(range(every_n, layers + 1, every_n))
