"""A FastAPI application: kestrel fastapi_app:app"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, dict[int, str]]]:
    yield {"names": {1: "Ada", 2: "Grace"}}


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    article: str
    count: int


@app.get("/names/{number}")
async def name(number: int, request: Request) -> str:
    names: dict[int, str] = request.state.names
    if number not in names:
        raise HTTPException(404, "nobody has this number")
    return names[number]


@app.post("/orders")
def order(order: Order) -> dict[str, str]:  # not async: FastAPI runs it in a thread
    return {"confirmed": f"{order.count} x {order.article}"}
