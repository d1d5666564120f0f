"""Write the generated parts of docs/ anew."""

from __future__ import annotations

from tests.docs.generate import PARTS, ROOT, updated


def main() -> None:
    """Rewrite each page that has such a part."""
    for page in dict.fromkeys(part.page for part in PARTS):
        path = ROOT / page
        path.write_text(updated(page, path.read_text()))
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
