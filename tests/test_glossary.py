"""The glossary: words and patterns that must not appear in names, docstrings, comments and messages under src/, nor in
the documentation.

House words confuse readers of this field; each line of `WORDS` says which word to use instead. To list what is left
below a folder or in a file: `python tests/test_glossary.py src/gnomon/train docs`.
"""

import io
import keyword
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "gnomon"
RECORDS = ROOT / "docs" / "records"
"""Results and lab notes stay in the words in which they were written."""

WORDS = {
    r"widths?|narrower": "dimension, dim, size (columns, of a screen)",
    r"cuts?|cutting": "truncate, truncated, split",
    r"behind|in front of": "after, before",
    r"laid aside|lays? aside": "held out",
    r"learnt": "trained",
    r"twins?": "reference implementation",
    r"judges?|judged|judging|judge?ments?": "evaluate, evaluated, relevance labels",
    r"told|said|asked|tells?": "message, reported, requested",
    r"wrong answers?": "negatives",
    r"grades?|graded": "label, relevance, score",
    r"(?-i:notices?|Notices)": "warning",
    r"contestants?|tally|tallies|spool|spools": "systems, counters, dataset writer",
    r"laid down|by heart|at hand|stumbles?|mends?|mended": "a plain word",
    r"(?<!there )(is|are|was|were|be) no (?!longer|more|less|other|better|worse|one|need|way|such)\w+": (
        "is not a ..., there is no ..."
    ),
    r"(?-i:is none|are none|none of it)": "is not one",
    r"(one|once|twice|two|three|times|bytes|tokens|texts|rows|lines|array|value|files?|bits?|seconds?|number) an? "
    r"(call|core|process|row|line|text|step|batch|token|query|rank|worker|channel|weight|file|value|vector|source)": (
        "one per core, once per process"
    ),
    r"(?<![\w.,:;] )of (retrieval|gist|graded pairs|pairs)(?= and the|, and| is| are|\.)": (
        "for retrieval, applies to gist only"
    ),
}
"""Pattern, whole words in any case -> what to write."""

NAMES = {
    "found", "told", "said", "asked", "made", "kept", "shown", "joined", "listed", "written", "averaged", "dropped",
    "watched", "stored", "printed", "given", "wanted", "learnt", "judged", "cut", "cuts", "width", "widths", "tally",
    "twin", "grade", "grades", "asking", "notice", "notices", "contestant", "contestants",
}  # fmt: skip
"""Names (of functions, variables, parameters, attributes) that say nothing: a value is a noun, a function a verb."""

ALLOWED_NAMES = {"Notice"}
"""The public class of every warning."""

ALLOWED_STRINGS = {
    "cut",
    "grades",
    "width",
    "widths",
    "notices",
    "asked",
    "given",
    "contestant",
    "kept",
    "judged_by",
    "kept_apart",
    "tally",
}
"""Keys of files and results that people have on disk, as whole strings."""

ALLOWED = {
    "terminal.py": {"width", "widths"},
    "describe.py": {"width"},
    "space.py": {"cut"},
    "evaluate/compare.py": {"width"},
    "train/model_card.py": {"asked", "behind", "cut", "grade"},
    "evaluate/report/plots.py": {"width", "widths"},
    "evaluate/report/page.py": {"width", "widths"},
    "evaluate/report/markup.py": {"width", "widths"},
    "evaluate/report/sheet.py": {"width", "widths"},
}
"""Words that mean something else in a file, as the width of a screen or of a plot; and the text of model cards, which
stays as it is in the cards that people have.
"""

PATTERN = re.compile("|".join(rf"(?P<w{number}>\b(?:{word})\b)" for number, word in enumerate(WORDS)), re.IGNORECASE)
ADVICE = list(WORDS.values())


def offences(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, word, what to write instead) of each word of a file that the glossary has not."""
    return page_offences(path) if path.suffix == ".md" else source_offences(path)


def page_offences(path: Path) -> Iterator[tuple[int, str, str]]:
    """Those in the prose of a Markdown page: code in it has names of files, keys and values."""
    text = re.sub(r"^( *)```.*?^\1```", blank, path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]+`|\]\([^)]*\)|^    .*$", blank, text, flags=re.MULTILINE)
    for match in PATTERN.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[0], ADVICE[int(match.lastgroup[1:])]


def blank(code: re.Match[str]) -> str:
    """As many lines, and a mark, so that words before and after do not meet."""
    return "#" + "\n" * code[0].count("\n")


def source_offences(path: Path) -> Iterator[tuple[int, str, str]]:
    allowed = ALLOWED.get(path.relative_to(SOURCE).as_posix(), set())
    parts = set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string) and token.string not in ALLOWED_NAMES:
            words = token.string.lower().strip("_").split("_")
            name = token.string.strip("_").lower()
            if token.string in ALLOWED_NAMES:
                continue
            bad = name if name in NAMES else next((word for word in words if word in HOUSE_WORDS), None)
            if bad and bad not in allowed and (token.start[0], name) not in parts:
                parts.add((token.start[0], name))
                yield token.start[0], token.string, "a noun that says what it is, or a verb"
        elif token.type == tokenize.COMMENT or token.type in STRINGS:
            text = token.string
            if token.type != tokenize.COMMENT and text.strip("\"'rfbRFB") in ALLOWED_STRINGS:
                continue
            for match in PATTERN.finditer(text):
                if match[0].lower() in allowed:
                    continue
                line = token.start[0] + text.count("\n", 0, match.start())
                yield line, match[0], ADVICE[int(match.lastgroup[1:])]


HOUSE_WORDS = {
    "told",
    "said",
    "judged",
    "learnt",
    "twin",
    "contestant",
    "contestants",
    "tally",
    "spool",
    "widths",
    "asking",
}
STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def listed(root: Path = SOURCE) -> list[str]:
    files = [root] if root.is_file() else sorted([*root.rglob("*.py"), *root.rglob("*.md")])
    return [
        f"{path.relative_to(ROOT)}:{line}: {word!r} -> {advice}"
        for path in files
        if not path.is_relative_to(RECORDS)
        for line, word, advice in offences(path)
    ]


def test_the_source_speaks_the_language_of_the_field() -> None:
    offenders = listed()
    assert not offenders, f"{len(offenders)} words that the glossary has not:\n" + "\n".join(offenders)


def test_the_documentation_speaks_it_too() -> None:
    places = [*ROOT.glob("*.md"), ROOT / "docs", ROOT / "examples" / "README.md"]
    offenders = [line for place in places for line in listed(place)]
    assert not offenders, f"{len(offenders)} words that the glossary has not:\n" + "\n".join(offenders)


def test_code_of_a_page_is_not_prose(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Texts are cut\nby `the width` of\n\n```\nwidth\n```\n\n[a page](width.md) is judged\n", "utf-8")
    assert [(line, word) for line, word, _ in page_offences(page)] == [(1, "cut"), (8, "judged")]


if __name__ == "__main__":
    for root in sys.argv[1:] or [str(SOURCE)]:
        print(*listed(Path(root).resolve()), sep="\n")
