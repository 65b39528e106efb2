"""Is a response's final answer right?

The final answer is the last `\\boxed{...}` of the response, after `</think>` if it is
there. `is_correct` reads it and the true answer as what they are (`forms.py`: a value,
several, a point, an interval, an equation), and compares like with like; what counts as
equal, and why, is docs/rewards.md. No library decides: each pays for some wrong answers
(`second_opinion` says what math-verify would, and is only counted). Where a doubt
remains an answer is wrong.
"""

from __future__ import annotations

import re

from areal_cppo.rewards.arithmetic import Doubt
from areal_cppo.rewards.equality import equal, squeezed
from areal_cppo.rewards.forms import read
from areal_cppo.rewards.typography import clean

MAX_CHARACTERS = 400
MAX_DEPTH = 12
READ = "compared as what they are read as"

_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

_OPTION = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice)\s*|选项?\s*|选择\s*)?"
    r"(?:[(\[]\s*([A-Ja-j])\s*[)\]]|([A-Ja-j]))\s*(?:[.):]+\s*(.*)|\s+(.*)|)",
    re.DOTALL,
)
_LETTERS = re.compile(r"[(\[]?\s*[A-J](?:[\s,;()/&\[\]]*[A-J])+\s*[)\]]?")
_MORE = re.compile(r"[\s,;.:()/&\[\]]*[A-J][\sA-J,;.:()/&\[\]]*")
_OFFER = re.compile(r"(?:^|[\s(\[（【])([A-J])\s*[.)\]:：、．）】]", re.MULTILINE)
_TEXT = re.compile(r"[^\W\d_]{2}[^\W\d_\s'-]*(?:[\s'-]+[^\W\d_]+)*")


def final_answer(response: str) -> str | None:
    """The content of the last `\\boxed{...}`, or None where there is none.

    After the last `</think>` where there is one. A box that is never closed is none,
    even if there was an earlier one.
    """
    tail = response.rpartition("</think>")[2]
    boxes = list(_BOXED.finditer(tail))
    if not boxes:
        return None
    start = boxes[-1].end()
    depth = 1
    for brace in _BRACE.finditer(tail, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)  # escaped braces don't count
        if depth == 0:
            return tail[start : brace.start()].strip() or None
    return None


def is_correct(answer: str | None, truth: str, *, question: str | None = None) -> bool:
    """Whether `answer`, the content of a box, means the same as `truth`.

    Parameters
    ----------
    answer
        As `final_answer` returns it; None is wrong.
    truth
        The true answer; a box or dollars around it don't matter.
    question
        The problem's text. Several letters may stand in any order only where it offers
        choices (`A. ... B. ...`); without it they may not.

    Returns
    -------
    bool
        For any two texts, within a fraction of a second.
    """
    return judged(answer, truth, question=question)[0]


def judged(
    answer: str | None, truth: str, *, question: str | None = None
) -> tuple[bool, str]:
    """What `is_correct` says, and how the two were compared, in a few words."""
    truth = final_answer(truth) or truth
    if answer is None or not answer.strip():
        return False, "there is no answer in a box"
    if not truth.strip():
        return False, "the true answer is empty"
    answer = final_answer(answer) or answer
    if answer.strip() == truth.strip():
        return True, "compared letter by letter"
    if _endless(answer) or _endless(truth):
        return False, (
            f"compared letter by letter: over {MAX_CHARACTERS} characters or "
            f"{MAX_DEPTH} brackets deep, too much to be read"
        )
    answer, truth = clean(answer), clean(truth)
    if not answer or not truth:
        return False, "nothing is left of one without its typography"
    if squeezed(answer) == squeezed(truth):
        return True, "compared as texts, without their typography"
    if _LETTERS.fullmatch(truth):
        given, wanted = (re.findall("[A-Z]", text) for text in (answer, truth))
        if not _LETTERS.fullmatch(answer):
            return False, "compared as letters, which the answer is not"
        if question is not None and offers_choices(question):
            return sorted(given) == sorted(
                wanted
            ), "compared as the choices that are offered"
        return (
            given == wanted,
            "compared as letters in their order: no question offers choices",
        )
    option = _option(truth)
    if option is not None:
        return _chosen(
            answer, *option
        ), f"compared as choices: option {option[0]} is right"
    if _TEXT.fullmatch(truth) or _TEXT.fullmatch(answer):
        return truth.casefold() == answer.casefold(), "compared as words"
    try:
        return equal(read(answer), read(truth)), READ
    except (Doubt, RecursionError):
        return False, READ


def offers_choices(question: str) -> bool:
    """Whether a question has options: at least `A` and `B`, each with its mark."""
    return {"A", "B"} <= set(_OFFER.findall(question))


def _option(text: str, any_case: bool = False) -> tuple[str, str] | None:
    """Letter and text of an option: `(B)`, `B. 5 cm`; of a truth in capitals only."""
    match = _OPTION.fullmatch(text)
    if match is None or (match[4] and not match[1]):  # "A dog" is no option
        return None
    letter = match[1] or match[2]
    if letter.islower() and not any_case:
        return None
    return letter.upper(), (match[3] or match[4] or "").strip()


def _chosen(answer: str, letter: str, content: str) -> bool:
    """Whether an answer names the option, and no other; its text alone will do, too."""
    option = _option(answer, any_case=True)
    if option is None or (content and option[0] != letter):
        return bool(content) and is_correct(answer, content)
    if option[0] != letter or _MORE.fullmatch(option[1].replace(r"\cup", "")):
        return False
    return not (content and option[1]) or is_correct(option[1], content)


def _endless(text: str) -> bool:
    """Nothing that a person would write as an answer: too long, or too deep."""
    if len(text) > MAX_CHARACTERS:
        return True
    depth = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        if depth > MAX_DEPTH:
            return True
    return False
