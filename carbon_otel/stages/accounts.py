"""Who pays: the books that split every device's joules among the open stages.

Accounts form a tree. Its root is `unattributed`; a stage's account is a child of the stage it was opened in.
At any moment the payers are the open accounts with no open child (a paused one does not count as open), so the
root pays exactly when nothing else is open. Payers share by weight, through a virtual clock: one running sum
per device of joules per unit of weight. Posting energy and opening or closing an account then cost the same
however many accounts are open.

    sum of all accounts' exclusive joules = joules posted          (always, to float precision)
    inclusive = exclusive + what the children paid while the account was open
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Joules = list[float]  # one entry per device


class Account:
    """What one stage paid. `paid` is final once the account is closed; use `Books` to change it."""

    __slots__ = (
        "_clock_at",
        "_entered",
        "_handed_g",
        "_handed_j",
        "_untold_g",
        "_untold_j",
        "by_kind",
        "children",
        "children_g",
        "children_j",
        "grams",
        "kind",
        "open",
        "paid",
        "parent",
        "paused",
        "paying",
        "unpaused_children",
        "weights",
    )

    def __init__(self, kind: str, parent: Account | None, devices: int, *, keeps_kinds: bool = False) -> None:
        self.kind = kind
        self.parent = parent
        self.children: set[Account] = set()
        self.unpaused_children = 0
        self.open = True
        self.paused = False
        self.paying = False
        self.weights: list[float] | None = None  # None: one for every device
        self.paid: Joules = [0.0] * devices
        self.grams = 0.0
        self.children_j: Joules = [0.0] * devices
        self.children_g = 0.0
        self.by_kind: dict[str, Subtotal] | None = {} if keeps_kinds else None
        self._clock_at: Joules = self.paid
        self._entered: Joules = [0.0] * devices
        self._untold_j: Joules = [0.0] * devices
        self._untold_g = 0.0
        self._handed_j: Joules | None = None
        self._handed_g = 0.0

    @property
    def inclusive_j(self) -> Joules:
        return [own + below for own, below in zip(self.paid, self.children_j, strict=True)]

    @property
    def inclusive_g(self) -> float:
        return self.grams + self.children_g


class Subtotal:
    """The exclusive joules and grams of one kind of stage below an account."""

    __slots__ = ("grams", "joules")

    def __init__(self) -> None:
        self.joules = 0.0
        self.grams = 0.0


class Books:
    """The accounts of one process. Not thread-safe: call under one lock.

    `price` turns joules into grams at the moment they are entered, so a changing grid needs no special case.
    """

    def __init__(self, devices: int, price: Callable[[float], float]) -> None:
        self._devices = devices
        self._price = price
        self._clock: Joules = [0.0] * devices
        self._weight: list[float] = [0.0] * devices
        self._payers: set[Account] = set()
        self.root = Account("unattributed", None, devices)
        self._start_paying(self.root)

    def post(self, joules: Sequence[float]) -> None:
        """Charge what the devices spent since the last post to the payers."""
        clock, weight = self._clock, self._weight
        for i, amount in enumerate(joules):
            if amount:
                clock[i] += amount / weight[i]

    def open(self, kind: str, parent: Account | None = None, *, keeps_kinds: bool = False) -> Account:
        """Open an account below `parent`, or below the nearest of its ancestors that is still open."""
        above = self._nearest_open(parent)
        account = Account(kind, above, self._devices, keeps_kinds=keeps_kinds)
        above.children.add(account)
        self._start_paying(account)
        self._count_child(above, +1)
        return account

    def close(self, account: Account) -> tuple[Joules, float]:
        """End an account; its last joules and grams, as `settle` gives them.

        What its open children pay from now on goes to its parent's total.
        """
        parent = account.parent
        if not account.open or parent is None:
            return [0.0] * self._devices, 0.0
        last = self.settle(account)
        if account.paying:
            self._stop_paying(account)
        for child in tuple(account.children):
            self._hand_up(child)
            child.parent = parent
            parent.children.add(child)
            if not child.paused:
                parent.unpaused_children += 1
        account.children.clear()
        account.open = False
        self._hand_up(account)
        parent.children.discard(account)
        self._count_child(parent, 0 if account.paused else -1)
        return last

    def pause(self, account: Account) -> None:
        """A suspended generator does not pay; whoever resumes it does."""
        if account.open and not account.paused and account.parent is not None:
            self._collect(account)
            account.paused = True
            if account.paying:
                self._stop_paying(account)
            self._count_child(account.parent, -1)

    def resume(self, account: Account) -> None:
        if account.open and account.paused and account.parent is not None:
            account.paused = False
            self._review(account)
            self._count_child(account.parent, +1)

    def settle(self, account: Account) -> tuple[Joules, float]:
        """The joules and grams the account has paid since it was last settled: what sinks have not been told."""
        self._enter(account)
        fresh, grams = account._untold_j, account._untold_g
        account._untold_j, account._untold_g = [0.0] * self._devices, 0.0
        return fresh, grams

    def inclusive(self, account: Account) -> tuple[Joules, float]:
        """Inclusive joules and grams up to now, open children included."""
        if account.open:
            self._enter(account)
        joules, grams = account.inclusive_j, account.inclusive_g
        for child in account.children:
            below_j, below_g = self.inclusive(child)
            handed = child._handed_j
            joules = [a + b for a, b in zip(joules, below_j, strict=True)]
            grams += below_g - child._handed_g
            if handed is not None:
                joules = [a - b for a, b in zip(joules, handed, strict=True)]
        return joules, grams

    def payers(self) -> frozenset[Account]:
        return frozenset(self._payers)

    def set_weights(self, weights: dict[Account, list[float]]) -> None:
        """From now on these payers share by these weights per device; all others weigh one."""
        for account in self._payers:
            self._collect(account)
            account.weights = weights.get(account)
        self._sum_weights()

    def _enter(self, account: Account) -> None:
        """Bring the account's joules, grams and its ancestors' subtotals up to date."""
        self._collect(account)
        entered, untold = account._entered, account._untold_j
        joules = 0.0
        for i, paid in enumerate(account.paid):
            fresh = paid - entered[i]
            if fresh:
                entered[i] = paid
                untold[i] += fresh
                joules += fresh
        grams = self._price(joules)
        account.grams += grams
        account._untold_g += grams
        above: Account | None = account
        while above is not None:
            if above.by_kind is not None:
                subtotal = above.by_kind.get(account.kind)
                if subtotal is None:
                    subtotal = above.by_kind[account.kind] = Subtotal()
                subtotal.joules += joules
                subtotal.grams += grams
            above = above.parent

    def _nearest_open(self, account: Account | None) -> Account:
        while account is not None and not account.open:
            account = account.parent
        return account or self.root

    def _count_child(self, parent: Account, change: int) -> None:
        parent.unpaused_children += change
        self._review(parent)

    def _review(self, account: Account) -> None:
        should_pay = account.open and not account.paused and account.unpaused_children == 0
        if should_pay and not account.paying:
            self._start_paying(account)
        elif account.paying and not should_pay:
            self._stop_paying(account)

    def _start_paying(self, account: Account) -> None:
        account.paying = True
        account.weights = None
        account._clock_at = self._clock.copy()
        self._payers.add(account)
        weight = self._weight
        for i in range(self._devices):
            weight[i] += 1.0

    def _stop_paying(self, account: Account) -> None:
        self._collect(account)
        account.paying = False
        self._payers.discard(account)
        if account.weights is not None:
            self._sum_weights()
            return
        weight = self._weight
        for i in range(self._devices):
            weight[i] -= 1.0

    def _sum_weights(self) -> None:
        # Summed afresh, so that no rounding is left behind when unequal weights come and go.
        self._weight = [
            sum(1.0 if p.weights is None else p.weights[i] for p in self._payers)
            for i in range(self._devices)
        ]

    def _collect(self, account: Account) -> None:
        if not account.paying:
            return
        clock, since, paid, weights = self._clock, account._clock_at, account.paid, account.weights
        for i, reached in enumerate(clock):
            if reached != since[i]:
                elapsed = reached - since[i]
                paid[i] += elapsed if weights is None else elapsed * weights[i]
                since[i] = reached

    def _hand_up(self, account: Account) -> None:
        """Add to the parent what this account and its closed children paid since it was last handed up."""
        parent = account.parent
        if parent is None:
            return
        joules, grams = self.inclusive(account)
        total, handed = parent.children_j, account._handed_j
        for i, amount in enumerate(joules):
            total[i] += amount if handed is None else amount - handed[i]
        parent.children_g += grams - account._handed_g
        account._handed_j, account._handed_g = joules, grams
