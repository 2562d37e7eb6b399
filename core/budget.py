"""How much memory or disk may be used, as people say it: 8GB, 500MB, 40%."""

import dataclasses
import re
from dataclasses import dataclass

from core.errors import InputError, shorten

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[KMGT]?B)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A number of bytes, or a share of what there is.

    Attributes:
        name: The option that sets it, for messages.
        size: Bytes; None for a share.
        share: In [0, 1], of what is free.
        most: Bytes that a share never exceeds; None for no bound.
    """

    name: str
    size: int | None = None
    share: float = 0.0
    most: int | None = None

    @classmethod
    def parse(cls, name: str, text: str) -> "Budget":
        """Reads ``8GB``, ``500MB``, ``40%`` or ``0``.

        Raises:
            InputError: It is none of these.
        """
        if text.strip() == "0":
            return cls(name=name, size=0)
        match = _FORM.fullmatch(text.strip())
        if match is None or (match[2] == "%" and float(match[1]) > 100):
            raise InputError(
                f"`{name}` must be a size such as 8GB or a share such as 40%, but got {name}={shorten(text)}. "
                "Give one of them, or 0 for none."
            )
        if match[2] == "%":
            return cls(name=name, share=float(match[1]) / 100)
        return cls(name=name, size=int(float(match[1]) * _UNITS[match[2].upper()]))

    def divided(self, parts: int) -> "Budget":
        """The same for one of several that share it."""
        return dataclasses.replace(
            self, size=None if self.size is None else self.size // parts, share=self.share / parts
        )

    def of(self, free: int) -> int:
        """Bytes that may be used where `free` bytes are.

        Raises:
            InputError: More was asked for than there is.
        """
        if self.size is None:
            share = int(self.share * free)
            return share if self.most is None else min(share, self.most)
        if self.size > free:
            raise InputError(
                f"`{self.name}` must be at most what is free, {free / 1e9:.1f} GB, but got {self.name}="
                f"{self.size / 1e9:g}GB. Give less, or a share such as 40%."
            )
        return self.size


MEMORY = Budget(name="--memory", share=0.4)
DISK = Budget(name="--disk", share=0.4, most=50 * 10**9)
