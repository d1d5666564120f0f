"""SSH public keys as people name them on a command line: a file, or the key itself."""

from __future__ import annotations

from pathlib import Path

from vdc.model.errors import InvalidError

_MOST_BYTES = 64 * 1024


def read_keys(text: str) -> tuple[str, ...]:
    """The keys of a file (a public key, or an authorized_keys), or the one that `text` is.

    Raises InvalidError (`ssh-key-unreadable`).
    """
    if " AAAA" in text:
        return (text,)
    path = Path(text).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidError(
            f"the SSH key {str(path)[:200]} cannot be read: {why}",
            hint="give a public key, for example ~/.ssh/id_ed25519.pub",
            code="ssh-key-unreadable",
        ) from error
    if "PRIVATE KEY" in content:
        raise InvalidError(
            f"{path} is a private key, which nobody else may have",
            hint=f"give {path}.pub",
            code="ssh-key-unreadable",
        )
    lines = (line.strip() for line in content.splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InvalidError(f"there is no key in {path}", code="ssh-key-unreadable")
    return keys
