"""The books that divide the joules of every device among the open stages.

Accounts form a tree. Its root is `unattributed`; a stage's account is a child of the stage it was opened in.
At any moment the payers are the open accounts without an open child. A paused account does not count as open. An
account at rest (a run that no work belongs to) does not pay, and counts as open while an account below it does. So
the root pays exactly when no other account counts as open. Payers share by weight, through a virtual clock: one
running sum per device of joules per unit of weight. So the cost of posting energy, and of opening or closing an
account, does not depend on the number of open accounts.

    sum of all accounts' exclusive joules = joules posted          (always, to float precision)
    inclusive = exclusive + the children's joules paid while the account was open
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

Joules = list[float]  # one entry per device


class Account:
    """The energy and emissions that one stage has paid, final once it is closed. Only `Books` changes it.

    `paid` and `grams` are its exclusive joules and grams when the books last settled it. `by_kind` has the
    subtotals of the account and those below it by kind of stage, or is None.
    """

    __slots__ = (
        "_children",
        "_children_g",
        "_children_j",
        "_clock_at",
        "_entered_j",
        "_handed_g",
        "_handed_j",
        "_paused",
        "_paying",
        "_resting",
        "_settled_g",
        "_settled_j",
        "_unpaused_children",
        "_weights",
        "by_kind",
        "grams",
        "kind",
        "open",
        "paid",
        "parent",
    )

    def __init__(self, kind: str, parent: Account | None, devices: int, *, keeps_kinds: bool) -> None:
        self.kind = kind
        self.parent = parent
        self.open = True
        self.paid: Joules = [0.0] * devices
        self.grams = 0.0
        self.by_kind: dict[str, Subtotal] | None = {} if keeps_kinds else None
        self._children: set[Account] = set()
        self._children_j: Joules = [0.0] * devices
        self._children_g = 0.0
        self._unpaused_children = 0
        self._paused = self._resting = self._paying = False
        self._weights: Sequence[float] | None = None  # None: one for every device
        self._clock_at: Joules = []
        self._entered_j = 0.0
        self._settled_j: Joules = [0.0] * devices
        self._settled_g = 0.0
        self._handed_j: Joules | None = None
        self._handed_g = 0.0

    @property
    def inclusive_j(self) -> Joules:
        """The inclusive joules of a closed account."""
        return [own + below for own, below in zip(self.paid, self._children_j, strict=True)]

    @property
    def inclusive_g(self) -> float:
        """The inclusive grams of a closed account."""
        return self.grams + self._children_g


class Subtotal:
    """The exclusive joules and grams of one kind of stage."""

    __slots__ = ("grams", "joules")

    def __init__(self) -> None:
        self.joules = 0.0
        self.grams = 0.0


class Books:
    """The accounts of one process. Not thread-safe: call under one lock.

    `to_grams` converts joules to grams when they are entered, so a grid that changes needs no special case.
    """

    def __init__(self, devices: int, to_grams: Callable[[float], float]) -> None:
        self._devices = devices
        self._to_grams = to_grams
        self._clock: Joules = [0.0] * devices
        self._payers: set[Account] = set()
        # The weights of the payers: the number of payers with weight one, and per device the sum of the others.
        self._equal_payers = 0
        self._weighted: list[float] | None = None
        self.root = Account("unattributed", None, devices, keeps_kinds=True)
        self._start_paying(self.root)

    def post(self, joules: Sequence[float]) -> None:
        """Charge the payers with the joules that the devices spent since the last post."""
        clock, equal, weighted = self._clock, self._equal_payers, self._weighted
        for i, amount in enumerate(joules):
            if amount:
                clock[i] += amount / (equal if weighted is None else equal + weighted[i])

    def open(self, kind: str, parent: Account | None = None, *, keeps_kinds: bool = False) -> Account:
        """Open an account below `parent`, or below the nearest of its ancestors that is still open."""
        while parent is not None and not parent.open:
            parent = parent.parent
        above = parent or self.root
        account = Account(kind, above, self._devices, keeps_kinds=keeps_kinds)
        above._children.add(account)
        self._start_paying(account)
        above._unpaused_children += 1
        if above._paying:
            self._stop_paying(above)
        elif above._resting and above._unpaused_children == 1 and not above._paused:
            self._count(above, 1)
        return account

    def left_out(self, kind: str) -> Account:
        """An account that is closed from the start: it pays nothing, and one opened below it is below the root."""
        account = Account(kind, None, self._devices, keeps_kinds=False)
        account.open = False
        return account

    def restore(self, known: Collection[Account]) -> None:
        """Find the payers again, after an exception has broken off a change. `known` are the open accounts.

        A joule that was being charged at that moment may be lost or be there twice.
        """
        accounts = [self.root, *known]
        for account in accounts:
            account._children = set()
            account._unpaused_children = 0
        for account in known:
            above = account.parent or self.root
            while above not in known and above.parent is not None:
                above = above.parent
            account.parent = above
            above._children.add(account)
        self._payers = set()
        for account in known:
            each, counts = account, not account._paused and not account._resting
            while counts and each.parent is not None:
                each = each.parent
                counted = _counts(each)
                each._unpaused_children += 1
                counts = _counts(each) != counted
        for account in accounts:
            was_paying = account._paying
            account._paying = not (account._paused or account._resting or account._unpaused_children)
            account._weights = None
            if account._paying:
                self._payers.add(account)
                if not was_paying:
                    account._clock_at = self._clock.copy()
        self._sum_weights()

    def close(self, account: Account) -> tuple[Joules, float]:
        """End an account; its last joules and grams, as `settle` gives them.

        The joules that its open children pay from now on go to its parent's total.
        """
        parent = account.parent
        if not account.open or parent is None:
            return [0.0] * self._devices, 0.0
        last = self.settle(account)
        if account._paying:
            self._stop_paying(account)
        counted, parent_counted = _counts(account), parent._resting and _counts(parent)
        if account._children:
            self._adopt_children(account, parent)
        account.open = False
        self._hand_up(account, parent, account.inclusive_j, account.inclusive_g)
        parent._children.discard(account)
        if counted:
            parent._unpaused_children -= 1
        self._review(parent)
        if parent._resting and _counts(parent) != parent_counted:
            self._count(parent, -1 if parent_counted else 1)
        return last

    def pause(self, account: Account) -> None:
        """Stop charging a suspended generator; the stage that resumes it pays."""
        if account.open and not account._paused and account.parent is not None:
            counted = _counts(account)
            account._paused = True
            self._recount(account, counted)

    def resume(self, account: Account) -> None:
        """End a pause."""
        if account.open and account._paused and account.parent is not None:
            account._paused = False
            self._recount(account, False)

    def rest(self, account: Account) -> None:
        """Charge only what is below the account, until it wakes."""
        if account.open and not account._resting and account.parent is not None:
            counted = _counts(account)
            account._resting = True
            self._recount(account, counted)

    def wake(self, account: Account) -> None:
        """End a rest."""
        if account.open and account._resting and account.parent is not None:
            counted = _counts(account)
            account._resting = False
            self._recount(account, counted)

    def settle(self, account: Account) -> tuple[Joules, float]:
        """The joules and grams that the account has paid since it was last settled."""
        self._enter(account)
        paid, settled = account.paid, account._settled_j
        joules = [now - then for now, then in zip(paid, settled, strict=True)]
        grams = account.grams - account._settled_g
        account._settled_j, account._settled_g = paid.copy(), account.grams
        return joules, grams

    def inclusive(self, account: Account) -> tuple[Joules, float]:
        """Inclusive joules and grams up to now, open children included."""
        joules, grams = [0.0] * self._devices, 0.0
        waiting = [account]
        while waiting:
            each = waiting.pop()
            if each.open:
                self._enter(each)
            for i, amount in enumerate(each.inclusive_j):
                joules[i] += amount
            grams += each.inclusive_g
            # This much is in the total of a former parent that has closed.
            if each is not account and each._handed_j is not None:
                for i, amount in enumerate(each._handed_j):
                    joules[i] -= amount
                grams -= each._handed_g
            waiting.extend(each._children)
        return joules, grams

    def payers(self) -> frozenset[Account]:
        """The accounts that pay now."""
        return frozenset(self._payers)

    def set_weights(self, weights: dict[Account, list[float]]) -> None:
        """Let these payers share by these weights per device from now on; all other payers have weight one."""
        for account in self._payers:
            self._collect(account)
            account._weights = weights.get(account)
        self._sum_weights()

    def _enter(self, account: Account) -> None:
        """Bring the account's joules, grams and its ancestors' subtotals up to date."""
        if account._paying:
            self._collect(account)
        total_j = sum(account.paid)
        joules = total_j - account._entered_j
        account._entered_j = total_j
        grams = self._to_grams(joules)
        account.grams += grams
        above: Account | None = account
        while above is not None:
            if above.by_kind is not None:
                subtotal = above.by_kind.get(account.kind)
                if subtotal is None:
                    subtotal = above.by_kind[account.kind] = Subtotal()
                subtotal.joules += joules
                subtotal.grams += grams
            above = above.parent

    def _recount(self, account: Account, counted: bool) -> None:
        """Review an account whose state has changed; `counted` is whether it counted as open before."""
        self._review(account)
        if _counts(account) != counted:
            self._count(account, -1 if counted else 1)

    def _count(self, account: Account, change: int) -> None:
        """The account counts as an open child of its parent from now on (1), or no longer (-1)."""
        above = account.parent
        while above is not None:
            counted = _counts(above)
            above._unpaused_children += change
            self._review(above)
            if _counts(above) == counted:
                return
            above = above.parent

    def _review(self, account: Account) -> None:
        """Start or stop charging the account, by the rule in the docstring of the module."""
        should_pay = (
            account.open and not account._paused and not account._resting and account._unpaused_children == 0
        )
        if should_pay and not account._paying:
            self._start_paying(account)
        elif account._paying and not should_pay:
            self._stop_paying(account)

    def _start_paying(self, account: Account) -> None:
        account._paying = True
        account._weights = None
        account._clock_at = self._clock.copy()
        self._payers.add(account)
        self._equal_payers += 1

    def _stop_paying(self, account: Account) -> None:
        self._collect(account)
        account._paying = False
        self._payers.discard(account)
        if account._weights is None:
            self._equal_payers -= 1
        else:
            self._sum_weights()

    def _sum_weights(self) -> None:
        # Summed again, so that rounding errors do not accumulate as unequal weights change.
        weighted = [payer._weights for payer in self._payers if payer._weights is not None]
        self._equal_payers = len(self._payers) - len(weighted)
        self._weighted = [sum(weights) for weights in zip(*weighted, strict=True)] if weighted else None

    def _collect(self, account: Account) -> None:
        """Charge a payer with its part of the joules posted since its last charge."""
        clock, since, paid, weights = self._clock, account._clock_at, account.paid, account._weights
        for i, reached in enumerate(clock):
            if reached != since[i]:
                elapsed = reached - since[i]
                paid[i] += elapsed if weights is None else elapsed * weights[i]
                since[i] = reached

    def _adopt_children(self, account: Account, parent: Account) -> None:
        """Give the open children of a closing account to its parent."""
        for child in account._children:
            self._hand_up(child, account, *self.inclusive(child))
            child.parent = parent
            parent._children.add(child)
            if _counts(child):
                parent._unpaused_children += 1
        account._children.clear()

    @staticmethod
    def _hand_up(account: Account, parent: Account, joules: Joules, grams: float) -> None:
        """Add to the parent the inclusive joules and grams that no parent has received yet."""
        total, handed = parent._children_j, account._handed_j
        for i, amount in enumerate(joules):
            total[i] += amount if handed is None else amount - handed[i]
        parent._children_g += grams - account._handed_g
        account._handed_j, account._handed_g = joules, grams


def _counts(account: Account) -> bool:
    """Whether the account counts as an open child of its parent."""
    return not account._paused and (not account._resting or account._unpaused_children > 0)
