"""How much is measured where. Counts are chosen so that one run of a contender takes seconds, and all of them half an
hour on two cores.
"""

from dataclasses import dataclass, replace

from models import MINILM

CPU_SIZES = (8, 16, 32, 64, 128)
CUDA_SIZES = (16, 32, 64, 128, 256, 512)
USUAL_SIZE = 32
STAND_IN = "MiniLM-sized"
"""Where all-MiniLM-L6-v2 itself cannot be had."""


@dataclass(frozen=True)
class Cell:
    """One mix of texts on one model."""

    model: str
    mix: str
    texts: int
    most_rounds: int = 100
    sizes: tuple[int, ...] = CPU_SIZES
    """Batch sizes that are tried; the first alone where it is the only one."""
    reference_tokens: int = 4000
    """Vectors are compared with float64 on the first texts, up to 64 and so many tokens."""


CPU = (
    Cell(MINILM, "short", 500),
    Cell(MINILM, "paragraphs", 60),
    Cell(MINILM, "long-tail", 400),
    Cell("bge-base-sized", "short", 80),
    Cell("bge-base-sized", "paragraphs", 16),
    Cell("bge-base-sized", "long-tail", 80),
    Cell("gte-large-sized", "long-tail", 16, most_rounds=2, sizes=(8, 16, 32)),
    # texts of thousands of tokens fill a batch alone: anything but 1 is padding
    Cell("gte-large-2-layers", "long", 4, most_rounds=2, sizes=(1,), reference_tokens=9000),
)

CUDA = (
    Cell(MINILM, "short", 20_000, sizes=CUDA_SIZES),
    Cell(MINILM, "paragraphs", 8_000, sizes=CUDA_SIZES),
    Cell(MINILM, "long-tail", 16_000, sizes=CUDA_SIZES),
    Cell("bge-base-sized", "short", 20_000, sizes=CUDA_SIZES),
    Cell("bge-base-sized", "paragraphs", 4_000, sizes=CUDA_SIZES),
    Cell("bge-base-sized", "long-tail", 16_000, sizes=CUDA_SIZES),
    Cell("bge-base-sized", "uniform-512", 2_000, sizes=CUDA_SIZES),
    Cell("gte-large-sized", "long-tail", 4_000, sizes=CUDA_SIZES),
    Cell("gte-large-sized", "long", 64, sizes=(1, 2, 4, 8), reference_tokens=9000),
)


@dataclass(frozen=True)
class Growth:
    """How time grows with the number of texts, and with their length."""

    texts_model: str
    texts: tuple[int, ...]
    contender: str
    lengths_model: str
    lengths: tuple[int, ...]
    tokens: int
    """Of each length, at least one text's."""
    contenders: tuple[str, ...]


LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
COUNTS = (100, 1_000, 10_000, 100_000)

GROWTH = {
    "cpu": Growth(
        MINILM,
        COUNTS,
        "gnomon onnx",
        "gte-large-2-layers",
        LENGTHS,
        1024,
        ("gnomon onnx", "gnomon torch", "sentence-transformers"),
    ),
    "cuda": Growth(
        MINILM,
        COUNTS,
        "gnomon torch bfloat16",
        "gte-large-sized",
        LENGTHS,
        131_072,
        ("gnomon torch bfloat16", "sentence-transformers bfloat16 tuned"),
    ),
}


@dataclass(frozen=True)
class Plan:
    cells: tuple[Cell, ...]
    growth: Growth
    rounds: int
    calls: int
    """Calls of one query, of each contender in each round."""

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(cell.model for cell in self.cells))

    @property
    def latency_models(self) -> list[str]:
        """One query costs a large trunk on a CPU what its operations cost: bulk already says that."""
        return [name for name in self.models if not name.startswith("gte-large")]


def plan(device: str, *, rounds: int, scale: float, models: list[str], has_minilm: bool, quick: bool) -> Plan:
    """What to measure. A model that is no name in the plan is a folder, and gets the long-tailed mix.

    Args:
        scale: multiplies the numbers of texts.
        models: names and folders; none for all of the device's.
        has_minilm: whether the real one is at hand; else the same size with random weights is taken.
        quick: seconds for each stage, to see that all works.
    """
    cells, growth = {"cpu": CPU, "cuda": CUDA}[device], GROWTH[device]
    if not has_minilm:
        cells = tuple(replace(cell, model=STAND_IN) if cell.model == MINILM else cell for cell in cells)
        growth = replace(growth, texts_model=STAND_IN)
    if models:
        cells, growth = chosen(cells, growth, models)
    cells = tuple(replace(cell, texts=scaled(cell.texts, scale)) for cell in cells)
    texts = tuple(scaled(count, scale) for count in growth.texts)
    growth = replace(growth, texts=texts, tokens=scaled(growth.tokens, max(scale, 0.5)))
    return quickened(cells, growth) if quick else Plan(cells, growth, rounds, calls=40)


def chosen(cells: tuple[Cell, ...], growth: Growth, models: list[str]) -> tuple[tuple[Cell, ...], Growth]:
    """Only these models; growth is measured on its own ones, unless all of these are folders."""
    known = {cell.model for cell in cells}
    kept = [cell for cell in cells if cell.model in models]
    kept += [Cell(name, "long-tail", 200) for name in models if name not in known]
    if known & set(models):
        return tuple(kept), growth
    return tuple(kept), replace(growth, texts_model=models[-1], lengths_model=models[-1])


def quickened(cells: tuple[Cell, ...], growth: Growth) -> Plan:
    few = tuple(replace(cell, texts=min(cell.texts, 12), sizes=(4, 8), reference_tokens=500) for cell in cells)
    return Plan(few, replace(growth, texts=(5, 10, 20, 40), lengths=(16, 32, 64), tokens=64), rounds=1, calls=5)


def scaled(count: int, scale: float) -> int:
    return max(4, round(count * scale))
