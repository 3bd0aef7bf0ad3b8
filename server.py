"""What `python -m paraknow_core ui` serves: app.py, and with every answer the word that no other site may frame it."""

import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

# A site that frames the workbench could lay its own words over buttons. Its own parts are frames of the same origin.
HEADERS = {
    "X-Frame-Options": "SAMEORIGIN",
    "Content-Security-Policy": "frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


async def unframed(request: Request, answer: RequestResponseEndpoint) -> Response:
    """Add the headers above to an answer that has none of its own."""
    response = await answer(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


app = st.App("app.py", middleware=[Middleware(BaseHTTPMiddleware, dispatch=unframed)])
