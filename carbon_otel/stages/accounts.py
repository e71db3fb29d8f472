"""The books that divide the joules of every device among the open stages.

Accounts form a tree. Its root is `unattributed`; a stage's account is a child of the stage it was opened in.
At any moment the payers are the open accounts without an open child. A paused account does not count as open.
An account beside the others never pays by itself: it is given joules that its parent has paid (`transfer`).
An account at rest (a run that no work belongs to) does not pay, and counts as open while an account below it
does. So the root pays exactly when no other account counts as open. Payers share by weight (`sums.py`). Opening or
closing an account costs the same for any number of them, as long as the stages of one line of execution follow
each other; a stage beside another one also changes the sums of those that enclose both.

    sum of all accounts' exclusive joules = joules posted          (always, to float precision)
    inclusive = exclusive + the joules that those below paid while the account was open

An exception may arrive between any two bytecodes. No sum is then wrong, and the weights can be found again from
the tree: `restore` loses and repeats no joule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final, NamedTuple

from carbon_otel.records import Cost
from carbon_otel.stages.sums import (
    NONE,
    ONE,
    ONE_LESS,
    Joules,
    KindSum,
    Paid,
    Posted,
    Sum,
    Weights,
    less,
    minus,
    paid,
    paid_of_kind,
    plus,
    post,
    together,
    uneven,
)

NO_KINDS: Final[Mapping[str, float]] = MappingProxyType({})


class Totals(NamedTuple):
    """The joules per device and the grams of an account at one moment, and its costs by kind if it keeps them.

    The embodied grams are those of making the hardware, for the time in which it was reserved.
    """

    exclusive_j: Joules
    exclusive_g: float
    inclusive_j: Joules
    inclusive_g: float
    by_kind: Mapping[str, Cost]
    exclusive_embodied_g: float = 0.0
    inclusive_embodied_g: float = 0.0
    embodied_by_kind: Mapping[str, float] = NO_KINDS


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
        self._told: Paid = nothing[2], 0.0, 0.0

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
        # What a gram of the sums is worth now.
        self.worth = 1.0
        zero: Joules = (0.0,) * devices
        self._posted: Posted = zero, zero, 0.0, 0.0, 0.0, 0.0
        self._payers: set[Account] = set()
        self._weights = NONE  # of all payers together
        self._nothing: Sum = NONE, self._posted, zero, 0.0, 0.0
        self._nothing_of_kind: KindSum = NONE, self._posted, 0.0, 0.0, 0.0
        self.root = Account("unattributed", None, self._nothing, keeps_kinds=True)
        self._review(self.root, None)
        # Enters the sums of the last transfer: again, after an exception has broken that off.
        self._transferred: Callable[[], None] = _nothing_transferred

    def reprice(self, worth: float) -> None:
        """From now on a gram of `to_grams` counts as `worth` grams, of what is paid already too."""
        self.worth = worth

    def post(self, totals: Sequence[float], embodied_g: float = 0.0) -> None:
        """Charge the payers with the joules of each device, and the embodied grams, up to these totals."""
        self._posted = post(self._posted, totals, self._weights, self._to_grams, embodied_g)

    def open(self, kind: str, parent: Account | None = None, *, keeps_kinds: bool = False) -> Account:
        """Open an account below `parent`, or below the nearest of its ancestors that is still open."""
        above = self.root
        if parent is not None:
            above = parent if parent.open else parent.parent or above
        account = Account(kind, above, self._nothing, keeps_kinds=keeps_kinds)
        above._children += 1
        self._review(account, above)
        if above._resting and above._children == 1 and not above._paused:
            self._count(above, 1)
        return account

    def beside(self, kind: str, parent: Account | None) -> Account:
        """Open an account that only gets what is transferred to it."""
        above = self.root if parent is None else parent
        account = Account(kind, above, self._nothing, keeps_kinds=False)
        account._paused = True
        return account

    def transfer(
        self, source: Account, target: Account, joules: Joules, grams: float, embodied_g: float = 0.0
    ) -> None:
        """Let `target`, an account below `source`, have paid these joules and grams in place of it."""
        taken = tuple([-each for each in joules])
        own = [
            (source, self._plus(source._own, (taken, -grams, -embodied_g))),
            (target, self._plus(target._own, (joules, grams, embodied_g))),
        ]
        below = None if source is self.root else self._plus(source._below, (joules, grams, embodied_g))
        kinds: dict[tuple[Account, str], KindSum] = {}
        for account, sign in (source, -1), (target, 1):
            for keeper in _keepers(account):
                before = keeper._kinds.get(account.kind, self._nothing_of_kind)
                before = kinds.get((keeper, account.kind), before)
                kind_j, kind_g, kind_embodied = paid_of_kind(before, self._posted)
                kinds[keeper, account.kind] = (
                    before[0],
                    self._posted,
                    kind_j + sign * sum(joules),
                    kind_g + sign * grams,
                    kind_embodied + sign * embodied_g,
                )
        self._transferred = partial(_enter_transfer, own, source, below, kinds)
        self._transferred()
        self._transferred = _nothing_transferred

    def _plus(self, total: Sum, more: Paid) -> Sum:
        return total[0], self._posted, *together(paid(total, self._posted), more)

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
        had_children = parent._children > 0
        account.open, counted = False, _counts(account)
        parent._children += account._children - counted
        self._review(account, parent)
        if parent._resting and not parent._paused and (parent._children > 0) is not had_children:
            self._count(parent, -1 if had_children else 1)
        if account._below[0] != NONE:
            account._below = self._reweighed(account._below, NONE)
        for kind, total in account._kinds.items():
            account._kinds[kind] = NONE, self._posted, *paid_of_kind(total, self._posted)

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

    def paid(self, account: Account) -> Paid:
        """The joules that the account has paid, their grams by `to_grams`, and its embodied grams."""
        return paid(account._own, self._posted)

    def owed(self, account: Account) -> Paid:
        """The joules, grams and embodied grams that the account has paid since it was last settled."""
        return self._priced(less(paid(account._own, self._posted), account._told))

    def _priced(self, amount: Paid) -> Paid:
        joules, grams, embodied_g = amount
        return joules, grams * self.worth, embodied_g

    def settle(self, account: Account, held_back: Paid | None = None) -> Paid:
        """The same, and settle the account; but not for what is `held_back`."""
        now, owed = paid(account._own, self._posted), self.owed(account)
        if held_back is not None:
            now, owed = less(now, held_back), less(owed, self._priced(held_back))
        account._told = now
        return owed

    def totals(self, account: Account) -> Totals:
        """What an account has paid up to now; changes nothing."""
        posted, worth = self._posted, self.worth
        own = own_j, own_g, own_embodied = self._priced(paid(account._own, posted))
        by_kind: dict[str, Cost] = {}
        embodied = NO_KINDS
        if account._kinds:
            kinds = [(kind, paid_of_kind(total, posted)) for kind, total in list(account._kinds.items())]
            by_kind = {kind: Cost(joules, grams * worth) for kind, (joules, grams, _) in kinds}
            embodied = {kind: of_kind[2] for kind, of_kind in kinds}
        if account is self.root:
            all_j, all_g, all_embodied = (
                posted[0],
                sum([cost.emissions_g for cost in by_kind.values()]),
                posted[4],
            )
        elif account._below is self._nothing:
            all_j, all_g, all_embodied = own
        else:
            all_j, all_g, all_embodied = together(own, self._priced(paid(account._below, posted)))
        return Totals(own_j, own_g, all_j, all_g, by_kind, own_embodied, all_embodied, embodied)

    def payers(self, at_most: int | None = None) -> frozenset[Account] | None:
        """The accounts that pay now; None if there are more than `at_most`."""
        if at_most is not None and len(self._payers) > at_most:
            return None
        return frozenset(self._payers)

    def set_weights(self, weights: Mapping[Account, Sequence[float]]) -> None:
        """Let these payers share by these weights per device from now on; all other payers have weight one."""
        for account in self._payers:
            chosen = weights.get(account)
            new = ONE if chosen is None else uneven(chosen)
            change = plus(new, minus(account._own[0]))
            if change != NONE:
                account._own = self._reweighed(account._own, new)
                self._change_kind(account, change)
                self._spread(account, change)

    def restore(self, known: Collection[Account]) -> None:
        """Find the payers and all weights again, after an exception has broken off a change.

        `known` are the open accounts, in the order in which they were opened.
        """
        self._transferred()
        self._transferred = _nothing_transferred
        accounts = [self.root, *known]
        for account in accounts:
            account.open = True
            account._children = 0
        # Those below come first: an account at rest counts if one below it does.
        for account in reversed(accounts[1:]):
            if _counts(account):
                (account.parent or self.root)._children += 1
        below = dict.fromkeys(accounts, NONE)
        kinds: dict[Account, dict[str, Weights]] = {each: {} for each in accounts if each._keeper is each}
        self._payers = set()
        for account in reversed(accounts):
            account._paying = not (account._paused or account._resting or account._children)
            weights = NONE
            if account._paying:
                self._payers.add(account)
                weights = account._own[0] if account._own[0] != NONE else ONE
            account._own = self._reweighed(account._own, weights)
            account._below = self._reweighed(account._below, below[account])
            for keeper in _keepers(account):
                kinds[keeper][account.kind] = plus(kinds[keeper].get(account.kind, NONE), weights)
            weights = plus(weights, below[account])
            above = account.parent
            if above is not None:
                below[above] = plus(below[above], weights)
            else:
                self._weights = weights
        for keeper, by_kind in kinds.items():
            for kind in keeper._kinds.keys() | by_kind.keys():
                now = paid_of_kind(keeper._kinds.get(kind, self._nothing_of_kind), self._posted)
                keeper._kinds[kind] = by_kind.get(kind, NONE), self._posted, *now

    def _review(self, account: Account, parent: Account | None) -> None:
        """Start or stop charging an account and its parent, by the rule in the docstring of the module."""
        change = self._start_or_stop(account)
        if parent is None:
            self._weights = plus(self._weights, change)
            return
        if change is not NONE and parent is not self.root:
            parent._below = self._shifted(parent._below, change)
        above = self._start_or_stop(parent)
        if (change is ONE and above is ONE_LESS) or (change is ONE_LESS and above is ONE):
            return
        change = plus(change, above)
        if change != NONE:
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
            return NONE
        account._paying = pays
        own, posted = account._own, self._posted
        if pays:
            self._payers.add(account)
            change = ONE
            account._own = ONE, posted, own[2], own[3], own[4]
        else:
            self._payers.discard(account)
            change = ONE_LESS if own[0] is ONE else minus(own[0])
            account._own = NONE, posted, *paid(own, posted)
        self._change_kind(account, change)
        return change

    def _change_kind(self, account: Account, change: Weights) -> None:
        """Change the weights of the account's kind."""
        kind, posted, keeper = account.kind, self._posted, account._keeper
        while keeper is not None:
            if keeper.open:
                total = keeper._kinds.get(kind, self._nothing_of_kind)
                (count, others), since, joules, grams, embodied = total
                # Not `plus` and `paid_of_kind`, because this runs four times at every edge of a stage in a run.
                if others is None and change[1] is None:
                    if count:
                        joules += (posted[2] - since[2]) * count
                        grams += (posted[3] - since[3]) * count
                        embodied += (posted[5] - since[5]) * count
                    keeper._kinds[kind] = (count + change[0], None), posted, joules, grams, embodied
                else:
                    keeper._kinds[kind] = plus(total[0], change), posted, *paid_of_kind(total, posted)
            keeper = keeper._outer

    def _spread(self, account: Account, change: Weights) -> None:
        """Change the weights of all payers together, and of those below each account above this one."""
        self._weights = plus(self._weights, change)
        above = account.parent
        while above is not None and above is not self.root:
            above._below = self._shifted(above._below, change)
            above = above.parent

    def _shifted(self, total: Sum, change: Weights) -> Sum:
        return plus(total[0], change), self._posted, *paid(total, self._posted)

    def _reweighed(self, total: Sum, weights: Weights) -> Sum:
        """The sum up to now, with other weights from now on."""
        return weights, self._posted, *paid(total, self._posted)


def _nothing_transferred() -> None:
    return None


def _enter_transfer(
    own: Sequence[tuple[Account, Sum]],
    source: Account,
    below: Sum | None,
    kinds: Mapping[tuple[Account, str], KindSum],
) -> None:
    for account, total in own:
        account._own = total
    if below is not None:
        source._below = below
    for (keeper, kind), of_kind in kinds.items():
        keeper._kinds[kind] = of_kind


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
