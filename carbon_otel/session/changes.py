"""Settings that a later call of `instrument()` names. They change in the running measurement.

The measurement goes on: no stage ends, and no joule is counted twice or lost. A place holds for the whole
measurement, because a process stays where it is: the grams of the process and of its open stages are computed
anew. Stages that have ended, and what the counters have been told, stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from carbon_otel import here
from carbon_otel.config import Settings
from carbon_otel.config.setting import variable
from carbon_otel.guard import log_once
from carbon_otel.host.cgroup import host_threads
from carbon_otel.life import life_cycle
from carbon_otel.runtime import Options
from carbon_otel.session.patches import install_bars
from carbon_otel.session.watchers import Watchers

if TYPE_CHECKING:
    from carbon_otel.session.session import Session

# The sensors, the rates of embodied carbon and the provider of the grid are chosen once.
_FIXED: Final = ("powercap_root", "cpu_family", "embodied_kg", "lifetime_years", "intensity")
_PLACE: Final = ("zone", "region", "pue", "detect_region")
# They stand beside the emissions.
_BESIDE: Final = ("market_intensity", "market_source", "water")


def after(now: Options, later: Options) -> Options:
    """The options after a later call. What its arguments do not name stays."""
    named = {name: getattr(later.settings, name) for name in later.given}
    _say_what_wins(named, now.settings)
    if "region" in named:
        # Zone and PUE of another place, which a former call named, are not those of the region.
        named = {"zone": later.settings.zone, "pue": later.settings.pue} | named
    # A measurement that follows a grid has asked a provider for it.
    for name in (*_FIXED, *(_PLACE if now.settings.intensity else ())):
        if name in named and named[name] != getattr(now.settings, name):
            log_once(
                "%s stays as it was when measuring began: set %s before the program starts, or call "
                "carbon_otel.uninstrument() before this instrument()",
                name,
                variable(name),
                about=name,
            )
        named.pop(name, None)
    tracer, meter = later.tracer_provider, later.meter_provider
    return replace(
        now,
        settings=replace(now.settings, **named),
        tracer_provider=now.tracer_provider if tracer is None else tracer,
        meter_provider=now.meter_provider if meter is None else meter,
    )


def _say_what_wins(named: Mapping[str, Any], now: Settings) -> None:
    """Tell a user who has set a place from outside, as by `carbon-otel run --zone`, that it does not count."""
    for name in _PLACE:
        value, before = named.get(name), getattr(now, name)
        if value is not None and value != before and os.environ.get(variable(name)):
            log_once(
                "%s=%r of the program's instrument() counts, and not %r of %s or `carbon-otel run`",
                name,
                value,
                before,
                variable(name),
                about=(name, value),
            )


def apply(session: Session, before: Settings) -> None:
    """Let the parts of a measurement follow its settings; `before` are those that they follow now."""
    now, engine = session.settings, session.engine
    moved, other = (_differ(names, now, before) for names in (_PLACE, _BESIDE))
    if moved or other:
        factor = here.factor(now) if moved else session.factor
        engine.statements.reprice(factor, life_cycle(now, session.discovery, host_threads(), factor))
        session.otel.instruments.follow_grid(factor)
    if now.attribution != before.attribution:
        # What was used until now is charged by the former rule, and what is used from now on by the new one.
        for rule in (before.attribution, now.attribution):
            session.attribution.change(rule)
            engine.tick()
    if now.checkpoint_interval_s != before.checkpoint_interval_s:
        engine.checkpoints.be_apart(now.checkpoint_interval_s)
        if session.journal is not None:
            session.journal.checkpoint_interval_s = now.checkpoint_interval_s
    session.sampler.interval_s = now.interval_s
    if now.progress_bars:  # the bars themselves see that it is switched off
        install_bars(session.hook)
    if (now.annotate_spans, now.remote_estimates) != (before.annotate_spans, before.remote_estimates):
        _watch_again(session)


def _differ(names: Sequence[str], now: Settings, before: Settings) -> bool:
    return any(getattr(now, name) != getattr(before, name) for name in names)


def change_providers(session: Session, later: Options) -> None:
    """Send to the providers that a later call names, or that the application has set in the meantime."""
    providers = session.providers
    tracer, meter = providers.latest(later.tracer_provider, later.meter_provider)
    if tracer is providers.tracer and meter is providers.meter:
        return
    session.engine.tick(checkpoint=True)  # the former ones are told of all that was used until now
    providers.use(tracer, meter)
    session.otel.follow_providers(session.engine.open_stages)
    if session.kept is not None:
        session.kept.follow(session.otel.instruments)
    _watch_again(session)


def _watch_again(session: Session) -> None:
    session.watchers.shutdown()
    session.watchers = Watchers(session.settings, session.engine, session.providers)
