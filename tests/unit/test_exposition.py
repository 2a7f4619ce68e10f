"""What monitoring reads of a coordinator: each number, the format, and the alarms on it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssh.charity.exposition import Family, Seen, _text, families, text
from fedssh.history import views
from tests.harness.prometheus import parse, promtool, value
from tests.unit.test_views import GENESIS, OPENED, RECORDS, ROUNDS, Known, chain

RULES = "docs/how-to/prometheus-rules.yml"


def seen(records: list[dict[str, Any]] = RECORDS, **more: Any) -> Seen:
    totals = views.total(Known(records))
    common: dict[str, Any] = {
        "totals": totals, "round": views.status(totals)["rounds"], "version": "0.1.0",
        "waiting": {"alice-1": (2, 1.7e9), "alice-2": (0, 0.0)}, "received": {"alice-1": 716},
        "free": {"inbox": 5 * 10**9, "vault": 6 * 10**9}, "restarts": 1, "troubles": 2, "door": True, "serving": True,
        "started": 1.7e9, "looked": 1.7e9 + 5.25, "now": 1.7e9 + 6,
    }  # fmt: skip
    return Seen(**common | more)


def test_each_number_is_that_of_the_history() -> None:
    found = parse(text(seen()))
    for outcome, count in {"accepted": 0, "refused": 1, "invalid": 1, "counted": 0, "garbage": 0}.items():
        assert value(found, "verdicts_total", site="alice-2", outcome=outcome) == count
    assert value(found, "verdicts_total", site="alice-1", outcome="accepted") == 1
    assert value(found, "sessions_total", site="alice-1") == 1
    assert value(found, "records_total") == 11
    assert value(found, "last_record_timestamp_seconds") == 1769860811.0  # 2026-01-31T12:00:11Z
    assert value(found, "site_last_heard_timestamp_seconds", site="alice-1") == 1769860809.0
    assert value(found, "site_enrolled", site="alice-1") == 1 and value(found, "site_enrolled", site="alice-2") == 0
    assert not [key for key in found if ("site", "eve") in key[1]], "an auditor sends nothing"
    assert value(found, "model_record") == 6 and value(found, "model_metric", metric="accuracy") == 0.8
    assert value(found, "release_record") == 11
    assert value(found, "waiting_bundles", site="alice-1") == 2 and value(found, "waiting_bundles", site="alice-2") == 0
    assert value(found, "waiting_oldest_timestamp_seconds", site="alice-1") == 1.7e9
    assert value(found, "waiting_oldest_timestamp_seconds", site="alice-2") is None
    assert value(found, "received_bytes_total", site="alice-1") == 716
    assert value(found, "free_bytes", folder="vault") == 6e9
    assert value(found, "judge_restarts_total") == 1 and value(found, "troubles_total") == 2
    assert value(found, "start_timestamp_seconds") == 1.7e9
    assert value(found, "loop_timestamp_seconds") == 1.7e9 + 5.25
    assert value(found, "written_timestamp_seconds") == 1.7e9 + 6
    assert value(found, "info", policy="best", version="0.1.0") == 1
    assert value(found, "finished") == 0 and value(found, "serving") == 1 and value(found, "door_up") == 1
    assert value(found, "round_open") is None, "there are no rounds"


def test_rounds_are_told_where_there_are_any() -> None:
    found = parse(text(seen([*ROUNDS, *OPENED])))
    assert [value(found, f"round_{name}") for name in ("open", "number", "missing_sites", "lacks_sites")] == [
        1,
        3,
        1,
        0,
    ]
    assert value(found, "rounds_closed_total") == 2
    assert value(found, "round_closes_timestamp_seconds") == 1769860815 + 90
    found = parse(text(seen(ROUNDS)))
    assert [value(found, f"round_{name}") for name in ("open", "number", "missing_sites")] == [0, None, None]


def test_two_coordinators_of_a_host_have_no_series_in_common() -> None:
    """node_exporter refuses all files of its folder when two of them say the same."""
    one, other = (set(parse(text(seen(chain(GENESIS | {"federation": name}))))) for name in ("lungs", "hearts"))
    assert len(one) == len(other) > 15 and not one & other


def test_what_is_not_known_is_left_out() -> None:
    found = parse(text(seen(RECORDS[:3], door=None, received={}, waiting={}, looked=None, serving=False)))
    assert value(found, "serving") == 0
    for name in ("door_up", "release_record", "loop_timestamp_seconds"):
        assert value(found, name) is None
    assert not [
        key for key in found if key[0] in ("fedssh_waiting_bundles", "fedssh_site_last_heard_timestamp_seconds")
    ]
    assert value(found, "site_enrolled", site="alice-2") == 1


@given(st.text(max_size=30), st.floats() | st.integers())
def test_every_text_and_number_is_read_back(name: str, number: float) -> None:
    first = GENESIS | {"federation": name, "metrics": {"accuracy": 0.5, "loss": number}}
    found = parse(text(seen(chain(first))))
    assert value(found, "info", policy="best", version="0.1.0") == 1
    assert {dict(labels)["federation"] for _, labels in found} == {name}
    told = value(found, "model_metric", metric="loss")
    assert told == float(number) or (told != told and number != number)
    family = Family("x", "gauge", f"what {name}", (({"a": name}, 1),))
    assert parse(_text(family)) == {("x", frozenset({("a", name)})): 1}


GOOD = "# HELP x y\n# TYPE x gauge\n"
WRONG = [
    "x 1\n", "# TYPE x gauge\nx 1\n", GOOD, f"{GOOD}x 1", f"{GOOD}x 1 1700000000000\n", f"{GOOD}x 1\nx 1\n",
    f'{GOOD}x{{a="\n"}} 1\n', f'{GOOD}x{{a="b",a="c"}} 1\n', f"{GOOD}x one\n", f"{GOOD}y 1\n", f"{GOOD}{GOOD}x 1\n",
    "# HELP x y\n# TYPE x counter\nx 1\n",
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_the_parser_is_strict(wrong: str) -> None:
    assert parse(f"{GOOD}x 1\n")
    with pytest.raises(AssertionError):
        parse(wrong)


def test_every_name_is_on_the_page(root: Path) -> None:
    page = (root / "docs/how-to/operations.md").read_text()
    names = {family.name for records in (RECORDS, [*ROUNDS, *OPENED]) for family in families(seen(records))}
    assert {name for name in names if f"`{name}" not in page} == set()
    assert set(re.findall(r"`(fedssh_\w+)", page)) == names, "a name that is not told"


def test_every_alarm_is_about_what_is_told(root: Path) -> None:
    rules, page = (root / RULES).read_text(), (root / "docs/how-to/operations.md").read_text()
    told = {family.name for records in (RECORDS, [*ROUNDS, *OPENED]) for family in families(seen(records))}
    used = set(re.findall(r"\bfedssh_\w+", rules))
    assert used <= told and len(used) > 10
    alarms = re.findall(r"- alert: (\w+)", rules)
    assert len(alarms) == len(set(alarms)) >= 13 and [name for name in alarms if f"`{name}`" not in page] == []


# Prometheus' own program


def test_prometheus_checks_what_is_written() -> None:
    told = subprocess.run([promtool(), "check", "metrics"], input=text(seen([*ROUNDS, *OPENED])), capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_prometheus_checks_the_alarms(root: Path) -> None:
    told = subprocess.run([promtool(), "check", "rules", RULES], capture_output=True, text=True, check=False, cwd=root)
    assert told.returncode == 0 and "13 rules found" in told.stdout, told.stdout + told.stderr


CASES = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
{series}
    promql_expr_test:
{cases}
"""
SERIES = """
written_timestamp_seconds{instance="h",federation="f"} 0+60x10 600x40
serving{instance="h",federation="f"} 1x10 0x40
loop_timestamp_seconds{instance="h",federation="f"} 0x60
serving{instance="h",federation="g"} 1x60
loop_timestamp_seconds{instance="h",federation="g"} 0x60
serving{instance="h",federation="starts"} 0x60
start_timestamp_seconds{instance="h",federation="f"} 0x10 600 660 720 780x60
start_timestamp_seconds{instance="h",federation="g"} 0x10 600 660 720x60
door_up{instance="h",federation="f"} 1x20 0x30
troubles_total{instance="h",federation="f"} 0x20 1x30
judge_restarts_total{instance="h",federation="f"} 0x40 1 2 3 4x80
judge_restarts_total{instance="h",federation="g"} 0x40 1 2 3x80
free_bytes{instance="h",federation="f",folder="inbox"} 3000000000x10 1999999999x40
free_bytes{instance="h",federation="f",folder="vault"} 2000000000x60
finished{instance="h",federation="f"} 0x2000
finished{instance="h",federation="g"} 1x2000
site_enrolled{instance="h",federation="f",site="a"} 1x2000
site_enrolled{instance="h",federation="f",site="b"} 0x2000
site_enrolled{instance="h",federation="f",site="c"} 1x2000
site_enrolled{instance="h",federation="g",site="a"} 1x2000
site_enrolled{instance="h",federation="g",site="b"} 1x2000
site_enrolled{instance="h",federation="g",site="d"} 1x2000
site_last_heard_timestamp_seconds{instance="h",federation="f",site="a"} 0x2000
site_last_heard_timestamp_seconds{instance="h",federation="f",site="b"} 0x2000
site_last_heard_timestamp_seconds{instance="h",federation="g",site="a"} 0x2000
site_last_heard_timestamp_seconds{instance="h",federation="g",site="c"} 0x2000
waiting_oldest_timestamp_seconds{instance="h",federation="f",site="a"} 0x30
verdicts_total{instance="h",federation="f",site="a",outcome="invalid"} 0+1x60
verdicts_total{instance="h",federation="f",site="a",outcome="accepted"} 0+1x60
verdicts_total{instance="h",federation="f",site="b",outcome="garbage"} 0x10 10x80
round_closes_timestamp_seconds{instance="h",federation="f"} 600x100
"""
FIRES: dict[str, dict[str, list[str]]] = {  # alarm: by time the federations and sites that it fires for
    "FedsshNotWritten": {"5m": [], "30m": ["f"]},
    "FedsshStopped": {"5m": ["starts"], "20m": ["f", "starts"]},
    "FedsshRestarts": {"13m": [], "20m": ["f"], "40m": ["f"], "44m": []},
    "FedsshStuck": {"5m": [], "31m": ["g"]},
    "FedsshTrouble": {"15m": [], "25m": ["f"], "45m": []},
    "FedsshJudgeRestarts": {"43m30s": [], "50m": ["f"], "90m30s": ["f"]},
    "FedsshDoorDown": {"15m": [], "25m": ["f"]},
    "FedsshDiskLow": {"10m": [], "20m": ["f"]},
    "FedsshWaiting": {"10m": [], "20m": ["f a"]},
    "FedsshSiteSilent": {"60m": [], "1500m": ["f a"]},
    "FedsshSiteNeverHeard": {"60m": ["f c"]},
    "FedsshInvalid": {"5m": [], "40m": ["f a"], "60m30s": ["f a"]},
    "FedsshRoundOverdue": {"70m": [], "71m": ["f"]},
}


def test_the_alarms_fire_when_they_should_and_not_before(root: Path, tmp_path: Path) -> None:
    """By Prometheus' own evaluation of each expression, at some minutes of a made-up day."""
    rules = (root / RULES).read_text()
    expressions = {name: " ".join(found.removeprefix(">-").split()) for name, found in
                   re.findall(r"- alert: (\w+)\n +expr: (.*?)\n +(?:for|labels)", rules, re.DOTALL)}  # fmt: skip
    assert set(expressions) == set(FIRES)
    cases = []
    for name, times in FIRES.items():
        for at, fires in times.items():
            samples = ""
            for federation, _, site in (one.partition(" ") for one in fires):
                labels = f'federation="{federation}"' + (f',site="{site}"' if site else "")
                samples += f"\n          - {{labels: '{{{labels}}}', value: 1}}"
            expression = f"count by (federation, site) ({expressions[name]})"
            cases.append(
                f"      - expr: '{expression}'\n        eval_time: {at}\n        exp_samples:{samples or ' []'}"
            )
    series = [line.split(" ", 1) for line in SERIES.strip().splitlines()]
    told = [f"      - {{series: 'fedssh_{name}', values: '{values}'}}" for name, values in series]
    (tmp_path / "cases.yml").write_text(
        CASES.format(rules=root / RULES, series="\n".join(told), cases="\n".join(cases))
    )
    ran = subprocess.run(
        [promtool(), "test", "rules", str(tmp_path / "cases.yml")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_only_times_change_when_nothing_happens() -> None:
    one, two = seen(), seen(now=1.7e9 + 21, looked=1.7e9 + 20)
    changed = {line.split("{")[0] for line in set(text(one).splitlines()) ^ set(text(two).splitlines())}
    assert changed == {"fedssh_loop_timestamp_seconds", "fedssh_written_timestamp_seconds"}
    assert text(dataclasses.replace(two, now=one.now, looked=one.looked)) == text(one)
