"""The life of a model over seven months, as a ledger made by hand: preparation, attempts, months of use."""

from __future__ import annotations

import math
from calendar import timegm
from datetime import datetime, timedelta, timezone

from carbon_otel.carbon.grid import intensity
from carbon_otel.lifecycle.beside import EntryBeside
from carbon_otel.lifecycle.comparison import RunCost
from carbon_otel.lifecycle.entry import Entry, LedgerCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.mlflow.schema import names

GRID = intensity("DE")
PUE = 1.2
GPU_SERVER = "AMD EPYC 9354 (64 threads), NVIDIA H100 80GB HBM3 x 2"
CPU_SERVER = "Intel Xeon Platinum 8375C (32 threads)"


def entry(
    number: int,
    name: str,
    start: datetime,
    hours: float,
    stages: dict[str, float],
    *,
    status: str = "FINISHED",
    params: dict[str, str] | None = None,
    metrics: dict[str, float] | None = None,
    hardware: str = GPU_SERVER,
    method: str = "measured.counter",
    requests: float = 0.0,
    window: bool = False,
) -> Entry:
    """An entry with watt-hours by kind of stage, used evenly in its hours."""
    wh = sum(stages.values())
    grams = wh / 1000 * GRID.g_per_kwh * PUE
    wide = 0.04 if method == "measured.counter" else 0.35
    band = math.hypot(wide, 0.25)
    whole = max(1, round(hours))
    tags = {
        "carbon.status": "final" if status == "FINISHED" else "running",
        "carbon.method": method,
        "carbon.hardware": hardware,
        "carbon.attribution": "reserved",
        "carbon.pue": str(PUE),
        "carbon.version": "0.1",
        "carbon.embodied_source": "manufacturers' reports",
        "carbon.lifetime_years": "5",
        names.REGION: "aws:eu-central-1",
        **names.intensity_tags(GRID),
        names.HOURLY: " ".join(
            f"{start + timedelta(hours=hour):%Y-%m-%dT%H}={wh / whole:.6g}" for hour in range(whole)
        ),
    }
    made_g = {
        kind: hours * (7.5 if hardware == GPU_SERVER else 1.9) * each / wh for kind, each in stages.items()
    }
    return Entry(
        run_id=f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}",
        name=name,
        experiment_id="1",
        status=status,
        start_ms=timegm(start.timetuple()) * 1000,
        stages={kind: LedgerCost(each, grams * each / wh) for kind, each in stages.items()},
        low_wh=wh * (1 - wide),
        high_wh=wh * (1 + wide),
        low_g=grams * (1 - band),
        high_g=grams * (1 + band),
        measured_wh=wh if method == "measured.counter" else 0.0,
        duration_s=hours * 3600,
        units={"inference/requests": requests} if requests else {},
        components={"cpu": wh * 0.3, "gpu": wh * 0.7},
        tags=tags | ({names.ENTRY: str(number)} if window else {}),
        beside=EntryBeside(made_g, 0.6 * sum(made_g.values()), 1.6 * sum(made_g.values())),
        params=params or {},
        metrics=metrics or {},
    )


def ledger() -> Ledger:
    """Churn, a classifier of a shop: May to November 2026."""
    begin = datetime(2026, 5, 4, 8, tzinfo=timezone.utc)
    entries = [
        entry(1, "features", begin, 3, {"data_processing": 940.0, "run": 22.0}, hardware=CPU_SERVER),
    ]
    trials = [
        ("baseline", 4, 0.1, 0.8112, 1.2, "FINISHED"),
        ("deeper", 8, 0.1, 0.8534, 2.6, "FINISHED"),
        ("deeper, slower", 8, 0.01, 0.8629, 4.1, "FINISHED"),
        ("out of memory", 16, 0.01, None, 0.7, "FAILED"),
        ("deepest", 12, 0.01, 0.8701, 6.4, "FINISHED"),
        ("deepest, dropout", 12, 0.01, 0.8765, 6.8, "FINISHED"),
        ("cut off", 12, 0.003, 0.8410, 2.2, "KILLED"),
        ("final", 12, 0.005, 0.8790, 7.9, "FINISHED"),
    ]
    for place, (name, depth, rate, accuracy, hours, status) in enumerate(trials):
        start = begin + timedelta(days=4 + 3 * place, hours=1 + place % 4)
        stages = {"data_processing": 40.0, "training": 780.0 * hours, "run": 9.0 * hours}
        if status == "FINISHED":
            stages["evaluation"] = 65.0
        entries.append(
            entry(
                10 + place,
                name,
                start,
                hours,
                stages,
                status=status,
                params={"depth": str(depth), "learning_rate": str(rate), "seed": "7"},
                metrics={} if accuracy is None else {"accuracy": accuracy, "loss": 1.1 - accuracy},
            )
        )
    for day in range(150):
        start = datetime(2026, 6, 12, tzinfo=timezone.utc) + timedelta(days=day)
        load = (1 + day / 90) * (0.6 if start.weekday() > 4 else 1.0)
        entries.append(
            entry(
                100 + day,
                "replica 1",
                start + timedelta(hours=7),
                14,
                {"inference": 210.0 * load},
                hardware=CPU_SERVER,
                method="modelled.utilisation" if day % 5 == 0 else "measured.counter",
                requests=41_000 * load,
                window=True,
            )
        )
    return Ledger("churn, experiment shop-churn", tuple(entries), ("smoke test",), ())


def costs() -> tuple[list[RunCost], dict[str, float]]:
    """Its attempts as `compare` sees them, and the accuracy by run id."""
    runs = [each for each in ledger().entries if each.metrics]
    found = [
        RunCost(
            each.run_id,
            each.name,
            each.energy_wh,
            each.low_wh,
            each.high_wh,
            each.emissions_g,
            each.low_g,
            each.high_g,
            each.duration_s,
            each.measured_wh / each.energy_wh,
            each.tags,
        )
        for each in runs
    ]
    return found, {each.run_id: each.metrics["accuracy"] for each in runs}
