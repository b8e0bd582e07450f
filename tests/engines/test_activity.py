"""engines/postgres/activity.py: asking an engine what it does must not be something that it does."""

from engines.clusters import Cluster
from zorya.engines.postgres import activity


def test_question_reads_no_table(running: Cluster) -> None:
    """A session that has read one has statistics to report 10 s later, which would thaw a frozen engine each time."""
    with running.connect_as_admin() as session:
        plan = "\n".join(row[0] for row in session.execute(f"EXPLAIN {activity._QUERY}".encode()))
    assert "Function Scan on pg_stat_get_activity" in plan
    assert "pg_authid" not in plan
    assert "pg_database" not in plan


def test_blocks_of_all_databases_are_added_up_from_the_first_look_at_each() -> None:
    count = activity.BlockCount()
    count.add(1, needed=1000, hit=900)
    assert (count.hit, count.read) == (0, 0)
    count.add(1, needed=1100, hit=990)
    count.add(2, needed=10**9, hit=10**8)
    assert (count.hit, count.read) == (90, 10)
    count.add(2, needed=10**9 + 5, hit=10**8 + 5)
    assert (count.hit, count.read) == (95, 10)


def test_blocks_that_were_reset_are_counted_from_zero() -> None:
    count = activity.BlockCount()
    count.add(1, needed=1000, hit=900)
    count.add(1, needed=30, hit=20)
    assert (count.hit, count.read) == (20, 10)
