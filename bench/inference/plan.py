"""How much is measured where: seconds for one run of a system, half an hour for all of them on two cores."""

from dataclasses import dataclass, replace

from bench.inference.models import MINILM

CPU_SIZES, CUDA_SIZES = (8, 16, 32, 64, 128), (16, 32, 64, 128, 256, 512)
USUAL_SIZE = 32
STAND_IN = "MiniLM-sized"
"""Where all-MiniLM-L6-v2 itself is not at hand."""
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
COUNTS = (100, 1_000, 10_000, 100_000)


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


@dataclass(frozen=True)
class Growth:
    """How time grows with the number of texts, and with their length."""

    system: str
    lengths_model: str
    tokens: int
    """Of each length, at least one text's."""
    systems: tuple[str, ...]
    texts_model: str = MINILM
    texts: tuple[int, ...] = COUNTS
    lengths: tuple[int, ...] = LENGTHS


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
GROWTH = {
    "cpu": Growth("gnomon onnx", "gte-large-2-layers", 1024, ("gnomon onnx", "gnomon torch", "sentence-transformers")),
    "cuda": Growth(
        "gnomon torch bfloat16",
        "gte-large-sized",
        131_072,
        ("gnomon torch bfloat16", "sentence-transformers bfloat16 tuned"),
    ),
}


@dataclass(frozen=True)
class Plan:
    cells: tuple[Cell, ...]
    growth: Growth
    rounds: int
    calls: int = 40
    """Calls of one query, of each system in each round."""


def plan(device: str, *, rounds: int, scale: float, models: list[str], has_minilm: bool, quick: bool) -> Plan:
    """What to measure. A model that the plan does not name is a folder, and gets the long-tailed mix.

    Args:
        scale: multiplies the numbers of texts.
        models: names and folders; none for all of the device's.
        has_minilm: whether the real one is at hand; else the same size with random weights is taken.
        quick: seconds for each stage, to see that all works.
    """
    cells, growth = CELLS[device], GROWTH[device]
    if not has_minilm:
        cells = tuple(replace(cell, model=STAND_IN) if cell.model == MINILM else cell for cell in cells)
        growth = replace(growth, texts_model=STAND_IN)
    if models:
        known = {cell.model for cell in cells}
        cells = tuple(cell for cell in cells if cell.model in models)
        cells += tuple(Cell(name, "long-tail", 200) for name in models if name not in known)
        if not known & {*models}:
            growth = replace(growth, texts_model=models[-1], lengths_model=models[-1])
    if quick:
        few = tuple(replace(cell, texts=min(cell.texts, 12), sizes=(4, 8), reference_tokens=500) for cell in cells)
        growth = replace(growth, texts=(5, 10, 20, 40), lengths=(16, 32, 64), tokens=64)
        return Plan(few, growth, rounds=1, calls=5)
    cells = tuple(replace(cell, texts=max(4, round(cell.texts * scale))) for cell in cells)
    return Plan(cells, replace(growth, texts=tuple(max(4, round(count * scale)) for count in growth.texts)), rounds)
