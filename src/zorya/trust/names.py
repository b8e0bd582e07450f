"""For which names and addresses the server certificate is to be good, and whether one is among them.

Pure. Names are lower-case DNS names, of which the first label may be `*`, and IP addresses in their usual short form.
"""

import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from zorya.core import errors
from zorya.core.settings import Settings

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

LOCAL = ("localhost", "127.0.0.1", "::1")
_LONGEST_NAME = 253
_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What this host calls itself."""

    name: str
    """May be empty or not fit for a certificate; it is then left out."""
    addresses: tuple[IPAddress, ...]
    """Those that others may reach it by."""


def listens_everywhere(settings: Settings) -> bool:
    """Whether a listening address stands for all of the host's, so that a certificate has to name the host's own."""
    return bool(_wildcards(settings))


def wanted(settings: Settings, host: Host) -> tuple[str, ...]:
    """Answer the names that the certificate is to have, each once.

    `host` counts where an address to listen on is `0.0.0.0` or `::`. Raises InvalidSetting for a name in `tls_names`
    that no certificate can have.
    """
    names = [f"*.{settings.domain}", settings.domain, *LOCAL]
    if len(names[0]) > _LONGEST_NAME:
        raise errors.InvalidSetting(
            f"domain: {settings.domain} is too long for names below it.", hint="Choose a shorter one."
        )
    names += [str(address) for address in _addresses(settings) if not address.is_unspecified]
    wildcards = _wildcards(settings)
    if wildcards:
        name = parse(host.name)
        names += [name] if name else []
        versions = {address.version for address in wildcards}
        names += [str(address) for address in host.addresses if address.version in versions]
    for text in settings.tls_names:
        name = parse(text)
        if name is None:
            raise errors.InvalidSetting(
                f"tls_names: {text!r} is no name that a certificate can have.",
                hint="Give DNS names or IP addresses, separated by commas; other scripts than Latin in the form xn--.",
            )
        names.append(name)
    return tuple(dict.fromkeys(names))


def parse(text: str) -> str | None:
    """Answer a DNS name or an IP address in the form that this module uses; None for anything else."""
    address = parse_address(text)
    if address is not None:
        return str(address)
    name = text.lower().removesuffix(".")
    return name if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) else None


def parse_address(text: str) -> IPAddress | None:
    """Answer an IP address without its zone, since a certificate knows none; None if it is none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def are_good_for(names: Collection[str], asked: str) -> bool:
    """Whether a certificate with these names is good for one, which may be in any case.

    A `*` stands for exactly one label (RFC 6125, section 6.4.3).
    """
    address = parse_address(asked)
    if address is not None:
        return str(address) in names
    name = asked.lower()
    first, dot, rest = name.partition(".")
    return "*" not in name and (name in names or bool(first and dot and rest and f"*.{rest}" in names))


def _addresses(settings: Settings) -> Iterable[IPAddress]:
    parsed = (parse_address(text) for text in (*settings.bind, settings.api_bind))
    return [address for address in parsed if address is not None]


def _wildcards(settings: Settings) -> Iterable[IPAddress]:
    return [address for address in _addresses(settings) if address.is_unspecified]
