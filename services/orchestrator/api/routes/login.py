"""How the web page logs in with a token, and out: by a cookie that no script can read."""

from typing import Annotated, Any

from fastapi import FastAPI, Request, Response, status
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from dapo.tokens import Scope
from services.orchestrator.api.doors.rest import caller_of, check_site, cookie_of
from services.orchestrator.security.guard import Guard
from services.orchestrator.security.sessions import COOKIE, LIFETIME_S


class Login(BaseModel):
    token: Annotated[SecretStr, StringConstraints(max_length=512)] = Field(description="A token of the service.")


class Identity(BaseModel):
    name: str = Field(description="Of the token; empty where the service wants none.")
    scope: Scope = Field(description="read, run or admin.")


def add_login(app: FastAPI, guard: Guard, guarded: dict[str, Any]) -> None:
    @app.post("/login", tags=["page"])
    async def login(body: Login, request: Request, response: Response) -> Identity:
        """Log the web page in: sets a cookie for twelve hours. Changes with it must come from its own pages."""
        check_site(request.scope, request.headers)
        address = request.client.host if request.client else ""
        token, cookie = await guard.log_in(body.token.get_secret_value(), address)
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=LIFETIME_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return Identity(name=token.name, scope=token.scope)

    @app.post("/logout", status_code=status.HTTP_204_NO_CONTENT, tags=["page"])
    async def logout(request: Request, response: Response) -> None:
        """End the session, and have the cookie forgotten."""
        if cookie := cookie_of(request.headers):
            await guard.log_out(cookie)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")

    @app.get("/v1/whoami", **guarded)
    async def who_am_i(request: Request) -> Identity:
        """Whose token this is, and what it may do."""
        caller = caller_of(request)
        return Identity(name=caller.name, scope=caller.scope)
