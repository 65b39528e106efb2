"""A configuration's file: where it is, and what it is composed of.

Needs no AReaL. `defaults` of a file finds the package's configurations from any
folder, and absolute paths; `${package:tasks/triangles/checkpoint}` is a path inside the
package.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from areal_cppo.errors import UserError

PACKAGE = Path(__file__).parents[1]
SHIPPED = PACKAGE / "configs"

OmegaConf.register_new_resolver(
    "package", lambda path: str(PACKAGE / path), replace=True
)


def check_file(path: str | Path) -> Path:
    """The configuration's file, which may be one of the package's (`name.yaml`, or
    `configs/name.yaml`, from any folder); a UserError if there is none."""
    path = Path(path)
    if path.is_file():
        return path
    shipped = SHIPPED / path.name
    if str(path.parent) in (".", "configs") and shipped.is_file():
        return shipped
    raise UserError(
        f"config: expected a YAML file, found none at {path}; {_near(path)}"
    )


def _near(path: Path) -> str:
    """What may have been meant by a file that isn't there."""
    for folder in (path.parent, SHIPPED):
        there = {file.stem: file.name for file in folder.glob("*.yaml")}
        near = get_close_matches(path.stem, there, n=1)
        if near:
            meant = Path(there[near[0]])
            meant = meant if folder == SHIPPED else path.with_name(meant.name)
            return f"did you mean {meant}?"
    return "the package has some, as triangles.yaml; docs/recipes.md names them"


def forced(override: str) -> str:
    """Let `key=value` set any key of the configuration, also one the file lacks.

    hydra would ask for a `+` there; unknown keys are refused later, by type.
    """
    return override if override[:1] in "+~" else f"++{override}"


def compose(path: Path, overrides: Sequence[str]) -> DictConfig:
    """A file and its settings, unchecked.

    As AReaL's `load_expr_config` composes it, but that `defaults` finds the package's
    configurations from any folder, and absolute paths, and datasets are of type `rl`
    unless they say otherwise.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()  # AReaL leaves it
    with TemporaryDirectory() as place:
        searched = [f"file://{path.parent.absolute()}"]
        name = _with_names(path, Path(place), searched)
        found = ",".join([*searched, f"file://{SHIPPED}"])
        settings = [f"hydra.searchpath=[{found}]", *map(forced, overrides)]
        with initialize_config_dir(place, version_base=None):
            composed = hydra_compose(name, settings)
    for block in ("train_dataset", "valid_dataset"):  # AReaL has no default of it
        own = OmegaConf.select(composed, block)
        if isinstance(own, DictConfig) and "type" not in own:
            with open_dict(own):
                own["type"] = "rl"
    return composed


def _with_names(path: Path, place: Path, searched: list[str]) -> str:
    """A copy of a file in `place`, whose `defaults` have names for absolute paths.

    Those files are copied, too. Added to what is `searched`: their folders, and what
    the files themselves ask for (`hydra.searchpath`).
    """
    name = f"{len(list(place.iterdir()))}_{path.name.removesuffix('.yaml')}"
    copy = place / f"{name}.yaml"
    copy.touch()
    with path.open(encoding="utf-8") as stream:
        document = yaml.safe_load(stream)  # an error of it says of which file
    text = path.read_text(encoding="utf-8")
    document = document if isinstance(document, dict) else {}
    asked, listed = document.get("hydra"), document.get("defaults")
    if isinstance(asked, dict):
        searched += map(str, asked.get("searchpath") or ())
    for entry in listed if isinstance(listed, list) else ():
        if not (isinstance(entry, str) and entry.startswith("/")):
            continue
        file = Path(entry).with_suffix(".yaml")
        if file.is_file():
            searched.append(f"file://{file.parent}")
            own = _with_names(file, place, searched)
            text = re.sub(rf"(?<!\S){re.escape(entry)}(?!\S)", own, text, count=1)
    copy.write_text(text, encoding="utf-8")
    return name


def real_names(text: str) -> str:
    """What hydra says of a file's copy, said of the file."""
    return re.sub(r"'\d+_([\w.-]+)'", r"'\1'", text)
