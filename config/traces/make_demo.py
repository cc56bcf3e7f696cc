#!/usr/bin/env python3
"""Makes demo.jsonl, the small trace that ships with minisgl, in the Qwen-Bailian format.

Original data: nothing in it was recorded from anyone. Arrivals are Poisson; two requests in five continue an earlier
chat, and, as in the public trace, their length and hash ids cover the whole history before them. Lengths are small, so
that a model of 135M parameters on two CPU cores answers all of it within about half a minute.

    python3 make_demo.py > demo.jsonl      (the same bytes every time)
"""
import json
import math
import random
import sys

SEED = 20
REQUESTS = 32
SECONDS = 20.0
BLOCK = 16  # tokens a hash id stands for; the last block of a request may be partial
SHORTEST_INPUT, LONGEST_INPUT = 16, 160
SHORTEST_OUTPUT, LONGEST_OUTPUT = 8, 48
FOLLOW_UP = 0.4  # chance that a request continues an earlier chat
THINKING_TIME = 1.5  # seconds between a request and the earliest follow-up to it


def lognormal(rng, median, spread, low, high):
    """A whole number near `median`, from `rng.random()` alone: that sequence is the same in every version of Python."""
    normal = math.sqrt(-2.0 * math.log(1.0 - rng.random())) * math.cos(2.0 * math.pi * rng.random())
    return min(max(round(median * math.exp(spread * normal)), low), high)


def arrivals(rng):
    """REQUESTS times with exponential gaps, stretched so that the first is 0 and the last is SECONDS."""
    times = [0.0]
    while len(times) < REQUESTS:
        times.append(times[-1] - math.log(1.0 - rng.random()))
    return [round(t * SECONDS / times[-1], 3) for t in times]


def requests(rng):
    made, leaves, next_hash = [], [], 1000
    for chat_id, timestamp in enumerate(arrivals(rng)):
        words = lognormal(rng, 28, 0.5, SHORTEST_INPUT, LONGEST_INPUT)
        open_chats = [r for r in leaves
                      if r["timestamp"] + THINKING_TIME < timestamp
                      and r["input_length"] + r["output_length"] + words <= LONGEST_INPUT]
        parent = None
        if rng.random() < FOLLOW_UP and open_chats:
            parent = open_chats[int(rng.random() * len(open_chats))]
            leaves.remove(parent)
        length = words + (parent["input_length"] + parent["output_length"] if parent else 0)
        # Only whole blocks of the parent's prompt are the same text; what follows them is new to the trace.
        shared = parent["hash_ids"][:parent["input_length"] // BLOCK] if parent else []
        fresh = -(-length // BLOCK) - len(shared)
        request = {
            "chat_id": chat_id,
            "parent_chat_id": parent["chat_id"] if parent else -1,
            "timestamp": timestamp,
            "input_length": length,
            "output_length": lognormal(rng, 18, 0.5, SHORTEST_OUTPUT, LONGEST_OUTPUT),
            "type": "text",
            "turn": parent["turn"] + 1 if parent else 1,
            "hash_ids": shared + list(range(next_hash, next_hash + fresh)),
        }
        next_hash += fresh
        leaves.append(request)
        made.append(request)
    return made


if __name__ == "__main__":
    for request in requests(random.Random(SEED)):
        sys.stdout.write(json.dumps(request) + "\n")
