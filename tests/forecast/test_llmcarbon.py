"""MLCarbon's own figures, to 1e-12, and its faults refused.

The golden numbers are the output of its tutorial (Python 3.11.7, pandas 3.1.1, numpy 2.4.6).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from carbon_otel.cli import app
from carbon_otel.compat import llmcarbon

DATABASE = Path(__file__).parent / "database.csv"
# name: days, MWh, t predicted, delta, inference t.
GOLDEN = {
    "T5": (
        19.670013000805685,
        83.92001757855418,
        45.736409580312035,
        -0.020633627830577428,
        15.245469860104013,
    ),
    "GPT3": (
        14.805414551607447,
        1289.8477157360408,
        553.3446700507615,
        0.00225442863749592,
        184.4482233502538,
    ),
    "Gshard": (
        3.329627313367151,
        25.085678549093185,
        4.440165103189494,
        0.03259653562546361,
        1.4800550343964978,
    ),
    "Switch": (
        29.88288811459542,
        193.2825203252032,
        63.78323170731706,
        0.07924249927778426,
        21.261077235772355,
    ),
    "XLM": (
        19.705270571278827,
        91.09245283018868,
        37.621183018867924,
        -0.0353542815674891,
        12.540394339622646,
    ),
}
# Parameters in billions, and the number of GPUs that its regression returns for the runs that it was fitted on.
GPUS = {
    1.7: 807,
    3.6: 814,
    7.5: 832,
    18.4: 880,
    39.1: 960,
    76.1: 1120,
    145.6: 1408,
    310.1: 1904,
    529.6: 2464,
    1008: 2968,
}


def test_the_published_rows():
    found = {p.name: p for p in map(llmcarbon.predict, llmcarbon.read(DATABASE))}
    assert list(found) == list(GOLDEN)
    for name, (days, mwh, tonnes, delta, inference) in GOLDEN.items():
        row = found[name]
        assert (row.days, row.energy_mwh, row.predicted_t, row.inference_t) == pytest.approx(
            (days, mwh, tonnes, inference), rel=1e-12
        )
        assert row.delta == pytest.approx(delta, abs=1e-12)


def test_the_embodied_check():
    tonnes = llmcarbon.embodied_t()
    assert tonnes == pytest.approx(0.6480454698082192, rel=1e-12)
    assert tonnes / llmcarbon.XLM_ACTUAL_T - 1 == pytest.approx(-0.018112924533001284, abs=1e-12)


def test_the_regression_on_its_own_table():
    for params_b, gpus in GPUS.items():
        assert llmcarbon.throughput(params_b).gpus == gpus, params_b
    assert llmcarbon.throughput(145.6).tflops == pytest.approx(145.7, abs=0.05)
    # Any other memory is taken for a V100.
    v100 = llmcarbon.throughput(39.1, memory_gb=32)
    assert v100.tflops == pytest.approx(
        llmcarbon.throughput(39.1).tflops * (1 - 7.76 / 33.46) / 312 * 125, rel=0.01
    )


@given(devices=st.integers(1, 10**6))
def test_the_number_of_devices_cancels_out_of_the_energy(devices):
    row = llmcarbon.read(DATABASE)[0]
    from dataclasses import replace

    other = llmcarbon.predict(replace(row, devices=float(devices)))
    assert other.energy_mwh == pytest.approx(llmcarbon.predict(row).energy_mwh, rel=1e-9)


T5 = "T5,dense,11,,600,0.545,1.12,TPUV3,450,310,123,45.6,0.37,512,40.5,20,46.7,85.7"
BAD = {
    "a wrong letter in the type": (T5.replace("dense", "moe"), "unknown type 'moe'"),
    "an unknown type": (T5.replace("dense", "sparse"), "unknown type 'sparse'"),
    "a type in capitals": (T5.replace("dense", "Dense"), "unknown type 'Dense'"),
    "no type": (T5.replace("dense", ""), "no type"),
    "no name": (T5.removeprefix("T5"), "no name"),
    "an MoE without base parameters": (T5.replace("dense", "MoE"), "no base model param"),
    "a missing number": (T5.replace(",310,", ",,"), "no avg. system power (W)"),
    "a missing actual": (T5.replace(",46.7,", ",,"), "no actual tCO2eq"),
    "a negative number": (T5.replace(",600,", ",-600,"), "token # (B) is '-600'"),
    "NaN": (T5.replace(",600,", ",nan,"), "token # (B) is 'nan'"),
    "infinity": (T5.replace(",600,", ",inf,"), "token # (B) is 'inf'"),
    "a word": (T5.replace(",600,", ",many,"), "token # (B) is 'many'"),
    "zero devices": (T5.replace(",512,", ",0,"), "device # is '0'"),
    "an efficiency in per cent": (T5.replace(",0.37,", ",37,"), "hardware efficiency 37"),
    "a PUE below 1": (T5.replace(",1.12,", ",0.9,"), "PUE 0.9"),
    "an extra column": (f"{T5},1", "19 cells for 18 columns"),
    "a column too few": (T5.rpartition(",")[0], "17 cells for 18 columns"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_refused_by_name_and_line(case, tmp_path):
    row, reason = BAD[case]
    good = DATABASE.read_text().splitlines()
    file = tmp_path / "database.csv"
    file.write_text("\n".join([*good[:3], row, *good[3:]]))
    with pytest.raises(llmcarbon.BadRow, match="line 4") as refused:
        llmcarbon.read(file)
    assert reason in str(refused.value)
    assert case == "no name" or "T5" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("PUE", "pue"), "lacks 'PUE'"),
        (("name,", "name,cooling,"), "has unknown 'cooling'"),
        (("energy MWh", "PUE"), "lacks 'energy MWh'"),
    ],
)
def test_a_header_that_is_not_mlcarbons_is_refused(change, reason, tmp_path):
    file = tmp_path / "database.csv"
    file.write_text(DATABASE.read_text().replace(*change, 1))
    with pytest.raises(llmcarbon.BadRow) as refused:
        llmcarbon.read(file)
    assert reason in str(refused.value) and "line 1" in str(refused.value)


def test_an_empty_file_is_refused(tmp_path):
    file = tmp_path / "database.csv"
    file.write_text(DATABASE.read_text().splitlines()[0])
    with pytest.raises(llmcarbon.BadRow, match="no rows"):
        llmcarbon.read(file)


def test_the_command_prints_what_the_tutorial_prints():
    done = CliRunner().invoke(app, ["forecast", "--llmcarbon", str(DATABASE)], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    for name, (_, _, tonnes, delta, _) in GOLDEN.items():
        line = next(line for line in done.output.splitlines() if line.strip().startswith(name))
        assert f"{tonnes:.4g}" in line and f"{delta:+.2%}" in line
    assert "-1.81%" in done.output  # the embodied check


def test_the_command_prints_json():
    done = CliRunner().invoke(app, ["forecast", "--llmcarbon", str(DATABASE), "--json"])
    rows = json.loads(done.stdout)
    assert [set(row) for row in rows] == [
        {"name", "type", "days", "energy_mwh", "predicted_t", "actual_t", "delta"}
    ] * 5
    for row in rows:
        assert row["predicted_t"] == pytest.approx(GOLDEN[row["name"]][2], rel=1e-12)
        assert row["delta"] == pytest.approx(GOLDEN[row["name"]][3], abs=1e-12)


def test_the_command_refuses_a_bad_file(tmp_path):
    file = tmp_path / "database.csv"
    file.write_text(DATABASE.read_text().replace("Switch,MoE", "Switch,moe"))
    done = CliRunner().invoke(app, ["forecast", "--llmcarbon", str(file)])
    assert done.exit_code == 2
    assert "line 5, Switch: unknown type 'moe'; write dense or MoE" in done.output
    done = CliRunner().invoke(app, ["forecast", "--llmcarbon", str(tmp_path / "none.csv")])
    assert done.exit_code == 2 and "none.csv" in done.output
