"""What the commands print and with which code they end, as a user or a script sees it."""

import json
import os
import re
import signal
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cli.command import DEADLINE_S, Command
from zorya.cli import launch
from zorya.cli.invocation import Invocation

SHOWN = {
    "name",
    "id",
    "engine",
    "engine_version",
    "mode",
    "status",
    "compute",
    "capacity",
    "min_capacity",
    "max_capacity",
    "fixed_capacity",
    "last_scaling",
    "load",
    "acu_s",
    "storage_bytes",
    "pause_after_s",
    "freeze_after_s",
    "allow",
    "require_tls",
    "wake_on",
    "max_clients",
    "volume",
    "endpoint",
    "reader_endpoint",
    "reader_problem",
    "username",
    "database",
    "sessions",
    "engine_pid",
    "resident_bytes",
    "created_at",
}
GROUPS = {
    "Server:": ("up", "down", "status", "doctor"),
    "Clusters:": (
        "create",
        "list",
        "show",
        "top",
        "modify",
        "scale",
        "capacity",
        "copies",
        "verify",
        "recover",
        "pause",
        "resume",
        "delete",
        "events",
        "usage",
    ),
    "Connecting:": ("url", "password", "connect"),
}


def fails(result: subprocess.CompletedProcess[str], line: str) -> None:
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"zorya: {line}\n")


def test_help_lists_every_command_in_groups_when_asked(lonely: Command) -> None:
    result = lonely("--help")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert [line for line in lines if line in GROUPS] == list(GROUPS)
    for name in (name for names in GROUPS.values() for name in names):
        assert any(line.startswith(f"  {name} ") for line in lines), name
        assert lonely(name, "--help").returncode == 0


def test_wrong_usage_ends_with_2(lonely: Command) -> None:
    for words in (
        ["nonsense"],
        ["show"],
        ["create", "a", "--port", "x"],
        ["create", "a", "--wake-on", "nobody"],
        ["events", "--limit", "0"],
        ["scale", "a", "--max-capacity", "much"],
        ["capacity", "a"],
        ["create", "a", "--copies", "many"],
        ["modify", "a", "--copies", "1.5"],
        ["copies"],
        ["verify"],
        ["recover"],
        ["top", "--interval", "0"],
        [],
    ):
        result = lonely(*words)
        assert (result.returncode, result.stdout) == (2, ""), words


def test_version_is_printed_when_asked(lonely: Command) -> None:
    assert lonely("--version").stdout.startswith("zorya ")


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["list"],
        ["show", "a"],
        ["url", "a"],
        ["create", "a"],
        ["events", "--follow"],
        ["delete", "a"],
        ["copies", "a"],
        ["verify", "a"],
        ["recover", "a"],
    ],
)
def test_a_command_says_that_no_server_is_up_when_there_is_none(lonely: Command, words: list[str]) -> None:
    fails(lonely(*words), f"No Zorya server is up on {lonely.home}. Start one with `zorya up`.")


def test_the_home_option_wins_over_the_environment(zorya: Command) -> None:
    astray = replace(zorya, more={"ZORYA_HOME": "/nonexistent"})
    assert astray("list").returncode == 1
    assert astray("--home", str(zorya.home), "list").returncode == 0


def test_errors_are_json_on_standard_error_when_json_is_asked_for(lonely: Command) -> None:
    result = lonely("list", "--json")
    assert (result.returncode, result.stdout) == (1, "")
    assert json.loads(result.stderr)["error"] == {
        "code": "server_unreachable",
        "message": f"No Zorya server is up on {lonely.home}.",
        "hint": "Start one with `zorya up`.",
        "retry_can_help": True,
    }


def test_the_servers_error_is_passed_on_when_it_refuses(zorya: Command) -> None:
    fails(zorya("show", "shop"), "There is no cluster named shop. `zorya list` shows the clusters there are.")
    fails(zorya("pause", "busy"), "Cluster busy has an open session. End it, or use --force.")
    assert json.loads(zorya("pause", "busy", "--json").stderr)["error"]["code"] == "cluster_busy"
    assert zorya("create", "main").returncode == 1


def test_a_name_cannot_reach_another_route(zorya: Command) -> None:
    result = zorya("show", "main/credentials")
    assert result.returncode == 1
    assert "cannot be a cluster name" in result.stderr


def test_no_permission_is_told_apart_from_no_server(zorya: Command) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may use every socket")
    (zorya.home / "run").chmod(0)
    result = zorya("list")
    (zorya.home / "run").chmod(0o700)
    fails(result, f"You may not use the Zorya server on {zorya.home}. Run this as the user that runs the server.")


def test_show_json_has_every_promised_field(zorya: Command) -> None:
    cluster = json.loads(zorya("show", "main", "--json").stdout)
    assert set(cluster) >= SHOWN
    assert cluster["endpoint"] == {"host": "127.0.0.1", "port": 7400}


def test_show_begins_with_the_reason_and_keeps_control_characters_out(zorya: Command) -> None:
    result = zorya("show", "busy")
    lines = result.stdout.splitlines()
    assert lines[0] == r"Cluster busy is running: User \x1b[2Jmallory connected."
    assert lines[2].split(maxsplit=1) == ["operation", "resume: starting PostgreSQL"]
    assert "endpoint problem  Port 7401 is taken." in lines
    assert "endpoint          [::1]:7401" in lines
    assert "pauses in         4 min 10 s" in lines
    assert "freezes after     10 s" in lines
    assert "may connect       127.0.0.0/8, ::1/128" in lines
    assert "TLS               offered" in lines
    assert "wakes for         clients that have logged in" in lines
    assert "max clients       any number" in lines
    assert "resident          41.3 MiB" in lines
    assert "storage           50 MiB" in lines
    assert "attach            handoff: Engines take clients' connections themselves." in lines


def test_show_tells_what_a_frozen_cluster_keeps(zorya: Command) -> None:
    lines = zorya("show", "cold").stdout.splitlines()
    assert lines[0] == "Cluster cold is frozen: Quiet for 0.05 s."
    assert "sessions       2" in lines
    assert "compute        frozen" in lines
    assert "capacity       0 of 0.5 to 4 ACUs" in lines
    assert "freezes after  0.05 s" in lines
    assert "engine pid     4243" in lines
    assert "resident       5.1 MiB" in lines


def test_show_tells_no_memory_when_no_engine_runs(zorya: Command) -> None:
    assert "resident" not in zorya("show", "main").stdout


def test_show_tells_capacity_load_and_the_last_decision(zorya: Command) -> None:
    lines = zorya("show", "busy").stdout.splitlines()
    assert "capacity          1.5 of 0.5 to 4 ACUs (0.38 cores, 3 GiB)" in lines
    assert (
        "load              0.31 cores (0.6 wanted), 412 MiB in use and 1.2 GiB cached, "
        "3 sessions at work, 1 waiting, 99.2 % cache hits"
    ) in lines
    (scaled,) = [line for line in lines if line.startswith("scaled ")]
    assert re.fullmatch(
        r"scaled            from 0\.5 to 1\.5 ACUs, .+ ago, in 3 ms: It uses 0\.6 of 0\.25 cores\.", scaled
    )
    asleep = zorya("show", "main").stdout
    assert not re.search(r"^(load|scaled|storage) ", asleep, re.MULTILINE)


def test_a_provisioned_cluster_is_told_plainly_and_converted_back(zorya: Command) -> None:
    created = zorya("create", "ledger", "--provisioned", "--capacity", "2", "--pause-after", "60")
    assert "Cluster ledger is ready (PostgreSQL 17.10). It always runs:" in created.stdout
    lines = zorya("show", "ledger").stdout.splitlines()
    assert "capacity       0 of 2 ACUs, fixed" in lines
    assert "mode           provisioned: it always runs, with 2 ACUs (0.5 to 4 ACUs when serverless)" in lines
    assert "pauses after   never (1 min when serverless)" in lines
    assert "0 of 2, provisioned" in zorya("list").stdout
    assert "mode           serverless, 0.5 to 4 ACUs\n" in zorya("modify", "ledger", "--serverless").stdout
    again = zorya("modify", "ledger", "--provisioned", "--json")
    assert json.loads(again.stdout)["fixed_capacity"] == 4
    fails(
        zorya("create", "other", "--capacity", "2"),
        "The request is not valid: capacity: only a provisioned cluster has a fixed capacity. "
        "/openapi.json describes every request.",
    )


def test_scale_and_capacity_change_a_running_cluster(zorya: Command) -> None:
    assert zorya("scale", "busy", "--max-capacity", "8").stdout == (
        "Cluster busy has 1.5 of 0.5 to 8 ACUs (0.38 cores, 3 GiB).\n"
    )
    assert json.loads(zorya("scale", "busy", "--min-capacity", "1", "--json").stdout)["min_capacity"] == 1
    assert zorya("capacity", "busy", "4").stdout == "Cluster busy has 4 of 1 to 8 ACUs (1 core, 8 GiB).\n"
    assert json.loads(zorya("capacity", "busy", "2", "--json").stdout)["last_scaling"]["part"] == "hand"
    fails(zorya("scale", "busy"), "Nothing to change was given. `zorya scale --help` lists the options.")
    fails(zorya("capacity", "main", "2"), "Cluster main is stopped. Resume it first.")
    assert zorya("scale", "main", "--min-capacity", "nan").returncode == 1


def test_list_is_plain_and_whole_when_it_is_piped(zorya: Command) -> None:
    lines = zorya("list").stdout.splitlines()
    assert lines[0].split() == [
        "NAME",
        "ENGINE",
        "STATUS",
        "COMPUTE",
        "CAPACITY",
        "SESSIONS",
        "ENDPOINT",
        "PAUSES",
        "IN",
    ]
    assert lines[1].split()[:5] == ["busy", "PostgreSQL", "17.10", "available", "running"]
    assert lines[2].split()[4:9] == ["frozen", "0", "of", "4", "2"]
    assert lines[3].endswith("127.0.0.1:7400  -")
    assert [one["name"] for one in json.loads(zorya("list", "--json").stdout)] == ["busy", "cold", "main"]


def test_list_is_a_table_when_there_is_a_terminal(zorya: Command) -> None:
    code, shown = zorya.on_terminal("list")
    assert code == 0
    assert "\x1b[36mfrozen" in shown
    assert "[::1]:7401" in shown


def test_url_is_alone_on_standard_output(zorya: Command) -> None:
    result = zorya("url", "MAIN")
    assert result.stdout == "postgresql://zorya:secret-main@127.0.0.1:7400/main\n"
    assert result.stderr == ""
    assert json.loads(zorya("url", "main", "--json").stdout)["password"] == "secret-main"


def test_create_shows_how_to_connect(zorya: Command) -> None:
    result = zorya("create", "shop", "--pause-after", "never", "--port", "7500", "--max-capacity", "8")
    assert result.returncode == 0
    assert "    postgresql://zorya:secret-shop@127.0.0.1:7500/shop\n" in result.stdout
    assert "zorya url shop" in result.stdout or "zorya connect shop" in result.stdout
    assert result.stderr == ""
    cluster = json.loads(zorya("show", "shop", "--json").stdout)
    assert (cluster["pause_after_s"], cluster["max_capacity"]) == (None, 8.0)


@pytest.mark.parametrize(
    ("words", "stored"), [((), 10.0), (("--freeze-after", "0.05"), 0.05), (("--freeze-after", "never"), None)]
)
def test_create_chooses_when_a_cluster_freezes(zorya: Command, words: tuple[str, ...], stored: float | None) -> None:
    assert json.loads(zorya("create", "shop", *words, "--json").stdout)["freeze_after_s"] == stored


def test_create_says_who_may_connect(zorya: Command) -> None:
    rules = ("--allow", "10.0.0.0/8", "--allow", "::1", "--require-tls", "--wake-on", "any", "--max-clients", "5")
    cluster = json.loads(zorya("create", "shop", *rules, "--json").stdout)
    assert (cluster["allow"], cluster["require_tls"]) == (["10.0.0.0/8", "::1"], True)
    assert (cluster["wake_on"], cluster["max_clients"]) == ("any", 5)


def test_modify_changes_what_is_given_and_shows_it(zorya: Command) -> None:
    assert zorya("modify", "main", "--require-tls", "--max-clients", "5", "--freeze-after", "0.5").stdout == (
        "Cluster main:\n"
        "mode           serverless, 0.5 to 4 ACUs\n"
        "copies         six copies in three zones, a commit is on four before the client hears of it\n"
        "may connect    127.0.0.0/8, ::1/128\n"
        "TLS            required\n"
        "wakes for      clients that have logged in\n"
        "max clients    5\n"
        "pauses after   5 min\n"
        "freezes after  0.5 s\n"
    )
    changes = ("--no-require-tls", "--max-clients", "none", "--wake-on", "any", "--pause-after", "never")
    cluster = json.loads(zorya("modify", "main", *changes, "--allow", "10.0.0.0/8", "--json").stdout)
    assert (cluster["allow"], cluster["require_tls"], cluster["wake_on"]) == (["10.0.0.0/8"], False, "any")
    assert (cluster["max_clients"], cluster["pause_after_s"], cluster["freeze_after_s"]) == (None, None, 0.5)


def test_modify_is_refused_when_nothing_or_something_wrong_is_given(zorya: Command) -> None:
    fails(zorya("modify", "main"), "Nothing to change was given. `zorya modify --help` lists the options.")
    for words in (("--max-clients", "0"), ("--max-clients", "many"), ("--pause-after", "0"), ("--freeze-after", "x")):
        result = zorya("modify", "main", *words)
        assert (result.returncode, result.stdout) == (1, "")
        assert words[0].removeprefix("--").replace("-", "_") in result.stderr


def test_password_prints_the_new_url_and_nothing_else(zorya: Command) -> None:
    result = zorya("password", "main")
    assert (result.stdout, result.stderr) == ("postgresql://zorya:changed-main@127.0.0.1:7400/main\n", "")
    assert json.loads(zorya("password", "busy", "--json").stdout)["password"] == "changed-busy"
    assert zorya("url", "main").stdout == result.stdout


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--pause-after", "soon", "pause_after: must be a whole number of seconds, at least 1, or 'never'"),
        ("--freeze-after", "0.001", "freeze_after: must be seconds, at least 0.01, or 'never'"),
    ],
)
def test_create_tells_the_rule_when_a_value_is_wrong(zorya: Command, option: str, value: str, rule: str) -> None:
    result = zorya("create", "shop", option, value)
    assert result.returncode == 1
    assert rule in result.stderr
    assert result.stderr.count("\n") == 1


def test_resume_and_pause_print_the_cluster(zorya: Command) -> None:
    assert zorya("resume", "main").stdout == "Cluster main is running: It was asked to.\n"
    assert json.loads(zorya("resume", "main", "--json").stdout)["compute"] == "running"
    assert zorya("pause", "busy", "--force").stdout == "Cluster busy is stopped: Paused.\n"


def test_delete_needs_a_yes_when_there_is_no_terminal(zorya: Command) -> None:
    fails(
        zorya("delete", "main"),
        "Deleting main needs a confirmation, and there is no terminal to ask on. Repeat it with --yes.",
    )
    assert zorya("delete", "main", "--yes").stdout == "Cluster main and its data are deleted.\n"
    assert zorya("show", "main").returncode == 1


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_delete_asks_when_there_is_a_terminal(zorya: Command, answer: bytes, code: int) -> None:
    ended, shown = zorya.on_terminal("delete", "main", typed=answer)
    assert ended == code
    assert "Delete cluster main and all its data?" in shown
    assert zorya("show", "main").returncode == 1 - code


def test_progress_is_shown_when_there_is_a_terminal(zorya: Command) -> None:
    _code, shown = zorya.on_terminal("create", "shop")
    assert "Creating cluster shop" in shown
    assert "postgresql://" in shown


def test_connect_gives_psql_the_password_out_of_sight(zorya: Command, tmp_path: Path) -> None:
    psql = tmp_path / "psql"
    psql.write_text('#!/bin/sh\necho "$PGHOST $PGPORT $PGUSER $PGDATABASE $PGPASSWORD ${PGSERVICE-none}"\necho "$@"\n')
    psql.chmod(psql.stat().st_mode | stat.S_IXUSR)
    command = replace(zorya, more={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PGSERVICE": "elsewhere"})
    result = command("connect", "main", "--", "-c", "select 1")
    assert result.stdout == "127.0.0.1 7400 zorya main secret-main none\n-c select 1\n"
    assert command("connect", "main", "--reader").stdout == "127.0.0.1 7500 zorya main secret-main none\n\n"


def test_events_are_lines_and_json(zorya: Command) -> None:
    assert zorya("events", "busy").stdout == "2026-02-03 09:00:00  busy  User \\x1b[2Jmallory was refused.\n"
    assert [event["seq"] for event in json.loads(zorya("events", "--json").stdout)] == [10, 20]
    assert json.loads(zorya("events", "--json", "--limit", "1").stdout)[0]["cluster"] == "busy"


def test_events_have_freezes_and_thaws_when_all_are_asked_for(zorya: Command) -> None:
    assert zorya("events", "cold").stdout == ""
    assert zorya("events", "cold", "--all").stdout == "2026-02-03 09:00:00  cold  The cluster is frozen.\n"
    assert [event["seq"] for event in json.loads(zorya("events", "--all", "--json").stdout)] == [10, 20, 30]
    assert json.loads(zorya("events", "--all", "--json", "--limit", "1").stdout)[0]["category"] == "sleep"


def test_events_follow_until_interrupted(zorya: Command) -> None:
    with zorya.start("events", "main", "--follow", "--json") as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["message"] == "The cluster is created."
        zorya("resume", "main")
        assert json.loads(following.stdout.readline())["message"] == "The cluster is resumed."
        following.send_signal(signal.SIGINT)
        _out, err = following.communicate(timeout=DEADLINE_S)
    assert (following.returncode, err) == (130, "")


def test_a_reader_that_leaves_early_is_no_error(zorya: Command) -> None:
    with zorya.start("events", "--follow") as following:
        assert following.stdout is not None
        following.stdout.readline()
        following.stdout.close()
        zorya("resume", "main")
        following.wait(DEADLINE_S)
        assert following.stderr is not None
        assert following.stderr.read() == ""


def test_status_and_doctor_tell_what_the_server_says(lonely: Command, server: subprocess.Popen[str]) -> None:
    assert f"pid         {server.pid}" in lonely("status").stdout
    assert json.loads(lonely("status", "--json").stdout)["clusters"] == {"running": 1, "frozen": 1, "stopped": 1}
    assert "node        1.5 of 8 ACUs allotted (2 cores, 16 GiB)" in lonely("status").stdout
    result = lonely("doctor")
    assert result.returncode == 0
    assert result.stdout == (
        "ok       PostgreSQL: PostgreSQL 17.10 is there.\n"
        "warning  cgroup: No cgroup is delegated.\n"
        "         Delegate one.\n"
    )
    assert [one["state"] for one in json.loads(lonely("doctor", "--json").stdout)] == ["ok", "warning"]


def test_a_second_up_changes_nothing(lonely: Command, server: subprocess.Popen[str]) -> None:
    for words in (["up"], ["up", "--detach", "--api-port", "1"]):
        result = lonely(*words)
        assert result.returncode == 0
        assert result.stdout == f"Zorya is already up (home {lonely.home}, pid {server.pid}); nothing was changed.\n"


def test_down_returns_when_the_server_is_gone_and_may_be_repeated(
    lonely: Command, server: subprocess.Popen[str]
) -> None:
    assert lonely("down").stdout == "Zorya is down.\n"
    assert server.wait(DEADLINE_S) == 0
    assert server.stdout is not None
    assert server.stdout.read() == "put to sleep\n"
    again = lonely("down")
    assert (again.returncode, again.stdout) == (0, "Zorya is not up.\n")


@pytest.mark.parametrize(
    ("stopped", "said"),
    [
        ((), "Zorya is down; 2 engines go on, and clients that connect wait for the next server.\n"),
        (("busy",), "Zorya is down; 1 engine goes on, and clients that connect wait for the next server.\n"),
        (("busy", "cold"), "Zorya is down.\n"),
    ],
)
def test_down_tells_how_many_engines_go_on_when_they_are_left_running(
    lonely: Command, server: subprocess.Popen[str], stopped: tuple[str, ...], said: str
) -> None:
    for name in stopped:
        lonely("pause", name, "--force")
    result = lonely("down", "--leave-running")
    assert (result.returncode, result.stdout, result.stderr) == (0, said, "")
    assert server.wait(DEADLINE_S) == 0
    assert server.stdout is not None
    assert server.stdout.read() == "left running\n"


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("words", "doing"), [((), "Putting 2 clusters to sleep"), (("--leave-running",), "Stopping Zorya")]
)
def test_down_shows_what_it_does_when_there_is_a_terminal(lonely: Command, words: tuple[str, ...], doing: str) -> None:
    code, shown = lonely.on_terminal("down", *words)
    assert code == 0
    assert doing in shown
    assert ("to sleep" in shown) == (not words)


def test_an_announcement_tells_of_frozen_clusters_when_there_are_some(
    zorya: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    launch.announce(Invocation(home=zorya.home))
    assert "It has 3 clusters, 1 of them running and 1 frozen; `" in capsys.readouterr().out
    zorya("delete", "busy", "--yes")
    zorya("resume", "cold")
    launch.announce(Invocation(home=zorya.home))
    assert "It has 2 clusters, 1 of them running; `" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("main", "Cluster main sleeps at postgresql://zorya:…@127.0.0.1:7400/main; it starts when you connect:"),
        ("cold", "Cluster cold is frozen at postgresql://zorya:…@127.0.0.1:7400/cold; connect with:"),
    ],
)
def test_an_announcement_tells_how_to_connect_when_there_is_one_cluster(
    zorya: Command, capsys: pytest.CaptureFixture[str], name: str, line: str
) -> None:
    for other in {"busy", "cold", "main"} - {name}:
        zorya("delete", other, "--yes")
    launch.announce(Invocation(home=zorya.home))
    assert line in capsys.readouterr().out.splitlines()
