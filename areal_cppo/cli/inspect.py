"""`areal-cppo inspect`: what a model's response owes to the image, as a page."""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal_cppo.cli.common import check_own, note, output_file, prepare
from areal_cppo.errors import UserError
from areal_cppo.evaluation.model import find_model, model_folder
from areal_cppo.inspection.files import (
    last_checkpoint,
    read_picture,
    run_folder,
    written_samples,
)

if TYPE_CHECKING:  # these import torch and AReaL, which take seconds
    from PIL.Image import Image

    from areal_cppo.folder import RunFolder
    from areal_cppo.inspection.judging import Asking
    from areal_cppo.inspection.model import VisionModel
    from areal_cppo.inspection.page import Inspection
    from areal_cppo.inspection.settings import Settings
    from areal_cppo.report.samples import SampleView


def add_inspect(commands: Any) -> None:
    """Add `inspect` to the parser's commands."""
    command = commands.add_parser(
        "inspect",
        help="a response's tokens, coloured by what they owe to the image",
        description="Writes one HTML file: the image with its views, and the tokens "
        "of a response coloured by entropy gain, perception tokens underlined.",
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", metavar="DIR", help="a Qwen2-VL, Qwen2.5-VL or Qwen3-VL model"
    )
    source.add_argument(
        "--run",
        metavar="DIR",
        help="a run: its samples, or its last checkpoint on its own problems or on "
        "--image and --prompt",
    )
    command.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="IMAGE",
        help="may be given again: several images of one prompt",
    )
    command.add_argument(
        "--prompt",
        metavar="TEXT",
        help="the question; <image> in it says where an image belongs (in front)",
    )
    command.add_argument("-o", "--out", required=True, metavar="FILE", help="HTML")
    command.add_argument(
        "--response", metavar="TEXT", help="judge this one; else one is generated"
    )
    command.add_argument(
        "--config",
        metavar="FILE",
        help="actor.cpl, image sizes and instruction of a training configuration",
    )
    command.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="sample the response, and take entropies, at T (0: a greedy response, "
        "entropies at actor.temperature, or 1)",
    )
    command.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of the views and of sampling (actor.view_seed, or 1)",
    )
    command.add_argument(
        "--max-new-tokens", type=int, default=512, metavar="N", help="at most (512)"
    )
    command.add_argument(
        "--device", default="", help="cpu, cuda:1, ... (a GPU where there is one)"
    )
    command.add_overrides("of --config")
    command.set_defaults(call=inspect)


def inspect(args: argparse.Namespace) -> int:
    """Write the page, say where it is; the exit status."""
    _check(args)
    out = output_file(args.out, "-o", (".html",))
    pictures = [read_picture(path) for path in args.image]
    run, name, written = None, args.model, []
    if args.run is not None:
        run = run_folder(args.run)
        written = [] if pictures else written_samples(run)
        name = name if written else str(last_checkpoint(run))
    check_own(args.config, args.overrides)
    if name is not None:
        find_model(name)
    prepare()  # before transformers imports torchvision
    from areal_cppo.inspection.page import Inspection, inspection_html
    from areal_cppo.inspection.settings import read_settings

    config = run.config if run else args.config
    settings = read_settings(config, args.overrides, args.seed)
    if written:
        title = f"Samples of {run.path.resolve().name}"
        facts = ["the samples that the run wrote (samples.json)"]
        found = Inspection(title, facts, settings.cpl, written)
    else:
        found = _judged(args, name, run, pictures, settings)
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


def _judged(
    args: argparse.Namespace,
    name: str,
    run: RunFolder | None,
    pictures: list[Image],
    settings: Settings,
) -> Inspection:
    """What a model makes of the pictures, or of its run's problems where are none."""
    from areal_cppo.inspection.judging import Asking
    from areal_cppo.inspection.model import VisionModel
    from areal_cppo.inspection.page import Inspection
    from areal_cppo.inspection.run_samples import checkpoint_samples

    asking = Asking(args.response, args.max_new_tokens, args.temperature, settings.seed)
    note(f"loading {name}")
    with tempfile.TemporaryDirectory() as room:
        folder = model_folder(name, Path(room), note)
        model = VisionModel(folder, args.device, settings.data)
    note("judging the response" if args.response else "asking the model")
    if pictures:
        title = Path(name).resolve().name
        samples = [_answer(args, model, pictures, asking, settings)]
    else:
        title = f"{run.path.resolve().name}, {Path(name).name}"
        samples = checkpoint_samples(run, model, asking, settings)
    facts = [
        asking.words,
        f"entropies at temperature {asking.temperature or settings.temperature:g}",
        f"views of {settings.name}, seed {settings.seed}",
    ]
    return Inspection(f"Inspection of {title}", facts, settings.cpl, samples)


def _answer(
    args: argparse.Namespace,
    model: VisionModel,
    pictures: list[Image],
    asking: Asking,
    settings: Settings,
) -> SampleView:
    """The model's response to --image and --prompt."""
    from areal_cppo.data.prompts import PromptBuilder
    from areal_cppo.inspection.judging import inspect_response

    builder = PromptBuilder(model.processor, settings.instruction)
    prompt = builder.text(args.prompt, len(pictures))
    if not builder.holds_images(prompt, len(pictures)):
        raise UserError(
            f"--prompt: expected one <image> for each of {len(pictures)} images, or "
            f"none at all, found {args.prompt!r}; correct it"
        )
    return inspect_response(
        model,
        model.ask(prompt, pictures),
        asking,
        settings,
        title=", ".join(Path(path).name for path in args.image),
        prompt="\n".join(filter(None, (args.prompt, builder.instruction))),
    )
