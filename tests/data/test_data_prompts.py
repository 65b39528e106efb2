"""The prompt's text and the bare answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from areal_cppo.config.blocks import INSTRUCTION
from areal_cppo.data.problems import PUBLIC, bare_answer, read_problem
from areal_cppo.data.prompts import PromptBuilder
from areal_cppo.errors import UserError
from tests.data.problem_files import (
    HEAD,
    SPECIAL,
    TAIL,
    VISION,
    build_processor,
    jsonl,
    prompt,
)


@pytest.mark.parametrize(
    ("question", "n_images", "text"),
    [
        ("Which is longer?", 1, f"{VISION}Which is longer?"),
        ("Which is longer?", 3, f"{VISION * 3}Which is longer?"),
        ("Which is longer?", 0, "Which is longer?"),
        ("<image>\nFind x.", 1, f"{VISION}\nFind x."),
        ("Look: <image> Find x.", 1, f"Look: {VISION} Find x."),
        (
            "A <image>, B <image>: like <image>?",
            3,
            f"A {VISION}, B {VISION}: like {VISION}?",
        ),
        ("Two <image><image>", 2, f"Two {VISION * 2}"),
        # nothing is deleted, not even what other loaders delete, nor white space
        (
            "  <image>How many different items?  ",
            1,
            f"  {VISION}How many different items?  ",
        ),
        ("{{ 1 + 1 }} {% x %} é", 1, VISION + "{{ 1 + 1 }} {% x %} é"),
    ],
)
def test_the_prompt(processor, question, n_images, text):
    built = PromptBuilder(processor, INSTRUCTION).text(question, n_images)
    assert built == prompt(text)
    without = PromptBuilder(processor, "").text(question, n_images)
    assert without == f"{HEAD}{text}{TAIL}"


def test_the_instruction_asks_for_what_the_reward_looks_for():
    for part in ("<think>", "</think>", "\\boxed{}"):
        assert part in INSTRUCTION


@pytest.mark.parametrize(
    ("written", "bare"),
    [
        ("5", "5"),
        ("  5 \n", "5"),
        ("\\boxed{5}", "5"),
        ("$\\boxed{\\frac{1}{2}}$", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("not \\boxed{4} but \\boxed{ B }", "B"),
        ("<answer>5</answer>", "5"),
        ("<answer> \\boxed{5} </answer>", "5"),
        ("\\boxed{5", ""),
        ("\\boxed{}", ""),
        ("x < 3", "x < 3"),
    ],
)
def test_answers_lose_their_wrapping(written, bare):
    assert bare_answer(written) == bare


@pytest.mark.parametrize(
    ("value", "text"),
    [(5, "5"), (5.0, "5"), (2.5, "2.5"), (None, ""), (float("nan"), ""), ([], "")],
)
def test_answers_that_are_numbers(tmp_path, value, text):
    row = {"problem": "?", "answer": value, "images": None}
    assert read_problem(row, PUBLIC["geometry3k"], "name", tmp_path).answer == text


def with_template(template: str | None):
    processor = build_processor()
    processor.chat_template = template
    return processor


LOOP = "{% for m in messages %}{% for p in m['content'] %}"
END = "{% endfor %}{% endfor %}"
IMAGE = "{% if p['type'] == 'image' %}<|image_pad|>{% endif %}"
WORDS = "{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (None, "found none;"),
        ("", "found none;"),
        (LOOP + WORDS + END, "found one that places no image"),
        (LOOP + "{% if p['type'] == 'image' %}<image>{% endif %}" + WORDS + END,
         "one that places no image ("),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "only plain text ("),
        ("{% for m in messages %}{{ 'User: ' + m['content'] }}{% endfor %}",
         "only plain text (TypeError: "),
        ("{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
         "found one that takes only plain text"),
        (LOOP + IMAGE + END, "found one that makes '<|image_pad|>' of an image"),
        (LOOP + IMAGE + WORDS + END + "<|image_pad|>", "found one that makes 'Before"),
        (LOOP + IMAGE + END + LOOP + WORDS + END, "makes '<|image_pad|>Beforeafter"),
        ("{{ raise_exception('no users') }}", "found TemplateError: no users"),
        ("{% for %}", "found TemplateSyntaxError: "),
        ("{{ messages[1]['content'] }}", "found UndefinedError: "),
    ],
)  # fmt: skip
def test_chat_templates_that_will_not_do(template, found):
    with pytest.raises(UserError) as refused:
        PromptBuilder(with_template(template), INSTRUCTION)
    line = str(refused.value)
    assert line.startswith("chat template: expected ") and found in line
    assert len(line.splitlines()) == 1


def test_a_chat_template_that_will_do():
    made = PromptBuilder(with_template(LOOP + IMAGE + WORDS + END), "").text("a?", 1)
    assert made == "<|image_pad|>a?"


def small_processor(kind: str):
    """Of a tokenizer that knows the letters a to f, and has a way with others."""
    known = [*"abcdef ?.", *SPECIAL]
    vocabulary = {token: at for at, token in enumerate(known)}
    model = {
        "an error": models.WordLevel(vocabulary),
        "unknown": models.WordLevel({**vocabulary, "[UNK]": 99}, unk_token="[UNK]"),
        "left out": models.BPE(vocabulary, []),
    }[kind]
    core = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    processor = with_template(LOOP + IMAGE + WORDS + END)
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        unk_token="[UNK]" if kind == "unknown" else None,
    )
    return processor


@pytest.mark.parametrize("kind", ["an error", "unknown", "left out"])
def test_letters_without_a_token(tmp_path, load, kind):
    """Whatever the tokenizer does with them, the model would not see the question."""
    rows = [
        {"problem": problem, "answer": "1", "images": None}
        for problem in ("abc?", "a\u00e9bc?", "abxyx?", "a.b", "abc\u2603")
    ]
    file = jsonl(tmp_path / "a.jsonl", rows)
    small = {"source": "custom", "processor": small_processor(kind)}
    dataset = load(file, instruction="", **small)
    assert [item["query_id"] for item in dataset] == ["train-0", "train-3"]
    assert dataset.counts == {"unknown_text": 3}
    seen = [bad.detail for bad in dataset.bad]
    assert seen == [
        f"no token for {each}" for each in ("'\u00e9'", "'x', 'y'", "'\u2603'")
    ]
    with pytest.raises(UserError, match="data.instruction: .* no token for 'R'"):
        load(file, instruction="Read.", **small)


def test_the_demos_tokenizer(tmp_path, load):
    demo = AutoProcessor.from_pretrained("areal_cppo/tasks/triangles/checkpoint")
    builder = PromptBuilder(demo, "")
    assert builder.unknown("<think>AB=3") == ""
    assert builder.unknown("AB=\u00e93") == "no token for '\u00e9'"


@given(st.text())
def test_a_tokenizer_of_bytes_spells_all(text):
    assert PromptBuilder(build_processor(), INSTRUCTION).unknown(text) == ""
