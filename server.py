"""What `python -m paraknow_core ui` serves: app.py, and with every answer the word that no other site may frame it."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import streamlit as st
from starlette.middleware import Middleware

Message = MutableMapping[str, Any]
# A site that frames the workbench could lay its own words over buttons. Its own parts are frames of the same origin.
HEADERS = (
    (b"x-frame-options", b"SAMEORIGIN"), (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"),
)  # fmt: skip


class Unframed:
    """Adds the headers above to every answer over HTTP."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        """Args: app: what answers."""
        self.app = app

    async def __call__(self, scope: Message, receive: Callable, send: Callable[[Message], Awaitable[None]]) -> None:
        """Answer one request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message.get("headers", ())}
                more = [(name, value) for name, value in HEADERS if name not in known]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)


app = st.App("app.py", middleware=[Middleware(Unframed)])
