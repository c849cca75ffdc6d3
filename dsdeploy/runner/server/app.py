"""The routes."""

from __future__ import annotations

from typing import Any, TypeVar

import anyio
import anyio.to_thread
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, Router

from dsdeploy import __version__
from dsdeploy.resources import read_template
from dsdeploy.runner.server.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
    explain,
    read_json,
)
from dsdeploy.runner.server.endpoint import Endpoint
from dsdeploy.runner.server.intake import Asked
from dsdeploy.runner.server.metrics import CONTENT_TYPE
from dsdeploy.runner.server.refusal import RefusedError
from dsdeploy.runner.server.reply import Reply

Body = TypeVar("Body", bound=BaseModel)

PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def build_app(endpoint: Endpoint) -> Router:
    routes = Routes(endpoint)
    return Router(
        [
            Route("/", routes.page),
            Route("/health", routes.health),
            Route("/metrics", routes.metrics),
            Route("/version", routes.version),
            Route("/facts.json", routes.facts),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/completions", routes.completions, methods=["POST"]),
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/tokenize", routes.tokenize, methods=["POST"]),
            Route("/detokenize", routes.detokenize, methods=["POST"]),
        ],
        default=_not_found,
        redirect_slashes=False,
    )


async def _not_found(scope: Any, receive: Any, send: Any) -> None:
    raise RefusedError(404, f"There is nothing at {scope['path']}.", "not_found")


async def _body(request: Request, kind: type[Body]) -> Body:
    kind_of_body = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind_of_body != "application/json":
        # A page of another origin cannot send this type unasked.
        raise RefusedError(415, "Send the body with the header `Content-Type: application/json`.")
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise ConnectionError from None
    try:
        return await run_in_threadpool(_parse, raw, kind)
    except ValidationError as error:
        fault = explain(error)
        raise RefusedError(400, fault.message, param=fault.hint or None) from None
    except (ValueError, RecursionError):
        raise RefusedError(
            400, "The body is not JSON, or nested too deeply.", "invalid_json"
        ) from None


def _parse(raw: bytes, kind: type[Body]) -> Body:
    return kind.model_validate(read_json(raw))


class Routes:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._intake = endpoint, endpoint.intake
        # Renderings wait for each other, maybe for seconds: not with the threads of all others.
        self._rendering = anyio.CapacityLimiter(8)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(read_template("chat/index.html"), headers=PAGE_HEADERS)

    async def health(self, request: Request) -> Response:
        endpoint = self._endpoint
        well = endpoint.service.healthy and not endpoint.draining
        return Response(status_code=200 if well else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self._endpoint.metrics.text(), media_type=CONTENT_TYPE)

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def facts(self, request: Request) -> Response:
        return JSONResponse(dict(self._endpoint.facts))

    async def models(self, request: Request) -> Response:
        self._endpoint.demand_open()
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        self._endpoint.demand_open()
        self._intake.demand_name(request.path_params["name"])
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {
            "id": self._intake.name,
            "object": "model",
            "created": 0,
            "owned_by": "dsdeploy",
            "max_model_len": self._intake.context,
        }

    async def tokenize(self, request: Request) -> Response:
        body = await _body(request, TokenizeBody)
        limiter = None if body.messages is None else self._rendering
        tokens = await anyio.to_thread.run_sync(self._tokens, body, limiter=limiter)
        return JSONResponse(
            {"count": len(tokens), "max_model_len": self._intake.context, "tokens": tokens}
        )

    def _tokens(self, body: TokenizeBody) -> list[int]:
        if body.messages is not None:
            return self._intake.chat_prompt(body.messages, {})
        return self._intake.encode(body.prompt or "", body.add_special_tokens, "prompt")

    async def detokenize(self, request: Request) -> Response:
        body = await _body(request, DetokenizeBody)
        text = await run_in_threadpool(self._intake.tokenizer.decode, body.tokens)
        return JSONResponse({"prompt": text})

    async def completions(self, request: Request) -> Response:
        body = await _body(request, CompletionBody)
        asked = await run_in_threadpool(self._intake.completion, body)
        return await self._answer(request, body, asked)

    async def chat(self, request: Request) -> Response:
        body = await _body(request, ChatBody)
        asked = await anyio.to_thread.run_sync(self._intake.chat, body, limiter=self._rendering)
        return await self._answer(request, body, asked)

    async def _answer(
        self, request: Request, body: ChatBody | CompletionBody, asked: Asked
    ) -> Response:
        reply = Reply(self._endpoint, asked)
        if body.stream:
            return reply.stream(bool(body.stream_options and body.stream_options.include_usage))
        return await reply.whole(request)
