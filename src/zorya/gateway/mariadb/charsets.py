"""In which character set a client writes its names, by the number that it sends of a collation. Pure.

The numbers are those of information_schema.COLLATION_CHARACTER_SET_APPLICABILITY; a handshake has one byte for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Charset:
    """A character set."""

    name: str
    """MariaDB's."""
    codec: str
    """Python's; `ascii` where Python has none, in which case only ASCII is read."""

    @property
    def is_for_clients(self) -> bool:
        """Whether a client may speak in it: one in which each character has several bytes cannot carry SQL."""
        return not self.name.startswith(("ucs2", "utf16", "utf32"))

    def decode(self, text: bytes) -> str:
        """Answer the text; what cannot be read becomes question marks, as in MariaDB's copy_and_convert."""
        return text.decode(self.codec, "replace").replace("\ufffd", "?")

    def encode(self, text: str) -> bytes:
        """Answer the text for a client; what cannot be written becomes question marks."""
        return text.encode(self.codec, "replace")


_NUMBERS: Mapping[tuple[str, str], tuple[range | int, ...]] = {
    ("armscii8", "ascii"): (32, 64),
    ("ascii", "ascii"): (11, 65),
    ("big5", "big5"): (1, 84),
    ("binary", "latin-1"): (63,),
    ("cp1250", "cp1250"): (26, 34, 44, 66, 99),
    ("cp1251", "cp1251"): (14, 23, 50, 51, 52),
    ("cp1256", "cp1256"): (57, 67),
    ("cp1257", "cp1257"): (29, 58, 59),
    ("cp850", "cp850"): (4, 80),
    ("cp852", "cp852"): (40, 81),
    ("cp866", "cp866"): (36, 68),
    ("cp932", "cp932"): (95, 96),
    ("dec8", "ascii"): (3, 69),
    ("eucjpms", "euc_jp"): (97, 98),
    ("euckr", "euc_kr"): (19, 85),
    ("gb2312", "gb2312"): (24, 86),
    ("gbk", "gbk"): (28, 87),
    ("geostd8", "ascii"): (92, 93),
    ("greek", "iso8859_7"): (25, 70),
    ("hebrew", "iso8859_8"): (16, 71),
    ("hp8", "ascii"): (6, 72),
    ("keybcs2", "ascii"): (37, 73),
    ("koi8r", "koi8_r"): (7, 74),
    ("koi8u", "koi8_u"): (22, 75),
    # MariaDB's latin1 is cp1252.
    ("latin1", "cp1252"): (5, 8, 15, 31, 47, 48, 49, 94),
    ("latin2", "iso8859_2"): (2, 9, 21, 27, 77),
    ("latin5", "iso8859_9"): (30, 78),
    ("latin7", "iso8859_13"): (20, 41, 42, 79),
    ("macce", "mac_latin2"): (38, 43),
    ("macroman", "mac_roman"): (39, 53),
    ("sjis", "shift_jis"): (13, 88),
    ("swe7", "ascii"): (10, 82),
    ("tis620", "tis_620"): (18, 89),
    ("ucs2", "utf-16-be"): (35, 90, range(128, 152), 159),
    ("ujis", "euc_jp"): (12, 91),
    ("utf16", "utf-16-be"): (54, 55, range(101, 125)),
    ("utf16le", "utf-16-le"): (56, 62),
    ("utf32", "utf-32-be"): (60, 61, range(160, 184)),
    ("utf8mb3", "utf-8"): (33, 83, range(192, 216), 223),
}

_UTF8MB4 = Charset(name="utf8mb4", codec="utf-8")

_BY_NUMBER: Mapping[int, Charset] = {
    number: Charset(name=name, codec=codec)
    for (name, codec), numbers in _NUMBERS.items()
    for part in numbers
    for number in (part if isinstance(part, range) else (part,))
}


def of_collation(number: int) -> Charset:
    """Answer the character set of a collation; UTF-8, which clusters have by default, for one that is not known."""
    return _BY_NUMBER.get(number, _UTF8MB4)
