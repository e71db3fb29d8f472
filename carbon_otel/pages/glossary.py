"""The words of the pages that need a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Term(NamedTuple):
    """A word and its meaning."""

    word: str
    meaning: str


GLOSSARY: Final[Mapping[str, Term]] = {
    "energy": Term(
        "Energy",
        "Electricity of the machines: processors, accelerators and memory, as far as they were reserved for these "
        "runs. Cooling is not in it; it is in the emissions, by the PUE. 1 Wh is 3,600 J.",
    ),
    "emissions": Term(
        "Emissions",
        "Greenhouse gases of the electricity, in grams of CO2 equivalent: energy × PUE × carbon intensity of the "
        "grid. Making the hardware is not in them.",
    ),
    "band": Term(
        "Band",
        "The range in which the true figure is expected in about 95 of 100 cases (k = 2), from the errors of "
        "sensors, models and tables.",
    ),
    "measured": Term(
        "Measured",
        "The share of the energy that sensors of the hardware have measured. The rest comes from models, which "
        "have wider bands.",
    ),
    "lower-bound": Term(
        "Lower bound",
        "A figure that may be too low: the run did not end in order, or a component could not be read.",
    ),
    "stage": Term(
        "Stage",
        "A part of a run, such as training. Each joule is in one stage only; run is the time between the stages.",
    ),
    "attempt": Term(
        "Attempt",
        "A run, whether it succeeded or not. Failed and killed runs count too, because their energy was used.",
    ),
    "inference": Term("Inference", "Use of the trained model: predictions, answers, batches of scores."),
    "amortisation": Term(
        "Amortisation",
        "The energy of inference compared with that of all training. From the day on which it is more, using the "
        "model matters more than having made it.",
    ),
    "embodied": Term(
        "Embodied carbon",
        "Emissions of making the hardware, for the part of its life in which it was reserved for these runs.",
    ),
    "operational": Term(
        "Operational", "Emissions of the electricity that was used, in contrast to embodied carbon."
    ),
    "market": Term(
        "Market-based",
        "Emissions by the contracts of the buyer of the electricity. All other figures are location-based: by the "
        "grid that delivers it.",
    ),
    "sci": Term(
        "SCI",
        "Software Carbon Intensity (ISO/IEC 21031): operational and embodied emissions for one unit of work.",
    ),
    "water": Term("Water", "Litres that power stations and the cooling of the site consume."),
    "intensity": Term(
        "Carbon intensity", "Emissions of one kilowatt-hour of the grid, in grams of CO2 equivalent."
    ),
    "pue": Term(
        "PUE",
        "Power usage effectiveness: energy of the whole data centre over that of its machines. 1 without cooling "
        "and losses.",
    ),
    "cfe": Term(
        "CFE",
        "Share of carbon-free energy by the hour, with the provider's contracts. It is in no other figure.",
    ),
    "method": Term(
        "Method",
        "How the energy was found: measured by a counter or by a power sensor, modelled by utilisation or by a "
        "constant, or missing.",
    ),
    "attribution": Term(
        "Attribution",
        "The rule for the part of the host that is charged: what is reserved, or what the process has used.",
    ),
    "pareto": Term("Pareto front", "The runs that no other run beats in both emissions and quality."),
    "light": Term(
        "Round trip",
        "The time of light in glass there and back along the great circle. Routes take up to twice that.",
    ),
}
