"""Judges that are simulated: they read the question as a model would, and know the true order."""

import json
import math
import random
import re
from collections.abc import Callable, Mapping

from tests.clients.fake_openai import Body, Reply
from verse.records import Candidate

_POEM = re.compile(
    r"【(?P<label>[A-Z]) (?P<mark>\w+) 正文】\n(?P<text>.*?)\n【(?P=label) (?P=mark) 完】",
    re.DOTALL,
)
SIGNS = "松竹梅兰菊荷桃李杏柳桂枫槐榆柏桐樟杉楠桦"

Answer = Callable[[dict[str, str]], str]


def poems(count: int, adapter: str = "xuzhimo") -> list[Candidate]:
    """Poems that share no more than a few characters."""
    made: list[Candidate] = []
    for number in range(count):
        rng = random.Random(number)
        lines = ["".join(rng.choices(SIGNS + "风雨山河灯雪门窗路桥", k=7)) for _ in range(3)]
        made.append(
            Candidate(
                theme="松竹梅兰"[number % 4],
                text="\n".join(lines),
                adapter=adapter,
                checkpoint=85,
                sample=number,
            )
        )
    return made


def qualities(candidates: list[Candidate], seed: int = 0) -> dict[str, float]:
    """A true worth for each text: normally distributed."""
    rng = random.Random(seed)
    return {candidate.text: rng.gauss(0, 1) for candidate in candidates}


def shown(body: Body) -> dict[str, str]:
    """Label to text, in the order shown."""
    return {
        found["label"]: found["text"] for found in _POEM.finditer(body["messages"][-1]["content"])
    }


def is_ranking(body: Body) -> bool:
    return "排" in body["messages"][-1]["content"].splitlines()[0]


def noisy(truth: Mapping[str, float], noise: float = 1.0) -> Callable[[Body], Reply]:
    """Orders by truth and Gumbel noise, as Plackett-Luce has it; scores by truth and a little."""

    def write(body: Body) -> Reply:
        poems_ = shown(body)
        rng = random.Random(json.dumps([body["model"], poems_]))
        if not is_ranking(body):
            (text,) = poems_.values()
            return Reply(scores(round(2.5 + truth[text] + rng.gauss(0, 1))))
        worth = {label: truth[text] + noise * gumbel(rng) for label, text in poems_.items()}
        return Reply(order(sorted(worth, key=lambda label: -worth[label])))

    return write


def first(body: Body) -> Reply:
    """Finds all poems alike, and the first the best."""
    return Reply(order(list(shown(body)))) if is_ranking(body) else Reply(scores(3))


def scores(value: int) -> str:
    value = min(max(value, 0), 5)
    names = ("theme_adherence", "poetic_quality", "fluency", "emotional_resonance")
    return json.dumps({"reasoning": "…", **dict.fromkeys(names, value)})


def order(labels: list[str]) -> str:
    return json.dumps({"reasoning": "…", "ranking": labels})


def gumbel(rng: random.Random) -> float:
    return -math.log(rng.expovariate(1.0))
