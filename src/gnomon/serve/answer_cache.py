"""`AnswerCache`: pooled vectors of texts that were seen before, the most recent ones, within a number of bytes.

D: dimensions of a pooled vector.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from gnomon.packed import Vectors

ENTRY_BYTES = 256
"""What an entry takes beside its vector: the key, the array's header, and its place in the dictionary."""


class AnswerCache:
    """Pooled vectors by the key of their text. A pooled vector serves every dimension that the model has.

    It holds hashes, never texts. Threads may share it.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.hits = self.misses = 0
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def get(self, key: bytes) -> Vectors | None:
        """The vector [D] of a text, if it is here."""
        if not self.max_bytes:
            return None
        with self._lock:
            vector_D = self._vectors.get(key)
            if vector_D is None:
                self.misses += 1
            else:
                self.hits += 1
                self._vectors.move_to_end(key)
            return vector_D

    def put(self, key: bytes, vector_D: Vectors) -> None:
        """Add the vector of a text; those that were not used for the longest time make room."""
        size = vector_D.nbytes + ENTRY_BYTES
        if size > self.max_bytes:
            return
        with self._lock:
            if key in self._vectors:
                return
            self._vectors[key] = vector_D.copy()  # a row of a batch would keep the whole batch
            self.num_bytes += size
            while self.num_bytes > self.max_bytes:
                _, oldest_D = self._vectors.popitem(last=False)
                self.num_bytes -= oldest_D.nbytes + ENTRY_BYTES
