"""What a limited space holds, and what leaves it first."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Holding:
    """One thing in the space.

    Attributes:
        size: Bytes.
        saved_s: Seconds that having it saves each time.
        uses: How often it has been used, its making counted.
        priority: The lowest of all leaves first.
        whole: Whether it can be used; else it is still being made.
    """

    size: int
    saved_s: float
    uses: int = 1
    priority: float = 0.0
    whole: bool = False


@dataclass(kw_only=True)
class Ledger:
    """Keeps within a limit whatever saves the most seconds per byte, and ages what is not used any more.

    Source of the rule: Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy",
    HP Laboratories 1998. Unlike there a newcomer that is worth less than all it would displace is refused; each refusal
    ages the others by what the newcomer is worth, so that what nobody uses cannot stay for ever.

    Attributes:
        limit: Bytes.
        clock: Rises with time; a priority is the clock at the last use and the value.
        holdings: What is there, by key.
    """

    limit: int
    clock: float = 0.0
    holdings: dict[str, Holding] = field(default_factory=dict)

    @property
    def used(self) -> int:
        """Bytes taken up."""
        return sum(holding.size for holding in self.holdings.values())

    def touch(self, key: str) -> None:
        """Counts one use."""
        holding = self.holdings[key]
        holding.uses += 1
        holding.priority = self._priority(holding)

    def admit(self, key: str, holding: Holding) -> list[str] | None:
        """Makes room for something new.

        Returns:
            What leaves for it; None if it is refused, and nothing leaves.
        """
        assert key not in self.holdings, f"{key} is there already"
        if holding.size > self.limit:
            return None
        holding.priority = self._priority(holding)
        room, leaving = self.limit - self.used, list[str]()
        for other, held in sorted(self.holdings.items(), key=lambda item: item[1].priority):
            if room >= holding.size or held.priority >= holding.priority:
                break
            if held.whole:  # what is being made is needed at once
                room += held.size
                leaving.append(other)
        if room < holding.size:
            self.clock = holding.priority
            return None
        for other in leaving:
            self.clock = max(self.clock, self.holdings.pop(other).priority)
        self.holdings[key] = holding
        return leaving

    def shrink(self) -> list[str]:
        """Keeps to a limit that has become lower; what is still being made stays.

        Returns:
            What leaves.
        """
        leaving = []
        for key, held in sorted(self.holdings.items(), key=lambda item: item[1].priority):
            if self.used <= self.limit:
                break
            if held.whole:
                del self.holdings[key]
                leaving.append(key)
        return leaving

    def _priority(self, holding: Holding) -> float:
        return self.clock + holding.uses * holding.saved_s / max(holding.size, 1)
