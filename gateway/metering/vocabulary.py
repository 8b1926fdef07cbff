"""The tokenizers of OpenAI's models, each loaded once per process: some 40 MB and a tenth of a second.

The ranks are those that splintr carries; nothing is downloaded.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from splintr import AnyTokenizer

Encoding = Literal["o200k_base", "cl100k_base"]

_loaded: dict[Encoding, AnyTokenizer] = {}
_loading = threading.Lock()


def vocabulary(encoding: Encoding) -> AnyTokenizer:
    """The tokenizer of an encoding; safe from many threads."""
    found = _loaded.get(encoding)
    if found is None:
        with _loading:
            found = _loaded.get(encoding)
            if found is None:
                import splintr

                found = splintr.Tokenizer.from_pretrained(encoding)
                _loaded[encoding] = found
    return found
