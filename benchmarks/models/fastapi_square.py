"""FastAPI with uvicorn: no batching; what one writes without a model server."""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Number(BaseModel):
    """The number to square."""

    input: float


app = FastAPI()


@app.post("/predict")
async def predict(number: Number) -> dict[str, float]:
    return {"output": number.input**2}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
