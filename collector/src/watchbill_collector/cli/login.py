"""`watchbill login`: remember a collector, and the token for it."""

import sys
from pathlib import Path

import click

from watchbill_collector.cli import said
from watchbill_collector.cli.client import Client
from watchbill_collector.cli.collectors import (
    Collector,
    choose,
    login_file,
    normal_url,
    read_authority,
    read_token,
    write_private,
)
from watchbill_collector.cli.errors import Misused
from watchbill_collector.cli.screen import Screen, clean


@click.command()
@click.argument("address", metavar="[URL]", required=False)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate of the authority that signed the collector's, for one that this machine does not know.",
)
@click.option("--browser", is_flag=True, help="Print a one-time login for a browser instead.")
@said.shared
def login(address: str | None, ca_file: Path | None, browser: bool) -> None:
    """Remember the collector at URL, and the token for it.

    The token is asked for, or read from a file or standard input; never from the command line, which
    everybody on this machine can read. `watchbill-collector init` wrote the first one.
    """
    screen, url, token_file = Screen.here(), address or said.url(), said.token_file()
    if browser:
        client = Client(choose(url, token_file))
        made = client.post("/logins")
        there = f"{client.collector.url}/login?code={made['code']}"
        if said.as_json():
            screen.json({"url": there, "expires": made["expires"]})
        else:
            screen.line(there)
        return
    if url is None:
        raise Misused("which collector?", "watchbill login http://HOST:7480")
    address = normal_url(url)
    authority = "" if ca_file is None else read_authority(ca_file)
    if authority and not address.startswith("https:"):
        raise Misused("--ca-file is for https", "watchbill login https://HOST:7480 --ca-file FILE")
    token = read_token(token_file) if token_file is not None else _asked()
    who = Client(Collector(address, token, "login", authority)).get("/me")
    if who["via"] == "anonymous":
        raise Misused(
            "the collector did not take the token as anybody's", "watchbill login URL --token-file FILE"
        )
    path = login_file()
    write_private(path, {"url": address, "token": token, "ca": authority})
    if said.as_json():
        screen.json({"url": address, "name": who["name"], "roles": who["roles"], "file": str(path)})
        return
    screen.line(f"{clean(who['name'])} ({', '.join(who['roles'])}) at {address}; kept in {path}")


def _asked() -> str:
    if sys.stdin.isatty():
        token: str = click.prompt("Token", hide_input=True, err=True)
        return token.strip()
    return read_token(Path("-"))
