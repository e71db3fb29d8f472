"""Settings: where they come from, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_otel import config


def resolve(arguments=None, environ=None, pyproject=None, folder=None):
    if pyproject is not None:
        (folder / "pyproject.toml").write_text(pyproject)
    return config.resolve(arguments or {}, environ or {}, folder or Path("/"))


def test_defaults():
    assert resolve() == config.Settings()
    assert resolve(dict.fromkeys(("zone", "pue", "interval", "synchronize"))) == config.Settings()


TABLE = '[tool.carbon_otel]\nzone = "IT"\npue = 1.3\n'


def test_argument_over_variable_over_pyproject_over_default(tmp_path):
    environ = {"CARBON_OTEL_ZONE": "DE", "CARBON_OTEL_PUE": "1.2"}
    assert resolve({}, {}, TABLE, tmp_path).zone == "IT"
    assert resolve({}, environ, TABLE, tmp_path).zone == "DE"
    assert resolve({"zone": "FR"}, environ, TABLE, tmp_path).zone == "FR"
    assert resolve({"zone": "FR"}, environ, TABLE, tmp_path).pue == 1.2
    assert resolve({"pue": 1.0}, environ, TABLE, tmp_path).pue == 1.0
    assert resolve({}, {"CARBON_OTEL_PUE": "  "}, TABLE, tmp_path).pue == 1.3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("zone", "fra", "FR"),
        ("pue", "1.14", 1.14),
        ("interval", " 0.5 ", 0.5),
        ("attribution", "process", "process"),
        ("powercap_root", "/", Path("/")),
        ("checkpoint_interval", "60", 60.0),
        ("synchronize", "off", False),
        ("journal", "/tmp/j.json", Path("/tmp/j.json")),
    ],
)
def test_every_setting_as_a_variable(name, text, value):
    settings = resolve({}, {f"CARBON_OTEL_{name.upper()}": text})
    assert getattr(settings, name) == value
    assert type(getattr(settings, name)) is type(value)


WRONG = [
    ("zone", "XX", "zone='FR'"),
    ("zone", 33, "zone='FR'"),
    ("pue", "much", "write a number"),
    ("pue", 0.9, "from 1.0"),
    ("pue", 11, "from 1.0"),
    ("pue", "nan", "finite"),
    ("pue", True, "write a"),
    ("interval", 0, "0.01 to 30"),
    ("interval", -1, "0.01 to 30"),
    ("interval", 31, "0.01 to 30"),
    ("interval", "inf", "finite"),
    ("attribution", "fair", "'reserved'"),
    ("powercap_root", "/no/such/folder", "intel-rapl"),
    ("powercap_root", 3, "PathLike"),
    ("checkpoint_interval", 0, "above 0"),
    ("synchronize", "perhaps", "true or false"),
]


@pytest.mark.parametrize(("name", "value", "remedy"), WRONG)
def test_a_wrong_argument_says_its_name_and_the_remedy(name, value, remedy):
    with pytest.raises(ValueError, match=remedy) as error:
        resolve({name: value})
    assert str(error.value).startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize(("name", "value", "remedy"), [w for w in WRONG if isinstance(w[1], str)])
def test_a_wrong_variable_says_its_name_and_the_remedy(name, value, remedy):
    with pytest.raises(ValueError, match=remedy) as error:
        resolve({}, {f"CARBON_OTEL_{name.upper()}": value})
    assert str(error.value).startswith(f"CARBON_OTEL_{name.upper()}={value!r}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pue = 0.5", r"pue in \[tool.carbon_otel\]=0.5: .*from 1.0"),
        ('interval = "x"', r"interval in \[tool.carbon_otel\]='x': write a number"),
        ("zones = 1", "unknown setting zones; known are zone, pue"),
        ("pue = ", "pyproject.toml"),
    ],
)
def test_a_wrong_pyproject_says_where(line, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        resolve({}, {}, f"[tool.carbon_otel]\n{line}\n", tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[project]\nname = 'carbon_otel'\n", "[tool.other]\npue = 0\n# carbon_otel", "not toml at all"],
)
def test_a_pyproject_without_our_table_is_none_of_our_business(text, tmp_path):
    assert resolve({}, {}, text, tmp_path) == config.Settings()


def test_the_nearest_pyproject_above_counts(tmp_path):
    below = tmp_path / "src" / "deep"
    below.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(TABLE)
    assert resolve(folder=below).zone == "IT"
    (tmp_path / "src" / "pyproject.toml").write_bytes(b"\xff\xfe")
    assert resolve(folder=below).zone == "IT"
    (tmp_path / "src" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert resolve(folder=below).zone is None


def test_a_working_folder_that_is_gone_has_no_pyproject(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert config.resolve({"zone": "FR"}, {}).zone == "FR"


@pytest.mark.parametrize(
    ("text", "off"),
    [("", False), ("0", False), ("false", False), ("No", False), ("1", True), ("TRUE", True), (" on ", True)],
)
def test_disabled(text, off):
    assert config.disabled({"CARBON_OTEL_DISABLED": text}) is off
    assert config.disabled({}) is False


def test_disabled_by_something_else_names_the_variable():
    with pytest.raises(ValueError, match="CARBON_OTEL_DISABLED='maybe': write true or false"):
        config.disabled({"CARBON_OTEL_DISABLED": "maybe"})


def test_a_processor_s_family_is_one_of_the_table():
    assert config.resolve({"cpu_family": "epyc-genoa"}, {}, Path("/")).cpu_family == "epyc-genoa"
    said = r"CARBON_OTEL_CPU_FAMILY='pentium': .*write one of epyc-rome, epyc-milan"
    with pytest.raises(ValueError, match=said):
        config.resolve({}, {"CARBON_OTEL_CPU_FAMILY": "pentium"}, Path("/"))
