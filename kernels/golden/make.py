"""Makes the golden values that the kernels' tests read, with the packages `gguf`, `numpy` and `torch`.

    python kernels/golden/make.py

quant.bin: for each format, bytes and what GGUF says they mean. ops.bin: rotary embedding and GELU as torch computes them.
Both are records `[name: 16 bytes, zero-padded][bytes: u32][data]`, little-endian.
"""

import struct
from pathlib import Path

import gguf
import numpy as np
import torch

HERE = Path(__file__).parent
random = np.random.default_rng(20240229)


def record(name, data):
    data = np.ascontiguousarray(data).tobytes()
    return struct.pack("<16sI", name.encode(), len(data)) + data


def halves(count):
    """Finite halves of either sign, subnormal ones among them."""
    bits = random.integers(0, 0x7C00, count, dtype=np.uint16) | (random.integers(0, 2, count, dtype=np.uint16) << 15)
    return bits.astype(np.uint16)


def quantised(kind):
    """Random blocks: a quarter real quantisations where gguf has a quantiser, the rest any bits with finite scales."""
    length, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (8, size), dtype=np.uint8)
    at = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}.get(kind.name, [0])
    for offset in at:
        blocks[:, offset : offset + 2] = halves(8).view(np.uint8).reshape(8, 2)
    if length == 32:
        values = random.standard_normal((2, length)).astype(np.float32)
        blocks[:2] = gguf.quants.quantize(values, kind)
    return blocks.reshape(-1)


def quant():
    out = b""
    for name in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]:
        kind = gguf.GGMLQuantizationType[name]
        if name == "F32":
            raw = random.standard_normal(37).astype(np.float32).view(np.uint8)
        elif name == "F16":
            raw = halves(64).view(np.uint8)
        elif name == "BF16":
            raw = (random.standard_normal(64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        else:
            raw = quantised(kind)
        values = gguf.quants.dequantize(raw.view(np.float16) if name == "F16" else raw.view(np.float32) if name == "F32" else raw, kind)
        out += record(name, raw) + record(name, values.astype(np.float32))
    (HERE / "quant.bin").write_bytes(out)


def rotate_half(x):
    """transformers' rotate_half, as its models apply it."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def ops():
    torch.manual_seed(7)
    heads, tokens, dim = 3, 5, 16
    x = torch.randn(tokens, heads, dim)
    positions = torch.tensor([0.0, 1.0, 2.0, 511.0, 8191.0])
    scale = 1.25
    out = record("x", x.numpy()) + record("positions", positions.numpy())
    for name, rotary in [("whole", dim), ("partial", 12)]:
        inv_freq = 1.0 / (10000.0 ** (torch.arange(0, rotary, 2).float() / rotary))
        angles = positions[:, None] * inv_freq[None, :]
        both = torch.cat((angles, angles), dim=-1)[:, None, :]
        cos, sin = both.cos() * scale, both.sin() * scale
        head, rest = x[..., :rotary], x[..., rotary:]
        halves_ = torch.cat((head * cos + rotate_half(head) * sin, rest), dim=-1)
        # Pairs: the same rotation of (x[2i], x[2i + 1]), here as a complex product.
        turned = torch.view_as_complex(head.reshape(tokens, heads, rotary // 2, 2).contiguous()) * torch.polar(
            torch.full_like(angles, scale), angles
        ).unsqueeze(1)
        pairs = torch.cat((torch.view_as_real(turned).reshape(tokens, heads, rotary), rest), dim=-1)
        out += record(f"{name}.freq", inv_freq.numpy()) + record(f"{name}.halves", halves_.numpy())
        out += record(f"{name}.pairs", pairs.numpy())
    x = torch.cat((torch.linspace(-12, 12, 97), torch.tensor([0.0, 1e-6, -1e-6, 1e-30, 30.0, -30.0])))
    out += record("act.x", x.numpy())
    out += record("act.silu", torch.nn.functional.silu(x).numpy())
    out += record("act.gelu", torch.nn.functional.gelu(x).numpy())
    out += record("act.gelu_tanh", torch.nn.functional.gelu(x, approximate="tanh").numpy())
    (HERE / "ops.bin").write_bytes(out)


quant()
ops()
