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
