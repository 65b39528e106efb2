"""`areal-cppo inspect`: what a model's response owes to the image, as a page."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal_cppo.cli.output import output_file
from areal_cppo.errors import UserError
from areal_cppo.serving.cpu import enable_in_this_process

if TYPE_CHECKING:  # these import torch and AReaL, which take seconds
    from areal_cppo.inspection.judging import Asking
    from areal_cppo.inspection.model import VisionModel
    from areal_cppo.inspection.page import Inspection
    from areal_cppo.inspection.settings import Settings


def add_inspect(commands: Any) -> None:
    """Add `inspect` to the parser's commands."""
    inspect = commands.add_parser(
        "inspect",
        help="a response's tokens, coloured by what they owe to the image",
        description="Writes one HTML file: the image with its views, and the tokens "
        "of a response coloured by entropy gain, perception tokens underlined.",
    )
    source = inspect.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", metavar="DIR", help="a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model"
    )
    source.add_argument(
        "--run",
        metavar="DIR",
        help="a run: its samples, or its last checkpoint on its own problems or on "
        "--image and --prompt",
    )
    inspect.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="IMAGE",
        help="may be given again: several images of one prompt",
    )
    inspect.add_argument(
        "--prompt",
        metavar="TEXT",
        help="the question; <image> in it says where an image belongs (in front)",
    )
    inspect.add_argument("-o", "--out", required=True, metavar="FILE", help="HTML")
    inspect.add_argument(
        "--response", metavar="TEXT", help="judge this one; else one is generated"
    )
    inspect.add_argument(
        "--config",
        metavar="FILE",
        help="actor.cpl, image sizes and instruction of a training configuration",
    )
    inspect.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="sample the response, and take entropies, at T (0: a greedy response, "
        "entropies at actor.temperature, or 1)",
    )
    inspect.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the views and of sampling (actor.view_seed, or 1)",
    )
    inspect.add_argument(
        "--max-new-tokens", type=int, default=512, metavar="N", help="at most (512)"
    )
    inspect.add_argument(
        "--device", default="", help="cpu, cuda:1, ... (a GPU where there is one)"
    )


def inspect(args: argparse.Namespace) -> int:
    """Write the page, say where it is; the exit status."""
    _check(args)
    out = output_file(args.out, "-o", (".html",))
    enable_in_this_process()  # before transformers imports torchvision
    from areal_cppo.inspection.page import inspection_html
    from areal_cppo.inspection.settings import read_settings

    if args.run is None:
        settings = read_settings(args.config, [], args.seed)
        found = _of_model(args, args.model, settings)
    else:
        found = _of_run(args)
    out.write_text(inspection_html(found), encoding="utf-8")
    print(out)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is loaded."""
    asked = bool(args.image) or args.prompt is not None
    if asked or args.run is None:
        if not args.image:
            raise UserError(
                "--image: expected the picture that the prompt is about, found none; "
                "give --image FILE"
            )
        if not (args.prompt or "").strip():
            raise UserError(
                "--prompt: expected a question about the picture, found nothing; give "
                "--prompt TEXT"
            )
    elif args.response is not None:
        raise UserError(
            "--response: expected --image and --prompt beside it, found neither; give "
            "what it responds to"
        )
    if args.run is not None and args.config is not None:
        raise UserError(
            f"--config: expected none beside --run, whose own is used, found "
            f"{args.config}; leave it out, or give --model DIR"
        )
    if args.response is not None and not args.response.strip():
        raise UserError(
            "--response: expected a text to judge, found nothing; leave it out to "
            "generate one"
        )
    if not 0 <= args.temperature < math.inf:
        raise UserError(
            f"--temperature: expected a number >= 0, found {args.temperature:g}; 0 is "
            "greedy"
        )
    if args.max_new_tokens < 1:
        raise UserError(
            f"--max-new-tokens: expected a number >= 1, found {args.max_new_tokens}; "
            "give more"
        )


def _of_model(args: argparse.Namespace, name: str, settings: Settings) -> Inspection:
    from areal_cppo.data.prompts import PromptBuilder
    from areal_cppo.inspection.judging import inspect_response
    from areal_cppo.inspection.picture_input import read_picture

    pictures = [read_picture(path) for path in args.image]
    asking = _asking(args, settings)
    model = _load(name, args.device, settings)
    builder = PromptBuilder(model.processor, settings.instruction)
    prompt = builder.text(args.prompt, len(pictures))
    if not builder.holds_images(prompt, len(pictures)):
        raise UserError(
            f"--prompt: expected one <image> for each of {len(pictures)} images, or "
            f"none at all, found {args.prompt!r}; correct it"
        )
    question = model.ask(prompt, pictures)
    names = ", ".join(Path(path).name for path in args.image)
    sample = inspect_response(
        model,
        question,
        asking,
        settings,
        title=names,
        prompt="\n".join(filter(None, (args.prompt, builder.instruction))),
    )
    return _inspection(Path(name).resolve().name, asking, settings, [sample])


def _of_run(args: argparse.Namespace) -> Inspection:
    from areal_cppo.inspection import run_samples
    from areal_cppo.inspection.page import Inspection
    from areal_cppo.inspection.settings import read_settings

    folder = run_samples.run_folder(args.run)
    settings = read_settings(folder.config, [], args.seed)
    name = folder.path.resolve().name
    if args.image:
        checkpoint = run_samples.last_checkpoint(folder)
        return _of_model(args, str(checkpoint), settings)
    samples = run_samples.written_samples(folder)
    if samples:
        facts = ["the samples that the run wrote (samples.json)"]
        return Inspection(f"Samples of {name}", facts, settings.cpl, samples)
    checkpoint = run_samples.last_checkpoint(folder)
    asking = _asking(args, settings)
    model = _load(str(checkpoint), args.device, settings)
    samples = run_samples.checkpoint_samples(folder, model, asking, settings)
    return _inspection(f"{name}, {checkpoint.name}", asking, settings, samples)


def _load(name: str, device: str, settings: Settings) -> VisionModel:
    """A model's folder, adapters put into their base, or a downloaded model."""
    from areal_cppo.evaluation.model import model_folder
    from areal_cppo.inspection.model import VisionModel

    with tempfile.TemporaryDirectory() as room:
        folder = model_folder(name, Path(room), _note)
        return VisionModel(folder, device, settings.data)


def _asking(args: argparse.Namespace, settings: Settings) -> Asking:
    from areal_cppo.inspection.judging import Asking

    return Asking(args.response, args.max_new_tokens, args.temperature, settings.seed)


def _inspection(name: str, asking: Asking, settings: Settings, samples) -> Inspection:
    from areal_cppo.inspection.page import Inspection

    temperature = asking.temperature or settings.temperature
    facts = [
        asking.words,
        f"entropies at temperature {temperature:g}",
        f"views of {settings.name}, seed {settings.seed}",
    ]
    return Inspection(f"Inspection of {name}", facts, settings.cpl, samples)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
