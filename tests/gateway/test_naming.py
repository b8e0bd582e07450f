"""Which cluster a name or a startup packet stands for, and what is left of the packet for the engine."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.fakes import parse_error, startup
from zorya.gateway.postgres import naming, pgwire
from zorya.gateway.postgres.naming import Named
from zorya.gateway.postgres.pgwire import Refusal, Startup

DOMAIN = "zorya.localhost"


def framed(raw: bytes) -> Startup:
    framer = pgwire.StartupFramer()
    framer.receive(raw)
    event = framer.next_event()
    assert isinstance(event, Startup)
    return event


def packet(**parameters: str) -> Startup:
    return framed(startup(user="ann", **parameters))


@pytest.mark.parametrize("name", ["shop.zorya.localhost", "SHOP.Zorya.LocalHost", "shop.zorya.localhost."])
def test_host_name_stands_for_a_cluster_when_it_is_one_label_in_front_of_the_domain(name: str) -> None:
    assert naming.by_server_name(name, DOMAIN) == "shop"


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        ".",
        "shop",
        "zorya.localhost",
        ".zorya.localhost",
        "a.shop.zorya.localhost",
        "shop.zorya.localhost.example",
        "shop.xzorya.localhost",
        "shopzorya.localhost",
        "shop_1.zorya.localhost",
        "-shop.zorya.localhost",
        "*.zorya.localhost",
        "127.0.0.1",
        "x" * 64 + ".zorya.localhost",
    ],
)
def test_host_name_stands_for_no_cluster_when_it_is_anything_else(name: str | None) -> None:
    assert naming.by_server_name(name, DOMAIN) is None


@pytest.mark.parametrize(
    "options",
    [
        "-c zorya.cluster=shop",
        "-czorya.cluster=shop",
        "--zorya.cluster=shop",
        "--ZORYA.cluster=Shop",
        "-c  zorya.cluster=shop",
        r"-c zorya\.cluster=s\hop",
        "-c search_path=a -c zorya.cluster=shop -e",
        "-c zorya.cluster=shop --zorya.cluster=SHOP",
        "  -c\tzorya.cluster=shop\n",
    ],
)
def test_packet_stays_as_it_is_when_its_options_name_the_cluster_in_a_way_that_postgresql_takes(options: str) -> None:
    given_packet = packet(options=options, database="orders")
    assert naming.by_startup(given_packet) == Named(cluster="shop", startup=given_packet)


def test_packet_stays_as_it_is_when_a_parameter_of_its_own_names_the_cluster() -> None:
    given_packet = packet(**{"zorya.cluster": "shop"})
    assert naming.by_startup(given_packet) == Named(cluster="shop", startup=given_packet)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("--cluster=shop", None),
        ("endpoint=shop", None),
        ("endpoint=Shop", None),
        ("-c cluster=shop", None),
        ("-ccluster=shop", None),
        ("--cluster=shop -c search_path=a", "-c search_path=a"),
        ("-c search_path=a endpoint=shop -e", "-c search_path=a -e"),
        (r"-c search_path=a\ \\b\,c  endpoint=shop", r"-c search_path=a\ \\b,c"),
        ("-c zorya.cluster=shop --cluster=shop endpoint=shop", "-c zorya.cluster=shop"),
        ("endpoint=shop -c", "-c"),
        ("endpoint=shop \\", "\\"),
    ],
)
def test_packet_loses_what_postgresql_would_refuse(options: str, left: str | None) -> None:
    named = naming.by_startup(packet(options=options, database="orders", application_name="x"))
    kept = {} if left is None else {"options": left}
    expected = packet(**kept, database="orders", application_name="x")
    assert named == Named(cluster="shop", startup=expected)


@pytest.mark.parametrize("options", ["", "-c", "-c search_path=endpoint=shop", "-c endpoint=shop", "--zorya=shop", "x"])
@pytest.mark.parametrize("database", ["shop", ""])
def test_packet_names_no_cluster_when_it_says_nothing_of_the_kind(options: str, database: str) -> None:
    assert naming.by_startup(packet(options=options, database=database)) is None


@pytest.mark.parametrize(
    ("database", "left"), [("shop/orders", "orders"), ("SHOP/a/b", "a/b"), ("shop//", "/"), ("shop/", None)]
)
def test_database_is_what_follows_the_slash(database: str, left: str | None) -> None:
    kept = {} if left is None else {"database": left}
    assert naming.by_startup(packet(database=database, options="-e")) == Named(
        cluster="shop", startup=packet(**kept, options="-e")
    )


def test_all_forms_may_stand_side_by_side_when_they_name_one_cluster() -> None:
    named = naming.by_startup(packet(options="endpoint=shop -c zorya.cluster=SHOP", database="Shop/orders"))
    assert named == Named(cluster="shop", startup=packet(options="-c zorya.cluster=SHOP", database="orders"))


@pytest.mark.parametrize(
    ("options", "database"),
    [
        ("-c zorya.cluster=shop", "other/orders"),
        ("--cluster=shop", "other/orders"),
        ("-c zorya.cluster=shop --cluster=other", "orders"),
        ("-c zorya.cluster=shop -c zorya.cluster=other", "orders"),
        ("endpoint=shop --cluster=other", "shop/orders"),
    ],
)
def test_packet_is_refused_when_it_names_two_clusters(options: str, database: str) -> None:
    refusal = naming.by_startup(packet(options=options, database=database))
    assert isinstance(refusal, Refusal)
    assert refusal.sqlstate == "28000"
    assert refusal.message == 'the connection names two clusters, "shop" and "other"'


@pytest.mark.parametrize("name", ["", "a_b", "-a", "x" * 64, "../etc", "ä", "postgres", "a b", "é" * 4000])
def test_packet_is_refused_when_no_cluster_can_have_the_name(name: str) -> None:
    escaped = name.replace(" ", "\\ ")
    refusal = naming.by_startup(packet(options=f"-c zorya.cluster={escaped}"))
    assert isinstance(refusal, Refusal)
    assert refusal.sqlstate == "3D000"
    assert refusal.message.startswith(f'cluster "{name[:70]}')
    assert len(refusal.message) < 120


def test_refusal_can_be_sent_when_the_name_is_not_text() -> None:
    raw = startup(user="ann", database="X/x").replace(b"X/", b"\xff/")
    refusal = naming.by_startup(framed(raw))
    assert isinstance(refusal, Refusal)
    assert parse_error(pgwire.error_response(refusal))["C"] == "3D000"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", []),
        (" \t\n\v\f\r", []),
        ("a b", ["a", "b"]),
        (" a  b ", ["a", "b"]),
        (r"a\ b", ["a b"]),
        (r"a\\ b", ["a\\", "b"]),
        (r"a\bc", ["abc"]),
        ("a\\", ["a"]),
        ("\\", [""]),
        ("\\ ", [" "]),
        ("a \\", ["a", ""]),
        ("\xa0\u2003", ["\xa0\u2003"]),
    ],
)
def test_options_are_split_as_postgresql_does(text: str, arguments: list[str]) -> None:
    assert naming.split_options(text) == arguments


def split_step_by_step(text: str) -> list[str]:
    """Read a character at a time and keep what the last one has left to do."""
    arguments: list[str] = []
    inside, escaped = False, False
    for character in text:
        if not escaped and character in " \t\n\v\f\r":
            inside = False
            continue
        if not inside:
            arguments.append("")
            inside = True
        if not escaped and character == "\\":
            escaped = True
        else:
            arguments[-1] += character
            escaped = False
    return arguments


OPTIONS = st.text(st.sampled_from("ab=-c\\ \t\n\v'\"\udc80ä"), max_size=30)
NAMES = st.sampled_from(["shop", "SHOP", "other", "", "a_b", "\udcff"])
WORDS = st.one_of(
    OPTIONS,
    st.builds(
        "{}{}".format, st.sampled_from(["-c zorya.cluster=", "--zorya.cluster=", "--cluster=", "endpoint="]), NAMES
    ),
)


@given(text=OPTIONS)
@example(text="a\\\\\\ b \\")
def test_any_options_are_split_as_if_read_one_by_one(text: str) -> None:
    assert naming.split_options(text) == split_step_by_step(text)


@given(text=OPTIONS)
def test_any_options_mean_the_same_when_split_and_joined(text: str) -> None:
    joined = naming.join_options(naming.split_options(text))
    assert naming.split_options(joined) == naming.split_options(text)
    assert len(joined) <= len(text)


@given(arguments=st.lists(st.text(min_size=1)))
def test_any_arguments_come_back_when_joined_and_split(arguments: list[str]) -> None:
    assert naming.split_options(naming.join_options(arguments)) == arguments


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    options=st.lists(WORDS, max_size=5).map(" ".join),
    database=st.one_of(st.just(""), TEXTS, st.builds("{}/{}".format, NAMES, TEXTS)),
    others=st.dictionaries(TEXTS.filter(lambda name: name not in {"user", "options", "database"}), TEXTS, max_size=3),
    minor=st.integers(0, 3),
)
def test_any_packet_is_refused_named_or_left_as_it_is(
    options: str, database: str, others: dict[str, str], minor: int
) -> None:
    parameters = {"user": "ann", **others, "database": database, "options": options}
    raw = naming.build_startup((3, minor), parameters)
    before = framed(raw)
    assert before == Startup(version=(3, minor), parameters=parameters, raw=raw)
    named = naming.by_startup(before)
    if isinstance(named, Refusal):
        assert pgwire.error_response(named)
    elif named is not None:
        after = named.startup
        assert named.cluster in {"shop", "other"}
        assert len(after.raw) <= len(raw)
        assert framed(after.raw) == after
        assert list(after.parameters) == [name for name in parameters if name in after.parameters]
        # What is left names the same cluster or none, and there is nothing more to take out.
        again = naming.by_startup(after) if "/" not in after.parameters.get("database", "") else None
        assert again in (None, replace(named, startup=after))
        if after.parameters == parameters:
            assert after is before
