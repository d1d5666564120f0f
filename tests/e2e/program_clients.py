"""Clients of real programs that never open a connection twice, run as the lab's own workload is (vdc/lab/workload.py).

redis: writes keys, and at the end reads every confirmed one back, all on one connection. pages: asks nginx for a
page on one kept-alive connection. sessions: what the node program answers follows from all that was ever said on this
connection, and it has that in its memory alone.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys

from vdc.lab import workload
from vdc.lab.workload import LineSession, Session, WrongAnswerError, expect

PAGE = "served by nginx\n"


class Redis(LineSession):
    """Redis' inline commands."""

    port = 6379

    def ask(self, count: int) -> None:
        """Write a key."""
        expect(self.answer_to(f"SET {self._key(count)} {self._value(count)}"), "+OK\r")
        self.figures.acknowledged = count

    def finish(self) -> None:
        """Read them all."""
        counts = range(1, self.figures.acknowledged + 1)
        for count in counts:
            self._connection.send(f"GET {self._key(count)}")
        for count in counts:
            expect(self._connection.receive(), f"${len(self._value(count))}\r")
            expect(self._connection.receive(), f"{self._value(count)}\r")

    def _key(self, count: int) -> str:
        return f"{self.options.tag}:{count}"

    def _value(self, count: int) -> str:
        return workload.content_of(self.options.tag, count)


class HttpSession(Session):
    """Requests on one connection."""

    port = 80

    def open(self) -> None:
        """Open the session."""
        self._connection = http.client.HTTPConnection(
            self.options.address, self.port, timeout=self.options.patience_s
        )
        self._connection.connect()
        self._connection.auto_open = 0

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    def answer_to(self, method: str, path: str, body: str = "") -> str:
        """Ask and wait for all of the answer."""
        try:
            self._connection.request(method, path, body)
            answer = self._connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise WrongAnswerError(f"{type(error).__name__}: {error}") from error
        expect(str(answer.status), "200")
        return text


class Pages(HttpSession):
    """nginx's page."""

    def ask(self, count: int) -> None:
        """Under a name of its own."""
        expect(self.answer_to("GET", f"/?{count}"), PAGE)


class Sessions(HttpSession):
    """The node program's session."""

    port = 8080
    _digest, _pid, _up = "", 0, 0.0

    def ask(self, count: int) -> None:
        """Say something, which goes into the session's digest."""
        answer = json.loads(self.answer_to("POST", f"/{self.options.tag}", str(count)))
        self._digest = hashlib.sha256(f"{self._digest}{count}".encode()).hexdigest()
        self._pid = self._pid or answer["pid"]
        expect(f"{answer['count']} {answer['digest']}", f"{count} {self._digest}")
        expect(str(answer["pid"]), str(self._pid))
        if answer["up"] < self._up:
            raise WrongAnswerError(f"it ran for {self._up} s, and now for {answer['up']} s")
        self._up = answer["up"]


if __name__ == "__main__":
    sys.exit(workload.main(sys.argv[1:], {"redis": Redis, "pages": Pages, "sessions": Sessions}))
