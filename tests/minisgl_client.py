"""Asks as mini-sglang's own benchmark client does, and counts as it counts.

    python minisgl_client.py --base-url http://127.0.0.1:1919/v1

Exits with 0 when all holds, else with a message. That client takes the first chunk as the first token and each further
one as one more, so a request of n tokens must come as n chunks and the one that ends it.
"""
import argparse
import asyncio
import sys
import time

import openai

PROMPTS = ["Tell me about rivers.", "Tell me about mountains.", "Count to one hundred.", "Write a poem."]
OUTPUT_LENGTHS = [1, 7, 32, 64]


async def model_name(client):
    async for model in client.models.list():
        return model.id
    sys.exit("minisgl_client: no model is listed")


async def benchmark_one(client, model, prompt, output_length, input_length=None):
    extra = {"ignore_eos": True, "top_k": 1}
    if input_length is not None:
        extra["input_length_override"] = input_length
    stream = await client.chat.completions.create(
        model=model,
        stream=True,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=output_length,
        temperature=0.0,
        extra_body=extra,
    )
    ticks, reasons = [time.perf_counter()], []
    async for chunk in stream:
        ticks.append(time.perf_counter())
        reasons.append(chunk.choices[0].finish_reason)
    if len(reasons) != output_length + 1:
        sys.exit(f"minisgl_client: {output_length} tokens came as {len(reasons)} chunks, the last of which should end them")
    if reasons != [None] * output_length + ["length"]:
        sys.exit(f"minisgl_client: finish reasons {reasons}")
    if any(after < before for before, after in zip(ticks, ticks[1:])):
        sys.exit("minisgl_client: time went back")


async def run(base_url):
    client = openai.AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0)
    model = await model_name(client)
    # A connection test, then a batch at once, as bench_simple does; a wrong length is logged and changes nothing.
    await benchmark_one(client, model, "Hello", 2)
    await asyncio.gather(*(
        benchmark_one(client, model, prompt, length, input_length=5)
        for prompt, length in zip(PROMPTS, OUTPUT_LENGTHS, strict=True)
    ))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True, help="with /v1")
    try:
        asyncio.run(run(parser.parse_args().base_url))
    except openai.APIError as error:
        sys.exit(f"minisgl_client: {type(error).__name__}: {error}")
    print("minisgl_client: all holds")


main()
