"""Drives a server with the openai package as its users do, with strict validation of every answer.

    python openai_client.py --base-url http://127.0.0.1:1919/v1

Exits with 0 when all holds, else with a message.
"""
import argparse
import sys

import openai

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]


def check(condition, what):
    if not condition:
        sys.exit(f"openai_client: {what}")


def refusal(kind, call):
    """The error of a call that must be refused with this class of error."""
    try:
        call()
    except kind as error:
        return error
    except openai.APIError as error:
        sys.exit(f"openai_client: expected {kind.__name__}, got {type(error).__name__}: {error}")
    sys.exit(f"openai_client: expected {kind.__name__}, and it was answered")


def models(client):
    listed = list(client.models.list())
    check(len(listed) == 1, f"one model, not {listed}")
    model = client.models.retrieve(listed[0].id)
    check(model == listed[0], f"{model} is not {listed[0]}")
    check(model.owned_by == "minisgl" and model.root and model.max_model_len > 0, f"root and max_model_len in {model}")
    return model.id


def chat(client, model):
    ask = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**ask)
    choice = whole.choices[0]
    check(choice.message.role == "assistant" and choice.message.content, f"content in {whole}")
    check(choice.finish_reason in ("stop", "length"), f"a finish reason in {whole}")
    usage = whole.usage
    check(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, f"usage adds up: {usage}")
    check(usage.completion_tokens <= 24 and usage.prompt_tokens_details.cached_tokens >= 0, f"usage: {usage}")

    stream = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    check(len({chunk.id for chunk in chunks}) == 1, "chunks of one stream have one id")
    check(chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == usage.completion_tokens,
          f"usage ends the stream: {chunks[-1]}")
    chunks.pop()
    check(all(chunk.usage is None for chunk in chunks), "usage is null before the last chunk")
    check(len(chunks) == usage.completion_tokens + 1, f"{len(chunks)} chunks for {usage.completion_tokens} tokens and an end")
    check(chunks[0].choices[0].delta.role == "assistant", f"the first chunk has the role: {chunks[0]}")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    check(text == choice.message.content, f"streamed {text!r}, whole {choice.message.content!r}")
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    check(reasons == [None] * (len(chunks) - 1) + [choice.finish_reason], f"the reason comes last: {reasons}")

    parts = [{"role": "system", "content": "Be brief."},
             {"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    answer = client.chat.completions.create(model=model, messages=parts, max_completion_tokens=4, user="someone")
    check(answer.usage.completion_tokens <= 4, f"max_completion_tokens holds: {answer.usage}")
    return choice.message.content


def sampling(client, model, greedy):
    ask = {"model": model, "messages": QUESTION, "max_tokens": 12}
    first = client.chat.completions.create(**ask, seed=7, temperature=1.5, n=2)
    again = client.chat.completions.create(**ask, seed=7, temperature=1.5, n=2)
    texts = [[choice.message.content for choice in answer.choices] for answer in (first, again)]
    check([choice.index for choice in first.choices] == [0, 1], "choices are numbered")
    check(texts[0] == texts[1], f"a seed reproduces: {texts}")

    streams = {0: "", 1: ""}
    for chunk in client.chat.completions.create(**ask, seed=7, temperature=1.5, n=2, stream=True):
        for choice in chunk.choices:
            streams[choice.index] += choice.delta.content or ""
    check(list(streams.values()) == texts[0], f"streamed {streams}, whole {texts[0]}")

    word = greedy.split()[-1]
    stopped = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=24, stop=[word])
    choice = stopped.choices[0]
    check(choice.finish_reason == "stop" and choice.message.content == greedy[:greedy.index(word)],
          f"stop at {word!r}: {choice}")


def completions(client, lenient, model):
    ask = {"model": model, "prompt": "The capital of Japan is", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**ask)
    check(whole.choices[0].text and whole.usage.completion_tokens <= 6, f"a text in {whole}")
    many = client.completions.create(**{**ask, "prompt": [ask["prompt"], "Once upon a time"], "n": 2})
    check([choice.index for choice in many.choices] == [0, 1, 2, 3], "choices are prompt * n + i")
    check(many.choices[0].text == whole.choices[0].text, "a batch changes nothing")
    tokens = client.completions.create(**{**ask, "prompt": [5, 6, 7], "extra_body": {"ignore_eos": True}})
    check(tokens.usage.prompt_tokens == 3 and tokens.usage.completion_tokens == 6, f"token ids: {tokens.usage}")
    # The package types a chunk's finish_reason as never null, which OpenAI's own chunks are: no strict check here.
    chunks = list(lenient.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    check(chunks.pop().usage.completion_tokens == whole.usage.completion_tokens, "usage ends the stream")
    check("".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text, "streamed is whole")
    check(chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason, "the reason comes last")


def errors(client, model):
    ask = {"model": model, "messages": QUESTION, "max_tokens": 1}
    error = refusal(openai.NotFoundError, lambda: client.chat.completions.create(**{**ask, "model": "nobody"}))
    check((error.code, error.param, error.type) == ("model_not_found", "model", "invalid_request_error"), error.body)
    refusal(openai.NotFoundError, lambda: client.models.retrieve("nobody"))
    refusal(openai.NotFoundError, lambda: client.embeddings.create(model=model, input="x"))
    for field, value in [("temperature", 3), ("top_p", 0), ("n", 0), ("stop", ""), ("logprobs", True),
                         ("tools", [{"type": "function", "function": {"name": "f"}}]), ("frequency_penalty", 1)]:
        error = refusal(openai.BadRequestError, lambda: client.chat.completions.create(**ask, **{field: value}))
        check(error.param == field, f"{field}: {error.body}")
    error = refusal(openai.BadRequestError,
                    lambda: client.chat.completions.create(**ask, extra_body={"temprature": 1}))
    check(error.param == "temprature", error.body)
    error = refusal(openai.BadRequestError, lambda: client.completions.create(model=model, prompt="word " * 100_000))
    check((error.code, error.param) == ("context_length_exceeded", "prompt"), error.body)
    neutral = {"logprobs": False, "frequency_penalty": 0, "presence_penalty": 0, "n": 1, "logit_bias": {}, "tools": [],
               "response_format": {"type": "text"}, "stop": None, "seed": None}
    client.chat.completions.create(**ask, **neutral)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", required=True, help="with /v1")
    base_url = parser.parse_args().base_url
    client, lenient = (
        openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, _strict_response_validation=strict)
        for strict in (True, False)
    )
    try:
        model = models(client)
        greedy = chat(client, model)
        sampling(client, model, greedy)
        completions(client, lenient, model)
        errors(client, model)
    except openai.APIError as error:
        sys.exit(f"openai_client: {type(error).__name__}: {error}")
    print("openai_client: all holds")


main()
