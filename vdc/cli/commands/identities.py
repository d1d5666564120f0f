"""`vdc cluster token|user|ca|certificates|revoke|renew`: who may take part in a cluster, and as what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vdc.cli.base import VdcCommand, VdcGroup, output_option, to_duration, to_name
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.context import Contexts

_USER_ROLES = ("viewer", "operator", "admin")


# ---- join tokens


@click.group(cls=VdcGroup, example="vdc cluster token create --role witness\nvdc cluster token ls")
def token() -> None:
    """Join tokens: what a new host needs to become a member, once."""


@token.command(
    "create", example="vdc cluster token create\nvdc cluster token create --role witness --ttl 24h"
)
@click.option(
    "--role", type=click.Choice(["host", "witness"]), default="host", show_default=True, help="For what."
)
@click.option(
    "--ttl",
    default="1h",
    show_default=True,
    metavar="TIME",
    callback=to_duration,
    help="How long it is good.",
)
@output_option()
def create_token(role: str, ttl: int, output: str) -> None:
    """Print a token for `hostagent join` on the new machine. It is a secret, shown this once and good once."""
    import sys

    from vdc.api.identities import TokenRequest
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call
    from vdc.model.identity import Role

    made = call(lambda api: api.identities.create_token(TokenRequest(role=Role(role), ttl_s=ttl)))
    if output in ("json", "yaml"):
        print_values(values_of(made), output)
        return
    print(made.token)
    until = made.expires_at.isoformat(timespec="seconds")
    print(f"on the new {role}, before {until}: hostagent join --token TOKEN", file=sys.stderr)


@token.command("ls", example="vdc cluster token ls -o json")
@output_option()
def list_tokens(output: str) -> None:
    """List the tokens that can still be used, without their secrets."""
    import sys

    from vdc.api.identities import TokenView
    from vdc.cli.render import print_records
    from vdc.cli.session import call
    from vdc.cli.text import Column

    columns: list[Column[TokenView]] = [
        Column("ID", lambda t: t.id),
        Column("ROLE", lambda t: t.role.value),
        Column("EXPIRES", lambda t: t.expires_at.isoformat(timespec="seconds")),
        Column("BY", lambda t: t.created_by),
        Column("HOST", lambda t: t.host),
    ]
    found = call(lambda api: api.identities.list_tokens())
    print_records(found.items, columns, output, empty="there are no join tokens")
    if found.silent:
        print(f"note: {', '.join(found.silent)} did not answer", file=sys.stderr)


@token.command("revoke", example="vdc cluster token revoke 35441e76018b6637")
@click.argument("token_id", metavar="ID")
def revoke_token(token_id: str) -> None:
    """Make a token worthless before it is used."""
    from vdc.cli.session import call

    print(clean(call(lambda api: api.identities.revoke_token(token_id)).sentence))


# ---- users


@click.group(
    cls=VdcGroup, example="vdc cluster user add alice --role operator -o alice.yaml\nvdc cluster user ls"
)
def user() -> None:
    """Users: who may command the cluster, and how much."""


@user.command(
    "add",
    example="vdc cluster user add alice --role operator -o alice.yaml\n"
    "vdc cluster user add guest --role viewer --ttl 8h",
)
@click.argument("name", callback=to_name)
@click.option(
    "--role", type=click.Choice(_USER_ROLES), required=True,
    help="viewer reads; operator creates, promotes and drains; admin manages users, hosts and what is forced.",
)  # fmt: skip
@click.option(
    "--ttl", metavar="TIME", callback=to_duration,
    help="How long; it cannot be renewed then. Without it: a year, renewed by the user.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it there."
)
def add_user(name: str, role: str, ttl: int | None, output: Path | None) -> None:
    """Print a context file for a new user, with a key that is made here and nowhere kept.

    The user imports it: vdc context import FILE.
    """
    from vdc.api.context import contexts_text, save_contexts
    from vdc.api.identities import UserRequest
    from vdc.cli.session import call
    from vdc.model.identity import Role
    from vdc.security.keys import key_to_pem, make_request, new_key

    key = new_key()
    request = UserRequest(name=name, role=Role(role), request=make_request(key, name), valid_for_s=ttl)
    made = call(lambda api: api.identities.add_user(request))
    contexts = _contexts_of(name, made.endpoints, made.membership, key_to_pem(key))
    if output is None:
        print(contexts_text(contexts), end="")
        return
    save_contexts(contexts, output)
    print(f"user/{name} added; {output} holds a private key: vdc context import {output}, then remove it")


def _contexts_of(user_name: str, endpoints: tuple[str, ...], membership: Any, key_pem: str) -> Contexts:
    from vdc.api.context import Contexts, new_context
    from vdc.security.certificates import read_certificate
    from vdc.security.credentials import UserCredentials

    credentials = UserCredentials(membership.bundle, membership.certificate, key_pem)
    name = f"{user_name}@{read_certificate(membership.certificate).identity.cluster}"
    return Contexts(contexts={name: new_context(endpoints, credentials)}, current=name)


@user.command("ls", example="vdc cluster user ls\nvdc cluster user ls -o json")
@output_option()
def list_users(output: str) -> None:
    """List users, their roles and until when their certificates are valid."""
    from vdc.api.identities import UserView
    from vdc.cli.render import print_records
    from vdc.cli.session import call
    from vdc.cli.text import Column

    columns: list[Column[UserView]] = [
        Column("NAME", lambda u: u.name),
        Column("ROLE", lambda u: u.role.value),
        Column("CERTIFICATES", lambda u: len(u.certificates)),
        Column(
            "VALID UNTIL",
            lambda u: max(c.not_after for c in u.certificates).date().isoformat() if u.certificates else None,
        ),
        Column("BY", lambda u: u.created_by),
        Column("SERIALS", lambda u: [c.serial for c in u.certificates], wide=True),
    ]
    print_records(
        call(lambda api: api.identities.list_users()).items, columns, output, empty="there are no users"
    )


@user.command("remove", example="vdc cluster user remove alice")
@click.argument("name", callback=to_name)
def remove_user(name: str) -> None:
    """Forget a user; every certificate of the user counts no more, at once and everywhere."""
    from vdc.cli.session import call

    print(f"user/{name}: {clean(call(lambda api: api.identities.remove_user(name)).sentence)}")


# ---- certificates


@click.command(cls=VdcCommand, example="vdc cluster certificates\nvdc cluster certificates -o json")
@output_option()
def certificates(output: str) -> None:
    """List the certificates of hosts, witnesses and users that have not run out."""
    from vdc.api.identities import CertificateView
    from vdc.cli.render import print_records
    from vdc.cli.session import call
    from vdc.cli.text import Column

    columns: list[Column[CertificateView]] = [
        Column("SERIAL", lambda c: c.certificate.serial),
        Column("WHO", lambda c: str(c.certificate.identity)),
        Column("VALID UNTIL", lambda c: c.certificate.not_after.isoformat(timespec="seconds")),
        Column("STATUS", lambda c: "revoked" if c.is_revoked else "ok"),
        Column("ISSUED BY", lambda c: c.certificate.issued_by),
    ]
    found = call(lambda api: api.identities.list_certificates())
    print_records(found.items, columns, output, empty="no certificate is recorded")


@click.command(cls=VdcCommand, example="vdc cluster certificates\nvdc cluster revoke 35441e76018b6637")
@click.argument("serial")
def revoke(serial: str) -> None:
    """Let one certificate count no more, by its serial number or the first digits of it.

    A host whose certificate is revoked has to join anew; vdc node remove does it for one that is gone.
    """
    from vdc.cli.session import call

    print(clean(call(lambda api: api.identities.revoke(serial)).sentence))


@click.command(cls=VdcCommand, example="vdc cluster renew")
def renew() -> None:
    """Renew your own certificate, with a new key, in the context that is used."""
    from vdc.api.context import replace_credentials
    from vdc.api.identities import RenewRequest
    from vdc.cli.session import call, chosen_context
    from vdc.model.errors import InvalidError
    from vdc.security.certificates import read_certificate
    from vdc.security.credentials import UserCredentials
    from vdc.security.keys import key_to_pem, make_request, new_key

    name, context = chosen_context()
    if context.credentials is None:
        raise InvalidError(
            f"context {name} shows no certificate: it uses the local socket",
            hint="choose another one with --context",
            code="no-credentials",
        )
    key = new_key()
    made = call(lambda api: api.identities.renew(RenewRequest(request=make_request(key))))
    replace_credentials(name, UserCredentials(made.bundle, made.certificate, key_to_pem(key)))
    until = read_certificate(made.certificate).not_after.isoformat(timespec="seconds")
    print(f"context/{name} is valid until {until}")


# ---- the authority


@click.group(cls=VdcGroup, example="vdc cluster ca show\nvdc cluster ca rotate\nvdc cluster ca retire")
def ca() -> None:
    """The cluster's certificate authority, and how it is replaced."""


@ca.command("show", example="vdc cluster ca show\nvdc cluster ca show -o json")
@output_option()
def show_authority(output: str) -> None:
    """The authorities that hosts trust, and what a rotation waits for."""
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call

    found = call(lambda api: api.identities.authority_status())
    if output in ("json", "yaml"):
        print_values(values_of(found), output)
        return
    print(f"Cluster:   {found.cluster}")
    for one in found.authorities:
        role = "issues" if one.is_issuing else "is trusted"
        print(f"Authority: {one.fingerprint}  {role}, until {one.not_after.date().isoformat()}")
    print(f"Rotation:  {_PHASES[found.phase]}")
    if found.untrusting:
        print(f"Waits for: {', '.join(found.untrusting)}")
    if found.holders:
        print(f"Old still: {', '.join(map(str, found.holders))}")


_PHASES = {
    "stable": "none",
    "introduced": "the new authority is being introduced; it issues as soon as every host trusts it",
    "issuing": "the new authority issues; vdc cluster ca retire when nobody uses the old one",
}


@ca.command("rotate", example="vdc cluster ca rotate")
def rotate() -> None:
    """Begin to replace the authority. Nothing stops meanwhile, and hosts renew by themselves."""
    from vdc.cli.session import call

    print(clean(call(lambda api: api.identities.rotate_authority()).sentence))


@ca.command("retire", example="vdc cluster ca retire")
def retire() -> None:
    """Give up the old authority, when nobody has a certificate of it any more."""
    from vdc.cli.session import call

    print(clean(call(lambda api: api.identities.retire_authority()).sentence))
