"""Examine the judge of answers with generated variants and the pairs of `answers.tsv`.

python -m tests.rewards.examine --examples 2000 --libraries
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from areal_cppo.rewards import is_correct
from tests.rewards.variants import KINDS, Pair, pairs

CASES = Path(__file__).with_name("answers.tsv")
LIBRARY_SECONDS = 2.0

Judge = Callable[[Pair], bool]


def cases() -> list[Pair]:
    """The pairs of `answers.tsv`: columns truth, answer, verdict, kind."""
    _, *lines = CASES.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    return [Pair(f"case: {k}", t, a, v == "right") for t, a, v, k in rows]


def generated(examples: int, number: int = 0) -> list[Pair]:
    """Distinct pairs: at least `examples` right variants and as many near misses.

    Parameters
    ----------
    examples
        How many of each, spread evenly over the kinds.
    number
        The seed: the same one gives the same pairs.

    Raises
    ------
    RuntimeError
        A kind has too few values.
    """
    quota = -(-examples // len(KINDS))
    return [pair for name in KINDS for pair in _of_kind(name, quota, number)]


def _of_kind(name: str, quota: int, number: int) -> list[Pair]:
    sides: tuple[dict[Pair, None], dict[Pair, None]] = {}, {}

    def take(drawn: tuple[Pair, Pair]) -> None:
        for side, pair in zip(sides, drawn, strict=True):
            if len(side) < quota:
                side[pair] = None

    for turn in range(100):
        if not (missing := quota - min(map(len, sides))):
            return [*sides[0], *sides[1]]
        chosen = settings(
            max_examples=missing + missing // 5 + 5,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(100 * number + turn)(chosen(given(pairs(name))(take)))()
    raise RuntimeError(
        f"expected {quota} distinct pairs of each side, found fewer: {name}"
    )


def ours(pair: Pair) -> bool:
    try:
        return is_correct(pair.answer, pair.truth, question=pair.question)
    except Exception as fault:
        fault.add_note(f"{pair}")
        raise


def libraries() -> dict[str, Judge]:
    """What the libraries would pay, each in the way that its authors use it."""
    import logging
    import warnings

    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify
    from mathruler.grader import grade_answer

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # its limits are off
    warnings.filterwarnings("ignore", module="sympy")
    whole = LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True,
            units=True,
            malformed_operators=True,
            nits=True,
            boxed="all",
        ),
        boxed_match_priority=0,
    )

    def parsed(text: str):
        return parse(rf"\boxed{{{text}}}", [whole], parsing_timeout=None)

    def math_verify(pair: Pair) -> bool:
        return verify(parsed(pair.truth), parsed(pair.answer), timeout_seconds=None)

    def mathruler(pair: Pair) -> bool:
        return grade_answer(pair.answer, pair.truth)

    return {"math-verify": timed(math_verify), "mathruler": timed(mathruler)}


def timed(judge: Judge) -> Judge:
    """`judge`, which pays nothing where it fails or takes too long."""

    def late(*_) -> None:
        raise TimeoutError

    def judged(pair: Pair) -> bool:
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, LIBRARY_SECONDS)
        try:
            return bool(judge(pair))
        except Exception:
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return judged


def misjudged(judged: Iterable[Pair], judge: Judge = ours) -> list[Pair]:
    """The pairs to whose verdict the judge does not agree."""
    return [pair for pair in judged if judge(pair) != pair.right]


def rates(judged: list[Pair], wrong: set[Pair]) -> dict[str, int | float | None]:
    """How many pairs of each side are paid; of all paid, and of all right ones.

    Returns
    -------
    dict
        `right`, `right_paid`, `near`, `near_paid` (counts), and `precision`, `recall`
        (fractions; None of nothing).
    """
    right = [pair for pair in judged if pair.right]
    near = [pair for pair in judged if not pair.right]
    right_paid = sum(pair not in wrong for pair in right)
    near_paid = sum(pair in wrong for pair in near)
    paid = right_paid + near_paid
    return {
        "right": len(right),
        "right_paid": right_paid,
        "near": len(near),
        "near_paid": near_paid,
        "precision": right_paid / paid if paid else None,
        "recall": right_paid / len(right) if right else None,
    }


def examination(judged: list[Pair], judges: dict[str, Judge]) -> dict[str, dict]:
    """`rates` by judge and by kind, all of them together as the kind `all`."""
    kinds = list(dict.fromkeys(pair.kind for pair in judged))
    found: dict[str, dict] = {}
    for name, judge in judges.items():
        wrong = set(misjudged(judged, judge))
        of = {k: rates([p for p in judged if p.kind == k], wrong) for k in kinds}
        found[name] = {
            "kinds": of | {"all": rates(judged, wrong)},
            "misjudged": [pair for pair in judged if pair in wrong],
        }
    return found


def table(found: dict[str, dict]) -> str:
    """Kinds × right variants and near misses that each judge pays."""
    lines = [
        f"{'paid: right, near misses':38}" + "".join(f"{name:>22}" for name in found)
    ]
    for k in next(iter(found.values()))["kinds"]:
        cells = [judge["kinds"][k] for judge in found.values()]
        texts = [
            f"{c['right_paid']}/{c['right']} {c['near_paid']}/{c['near']}"
            for c in cells
        ]
        lines.append(f"{k:38}" + "".join(f"{text:>22}" for text in texts))
    for name in ("precision", "recall"):
        values = [judge["kinds"]["all"][name] for judge in found.values()]
        texts = ["-" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"{name:38}" + "".join(f"{text:>22}" for text in texts))
    return "\n".join(lines)


def first_misjudged(faults: list[Pair], of_each: int = 3) -> str:
    """A line each for the first few of each kind and side."""
    lines: dict[tuple[str, bool], list[str]] = {}
    for pair in faults:
        verdict = "right, unpaid" if pair.right else "wrong, paid"
        text = f"{pair.kind}: {verdict}: {pair.truth!r}, {pair.answer!r}"
        lines.setdefault((pair.kind, pair.right), []).append(text)
    return "\n".join(text for texts in lines.values() for text in texts[:of_each])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=2000, help="of each side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--json", type=Path, help="write rates and misjudged pairs here"
    )
    parser.add_argument("--libraries", action="store_true", help="judge with them, too")
    options = parser.parse_args(arguments)
    judges = {"areal_cppo": ours, **(libraries() if options.libraries else {})}
    found = examination(generated(options.examples, options.seed) + cases(), judges)
    faults = found["areal_cppo"]["misjudged"]
    print(table(found), first_misjudged(faults), sep="\n\n")
    if options.json:
        for of_judge in found.values():
            of_judge["misjudged"] = [pair._asdict() for pair in of_judge["misjudged"]]
        options.json.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    return any(not p.right or p.kind.startswith("case: ") for p in faults)


if __name__ == "__main__":
    sys.exit(main())
