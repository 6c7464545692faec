"""A mail server that takes everything it is told, or refuses it as a test says."""

from __future__ import annotations

import email
import email.policy
import socket
import threading
from email.message import EmailMessage
from typing import BinaryIO


class SmtpServer:
    """On a free port. messages: what was taken. refuse: the line that answers RCPT TO instead of 250, if any."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.refuse = ""
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as line:
                self._talk(line)

    def _talk(self, line: BinaryIO) -> None:
        def say(text: str) -> None:
            line.write(text.encode() + b"\r\n")
            line.flush()

        say("220 here")
        for raw in line:
            word = raw.decode().strip()
            verb = word.split(" ")[0].upper()
            if verb == "RCPT":
                if self.refuse:
                    say(self.refuse)
                    continue
                self.recipients.append(word.partition("<")[2].partition(">")[0])
            if verb == "DATA":
                say("354 go on")
                self.messages.append(self._read(line))
            if verb == "QUIT":
                say("221 bye")
                return
            say("250 fine")

    @staticmethod
    def _read(line: BinaryIO) -> EmailMessage:
        parts = []
        for raw in line:
            if raw == b".\r\n":
                break
            parts.append(raw.removeprefix(b".") if raw.startswith(b"..") else raw)
        found = email.message_from_bytes(b"".join(parts), policy=email.policy.default)
        assert isinstance(found, EmailMessage)
        return found
