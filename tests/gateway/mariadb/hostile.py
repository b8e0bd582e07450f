"""What strangers may send to a MariaDB endpoint: any bytes, and nothing but the documented outcome may come of them."""

import hashlib

from zorya.core.accounts import Account, Accounts, Method
from zorya.core.errors import ProtocolViolation
from zorya.core.model import Secret
from zorya.gateway.mariadb import naming, wire
from zorya.gateway.mariadb.authentication import Authentication, Proved
from zorya.gateway.mariadb.wire import Response

SCRAMBLE = b"abcdefghijklmnopqrst"
OFFERED = 0x1D_81FF_FFFE
_SALT = hashlib.sha1(hashlib.sha1(b"nobody sends this").digest()).digest()
_ANN = Account(
    user="ann",
    host="%",
    methods=(Method(plugin=wire.NATIVE, verifier=Secret("*" + _SALT.hex().upper())),),
    is_locked=False,
    password_expired=False,
    needs_tls=False,
    needs_certificate=False,
    opens=("%",),
)
KNOWN = Accounts(accounts=(_ANN,), databases=("shop",), version="10.11", capabilities=OFFERED, collation=45)


def try_start(data: bytes) -> None:
    """Read any bytes as a client's packets up to the end of its login. The first says in which pieces they come."""
    if not data:
        return
    framer, step = wire.PacketFramer(), data[0] + 1
    bodies = []
    rest = data[1:]
    try:
        while rest:
            piece, rest = rest[: min(step, framer.wants)], rest[min(step, framer.wants) :]
            packet = framer.receive(piece)
            if packet is not None:
                bodies.append(packet.body)
        for body in bodies:
            response = wire.parse_start(body, OFFERED)
            if isinstance(response, Response):
                _log_in(response, bodies[-1])
    except ProtocolViolation:
        return


def _log_in(response: Response, answer: bytes) -> None:
    naming.by_user(response)
    login = Authentication(response, KNOWN, address="192.0.2.1", scramble=SCRAMBLE, is_tls=False, wakes_unverified=True)
    if login.begin():
        login.receive(answer)
    assert login.outcome is not None
    assert not isinstance(login.outcome, Proved)
