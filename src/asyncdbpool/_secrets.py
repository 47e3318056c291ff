"""What no text may show: passwords, and the text of a DSN that holds one."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote

__all__ = ["Secrets", "is_secret"]

_KEYS = re.compile(r"passw|passphrase|^pass$|pwd|secret|token|credential|api_?key", re.IGNORECASE)
_IN_URLS = re.compile(r"://[^:@/\s]*:([^\s]+)@")
_IN_PAIRS = re.compile(
    r"""(?:passw\w*|passphrase|pwd|secret|token)\s*=\s*("[^"]+"|'(?:[^'\\]|\\.)+'|\{[^}]+\}|[^\s;&'"{]+)""",
    re.IGNORECASE,
)


def is_secret(key: str, text: str) -> bool:
    """Tell whether a keyword's value seems to be a password, or a DSN that holds one."""
    return bool(text) and bool(
        _KEYS.search(key) or _IN_URLS.search(text) or _IN_PAIRS.search(text)
    )


class Secrets:
    """Takes what is secret out of texts that come from elsewhere, an error of a driver's say."""

    def __init__(self) -> None:
        self._forms: set[str] = set()

    def keep(self, secret: str) -> str:
        """Note a secret, and those within it if it is a DSN; return it."""
        parts = {secret, *_IN_URLS.findall(secret), *_IN_PAIRS.findall(secret)}
        for part in parts | {part.strip("'\"{}") for part in parts}:
            for form in (part, unquote(part)):
                self._forms |= {form, quote(form), quote(form, safe=""), quote_plus(form)}
                self._forms |= {repr(form)[1:-1], form.replace("\\", "\\\\").replace("'", "\\'")}
        self._forms.discard("")
        return secret

    def redact(self, text: str) -> str:
        """Put `***` for each."""
        longest_first = sorted(self._forms, key=len, reverse=True)
        return (
            re.sub("|".join(map(re.escape, longest_first)), "***", text) if self._forms else text
        )
