"""The books: worked examples, and any sequence of operations compared with a plain model of the rule."""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from carbon_otel.records import Cost
from carbon_otel.stages.accounts import Account, Books, Joules

DEVICES = 2
G_PER_J = 0.25
KINDS = ("data_processing", "training", "inference")
AMOUNT = st.sampled_from([0.0, 0.001, 1.0, 60.0, 1e6]) | st.floats(0, 1e4)


class Ledgers(Books):
    """Books that are told what was spent since the last post."""

    def spend(self, joules, embodied_g: float = 0.0) -> None:
        totals = [before + more for before, more in zip(self._posted[0], joules, strict=True)]
        self.post(totals, self._posted[4] + embodied_g)

    def paid(self, account: Account) -> list[float]:
        return list(self.totals(account).exclusive_j)

    def inclusive(self, account: Account) -> list[float]:
        return list(self.totals(account).inclusive_j)


def books(devices: int = 1) -> Ledgers:
    return Ledgers(devices, to_grams=lambda joules: joules * G_PER_J)


def test_nested():
    b = books()
    run = b.open("run")
    b.spend([100])
    train = b.open("training", run)
    b.spend([300])
    b.close(train)
    b.spend([100])
    b.close(run)
    assert (b.inclusive(run), b.inclusive(train), b.paid(run)) == ([500], [300], [200])
    assert b.paid(b.root) == [0]


def overlap(weights: dict[str, float] | None = None) -> tuple[float, float, Ledgers]:
    """A [0, 6], B [4, 10] at 60 W; the weights hold in [4, 6]."""
    b = books()
    first = b.open("a")
    b.spend([240])
    second = b.open("b")
    if weights:
        b.set_weights({first: [weights["a"]], second: [weights["b"]]})
    b.spend([120])
    b.close(first)
    b.spend([240])
    b.close(second)
    return *b.paid(first), *b.paid(second), b


def test_overlap_by_equal_weights():
    assert overlap()[:2] == (300, 300)


def test_overlap_by_weights_three_to_one():
    assert overlap({"a": 1.5, "b": 0.5})[:2] == (330, 270)


def embodied(b: Ledgers, *accounts: Account) -> list[float]:
    return [b.totals(account).exclusive_embodied_g for account in accounts]


def test_embodied_carbon_is_shared_by_the_mean_of_the_weights():
    b = books(2)
    first, second, third = (b.open(kind) for kind in "abc")
    b.spend([0, 0], 3)
    b.set_weights({first: [1.5, 0.5], second: [0.5, 0.1]})
    b.spend([0, 0], 23)
    assert embodied(b, first, second, third, b.root) == pytest.approx([11, 4, 11, 0])
    b.close(first)
    b.spend([0, 0], 13)
    assert embodied(b, first, second, third, b.root) == pytest.approx([11, 7, 21, 0])


def test_calls_get_the_embodied_carbon_of_their_part():
    b = books()
    run = b.open("run", keeps_kinds=True)
    stage = b.open("training", run)
    calls = b.beside("inference", stage)
    b.spend([10], 8)
    b.transfer(stage, calls, (5.0,), 5 * G_PER_J, 4.0)
    assert embodied(b, run, stage, calls) == [0, 4, 4]
    assert b.totals(run).embodied_by_kind == {"run": 0, "training": 4, "inference": 4}
    assert [b.totals(each).inclusive_embodied_g for each in (run, stage)] == [8, 8]


def test_unequal_weights_leave_no_rounding_error():
    b = overlap({"a": 1 + 1 / 3, "b": 2 / 3})[2]
    b.spend([10])
    assert b.paid(b.root) == [10] and b.settle(b.root) == ((10,), 2.5, 0.0)


def test_the_root_pays_when_no_account_is_open():
    b = books()
    b.spend([7])
    stage = b.open("training")
    b.spend([5])
    b.close(stage)
    b.spend([1])
    assert b.settle(b.root) == ((8,), 2.0, 0.0)
    assert b.settle(b.root) == ((0,), 0.0, 0.0)


def test_a_closed_account_pays_no_more_and_closes_once():
    b = books()
    stage = b.open("training")
    b.spend([5])
    b.close(stage)
    assert b.settle(stage) == ((5,), 5 * G_PER_J, 0.0)
    b.spend([5])
    b.close(stage)
    assert b.settle(stage) == ((0,), 0.0, 0.0)
    assert b.paid(stage) == [5]
    b.close(b.root)
    assert b.root.open


def test_joules_of_an_open_child_of_a_closed_parent_go_to_the_grandparent():
    b = books()
    run = b.open("run", keeps_kinds=True)
    parent = b.open("training", run)
    child = b.open("inference", parent)
    b.spend([10])
    b.close(parent)
    b.spend([4])
    b.close(child)
    b.close(run)
    assert (b.inclusive(parent), b.inclusive(child), b.inclusive(run)) == ([10], [14], [14])
    assert {kind: cost.energy_j for kind, cost in b.totals(run).by_kind.items() if cost.energy_j} == {
        "inference": 14
    }


def test_a_stage_opened_below_a_closed_one_is_a_child_of_the_nearest_open():
    b = books()
    run = b.open("run")
    parent = b.open("training", run)
    b.close(parent)
    assert b.open("inference", parent).parent is run


def test_while_an_account_is_paused_its_parent_pays():
    b = books()
    consumer = b.open("training")
    generator = b.open("data_processing", consumer)
    b.spend([1])
    b.pause(generator)
    b.spend([20])
    b.resume(generator)
    b.spend([300])
    b.close(generator)
    assert (b.paid(generator), b.inclusive(consumer)) == ([301], [321])


def test_closing_a_paused_account_leaves_its_open_child_to_pay_alone():
    b = books()
    outer = b.open("training")
    generator = b.open("data_processing", outer)
    inner = b.open("inference", generator)
    b.pause(generator)
    b.close(generator)
    b.spend([10])
    assert (b.paid(inner), b.paid(outer)) == ([10], [0])


def test_accounts_nest_deeper_than_python_recurses():
    b = books()
    account, accounts = None, []
    for _ in range(sys.getrecursionlimit() + 100):
        account = b.open("training", account)
        accounts.append(account)
    b.spend([7])
    assert b.inclusive(b.root) == [7]
    b.close(accounts[0])  # all other accounts are its descendants
    for account in reversed(accounts):
        b.close(account)
    assert [b.inclusive(each) for each in (b.root, *accounts[:2])] == [[7], [7], [7]]


def test_an_account_at_rest_pays_only_through_its_children():
    b = books()
    run = b.open("run")
    b.post([1])
    b.rest(run)
    b.post([21])
    stage = b.open("training", run)
    b.post([321])
    b.close(stage)
    b.post([4321])
    b.wake(run)
    b.post([54321])
    b.close(run)
    assert (b.paid(run), b.inclusive(run), b.paid(b.root)) == ([50001], [50301], [4020])


def test_restored_books_have_the_same_payers():
    b = books()
    idle, busy = b.open("run"), b.open("run")
    inner = b.open("run", busy)
    generator = b.open("data_processing", inner)
    stage = b.open("training", inner)
    known = [idle, busy, inner, generator, stage]
    for account in (idle, busy, inner):
        b.rest(account)
    b.pause(generator)
    for last in (stage, busy):
        assert b.payers() == {stage if last is stage else b.root}
        payers = b.payers()
        b.restore([account for account in known if account.open])
        assert b.payers() == payers
        b.close(last)


class Ledger:
    """The rule in its simplest form: each post adds each payer's part to the payer and to all its ancestors.

    After the joules of the devices come the embodied grams, which payers share by the mean of their weights.
    """

    def __init__(self, kind: str, above: Ledger | None, keeps_kinds: bool) -> None:
        self.kind, self.above, self.keeps_kinds = kind, above, keeps_kinds
        self.open, self.paused, self.resting = True, False, False
        self.weights = [1.0] * DEVICES
        self.paid = [0.0] * (DEVICES + 1)
        self.inclusive = [0.0] * (DEVICES + 1)
        self.by_kind: dict[str, float] = {}
        self.embodied_by_kind: dict[str, float] = {}

    @property
    def all_weights(self) -> list[float]:
        return [*self.weights, sum(self.weights) / DEVICES]


class AnyOrder(RuleBasedStateMachine):
    """Accounts open, close, pause, resume, rest and wake in any order, even parents before children."""

    accounts = Bundle("accounts")

    def __init__(self) -> None:
        super().__init__()
        self.books = books(DEVICES)
        self.root = Ledger("unattributed", None, False)
        self.model: dict[Account, Ledger] = {self.books.root: self.root}
        self.posted = [0.0] * (DEVICES + 1)
        self.settled: dict[Account, list[float]] = {}
        self.payers = [self.root]

    def rests_on(self, ledger: Ledger) -> bool:
        """Whether an account that counts as open is below this one."""
        return any(m.above is ledger and self.counts(m) for m in self.model.values())

    def counts(self, ledger: Ledger) -> bool:
        return ledger.open and not ledger.paused and (not ledger.resting or self.rests_on(ledger))

    def review(self) -> None:
        payers = [
            m
            for m in self.model.values()
            if m.open and not m.paused and not m.resting and not self.rests_on(m)
        ]
        for ledger in payers:
            if ledger not in self.payers:
                ledger.weights = [1.0] * DEVICES
        self.payers = payers

    def note(self, account: Account, paid: tuple[Joules, float, float]) -> None:
        joules, grams, embodied_g = paid
        assert grams == pytest.approx(sum(joules) * G_PER_J)
        so_far = self.settled.setdefault(account, [0.0] * (DEVICES + 1))
        self.settled[account] = [a + b for a, b in zip(so_far, (*joules, embodied_g), strict=True)]

    @rule(target=accounts, above=st.none() | accounts, kind=st.sampled_from(KINDS), keeps_kinds=st.booleans())
    def open(self, above, kind, keeps_kinds):
        account = self.books.open(kind, above, keeps_kinds=keeps_kinds)
        ledger = self.model[above] if above else self.root
        while not ledger.open:
            ledger = ledger.above
        self.model[account] = Ledger(kind, ledger, keeps_kinds)
        self.review()
        return account

    @rule(account=accounts)
    def close(self, account):
        self.books.close(account)
        self.note(account, self.books.settle(account))
        ledger = self.model[account]
        ledger.open = False
        for other in self.model.values():
            if other.above is ledger and other.open:
                other.above = ledger.above
        self.review()

    @rule(account=accounts)
    def pause(self, account):
        self.books.pause(account)
        self.model[account].paused |= self.model[account].open
        self.review()

    @rule(account=accounts)
    def resume(self, account):
        self.books.resume(account)
        if self.model[account].open:
            self.model[account].paused = False
        self.review()

    @rule(account=accounts)
    def rest(self, account):
        self.books.rest(account)
        self.model[account].resting |= self.model[account].open
        self.review()

    @rule(account=accounts)
    def wake(self, account):
        self.books.wake(account)
        if self.model[account].open:
            self.model[account].resting = False
        self.review()

    @rule(amounts=st.tuples(*[AMOUNT] * (DEVICES + 1)))
    def post(self, amounts):
        *joules, embodied_g = amounts
        self.books.spend(joules, embodied_g)
        for i, amount in enumerate(amounts):
            self.posted[i] += amount
            weight = sum(p.all_weights[i] for p in self.payers)
            for payer in self.payers:
                part = amount * payer.all_weights[i] / weight
                payer.paid[i] += part
                ledger: Ledger | None = payer
                while ledger is not None:
                    ledger.inclusive[i] += part
                    if ledger.keeps_kinds:
                        kinds = ledger.by_kind if i < DEVICES else ledger.embodied_by_kind
                        kinds[payer.kind] = kinds.get(payer.kind, 0.0) + part
                    ledger = ledger.above

    @rule(data=st.data())
    def set_weights(self, data):
        weights = st.lists(st.floats(1e-3, 8), min_size=DEVICES, max_size=DEVICES)
        chosen = {account: data.draw(weights) for account in self.books.payers() if data.draw(st.booleans())}
        self.books.set_weights(chosen)
        for account, ledger in self.model.items():
            if ledger in self.payers:
                ledger.weights = chosen.get(account, [1.0] * DEVICES)

    @rule(account=accounts)
    def settle(self, account):
        self.note(account, self.books.settle(account))

    @rule(account=accounts)
    def ask(self, account):
        totals = self.books.totals(account)
        *joules, embodied_g = self.model[account].inclusive
        assert list(totals.inclusive_j) == near(joules)
        assert totals.inclusive_g == near(sum(joules) * G_PER_J)
        assert totals.inclusive_embodied_g == near(embodied_g)

    @rule()
    def restore(self):
        """What follows an exception changes nothing if nothing was broken off."""
        self.books.restore([account for account, model in self.model.items() if model.open][1:])

    @invariant()
    def the_open_accounts_on_which_nothing_rests_are_the_payers(self):
        assert {self.model[account] for account in self.books.payers()} == set(self.payers)

    @invariant()
    def nothing_is_negative(self):
        for account in self.model:
            totals = self.books.totals(account)
            assert min(*totals.exclusive_j, totals.exclusive_g, *totals.inclusive_j, totals.inclusive_g) >= 0
            assert 0 <= totals.exclusive_embodied_g <= totals.inclusive_embodied_g + 1e-6

    def teardown(self):
        for account in self.model:
            self.note(account, self.books.settle(account))
        for account, ledger in self.model.items():
            totals = self.books.totals(account)
            *joules, embodied_g = ledger.paid
            assert list(totals.exclusive_j) == near(joules)
            assert self.settled[account] == near(ledger.paid)
            assert totals.exclusive_g == near(sum(joules) * G_PER_J)
            assert totals.exclusive_embodied_g == near(embodied_g)
            assert [*totals.inclusive_j, totals.inclusive_embodied_g] == near(ledger.inclusive)
            for kind, grams in (ledger.embodied_by_kind if ledger.keeps_kinds else {}).items():
                assert totals.embodied_by_kind.get(kind, 0.0) == near(grams)
            for kind, joules in (ledger.by_kind if ledger.keeps_kinds else {}).items():
                assert totals.by_kind.get(kind, Cost(0.0, 0.0)).energy_j == near(joules)
        for i in range(DEVICES):
            assert sum(self.books.paid(each)[i] for each in self.model) == pytest.approx(
                self.posted[i], rel=1e-9
            )
        # Whatever is nested or runs at once: the hardware is charged once.
        embodied_g = [self.books.totals(each).exclusive_embodied_g for each in self.model]
        assert sum(embodied_g) == pytest.approx(self.posted[DEVICES], rel=1e-9)


def near(value):
    return pytest.approx(value, rel=1e-9, abs=1e-6)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(stateful_step_count=40)
