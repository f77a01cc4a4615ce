"""How much is measured where: seconds for one run of a system, half an hour for all of them on two cores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.inference.models import MINILM

CPU_SIZES, CUDA_SIZES = (8, 16, 32, 64, 128), (16, 32, 64, 128, 256, 512)
USUAL_SIZE = 32


@dataclass(frozen=True)
class Cell:
    """One mix of texts on one model."""

    model: str
    mix: str
    texts: int
    sizes: tuple[int, ...] = CPU_SIZES
    """Batch sizes that are tried; the first alone where it is the only one."""
    most_rounds: int = 100
    reference_tokens: int = 4000
    """Vectors are compared with float64 on the first texts, up to 64 and so many tokens."""


CELLS = {
    "cpu": (
        Cell(MINILM, "short", 500),
        Cell(MINILM, "paragraphs", 60),
        Cell(MINILM, "long-tail", 400),
        Cell("bge-base-sized", "short", 80),
        Cell("bge-base-sized", "paragraphs", 16),
        Cell("bge-base-sized", "long-tail", 80),
        Cell("gte-large-sized", "long-tail", 16, (8, 16, 32), most_rounds=2),
        # texts of thousands of tokens fill a batch alone: anything but 1 is padding
        Cell("gte-large-2-layers", "long", 4, (1,), most_rounds=2, reference_tokens=9000),
    ),
    "cuda": (
        Cell(MINILM, "short", 20_000, CUDA_SIZES),
        Cell(MINILM, "paragraphs", 8_000, CUDA_SIZES),
        Cell(MINILM, "long-tail", 16_000, CUDA_SIZES),
        Cell("bge-base-sized", "short", 20_000, CUDA_SIZES),
        Cell("bge-base-sized", "paragraphs", 4_000, CUDA_SIZES),
        Cell("bge-base-sized", "long-tail", 16_000, CUDA_SIZES),
        Cell("bge-base-sized", "uniform-512", 2_000, CUDA_SIZES),
        Cell("gte-large-sized", "long-tail", 4_000, CUDA_SIZES),
        Cell("gte-large-sized", "long", 64, (1, 2, 4, 8), reference_tokens=9000),
    ),
}


def choose_cells(device: str, *, scale: float = 1.0, models: Sequence[str] = (), quick: bool = False) -> list[Cell]:
    """What to measure. A model that the plan does not name is a folder, and gets the long-tailed mix.

    Args:
        scale: multiplies the numbers of texts.
        models: names and folders; none for all of the device's.
        quick: seconds for each, to see that all works.
    """
    cells = [*CELLS[device]]
    if models:
        known = {cell.model for cell in cells}
        cells = [cell for cell in cells if cell.model in models]
        cells += [Cell(name, "long-tail", 200) for name in models if name not in known]
    if quick:
        return [replace(cell, texts=min(cell.texts, 12), sizes=(4, 8), reference_tokens=500) for cell in cells]
    return [replace(cell, texts=max(4, round(cell.texts * scale))) for cell in cells]
