"""What is told of a cluster's copies, and what verifies and recovers them, as a user or a script sees it."""

import json

import pytest

from cli.command import Command
from cli.test_commands import fails
from zorya.cli import facts, wire


@pytest.mark.parametrize(
    ("words", "copies", "told"),
    [
        ((), 6, "six copies in three zones, a commit is on four before the client hears of it"),
        (("--copies", "6"), 6, "six copies in three zones, a commit is on four before the client hears of it"),
        (("--copies", "3"), 3, "three copies in three zones, a commit is on two before the client hears of it"),
        (("--copies", "1"), 1, "one copy: what the disk loses is lost"),
    ],
)
def test_show_says_plainly_how_many_copies_there_are(
    zorya: Command, words: tuple[str, ...], copies: int, told: str
) -> None:
    assert json.loads(zorya("create", "shop", *words, "--json").stdout)["volume"]["copies"] == copies
    lines = zorya("show", "shop").stdout.splitlines()
    assert f"copies         {told}" in lines
    assert "primary        a_full, in zone a" in lines
    assert "epoch          1" in lines
    assert ("readers        127.0.0.1:7500" in lines) == (copies > 1)
    assert not [line for line in lines if line.startswith("volume ")]


def test_show_says_why_a_volume_is_not_whole(zorya: Command) -> None:
    zorya("create", "hurt")
    lines = zorya("show", "hurt").stdout.splitlines()
    assert "volume         degraded: 4 of 6 copies are current; writes go on." in lines
    assert "primary        c_full, in zone c" in lines
    assert "epoch          2" in lines
    assert "reader problem    Port 7501 is taken." in zorya("show", "busy").stdout.splitlines()


def test_show_says_what_a_commit_waits_for_while_copies_are_being_made() -> None:
    volume: wire.Volume = {
        "copies": 6,
        "current": 1,
        "needed": 1,
        "health": "building",
        "reason": "1 of 6 copies is current; commits do not wait for the others yet.",
        "epoch": 1,
        "primary": "a_full",
    }
    assert facts.copies(volume) == "six copies in three zones; until all are made a commit is on the primary alone"


def test_list_tells_of_volumes_only_when_one_is_not_whole(zorya: Command) -> None:
    assert "VOLUME" not in zorya("list").stdout
    zorya("create", "hurt")
    lines = zorya("list").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ["VOLUME", "whole", "whole", "degraded", "whole"]
    assert lines[2].split()[4] == "frozen"


@pytest.mark.parametrize("copies", ["2", "0", "-1", "60"])
def test_another_number_of_copies_is_refused(zorya: Command, copies: str) -> None:
    for words in (("create", "shop"), ("modify", "main")):
        fails(
            zorya(*words, f"--copies={copies}"),
            "The request is not valid: copies: must be 1, 3 or 6. /openapi.json describes every request.",
        )
    assert zorya("show", "shop").returncode == 1


def test_modify_changes_the_number_of_copies(zorya: Command) -> None:
    assert "copies         one copy: what the disk loses is lost\n" in zorya("modify", "main", "--copies", "1").stdout
    assert json.loads(zorya("modify", "main", "--copies", "3", "--json").stdout)["volume"]["copies"] == 3


def test_copies_are_a_table_with_reasons_where_there_are_some(zorya: Command) -> None:
    zorya("create", "hurt")
    assert zorya("copies", "HURT").stdout == (
        "COPY    ZONE  ROLE     STATE          POSITION   LAG             VERIFIED             REASON\n"
        "a_full  a     standby  current        0/1A2B3C4  none            2026-02-03 09:00:00\n"
        "a_tail  a     log      current        0/1A2B3C4  none            never\n"
        "b_full  b     standby  building 42 %  -          -               never                Its files were gone.\n"
        "b_tail  b     log      behind         0/19E1FE4  293 KiB, 7.2 s  never                It is slow.\n"
        "c_full  c     primary  current        0/1A2B3C4  none            2026-02-03 09:00:00\n"
        "c_tail  c     log      current        0/1A2B3C4  none            never\n"
    )
    copies = json.loads(zorya("copies", "hurt", "--json").stdout)
    assert [one["position"] for one in copies[2:4]] == [None, "0/19E1FE4"]
    assert copies[2]["progress"] == 0.427


def test_copies_have_no_column_for_reasons_where_there_are_none(zorya: Command) -> None:
    zorya("create", "shop", "--copies", "1")
    assert zorya("copies", "shop").stdout == (
        "COPY    ZONE  ROLE     STATE    POSITION   LAG   VERIFIED\n"
        "a_full  a     primary  current  0/1A2B3C4  none  2026-02-03 09:00:00\n"
    )
    fails(
        zorya("copies", "nosuch"),
        "There is no cluster named nosuch. `zorya list` shows the clusters there are.",
    )


def test_copies_are_coloured_when_there_is_a_terminal(zorya: Command) -> None:
    zorya("create", "hurt")
    code, shown = zorya.on_terminal("copies", "hurt")
    assert code == 0
    assert "\x1b[33mbehind" in shown
    assert "building 42 %" in shown


def test_verify_tells_what_was_checked_when_nothing_is_damaged(zorya: Command) -> None:
    result = zorya("verify", "main")
    assert (result.returncode, result.stdout, result.stderr) == (
        0,
        "6 copies were checked in 12 s; nothing is damaged.\n",
        "",
    )
    zorya("create", "shop", "--copies", "1")
    assert zorya("verify", "shop").stdout == "1 copy was checked in 12 s; nothing is damaged.\n"
    fails(zorya("verify", "busy"), "Cluster busy is running. Try again in a moment.")


def test_verify_ends_with_0_when_all_that_is_damaged_was_repaired(zorya: Command) -> None:
    zorya("create", "hurt")
    result = zorya("verify", "hurt")
    assert (result.returncode, result.stdout) == (
        0,
        "6 copies were checked in 12 s:\n"
        "damaged   Copy b_full: 1 of 1412 pages has a wrong checksum.\n"
        "repaired  b_full\n",
    )


def test_verify_ends_with_1_when_something_could_not_be_repaired(zorya: Command) -> None:
    zorya("create", "gone")
    result = zorya("verify", "gone")
    assert (result.returncode, result.stdout) == (
        1,
        "6 copies were checked in 12 s:\n"
        "damaged   Copy a_full is not there.\n"
        "damaged   Copy a_tail is not there.\n"
        "repaired  a_tail\n"
        "Not all of it could be repaired.\n",
    )
    as_json = zorya("verify", "gone", "--json")
    assert (as_json.returncode, as_json.stderr) == (1, "")
    assert json.loads(as_json.stdout)["repaired"] == ["a_tail"]


def test_verify_shows_that_it_works_when_there_is_a_terminal(zorya: Command) -> None:
    code, shown = zorya.on_terminal("verify", "main")
    assert code == 0
    assert "Verifying cluster main" in shown


def test_recover_does_nothing_and_says_what_would_be_lost_unless_that_is_accepted(zorya: Command) -> None:
    zorya("create", "gone")
    result = zorya("recover", "gone")
    assert (result.returncode, result.stdout) == (2, "")
    told = " ".join(result.stderr.split())
    assert "What was committed last may be lost, and nobody can tell how much." in told
    assert "2 of 6 copies are current, and 3 have to be there to know what was committed." in told
    assert "--accept-data-loss" in told
    assert json.loads(zorya("show", "gone", "--json").stdout)["volume"]["health"] == "lost"


def test_recover_goes_on_from_what_is_left_when_the_loss_is_accepted(zorya: Command) -> None:
    zorya("create", "gone")
    assert zorya("recover", "gone", "--accept-data-loss").stdout == (
        "Cluster gone is running: It goes on from what was left.\n"
        "volume   waiting: Its copies are being made.\n"
        "primary  c_full, in zone c\n"
        "epoch    3\n"
    )
    fails(
        zorya("recover", "gone", "--accept-data-loss"),
        "Cluster gone has enough copies to know what was committed.",
    )
    as_json = zorya("recover", "main", "--accept-data-loss", "--json")
    assert (as_json.returncode, json.loads(as_json.stderr)["error"]["code"]) == (1, "conflict")


def test_url_is_that_of_the_reader_endpoint_when_it_is_asked_for(zorya: Command) -> None:
    assert zorya("url", "main", "--reader").stdout == "postgresql://zorya:secret-main@127.0.0.1:7500/main\n"
    assert zorya("url", "busy", "--reader").stdout == "postgresql://zorya:secret-busy@[::1]:7501/busy\n"
    credentials = json.loads(zorya("url", "main", "--reader", "--json").stdout)
    assert credentials["endpoint"] == {"host": "127.0.0.1", "port": 7500}
    assert credentials["url"].endswith("@127.0.0.1:7500/main")


@pytest.mark.parametrize("command", ["url", "connect"])
def test_a_reader_is_refused_when_the_cluster_has_one_copy(zorya: Command, command: str) -> None:
    zorya("create", "shop", "--copies", "1")
    fails(
        zorya(command, "shop", "--reader"),
        "Cluster shop has one copy, and so no reader endpoint. `zorya modify shop --copies 6` makes more.",
    )
