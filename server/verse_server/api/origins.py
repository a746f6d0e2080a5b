"""A web page is no client: which pages and which host names may reach the server.

A page that is open in a browser can send requests to any address, this machine's own included. What
a browser says about a page, and a program never says, is checked before anything else:

- `Origin`, and `Sec-Fetch-Site: cross-site`, for a page of another origin. It must be named.
- `Host`, on a server for this machine alone: it must be a name of this machine, or named. Otherwise
  a page could reach the server by a name of its own that it makes point here (DNS rebinding), and
  count as one of the server's own pages.

The server's own page is of the origin that `Host` spells. That is believed where nobody else can
have made the name point here: for an address, a name of this machine, and a name that was allowed.
A link on another site may open the page, which does nothing until somebody uses it.

Bodies must be `application/json` besides (`decoding`), which no page can send unasked.
"""

import ipaddress
from collections.abc import Iterable, Sequence

from verse_server.api.errors import RequestError
from verse_server.config import is_loopback

_ANY = "*"
_MAX_SHOWN = 100


class OriginPolicy:
    """What `--cors-origin` and `--allowed-host` allow."""

    def __init__(
        self, *, host: str, cors_origins: Sequence[str] = (), allowed_hosts: Sequence[str] = ()
    ) -> None:
        """Take the configuration.

        Args:
            host: The address the server listens on.
            cors_origins: Whose pages may use it; `*` for all.
            allowed_hosts: Its other names; `*` for any.
        """
        self._origins = frozenset(map(normalized_origin, cors_origins))
        self._hosts = frozenset(map(_host_name, allowed_hosts))
        self._checks_hosts = is_loopback(_host_name(host)) or bool(self._hosts)

    def check(self, headers: Iterable[tuple[bytes, bytes]], *, opens_page: bool = False) -> None:
        """Let a request through.

        Args:
            headers: The request's.
            opens_page: Whether it asks for the server's page, and so may come from a link.

        Raises:
            RequestError: 403, it comes from a page that is not named, or to a name that is not.
        """
        hosts, origins, told = list[str](), list[str](), dict[bytes, str]()
        for name, raw in headers:
            value = raw.decode("latin-1").strip()
            if name == b"host":
                self._check_host(value)
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
            elif name.startswith(b"sec-fetch-"):
                told[name] = value.lower()
        if told.get(b"sec-fetch-site") == "cross-site":
            is_link = opens_page and told.get(b"sec-fetch-dest") == "document"
            if not origins and not (is_link and told.get(b"sec-fetch-mode") == "navigate"):
                origins.append("")
        for origin in origins:
            if not (told.get(b"sec-fetch-site") != "cross-site" and self._is_own(origin, hosts)):
                self._check_origin(origin)

    def _is_own(self, origin: str, hosts: Sequence[str]) -> bool:
        """Whether an origin is the server's own, by a name that can mean no other machine."""
        if len(hosts) != 1 or normalized_origin(origin) != f"http://{_authority(hosts[0])}":
            return False
        name = _host_name(hosts[0])
        return name in self._hosts or is_loopback(name) or _is_address(name)

    def _check_origin(self, origin: str) -> None:
        if _ANY in self._origins or normalized_origin(origin) in self._origins:
            return
        page = f"the web page {origin[:_MAX_SHOWN]!r}" if origin else "a web page of another site"
        raise RequestError(
            f"This request comes from {page}, which may not use this server; allow its origin "
            "with --cors-origin.",
            code="origin_not_allowed",
            status=403,
        )

    def _check_host(self, value: str) -> None:
        name = _host_name(value)
        is_allowed = _ANY in self._hosts or name in self._hosts or is_loopback(name)
        if self._checks_hosts and not is_allowed:
            raise RequestError(
                f"This server has no name {value[:_MAX_SHOWN]!r}; ask for it as localhost, or "
                "allow the name with --allowed-host.",
                code="host_not_allowed",
                status=403,
            )


def normalized_origin(origin: str) -> str:
    """As browsers send it: `https://Poems.example/` is `https://poems.example`."""
    return origin.strip().lower().rstrip("/")


def _authority(host: str) -> str:
    """As it stands in an origin, which leaves out the usual port."""
    return host.strip().lower().removesuffix(":80")


def _host_name(value: str) -> str:
    """Without a port: `localhost:8000` is `localhost`, `[::1]:8000` is `::1`."""
    name = value.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    if name.count(":") == 1:
        name = name.partition(":")[0]
    return name.rstrip(".")


def _is_address(name: str) -> bool:
    """Whether it is an IP address, which nobody can make point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
