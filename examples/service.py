"""A FastAPI service under load. No stage is written by hand.

    pip install fastapi uvicorn httpx scikit-learn && python examples/service.py

Predictions are of kind inference, with their samples. The first ones, and later one a second, are stages. The
others share what the process uses: one stage a minute has all of them, and the metrics have them at once.
"""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from sklearn.ensemble import RandomForestClassifier

import carbon_otel

FEATURES = 10


def service() -> FastAPI:
    """A service with a model that it has trained itself."""
    random = np.random.default_rng(0)
    features = random.random((2_000, FEATURES))
    model = RandomForestClassifier(50, random_state=0).fit(features, features.sum(1) > FEATURES / 2)
    app = FastAPI()

    @app.post("/predict")
    def predict(rows: list[list[float]]) -> list[bool]:
        return [bool(answer) for answer in model.predict(np.array(rows))]

    return app


async def load(url: str, requests: int, clients: int = 4) -> int:
    """Ask from several clients at once; the number of answers."""
    rows = np.random.default_rng(1).random((16, FEATURES)).tolist()

    async def ask(client: httpx.AsyncClient) -> int:
        answers = 0
        for _ in range(requests // clients):
            answer = await client.post(f"{url}/predict", json=rows, timeout=60)
            answers += answer.status_code == 200
        return answers

    async with httpx.AsyncClient() as client:
        return sum(await asyncio.gather(*(ask(client) for _ in range(clients))))


def main(requests: int = 200) -> None:
    """Serve, ask, and print what the stages have used."""
    carbon_otel.instrument(zone="FR")
    server = uvicorn.Server(uvicorn.Config(service(), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    answers = asyncio.run(load(f"http://127.0.0.1:{port}", requests))
    carbon_otel.flush()
    print(f"{answers} answers")
    for kind, cost in carbon_otel.footprint().stages.items():
        print(f"{kind:<16} {cost.energy_j:8.2f} J {cost.emissions_g * 1000:8.3f} mg CO2e")
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main()
