"""What a step holds at once, and less of it when memory runs out."""

from __future__ import annotations

import gc

LARGEST = 2**20  # samples or pixels at once, where there is memory for them
SMALLEST = 2**10  # samples or pixels at once: less would hardly save anything


class Chunk:
    """How many samples of a field, or pixels of a surface, a step holds at once."""

    def __init__(self, size: int = LARGEST) -> None:
        self.size = size

    def halve(self) -> bool:
        """Take half of it, and give back what is cached; False if it is as small as can be."""
        import torch

        if self.size <= SMALLEST:
            return False
        self.size //= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True


def is_short(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    import torch

    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
