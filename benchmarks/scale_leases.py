"""One budget, several places that spend it: a simulation of what keeping it costs.

`central`   every admission asks one counter, which all places reach
`leased`    each place takes a slice of the budget in advance, spends it by itself and asks for another; what
            it has not used goes back when it has been quiet for a minute
`gossip`    each place counts by itself, and all counters are added up every so often: what others spent since
            then is not known

The places are not equally busy. In the middle of the hour agents run away: three fifths of a demand that is
half as large again as the budget come within two minutes, while one place cannot reach the others. A step
reserves an upper bound and is settled at a third of it on average, as the gateway's are.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from random import Random

from rich import box
from rich.table import Table

WINDOW_S = 3600.0
PLACES = 8
RUSH = (2000.0, 2120.0)
RUSH_SHARE = 0.6
CUT = (1900.0, 2200.0)
"""When the second busiest place is cut off."""
CUT_PLACE = 1
STEP_S = 8.0
"""From admission to settlement."""
OVERESTIMATE = 3.0
QUIET_S = 60.0
AGAIN_S = 1.0
"""After a lease was not to be had."""
FREE = 0.01
"""Share of the budget that counts as room."""
DEMAND = 1.5


@dataclass(frozen=True)
class Way:
    """How the budget is kept."""

    name: str
    lease: float = 0.0
    """Share of the budget that is taken at a time; 0 is central."""
    sync_s: float = 0.0
    """How often counters are added up; 0 does not gossip."""


WAYS = (
    Way("central"),
    Way("leased, 0.01 %", lease=0.0001),
    Way("leased, 0.1 %", lease=0.001),
    Way("leased, 1 %", lease=0.01),
    Way("leased, 5 %", lease=0.05),
    Way("gossip, 1 s", sync_s=1.0),
    Way("gossip, 10 s", sync_s=10.0),
    Way("gossip, 60 s", sync_s=60.0),
)


@dataclass
class Place:
    """One of those that spend."""

    held: float = 0.0
    """Of leases, not reserved and not spent."""
    spent: float = 0.0
    reserved: float = 0.0
    others: float = 0.0
    """What it knows of them."""
    used_at: float = 0.0
    ask_at: float = 0.0


@dataclass
class Outcome:
    """What came of one way. Amounts are shares of the budget."""

    spent: float = 0.0
    refused: int = 0
    needlessly: int = 0
    """While a hundredth of the budget was neither spent nor reserved."""
    while_cut: int = 0
    """Refused at the place that was cut off, while it was."""
    asked: int = 0
    steps: int = 0


@dataclass
class Budget:
    """The budget is 1; `granted` is what places hold or have spent."""

    way: Way
    is_cut: bool
    places: list[Place] = field(default_factory=lambda: [Place() for _ in range(PLACES)])
    granted: float = 0.0
    outcome: Outcome = field(default_factory=Outcome)

    def _cut_off(self, number: int, now: float) -> bool:
        return self.is_cut and number == CUT_PLACE and CUT[0] <= now < CUT[1]

    @property
    def taken(self) -> float:
        """Spent or reserved, everywhere."""
        return sum(place.spent + place.reserved for place in self.places)

    def admit(self, number: int, amount: float, now: float) -> bool:
        """Whether one place lets a step in that costs at most so much."""
        place, self.outcome.steps = self.places[number], self.outcome.steps + 1
        if not (self._gossiped(place, amount) if self.way.sync_s else self._granted(number, amount, now)):
            self.outcome.refused += 1
            self.outcome.needlessly += self.taken <= 1 - FREE
            self.outcome.while_cut += self._cut_off(number, now)
            return False
        place.reserved += amount
        place.used_at = now
        return True

    def _gossiped(self, place: Place, amount: float) -> bool:
        return place.spent + place.reserved + place.others + amount <= 1

    def _granted(self, number: int, amount: float, now: float) -> bool:
        place = self.places[number]
        if place.held >= amount:
            place.held -= amount
            return True
        if self._cut_off(number, now) or now < place.ask_at:
            return False
        self.outcome.asked += 1
        rest = 1 - self.granted
        if not self.way.lease:
            self.granted += amount if amount <= rest else 0
            return amount <= rest
        grant = min(max(amount - place.held, self.way.lease), rest)
        self.granted += grant
        place.held += grant
        if place.held < amount:
            place.ask_at = now + AGAIN_S
            return False
        place.held -= amount
        return True

    def settle(self, number: int, amount: float, actual: float) -> None:
        """A step has ended."""
        place = self.places[number]
        place.reserved -= amount
        place.spent += actual
        if self.way.lease:
            place.held += amount - actual
        elif not self.way.sync_s:
            self.granted -= amount - actual

    def pass_time(self, now: float) -> None:
        """Give back what is not used; add up."""
        for number, place in enumerate(self.places):
            if self._cut_off(number, now):
                continue
            if self.way.lease and place.held and now - place.used_at > QUIET_S:
                self.outcome.asked += 1
                self.granted -= place.held
                place.held = 0.0
            if self.way.sync_s:
                self.outcome.asked += 1
                others = (p for n, p in enumerate(self.places) if n != number and not self._cut_off(n, now))
                place.others = sum(p.spent + p.reserved for p in others)


def simulated(way: Way, steps: int, seed: int, *, is_cut: bool = False) -> Outcome:
    """One window. `steps` is how many there would be room for."""
    random, budget = Random(seed), Budget(way, is_cut)
    weights = [1 / (n + 1) for n in range(PLACES)]
    total, mean = int(steps * DEMAND), 1 / steps
    rush = int(total * RUSH_SHARE)
    spans = [RUSH] * rush + [(0.0, WINDOW_S)] * (total - rush)
    times = [random.uniform(*span) for span in spans]
    arrivals = deque(sorted(times))
    settling: list[tuple[float, int, int, float, float]] = []
    tick = way.sync_s or QUIET_S / 4
    next_tick, serial = tick, 0
    while arrivals or settling:
        now = min(arrivals[0] if arrivals else WINDOW_S * 2, settling[0][0] if settling else WINDOW_S * 2)
        while next_tick <= now:
            budget.pass_time(next_tick)
            next_tick += tick
        if settling and settling[0][0] <= now:
            _, _, number, amount, actual = heapq.heappop(settling)
            budget.settle(number, amount, actual)
            continue
        arrivals.popleft()
        (number,) = random.choices(range(PLACES), weights)
        actual = mean * random.expovariate(1.0)
        amount = max(actual, mean * OVERESTIMATE)
        if budget.admit(number, amount, now):
            serial += 1
            heapq.heappush(settling, (now + STEP_S * random.uniform(0.2, 2), serial, number, amount, actual))
    budget.outcome.spent = sum(place.spent for place in budget.places)
    return budget.outcome


def compared(seed: int, steps: int) -> Table:
    """One row for each way."""
    table = Table(
        title=f"One budget for {steps:,} steps, {PLACES} places, demand for {DEMAND:g} times as much",
        box=box.MARKDOWN,
        title_justify="left",
    )
    for name in (
        "", "overspent", "refused with 1 % free", "questions per 1,000 steps", "overspent, one cut off",
        "refused there meanwhile",
    ):  # fmt: skip
        table.add_column(name, justify="right" if name else "left")
    for way in WAYS:
        whole = simulated(way, steps, seed)
        cut = simulated(way, steps, seed, is_cut=True)
        table.add_row(
            way.name,
            f"{max(0.0, whole.spent - 1):.2%}",
            f"{whole.needlessly / whole.steps:.2%}",
            f"{whole.asked / whole.steps * 1000:,.1f}",
            f"{max(0.0, cut.spent - 1):.2%}",
            f"{cut.while_cut:,}",
        )
    return table
