"""Search a folder of Markdown notes by meaning. Each section of a note is one text.

    python examples/search_notes.py "how do I get into the shed?"
    python examples/search_notes.py "how do I get into the shed?" --notes FOLDER --model MODEL -k 5

A hit is a section with its score, best first.
"""

import argparse
import re
from pathlib import Path

from gnomon import Encoder
from gnomon.search import top_k

NOTES = Path(__file__).parent / "data" / "notes"


def read_sections(folder: Path) -> list[tuple[str, str]]:
    """(file and heading, text) of every section of every note."""
    sections: list[tuple[str, str]] = []
    for path in sorted(folder.rglob("*.md")):
        for section in re.split(r"^(?=#)", path.read_text("utf-8"), flags=re.MULTILINE):
            heading, _, text = section.strip().partition("\n")
            if text.strip():
                sections.append((f"{path.name}, {heading.lstrip('# ')}", f"{heading.lstrip('# ')}. {text.strip()}"))
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(description="Search a folder of Markdown notes by meaning.")
    parser.add_argument("query")
    parser.add_argument("--notes", type=Path, default=NOTES, help="the folder")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("-k", type=int, default=3, help="how many sections are shown")
    options = parser.parse_args()

    encoder = Encoder.load(options.model)
    sections = read_sections(options.notes)
    vectors = encoder.encode_document([text for _, text in sections])
    scores, rows = top_k(encoder.encode_query([options.query]), vectors, options.k)
    for score, row in zip(scores[0], rows[0], strict=True):
        place, text = sections[row]
        print(f"{score:.3f}  {place}\n       {' '.join(text.split())}\n")


if __name__ == "__main__":
    main()
