"""How far estimates are off, by kind of text: ``python -m benchmarks.estimates``.

Compares the rule for text with the simulator's count and, if the package ``bpe-openai`` is installed, with OpenAI's own
tokenizer. Nothing needs the package otherwise.
"""

from __future__ import annotations

import base64
import importlib
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

from ocm_wsgi.protocol.responses.estimate import InputMeter
from ocm_wsgi.simulator import tokens

ROOT = Path(__file__).resolve().parents[1]
LENGTH = 200_000


def texts() -> Mapping[str, str]:
    """Return some text of each kind."""
    dice = random.Random(13)
    hours = [f"2027-01-31T10:{minute:02}:12Z INFO id=req_{dice.randbytes(8).hex()} 200" for minute in range(60)]
    return {
        "English": "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))),
        "Python": "\n".join(path.read_text() for path in sorted((ROOT / "ocm_wsgi").rglob("*.py"))),
        "YAML": (ROOT / "docs" / "openapi.yaml").read_text(),
        "JSON": (ROOT / "deploy" / "grafana.json").read_text(),
        "German": "Der schnelle braune Fuchs springt über den faulen Hund. Heute ist schönes Wetter. " * 50,
        "Russian": "Быстрая коричневая лиса прыгает через ленивую собаку. Сегодня хорошая погода. " * 50,
        "Chinese": "敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步。" * 50,
        "a log": "\n".join(hours),
        "numbers": " ".join(str(dice.randrange(10**8)) for _ in range(5000)),
        "base64": base64.b64encode(dice.randbytes(15_000)).decode(),
    }


def estimated(text: str, *, escapes: bool) -> int:
    """Return the estimate for a text within a request."""
    meter = InputMeter()
    meter.feed(json.dumps(text, ensure_ascii=escapes).encode())
    return meter.finish()


def openai_count() -> Callable[[str], int] | None:
    """Return the count of OpenAI's tokenizer, if it is installed."""
    try:
        encoding = importlib.import_module("bpe_openai").get_encoding("o200k_base")
    except ImportError:
        return None
    return lambda text: len(encoding.encode(text))


def main() -> None:
    """Print the estimate as a multiple of each count; in parentheses if the client escapes what is not ASCII."""
    counts: dict[str, Callable[[str], int]] = {"simulator": tokens.count}
    if (openai := openai_count()) is not None:
        counts["o200k_base"] = openai
    print(f"{'':10}", *(f"{name:>16}" for name in counts))
    for kind, text in texts().items():
        text = text[:LENGTH]
        ratios = []
        for count in counts.values():
            exact = count(text)
            plain, escaped = estimated(text, escapes=False) / exact, estimated(text, escapes=True) / exact
            ratios.append(f"{plain:.2f} ({escaped:.2f})")
        print(f"{kind:10}", *(f"{ratio:>16}" for ratio in ratios))


if __name__ == "__main__":
    main()
