"""The books that divide the joules of every device among the open stages.

Accounts form a tree. Its root is `unattributed`; a stage's account is a child of the stage it was opened in.
At any moment the payers are the open accounts without an open child. A paused account does not count as open.
An account at rest (a run that no work belongs to) does not pay, and counts as open while an account below it
does. So the root pays exactly when no other account counts as open. Payers share by weight, through a virtual
clock: one running sum per device of joules per unit of weight. So posting energy costs the same for any
number of accounts, and opening or closing one costs the same as long as the stages of one line of execution
follow each other; a stage beside another one also changes the sums of those that enclose both.

    sum of all accounts' exclusive joules = joules posted          (always, to float precision)
    inclusive = exclusive + the joules that those below paid while the account was open

An exception may arrive between any two bytecodes. So a sum of joules and the clock it was taken at are one tuple,
replaced by one assignment, and the weights can be found again from the tree: `restore` loses and repeats no joule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from operator import add, sub
from typing import Final, NamedTuple

from carbon_otel.records import Cost

Joules = tuple[float, ...]  # one entry per device
# The weights of some payers together: the number of those with weight one, and per device the sum of the others.
Weights = tuple[int, Joules | None]
# The joules posted; the clock, which is joules per unit of weight; and its sum over the devices.
Posted = tuple[Joules, Joules, float]
# What some payers have paid: their weights, what was posted when the sums were taken, joules and grams up to then.
# A plain tuple, because each edge of a stage makes several.
Sum = tuple[Weights, Posted, Joules, float]
# The same for a kind of stage, with the joules of all devices together.
KindSum = tuple[Weights, Posted, float, float]

_NONE: Final[Weights] = (0, None)
_ONE: Final[Weights] = (1, None)
_ONE_LESS: Final[Weights] = (-1, None)
# Weights are multiples of this, so that floats add and subtract them without a rounding error.
_WEIGHT_UNIT: Final = 2.0**-40


class Totals(NamedTuple):
    """The joules per device and the grams of an account at one moment, and its costs by kind if it keeps them."""

    exclusive_j: Joules
    exclusive_g: float
    inclusive_j: Joules
    inclusive_g: float
    by_kind: Mapping[str, Cost]


class Account:
    """What one stage has paid, final once it is closed. Only `Books` changes it."""

    __slots__ = (
        "_below",
        "_children",
        "_keeper",
        "_kinds",
        "_outer",
        "_own",
        "_parent",
        "_paused",
        "_paying",
        "_resting",
        "_told",
        "kind",
        "open",
    )

    def __init__(self, kind: str, parent: Account | None, nothing: Sum, *, keeps_kinds: bool) -> None:
        self.kind = kind
        self.open = True
        self._parent = parent
        self._own = self._below = nothing
        self._outer: Account | None = parent._keeper if parent is not None else None
        # `_below` are the payments of those below it; the root's are all that is posted, without its own.
        # The nearest account that keeps sums by kind of stage, of itself and of those below it; and its own sums.
        self._keeper: Account | None = self if keeps_kinds else self._outer
        self._kinds: dict[str, KindSum] = {}
        # The children that count as open.
        self._children = 0
        self._paused = self._resting = self._paying = False
        self._told: tuple[Joules, float] = nothing[2], 0.0

    @property
    def parent(self) -> Account | None:
        """The nearest account above it that is open."""
        above = self._parent
        while above is not None and not above.open:
            above = above._parent
        if above is not self._parent:
            self._parent = above
        return above


class Books:
    """The accounts of one process. Not thread-safe: change them under one lock.

    `to_grams` converts joules to grams when they are added up, so a grid that changes needs no special case.
    """

    def __init__(self, devices: int, to_grams: Callable[[float], float]) -> None:
        self._to_grams = to_grams
        self._zero: Joules = (0.0,) * devices
        self._posted: Posted = self._zero, self._zero, 0.0
        self._payers: set[Account] = set()
        self._weights = _NONE  # of all payers together
        self._nothing: Sum = _NONE, self._posted, self._zero, 0.0
        self.root = Account("unattributed", None, self._nothing, keeps_kinds=True)
        self._review(self.root, None)

    def post(self, totals: Sequence[float]) -> None:
        """Charge the payers with the joules up to these totals of each device."""
        (posted, clock, _), (count, others) = self._posted, self._weights
        if others is None:
            clock = tuple(
                [c + (total - before) / count for c, total, before in zip(clock, totals, posted, strict=True)]
            )
        else:
            clock = tuple(
                [
                    c + (total - before) / (count + other)
                    for c, total, before, other in zip(clock, totals, posted, others, strict=True)
                ]
            )
        self._posted = tuple(totals), clock, sum(clock)

    def open(self, kind: str, parent: Account | None = None, *, keeps_kinds: bool = False) -> Account:
        """Open an account below `parent`, or below the nearest of its ancestors that is still open."""
        above = parent if parent is not None and parent.open else parent and parent.parent
        above = above or self.root
        account = Account(kind, above, self._nothing, keeps_kinds=keeps_kinds)
        above._children += 1
        self._review(account, above)
        if above._resting and above._children == 1 and not above._paused:
            self._count(above, 1)
        return account

    def left_out(self, kind: str) -> Account:
        """An account that is closed from the start: it pays nothing, and one opened below it is below the root."""
        account = Account(kind, None, self._nothing, keeps_kinds=False)
        account.open = False
        return account

    def close(self, account: Account) -> None:
        """End an account. The joules that its open children pay from now on go to its parent's total."""
        parent = account.parent
        if not account.open or parent is None:
            return
        counted, parent_counted = _counts(account), _counts(parent)
        account.open = False
        parent._children += account._children - counted
        self._review(account, parent)
        if _counts(parent) != parent_counted:
            self._count(parent, -1 if parent_counted else 1)
        if account._below[0] != _NONE:
            account._below = self._reweighed(account._below, _NONE)
        for kind, total in account._kinds.items():
            account._kinds[kind] = _NONE, *self._of_kind_now(total)

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

    def owed(self, account: Account) -> tuple[Joules, float]:
        """The joules and grams that the account has paid since it was last settled."""
        joules, grams = self._now(account._own)
        told_j, told_g = account._told
        return tuple(map(sub, joules, told_j)), grams - told_g

    def settle(self, account: Account) -> tuple[Joules, float]:
        """The same, and settle the account."""
        owed = self.owed(account)
        account._told = self._now(account._own)
        return owed

    def totals(self, account: Account) -> Totals:
        """What an account has paid up to now; changes nothing."""
        own_j, own_g = self._now(account._own)
        by_kind = {kind: Cost(*self._of_kind_now(total)[1:]) for kind, total in list(account._kinds.items())}
        if account is self.root:
            all_j, all_g = self._posted[0], sum([cost.emissions_g for cost in by_kind.values()])
        elif account._below is self._nothing:
            all_j, all_g = own_j, own_g
        else:
            below_j, below_g = self._now(account._below)
            all_j, all_g = tuple(map(add, own_j, below_j)), own_g + below_g
        return Totals(own_j, own_g, all_j, all_g, by_kind)

    def payers(self, at_most: int | None = None) -> frozenset[Account] | None:
        """The accounts that pay now; None if there are more than `at_most`."""
        if at_most is not None and len(self._payers) > at_most:
            return None
        return frozenset(self._payers)

    def set_weights(self, weights: Mapping[Account, Sequence[float]]) -> None:
        """Let these payers share by these weights per device from now on; all other payers have weight one."""
        for account in self._payers:
            chosen = weights.get(account)
            new = _ONE if chosen is None else (0, tuple([_rounded(weight) for weight in chosen]))
            if new != account._own[0]:
                self._spread(account, self._weigh(account, new))

    def restore(self, known: Collection[Account]) -> None:
        """Find the payers and all weights again, after an exception has broken off a change.

        `known` are the open accounts, in the order in which they were opened.
        """
        accounts = [self.root, *known]
        for account in accounts:
            account.open = True
            account._children = 0
        # Those below come first: an account at rest counts if one below it does.
        for account in reversed(accounts[1:]):
            if _counts(account):
                (account.parent or self.root)._children += 1
        below = dict.fromkeys(accounts, _NONE)
        kinds: dict[Account, dict[str, Weights]] = {each: {} for each in accounts if each._keeper is each}
        self._payers = set()
        for account in reversed(accounts):
            account._paying = not (account._paused or account._resting or account._children)
            weights = _NONE
            if account._paying:
                self._payers.add(account)
                weights = account._own[0] if account._own[0] != _NONE else _ONE
            account._own = self._reweighed(account._own, weights)
            account._below = self._reweighed(account._below, below[account])
            for keeper in _keepers(account):
                kinds[keeper][account.kind] = _plus(kinds[keeper].get(account.kind, _NONE), weights)
            weights = _plus(weights, below[account])
            above = account.parent
            if above is not None:
                below[above] = _plus(below[above], weights)
            else:
                self._weights = weights
        for keeper, by_kind in kinds.items():
            for kind in keeper._kinds.keys() | by_kind.keys():
                now = self._of_kind_now(keeper._kinds.get(kind, (_NONE, self._posted, 0.0, 0.0)))
                keeper._kinds[kind] = by_kind.get(kind, _NONE), *now

    def _review(self, account: Account, parent: Account | None) -> None:
        """Start or stop charging an account and its parent, by the rule in the docstring of the module."""
        change = self._start_or_stop(account)
        if parent is None:
            self._weights = _plus(self._weights, change)
            return
        if change is not _NONE and parent is not self.root:
            parent._below = self._shifted(parent._below, change)
        above = self._start_or_stop(parent)
        if (change is _ONE and above is _ONE_LESS) or (change is _ONE_LESS and above is _ONE):
            return
        change = _plus(change, above)
        if change != _NONE:
            self._spread(parent, change)

    def _recount(self, account: Account, counted: bool) -> None:
        """Review an account whose state has changed; `counted` is whether it counted as open before."""
        if _counts(account) == counted:
            self._review(account, account.parent)
        else:
            self._count(account, -1 if counted else 1)

    def _count(self, account: Account, change: int) -> None:
        """The account counts as an open child of its parent from now on (1), or no longer (-1)."""
        above = account.parent
        while above is not None:
            counted = _counts(above)
            above._children += change
            self._review(account, above)
            if _counts(above) == counted:
                return
            account, above = above, above.parent

    def _start_or_stop(self, account: Account) -> Weights:
        """Charge the account if it has to pay now, or do not charge it any more; the change of its weights."""
        pays = account.open and not (account._paused or account._resting or account._children)
        if pays is account._paying:
            return _NONE
        account._paying = pays
        if pays:
            self._payers.add(account)
            return self._weigh(account, _ONE)
        self._payers.discard(account)
        return self._weigh(account, _NONE)

    def _weigh(self, account: Account, weights: Weights) -> Weights:
        """Give the account these weights, also in the sums by kind; the change."""
        own, kind = account._own, account.kind
        before = own[0]
        if before[1] is None and weights[1] is None:
            change = _ONE if weights[0] else _ONE_LESS
        else:
            change = _plus(weights, _minus(before))
        posted = self._posted
        if own[1] is posted or before is _NONE:
            account._own = weights, posted, own[2], own[3]
        else:
            account._own = self._reweighed(own, weights)
        keeper = account._keeper
        while keeper is not None:
            if keeper.open:
                total = keeper._kinds.get(kind)
                if total is None:
                    keeper._kinds[kind] = change, posted, 0.0, 0.0
                else:
                    (count, others), since, joules, grams = total
                    if others is None and change[1] is None:
                        if count and since is not posted:
                            spent = (posted[2] - since[2]) * count
                            joules += spent
                            grams += self._to_grams(spent)
                        keeper._kinds[kind] = (count + change[0], None), posted, joules, grams
                    else:
                        keeper._kinds[kind] = _plus(total[0], change), *self._of_kind_now(total)
            keeper = keeper._outer
        return change

    def _spread(self, account: Account, change: Weights) -> None:
        """Change the weights of all payers together, and of those below each account above this one."""
        self._weights = _plus(self._weights, change)
        above = account.parent
        while above is not None and above is not self.root:
            above._below = self._shifted(above._below, change)
            above = above.parent

    def _shifted(self, total: Sum, change: Weights) -> Sum:
        return self._reweighed(total, _plus(total[0], change))

    def _reweighed(self, total: Sum, weights: Weights) -> Sum:
        """The sum up to now, with other weights from now on."""
        return weights, self._posted, *self._now(total)

    def _now(self, total: Sum) -> tuple[Joules, float]:
        """Joules and grams of a sum up to now."""
        (count, others), since, joules, grams = total
        posted = self._posted
        if since is posted:
            return joules, grams
        if others is not None:
            spent = [
                (c - s) * (count + other) for c, s, other in zip(posted[1], since[1], others, strict=True)
            ]
        elif count == 1:
            spent = [*map(sub, posted[1], since[1])]
        elif count:
            spent = [(c - s) * count for c, s in zip(posted[1], since[1], strict=True)]
        else:
            return joules, grams
        return tuple(map(add, joules, spent)), grams + self._to_grams(sum(spent))

    def _of_kind_now(self, total: KindSum) -> tuple[Posted, float, float]:
        """What is posted now, and the joules and grams of a sum by kind up to now."""
        (count, others), since, joules, grams = total
        posted = self._posted
        if since is posted or (not count and others is None):
            return posted, joules, grams
        if others is None:
            spent = (posted[2] - since[2]) * count
        else:
            each = zip(posted[1], since[1], others, strict=True)
            spent = sum([(c - s) * (count + other) for c, s, other in each])
        return posted, joules + spent, grams + self._to_grams(spent)


def _counts(account: Account) -> bool:
    """Whether the account counts as an open child of its parent."""
    return not account._paused and (not account._resting or account._children > 0)


def _keepers(account: Account) -> Iterator[Account]:
    """The open accounts that keep the kind of this one, from the nearest on."""
    keeper = account._keeper
    while keeper is not None:
        if keeper.open:
            yield keeper
        keeper = keeper._outer


def _plus(some: Weights, more: Weights) -> Weights:
    if some[1] is None and more[1] is None:
        return some[0] + more[0], None
    others = tuple(map(add, some[1], more[1])) if some[1] and more[1] else some[1] or more[1]
    return some[0] + more[0], others if others and any(others) else None


def _minus(weights: Weights) -> Weights:
    return -weights[0], weights[1] and tuple([-other for other in weights[1]])


def _rounded(weight: float) -> float:
    return round(weight / _WEIGHT_UNIT) * _WEIGHT_UNIT
