"""Where the cluster of these tests is, and what all its clients are given to do."""

from dataclasses import dataclass
from typing import Any

MEGABYTE = 1024 * 1024
HUGE = b"0123456789abcdef" * (20 * MEGABYTE // 16)
"""A value that takes two packets of the protocol, which holds 16 MiB at most in one."""
BYTES = bytes(range(256)) * 40
TEXT = "žluťoučký kůň \N{HORSE} 'it''s' \"so\" \\ % \n\0"
"""What escapes wrongly, or is lost by a character set of three bytes, shows here."""

ODD_USER = 'o\'neill "žluť" `x` \\ %'
ODD_PASSWORD = "p'w \" \\ % @:/`"
ODD_DATABASE = "my `shop` 'é' \"ž\" %"
ODD_TABLE = "a `b` 'ü' \"č\" %"

PROCEDURE = """
CREATE OR REPLACE PROCEDURE {name}(IN given INT, OUT doubled INT, INOUT counted INT)
BEGIN
    SET doubled = given * 2, counted = counted + 1;
    SELECT given AS first;
    SELECT seq FROM seq_1_to_3;
END
"""
"""A procedure with two results, an OUT and an INOUT parameter."""


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Where the cluster "shop" is, and as whom."""

    host: str
    port: int
    user: str
    password: str
    database: str

    def told(self, **more: Any) -> dict[str, Any]:
        """Answer the named arguments that all the Python clients have in common, and `more` over them."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            **more,
        }


def quoted(name: str) -> str:
    """Answer an identifier as SQL has it."""
    return "`" + name.replace("`", "``") + "`"
