"""`areal-cppo views`: a contact sheet of an image's positive and negative views."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from areal_cppo.cli.common import check_own, note, output_file, prepare
from areal_cppo.errors import UserError
from areal_cppo.inspection.files import processor_source, read_picture

_MOST_DRAWS = 50
_ENDINGS = (".png", ".svg", ".html")


def add_views(commands: Any) -> None:
    """Add `views` to the parser's commands."""
    command = commands.add_parser(
        "views",
        help="a contact sheet of an image's positive and negative views",
        description="Draws views of an image by every configured perturbation, with "
        "the code and at the size of training.",
    )
    command.add_argument("image", metavar="IMAGE")
    command.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="PNG, SVG or HTML"
    )
    command.add_argument(
        "--config",
        metavar="FILE",
        help="views and image sizes of a training configuration (the published views)",
    )
    command.add_argument(
        "--model", metavar="DIR", help="its image processor (Qwen2.5-VL's defaults)"
    )
    command.add_argument(
        "--draws", type=int, default=4, metavar="N", help="of each perturbation (4)"
    )
    command.add_argument(
        "--seed", type=int, metavar="N", help="of the draws (actor.view_seed, or 1)"
    )
    command.add_overrides("of --config, as actor.cpl.views.negative=[{name: blank}]")
    command.set_defaults(call=views)


def views(args: argparse.Namespace) -> int:
    """Write the sheet, say where it is; the exit status."""
    if not 1 <= args.draws <= _MOST_DRAWS:
        raise UserError(
            f"--draws: expected 1 to {_MOST_DRAWS}, found {args.draws}; correct it"
        )
    picture = read_picture(args.image)
    out = output_file(args.out, "-o", _ENDINGS)
    check_own(args.config, args.overrides)
    if args.model is not None:
        processor_source(args.model)
    note(f"making {args.draws} views of each kind of {args.image}")
    prepare()  # before transformers imports torchvision
    from areal_cppo.inspection.page import sheet_html
    from areal_cppo.inspection.picture_input import PictureInput
    from areal_cppo.inspection.settings import read_settings
    from areal_cppo.inspection.sheet import Sheet, make_strips
    from areal_cppo.inspection.sheet_plot import write_sheet
    from areal_cppo.inspection.views import pictures

    settings = read_settings(args.config, args.overrides, args.seed)
    if args.model is None:
        source = PictureInput.default(settings.data)
    else:
        source = PictureInput.of_model(args.model, settings.data)
    pixels, grid = source.patches([picture])
    (anchor,) = pictures(pixels, grid, source.layout)
    facts = [
        f"{_size(picture)} pixels, seen by the model as {_size(anchor)} "
        f"({source.tokens(grid)} tokens; image processor: {source.name})",
        f"views of {settings.name}, seed {settings.seed}; {args.draws} draws of each",
    ]
    strips = make_strips(
        *(pixels, grid, source.layout),
        *(settings.cpl.views, args.draws, settings.seed),
    )
    sheet = Sheet(f"Views of {Path(args.image).name}", facts, anchor, strips)
    if out.suffix.lower() == ".html":
        out.write_text(sheet_html(sheet), encoding="utf-8")
    else:
        write_sheet(sheet, out)
    print(out)
    return 0


def _size(picture: Any) -> str:
    return f"{picture.width} x {picture.height}"
