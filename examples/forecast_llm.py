"""What will it cost to train a language model? The question of an engineer who knows little yet, answered.

    python examples/forecast_llm.py

"We want to train a model of 30 billion parameters for 30 days, or one of 100 billion for 60 days, on a certain
number of A100, in a data centre with a PUE of 1.15 and 0.35 tonnes of CO2 per megawatt-hour." Parameters and days
are given, tokens and GPUs are not: so the forecast says how many GPUs it takes to train the model in that time,
or, for a number of GPUs, on how many tokens. No accelerator is needed to run this.
"""

from __future__ import annotations

import textwrap

import carbon_otel
from carbon_otel.forecast.records import Forecast, Interval

A100 = "A100-80GB"
CASES = (("30B", 30), ("100B", 60))
GPUS = 256


def between(interval: Interval | None) -> str:
    """The median with its 10th and 90th percentile."""
    assert interval is not None
    low, middle, high = (
        f"{x:,.0f}" if x >= 100 else f"{x:.3g}" for x in (interval.p10, interval.p50, interval.p90)
    )
    return f"{middle} ({low} to {high})"


def answer(params: str, days: float, gpus: float | None = None, hardware: str = A100) -> Forecast:
    """The forecast of training a model for so many days; the GPUs, or else the tokens, follow from the rest."""
    known = {} if gpus is None else {"gpus": gpus}
    return carbon_otel.forecast(params, hardware=hardware, days=days, pue=1.15, intensity=350, **known)


def main() -> None:
    """Answer the question in both directions, and discuss it."""
    answers = []
    for params, days in CASES:
        free, fixed = answer(params, days), answer(params, days, GPUS)
        answers.append((params, days, free, fixed))
        print(f"{params} parameters, {days} days")
        print(
            f"  with the tokens that this size needs ({free.tokens.p50 / 1e9:.0f} billion, 20 for each parameter):"
        )
        print(f"    GPUs      {between(free.gpus)}")
        print(f"    energy    {between(free.energy_mwh)} MWh, of which the site's overhead is 13 %")
        print(
            f"    emissions {between(free.emissions_t)} t CO2e, and {between(free.embodied_t)} t for the hardware"
        )
        print(f"  with {GPUS} GPUs:")
        print(f"    tokens    {between(fixed.tokens.times(1e-9))} billion")
        print(f"    energy    {between(fixed.energy_mwh)} MWh, {between(fixed.emissions_t)} t CO2e")
    small, large = answers[0][2], answers[1][2]
    elsewhere = {
        hardware: answer("30B", 30, hardware=hardware).emissions_t.p50
        for hardware in ("V100", "A100-80GB", "H100")
    }
    print()
    print(textwrap.fill(discussion(small, large, elsewhere), 100))


def discussion(small: Forecast, large: Forecast, elsewhere: dict[str, float]) -> str:
    """What an engineer should take from the figures."""
    share = small.influences[0]
    return (
        f"The larger model emits {large.emissions_t.p50 / small.emissions_t.p50:.0f} times as much as the smaller "
        "one, though it has 3.3 times the parameters and twice the days: the work grows with parameters times "
        "tokens, and a larger model needs more tokens too. The number of GPUs hardly changes the energy of a "
        "training whose tokens are fixed, only its duration: twice as many are busy for half as long. Where the "
        "days are fixed, it decides how many tokens the model can see, and the energy grows with it. "
        f"The uncertainty is a factor of {small.emissions_t.width:.1f} from p10 to p90, and {share.share:.0%} of "
        f"it is the {share.name}: one published run on a GPU may reach half or twice of what another does. It "
        "is no error to be removed by more digits of the PUE; a measured run of yours removes most of it, and so "
        "do the first 5 % of the steps (`carbon_otel.progress`). "
        f"The choice of the GPU is worth more than all of that: {elsewhere['V100']:.0f} t on V100, "
        f"{elsewhere['A100-80GB']:.0f} t on A100, {elsewhere['H100']:.0f} t on H100. So is the place: at 30 g/kWh "
        f"instead of 350, the {small.emissions_t.p50:.0f} t are {small.emissions_t.p50 * 30 / 350:.1f}. "
        "Development is not in these figures: failed runs and experiments take half as much again, or several "
        "times as much (`phases` of the forecast)."
    )


if __name__ == "__main__":
    main()
