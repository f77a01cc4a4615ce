"""Token ids of OpenAI's vocabulary cl100k, which LangChain's OpenAIEmbeddings sends by default, back to texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gnomon.errors import ExtraError, SourceError

Decode = Callable[[Sequence[int]], str]


def load_cl100k() -> Decode:
    """What turns ids into a text. tiktoken reads its table from $TIKTOKEN_CACHE_DIR, or downloads it.

    Raises:
        ExtraError: tiktoken is not installed.
        SourceError: its table cannot be had.
    """
    try:
        import tiktoken  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ExtraError("token ids of cl100k need the package tiktoken. Install it: pip install tiktoken") from error
    try:
        encoding = tiktoken.get_encoding("cl100k_base")
    except Exception as error:
        raise SourceError(
            f"tiktoken has no table of cl100k_base here, and cannot download it ({error}). Let TIKTOKEN_CACHE_DIR be a "
            "folder that holds it."
        ) from error
    return encoding.decode
