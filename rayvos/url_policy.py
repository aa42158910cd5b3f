"""Which URLs rayvos opens: a manifest comes from anybody, and its URLs are fetched by machines inside a network.

Three rules, kept at every open and at every redirect:

- the scheme is on a list: local files, object stores, HTTP. Chained URLs (`zip::…`) are judged by every part.
- addresses of a cloud's metadata service, which hands out the machine's credentials, are never connected to, by
  whatever name or redirect they are reached.
- where an administrator lists hosts (HTTP) and buckets (object stores), others are refused.

The lists are environment variables of the machines, so that who writes a manifest or submits a job does not set them
by an option: `RAYVOS_URL_SCHEMES` (adds schemes), `RAYVOS_URL_HOSTS` (host or bucket patterns such as
`*.example.org,my-bucket`; unset: all). Comma-separated.

Why so: names are resolved anew at each connection, so a check of the URL alone is passed by a name that points to
another address a moment later. The check therefore sits where the socket is made.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from fnmatch import fnmatch
from typing import Any
from urllib.parse import urljoin, urlsplit

from rayvos.errors import PermissionDeniedError

__all__ = ["check_url", "guarded_http_client"]

SCHEMES = frozenset(["file", "local", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "http", "https", "hf"])
HTTP = frozenset(["http", "https"])
METADATA_HOSTS = frozenset(["metadata", "metadata.google.internal", "metadata.goog", "instance-data"])
# Link-local: AWS, Google, Azure, Oracle, OpenStack. The others: AWS by IPv6, Alibaba, Azure's wire server.
METADATA_NETWORKS = [
    ipaddress.ip_network(network)
    for network in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32")
]


def check_url(url: str) -> None:
    """Check a URL against the policy; local paths pass.

    Raises:
        PermissionDeniedError: its scheme, host or bucket is not allowed.
    """
    for part in url.split("::"):
        scheme, separator, _ = part.partition("://")
        if not separator and "::" not in url:
            return  # a local path
        _check_scheme(scheme.lower(), url)
        if separator:
            _check_host(urlsplit(part).hostname or "", scheme.lower(), url)


def _check_scheme(scheme: str, url: str) -> None:
    if scheme not in SCHEMES | _listed("RAYVOS_URL_SCHEMES"):
        raise PermissionDeniedError(
            f"{url}: scheme {scheme!r} is not allowed; allowed are {', '.join(sorted(SCHEMES))}; "
            "RAYVOS_URL_SCHEMES on all machines adds others"
        )


def _check_host(host: str, scheme: str, url: str) -> None:
    if scheme in HTTP and (host.rstrip(".") in METADATA_HOSTS or _is_metadata(host)):
        raise PermissionDeniedError(f"{url}: the address of a metadata service is never opened; correct the URL")
    patterns = _listed("RAYVOS_URL_HOSTS")
    local = scheme in ("file", "local", "memory")
    if patterns and not local and not any(fnmatch(host, pattern) for pattern in patterns):
        raise PermissionDeniedError(
            f"{url}: {host!r} is none of the hosts and buckets in RAYVOS_URL_HOSTS ({', '.join(sorted(patterns))})"
        )


def _listed(variable: str) -> frozenset[str]:
    return frozenset(word.strip().lower() for word in os.environ.get(variable, "").split(",") if word.strip())


def _is_metadata(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a name
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in METADATA_NETWORKS)


async def guarded_http_client(**options: Any) -> Any:
    """Return fsspec's HTTP session, whose redirects and sockets keep to the policy."""
    import aiohttp

    async def redirected(_session: Any, _context: Any, params: Any) -> None:
        check_url(urljoin(str(params.url), params.response.headers.get("Location", "")))

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(redirected)
    connector = aiohttp.TCPConnector(socket_factory=_guarded_socket)
    return aiohttp.ClientSession(connector=connector, trace_configs=[trace], **options)


def _guarded_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make the socket for a resolved address (family, type, protocol, name, socket address).

    Raises:
        PermissionError: the address is a metadata service's.
    """
    family, kind, protocol, _, where = address
    if _is_metadata(str(where[0])):
        raise PermissionError(errno.EACCES, "the address of a metadata service is never opened")
    return socket.socket(family=family, type=kind, proto=protocol)
