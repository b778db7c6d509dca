"""``manage.py runserver_ngrok``."""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import requests
from django.core.exceptions import ImproperlyConfigured
from django.core.management import ManagementUtility
from django.core.management.base import CommandError
from django.utils.autoreload import DJANGO_AUTORELOAD_ENV

from django_eventstream.brokers.grip import HttpProxy, find_reason, get_configs
from django_eventstream.brokers.outbox import Refused, Unreachable

if TYPE_CHECKING:  # which cannot know the project's
    from django.core.management.commands.runserver import Command as Runserver
else:  # the project's: that of daphne, of the static files or another app, or Django's
    Runserver = type(ManagementUtility().fetch_command("runserver"))

NGROK_API = "http://localhost:4040/api/tunnels"
#: Seconds for connecting to ngrok's API, and for each part of its answer.
TIMEOUT = 3.0

DEFAULT_PORTS = {"http": 80, "https": 443}
_LOCAL_PORT = re.compile(r"(?:^|:)(\d+)/?$", re.ASCII)


class Tunnel(NamedTuple):
    """A public address that leads to a port of this machine."""

    #: "http" or "https".
    proto: str
    host: str
    port: int
    #: None if ngrok does not tell.
    local_port: int | None


class Command(Runserver):
    """Serve like ``runserver``, to a hosted GRIP proxy that comes through ngrok."""

    help = (
        "Has the GRIP proxies of GRIP_URL and GRIP_PROXIES use an ngrok tunnel to this machine as "
        "their origin, then serves like runserver. Start 'ngrok http 8000' before."
    )

    #: The port to listen on, in digits; set before ``run`` is called.
    port: str

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)  # type: ignore[arg-type]
        parser.add_argument(
            "--ngrok-api",
            metavar="URL",
            default=NGROK_API,
            help="Where ngrok's API lists its tunnels (default: %(default)s).",
        )

    def run(self, **options: Any) -> None:
        # The reloader starts this command a second time, to serve, and again at every change.
        if not options["use_reloader"] or os.environ.get(DJANGO_AUTORELOAD_ENV) != "true":
            self._set_origin(options["ngrok_api"])
        super().run(**options)

    def _set_origin(self, ngrok_api: str) -> None:
        tunnels = get_tunnels(ngrok_api)
        if not tunnels:
            raise CommandError(
                f"ngrok has no tunnel for HTTP. Open one with 'ngrok http {self.port}'."
            )
        origin = choose_origin(tunnels, int(self.port))
        configs = get_http_configs()
        if not configs:
            raise CommandError(
                "No GRIP proxy with a control interface on HTTP is configured. Set GRIP_URL to "
                "its address, or name it in GRIP_PROXIES by its 'control_uri'."
            )
        for config in configs:
            set_origin(config, origin)
        host = origin.get("host") or origin["ssl_host"]
        self.stdout.write(f"Setting ngrok tunnel {host} as GRIP origin")
        self.stdout.flush()  # a pipe would get it when the server has ended


def get_tunnels(url: str) -> list[Tunnel]:
    """Return the tunnels for HTTP that ngrok's API lists there. Raises CommandError."""
    with requests.Session() as session:
        session.trust_env = False  # proxies are for other hosts than this one
        try:
            response = session.get(url, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise CommandError(
                f"ngrok does not answer at {url} ({find_reason(error)}). Start it with 'ngrok "
                "http 8000', or give the address of its API with --ngrok-api."
            ) from error
    try:
        tunnels = response.json()["tunnels"]
        return [_read_tunnel(tunnel) for tunnel in tunnels if tunnel["proto"] in DEFAULT_PORTS]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CommandError(
            f"What answers at {url} is not ngrok's API. Give its address with --ngrok-api, such "
            f"as {NGROK_API}."
        ) from error


def _read_tunnel(tunnel: Mapping[str, Any]) -> Tunnel:
    proto, public = tunnel["proto"], urlsplit(tunnel["public_url"])
    if not public.hostname:
        raise ValueError("a tunnel has no host")
    # "http://localhost:8000", "localhost:8000" or "8000".
    local = _LOCAL_PORT.search(str((tunnel.get("config") or {}).get("addr")))
    return Tunnel(
        proto,
        public.hostname,
        public.port or DEFAULT_PORTS[proto],
        int(local[1]) if local else None,
    )


def choose_origin(tunnels: Sequence[Tunnel], port: int) -> dict[str, str | int]:
    """Return the addresses of the tunnels that lead to the port, or of all if none does.

    ``host`` and ``port`` are for HTTP, ``ssl_host`` and ``ssl_port`` for HTTPS.
    """
    origin: dict[str, str | int] = {}
    for tunnel in [one for one in tunnels if one.local_port == port] or tunnels:
        prefix = "ssl_" if tunnel.proto == "https" else ""
        origin |= {f"{prefix}host": tunnel.host, f"{prefix}port": tunnel.port}
    return origin


def get_http_configs() -> list[Mapping[str, Any]]:
    """Return the proxies with a control interface on HTTP. Raises CommandError."""
    try:
        configs = get_configs()
    except ImproperlyConfigured as error:
        raise CommandError(str(error)) from error
    return [
        config
        for config in configs
        if urlsplit(config.get("control_uri") or "").scheme in DEFAULT_PORTS
    ]


def set_origin(config: Mapping[str, Any], origin: Mapping[str, str | int]) -> None:
    """Tell a proxy where to find this project. Raises CommandError."""
    parameters = {**origin, "rewrite_host": "true", "over_http": "true"}
    proxy = HttpProxy(config)
    try:
        proxy.post("/http/default/", urlencode(parameters))
    except (Refused, Unreachable) as error:
        if isinstance(error.__cause__, requests.RequestException):
            raise CommandError(
                f"{proxy.name} cannot be reached ({find_reason(error)}). Correct "
                "its address in GRIP_URL or GRIP_PROXIES, or try again later."
            ) from error
        raise CommandError(
            f"{proxy.name} does not take the tunnel as its origin: {error}. Compare "
            "its address, issuer and key in GRIP_URL or GRIP_PROXIES with what the service tells "
            "you; a Pushpin of your own takes origins only from its file routes, and needs no "
            "tunnel."
        ) from error
