"""Settings: their sources, the errors for wrong values, and the documents that repeat the declarations."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import carbon_otel
from carbon_otel import config


def resolve(arguments=None, environ=None, pyproject=None, folder=None):
    if pyproject is not None:
        (folder / "pyproject.toml").write_text(pyproject)
    return config.resolve(arguments or {}, environ or {}, folder or Path("/"))


def test_defaults():
    assert resolve() == config.Settings()
    assert resolve(dict.fromkeys(("zone", "pue", "interval_s", "synchronize"))) == config.Settings()


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
        ("region", "GCP:europe-west9", "gcp:europe-west9"),
        ("pue", "1.14", 1.14),
        ("detect_region", "true", True),
        ("interval_s", " 0.5 ", 0.5),
        ("attribution", "process", "process"),
        ("powercap_root", "/", Path("/")),
        ("checkpoint_interval_s", "60", 60.0),
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
    ("region", "gcp:moon-1", "provider:region"),
    ("region", 33, "provider:region"),
    ("detect_region", "perhaps", "true or false"),
    ("pue", "much", "write a number"),
    ("pue", 0.9, "from 1.0"),
    ("pue", 11, "from 1.0"),
    ("pue", "nan", "from 1.0"),
    ("pue", True, "write a"),
    ("interval_s", 0, "0.01 to 30"),
    ("interval_s", -1, "0.01 to 30"),
    ("interval_s", 31, "0.01 to 30"),
    ("interval_s", "inf", "0.01 to 30"),
    ("attribution", "fair", "'reserved'"),
    ("powercap_root", "/no/such/folder", "intel-rapl"),
    ("powercap_root", 3, "intel-rapl"),
    ("cpu_family", "pentium", "write one of epyc-rome, epyc-milan"),
    ("lineage", "it's", "without a quote"),
    ("lineage", "x" * 251, "without a quote"),
    ("lineage", " ", "1 to 250"),
    ("efficiency_metric", 1, "'accuracy'"),
    ("trace_url", "http://localhost/", "{trace_id}"),
    ("trace_url", "{trace_id}", "{trace_id}"),
    ("state_dir", 3, "path of a folder"),
    ("journal", 3, "path of a file"),
    ("checkpoint_interval_s", 0, "above 0"),
    ("synchronize", "perhaps", "true or false"),
]


@pytest.mark.parametrize(("name", "value", "remedy"), WRONG)
def test_the_error_for_a_wrong_argument_has_its_name_and_the_remedy(name, value, remedy):
    with pytest.raises(ValueError, match=remedy) as error:
        resolve({name: value})
    assert str(error.value).startswith(f"{name}={value!r}: ")


@pytest.mark.parametrize(
    ("name", "value", "remedy"), [w for w in WRONG if isinstance(w[1], str) and w[1].strip()]
)
def test_the_error_for_a_wrong_variable_has_its_name_and_the_remedy(name, value, remedy):
    with pytest.raises(ValueError, match=remedy) as error:
        resolve({}, {f"CARBON_OTEL_{name.upper()}": value})
    assert str(error.value).startswith(f"CARBON_OTEL_{name.upper()}={value!r}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pue = 0.5", r"pue in \[tool.carbon_otel\]=0.5: .*from 1.0"),
        ('interval_s = "x"', r"interval_s in \[tool.carbon_otel\]='x': write seconds"),
        ("zones = 1", "unknown setting zones; known are zone, region, pue"),
        ("pue = ", "pyproject.toml"),
    ],
)
def test_the_error_for_a_wrong_pyproject_has_its_path(line, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        resolve({}, {}, f"[tool.carbon_otel]\n{line}\n", tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[project]\nname = 'carbon_otel'\n", "[tool.other]\npue = 0\n# carbon_otel", "not toml at all"],
)
def test_a_pyproject_without_our_table_is_ignored(text, tmp_path):
    assert resolve({}, {}, text, tmp_path) == config.Settings()


def test_the_nearest_pyproject_in_a_parent_folder_counts(tmp_path):
    below = tmp_path / "src" / "deep"
    below.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(TABLE)
    assert resolve(folder=below).zone == "IT"
    (tmp_path / "src" / "pyproject.toml").write_bytes(b"\xff\xfe")
    assert resolve(folder=below).zone == "IT"
    (tmp_path / "src" / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert resolve(folder=below).zone is None


def test_a_removed_working_folder_has_no_pyproject(tmp_path, monkeypatch):
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


def test_the_error_for_a_wrong_value_of_disabled_has_the_variable():
    with pytest.raises(ValueError, match="CARBON_OTEL_DISABLED='maybe': write true or false"):
        config.disabled({"CARBON_OTEL_DISABLED": "maybe"})


def test_a_family_of_the_processor_table_is_valid():
    assert resolve({"cpu_family": "epyc-genoa"}).cpu_family == "epyc-genoa"


FORMER = [("interval", "interval_s", 0.5), ("checkpoint_interval", "checkpoint_interval_s", 3.0)]


@pytest.mark.parametrize(("former", "present", "value"), FORMER)
def test_a_former_name_is_read_from_every_source_and_the_present_name_wins(former, present, value, tmp_path):
    table = f"[tool.carbon_otel]\n{former} = {value}\n"
    variable = f"CARBON_OTEL_{former.upper()}"
    assert getattr(resolve({former: value}), present) == value
    assert getattr(resolve({}, {variable: str(value)}), present) == value
    assert getattr(resolve({}, {}, table, tmp_path), present) == value

    assert getattr(resolve({former: value, present: 7}), present) == 7
    assert getattr(resolve({}, {variable: str(value), f"CARBON_OTEL_{present.upper()}": "7"}), present) == 7
    assert getattr(resolve({}, {}, f"{table}{present} = 7\n", tmp_path), present) == 7
    with pytest.raises(ValueError, match=f"^{former}=0: write seconds"):
        resolve({former: 0})


@pytest.mark.parametrize(("former", "present", "value"), FORMER)
def test_a_former_argument_is_deprecated(former, present, value, monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_DISABLED", "true")
    with pytest.warns(DeprecationWarning, match=f"^{former} is now called {present}$") as warned:
        carbon_otel.instrument(**{former: value})
    assert warned[0].filename == __file__


ARGUMENTS = [setting for setting in config.SETTINGS if setting.argument]


def test_instrument_takes_every_declared_argument_with_its_type():
    providers = dict.fromkeys(("TracerProvider", "MeterProvider"), object)
    given = get_type_hints(carbon_otel.instrument, localns=providers)
    declared = get_type_hints(config.Settings)
    others = {"tracer_provider", "meter_provider", "return"} | {former for former, _, _ in FORMER}
    assert list(given)[: len(ARGUMENTS)] == [setting.name for setting in ARGUMENTS]
    assert given.keys() - {setting.name for setting in ARGUMENTS} == others
    for setting in ARGUMENTS:
        kind: Any = declared[setting.name] | None
        assert given[setting.name] == (kind if kind != Path | None else str | Path | None), setting.name


def test_the_docstring_of_instrument_has_the_declared_sentences():
    documented = " ".join(inspect.getdoc(carbon_otel.instrument).split())
    for setting in ARGUMENTS:
        assert f" {setting.name}: {setting.sentence} Default: {setting.default}. " in documented, setting.name


@pytest.mark.parametrize("setting", [*config.SETTINGS, config.DISABLED], ids=lambda s: s.name)
def test_a_sentence_is_one_sentence(setting):
    assert re.fullmatch(r"[A-Z`][^|]*[^.]\.", setting.sentence) and ". " not in setting.sentence
    assert setting.default and not setting.default.endswith(".")
    assert not setting.write.startswith("write ")


def settings_table() -> str:
    """The table of settings for users, in Markdown."""
    rows = ["| argument | variable | default | |", "|---|---|---|---|"]
    for setting in (*config.SETTINGS, config.DISABLED):
        argument = f"`{setting.name}`" if setting.argument else ""
        rows.append(f"| {argument} | `{setting.variable}` | {setting.default} | {setting.sentence} |")
    return "\n".join(rows)


def test_the_table_of_settings_for_users_is_that_of_the_declarations():
    root = Path(__file__).parents[2]
    pages = [root / "README.md", *(root / "carbon_otel").rglob("README.md")]
    marked = re.compile(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", re.DOTALL)
    tables = [table for page in pages for table in marked.findall(page.read_text("utf-8"))]
    assert tables == [settings_table()], f"write between the markers:\n{settings_table()}"


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="needs root, to own files as another user"
)
def test_a_pyproject_that_another_user_has_put_into_a_shared_folder_does_not_count(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.carbon_otel]\njournal = "/etc/passwd"\n')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(0o700)
    tmp_path.chmod(0o1777)
    assert resolve(folder=tmp_path / "mine").journal is not None
    os.chown(tmp_path / "pyproject.toml", 65534, 65534)
    assert resolve(folder=tmp_path / "mine").journal is None
    tmp_path.chmod(0o755)  # as a checkout of another user, mounted into a container
    assert resolve(folder=tmp_path / "mine").journal is not None
