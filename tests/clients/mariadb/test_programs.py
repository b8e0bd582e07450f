"""MariaDB's own programs and sysbench, unchanged, through the endpoints of two clusters."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.mariadb.conftest import place, runner
from clients.mariadb.shop import PROCEDURE, Shop
from harness import Server

CONTENT = (
    """
CREATE OR REPLACE DATABASE `other žluť`;
CREATE TABLE `other žluť`.`tab ``le``` (id INT PRIMARY KEY, t TEXT) ENGINE=InnoDB;
INSERT INTO `other žluť`.`tab ``le``` VALUES (1, 'it''s \\\\ "quoted"\\n\\t\\Z');
CREATE OR REPLACE TABLE orders (
    id BIGINT AUTO_INCREMENT PRIMARY KEY,
    state ENUM('open', 'paid') NOT NULL DEFAULT 'open',
    note VARCHAR(100),
    data JSON,
    raw BLOB,
    at TIMESTAMP(6) NOT NULL DEFAULT '2024-02-29 01:02:03.000456',
    doubled BIGINT AS (id * 2) VIRTUAL,
    KEY (note), FULLTEXT KEY (note)
);
INSERT INTO orders (note, data, raw)
    SELECT CONCAT('line\\n\\ttab \\\\ \N{HORSE} ', seq), JSON_OBJECT('n', seq), UNHEX(MD5(seq)) FROM seq_1_to_20000;
CREATE OR REPLACE SEQUENCE numbers START WITH 5 INCREMENT BY 5;
CREATE OR REPLACE VIEW recent AS SELECT * FROM orders ORDER BY id DESC LIMIT 10;
CREATE OR REPLACE FUNCTION paid() RETURNS BIGINT READS SQL DATA
    RETURN (SELECT COUNT(*) FROM orders WHERE state = 'paid');
CREATE OR REPLACE TRIGGER named BEFORE INSERT ON orders FOR EACH ROW SET NEW.note = CONCAT(NEW.note, '!');
CREATE OR REPLACE EVENT yearly ON SCHEDULE EVERY 1 YEAR DO DELETE FROM orders WHERE state = 'paid';
DELIMITER //
"""
    + PROCEDURE.format(name="of_programs").rstrip()
    + """ //
DELIMITER ;
"""
)
DUMPED = ("--routines", "--events", "--triggers", "--single-transaction", "--hex-blob", "--skip-dump-date")


@pytest.fixture(scope="module")
def filled(shop: Shop) -> Shop:
    """The cluster with something of everything in it, filled by `mariadb` while it slept."""
    assert runner(shop)("mariadb", shop.database, stdin=CONTENT) == ""
    return shop


def test_dump_is_the_same_when_it_went_into_another_cluster(
    filled: Shop, server: Server, run: Callable[..., str]
) -> None:
    databases = ("--databases", filled.database, "other žluť")
    dump = run("mariadb-dump", *DUMPED, *databases)
    assert dump.count("\nINSERT INTO ") >= 2
    server.api.create({"name": "target", "engine": "mariadb"})
    into = runner(place(server, "target"))
    into("mariadb", stdin=dump)
    again = into("mariadb-dump", *DUMPED, *databases)
    server.api.delete("target")
    assert normal(again) == normal(dump)


def normal(dump: str) -> str:
    """A dump without its comments, which tell of the server's address."""
    return re.sub(r"^--.*\n", "", dump, flags=re.MULTILINE)


def test_program_works_in_batch_with_compression(filled: Shop, run: Callable[..., str]) -> None:
    sql = "SHOW STATUS LIKE 'Compression'; SELECT paid(), COUNT(*) FROM orders; CALL of_programs(4, @doubled, @none)"
    printed = run("mariadb", "--compress", "--batch", "--skip-column-names", filled.database, stdin=sql)
    assert printed.split() == ["Compression", "ON", "0", "20000", "4", "1", "2", "3"]


def test_all_rows_arrive_when_they_are_printed_as_they_come(filled: Shop, run: Callable[..., str]) -> None:
    sql = "SELECT REPEAT('x', 50000) FROM seq_1_to_400"
    printed = run("mariadb", "--quick", "--batch", "--skip-column-names", filled.database, "--execute", sql)
    assert printed == ("x" * 50000 + "\n") * 400


def test_rows_are_imported_from_the_clients_file(shop: Shop, run: Callable[..., str], tmp_path: Path) -> None:
    run("mariadb", shop.database, stdin="CREATE OR REPLACE TABLE imported (n INT, t TEXT)")
    file = tmp_path / "imported.csv"
    file.write_text("".join(f"{n},'row {n}, \N{HORSE}'\n" for n in range(5000)))
    formed = ("--fields-terminated-by=,", "--fields-enclosed-by='")
    printed = run("mariadb-import", "--local", *formed, shop.database, str(file))
    assert "Records: 5000  Deleted: 0  Skipped: 0  Warnings: 0" in printed


def test_slap_does_all_its_queries(shop: Shop, run: Callable[..., str]) -> None:
    printed = run(
        "mariadb-slap",
        "--create-schema=slapped",
        "--auto-generate-sql",
        "--auto-generate-sql-load-type=mixed",
        "--number-of-queries=200",
        "--concurrency=4",
        "--csv",
    )
    # engine, load, average, least and most seconds, clients, queries of each
    assert printed.strip().split(",")[-2:] == ["4", "50"]


@pytest.mark.parametrize("prepared", ["disable", "auto"])
def test_sysbench_does_all_its_transactions(shop: Shop, run: Callable[..., str], prepared: str) -> None:
    options = ("--tables=1", "--table-size=500", "--threads=2", "--events=40", "--time=0", f"--db-ps-mode={prepared}")
    run("sysbench", *options, "oltp_read_write", "prepare")
    try:
        printed = run("sysbench", *options, "oltp_read_write", "run")
    finally:
        run("sysbench", *options, "oltp_read_write", "cleanup")
    assert re.search(r"transactions: +40 ", printed)
    assert re.search(r"reconnects: +0 ", printed)
