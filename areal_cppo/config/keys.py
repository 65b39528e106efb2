"""A configuration's file and keys, checked before AReaL is imported.

Which keys there are is read from the sources of AReaL's dataclasses and ours
(`classes.py`). What can't be told so (values, and all else that is in doubt) is left to
`areal_cppo.config.experiment.load_config`, which says the same of what is told here.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from areal_cppo.config import GOES_ON, SOURCES, TASK_NAMES
from areal_cppo.config.classes import (
    config_classes,
    ending_in,
    unknown_key,
    unknown_keys,
)
from areal_cppo.config.files import SHIPPED, check_file, compose, real_names
from areal_cppo.errors import Problems, UserError, all_of

COMMAND_LINE = "command line"  # where what is wrong was said
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name


def check_early(
    path: str | Path,
    overrides: Sequence[str] = (),
    paths: Sequence[str] = ("actor", "train_dataset", "valid_dataset"),
) -> DictConfig:
    """Refuse in a second what needs no AReaL: a missing file, YAML, a key, a path.

    Parameters
    ----------
    path, overrides
        As of `load_config`.
    paths
        The blocks whose `path` has to be on this machine, or the name of something on
        the hub.

    Returns
    -------
    DictConfig
        What the file is composed of, without defaults of the dataclasses.

    Raises
    ------
    UserError
        All of that, in the lines of the full check.
    """
    path = check_file(path)
    with refused(path, overrides):
        composed = compose(path, overrides)
    settings = OmegaConf.to_container(composed, resolve=False)
    unknown = unknown_keys(settings, config_classes())
    found = [_of(path, overrides, line) for line in unknown]
    found += _missing(composed, paths)
    if "actor" in paths and "actor" not in composed and not found:
        found = [
            f"{path.name}: expected defaults, or a block actor, found neither; begin "
            "it as README.md does: defaults: [parts/gpu, parts/qwen2_5_vl-3b, _self_]"
        ]
    if found:
        raise all_of(found)
    return composed


def run_folder(composed: DictConfig) -> tuple[str, bool]:
    """Of what `check_early` returns: where a run's folder will be (empty where only the
    full configuration tells), and whether a run that is there may be gone on with."""
    folder = _text_of(composed, "run_dir")
    if not folder:
        keys = "cluster.fileroot", "experiment_name", "trial_name"
        parts = [_text_of(composed, key) for key in keys]
        folder = "/".join(parts) if all(parts) else ""
    # YAML's bare `on` is true: what becomes of it, the full check says.
    return folder, OmegaConf.select(composed, "recover.mode") in (*GOES_ON, True)


def _missing(composed: DictConfig, blocks: Sequence[str]) -> Iterator[str]:
    """What is to be said of each block whose `path` is nowhere."""
    real = _text_of(composed, "data.source") in set(SOURCES) - set(TASK_NAMES)
    for block in blocks:
        where = _text_of(composed, f"{block}.path")
        if not where or is_hub_name(where):
            continue
        if block == "actor":
            try:
                check_model(where, "actor.path")
            except UserError as error:
                yield str(error)
        elif real and where not in TASK_NAMES:
            if not glob.glob(str(Path(where).expanduser()), recursive=True):
                yield str(no_data(block, where))
    function = _text_of(composed, "reward.function")
    file = function.rpartition(":")[0]
    if "actor" in blocks and file.endswith(".py") and not Path(file).is_file():
        yield (
            f"reward.function: expected a function to call, {function}, found no file "
            f"{file}; correct it (docs/rewards.md)"
        )


def _of(path: Path, overrides: Sequence[str], line: str) -> str:
    """Say of a wrong key, or value of it, whether it is the file's."""
    given = {word.lstrip("+~").partition("=")[0] for word in overrides}
    place = COMMAND_LINE if line.partition(": ")[0] in given else path.name
    return f"{place}: {line}"


@contextmanager
def refused(path: Path, overrides: Sequence[str] = ()) -> Iterator[None]:
    """What hydra, OmegaConf and the dataclasses raise of a file and its settings, as a
    UserError of one line."""
    try:
        yield
    except ConfigKeyError as error:
        raise UserError(_of(path, overrides, _key_error(error))) from error
    except Problems as error:
        raise all_of([_of(path, overrides, line) for line in error.lines]) from error
    except (ValueError, TypeError, AttributeError, OmegaConfBaseException) as error:
        raise UserError(_of(path, overrides, _one_line(error))) from error
    except yaml.MarkedYAMLError as error:
        raise UserError(_not_yaml(error, path)) from error
    except Exception as error:  # hydra's own errors share no base class
        if type(error).__module__.startswith("hydra"):
            given = getattr(error, "override", None)  # of the command line
            if given is not None:
                raise UserError(_not_override(given, _one_line(error))) from error
            raise UserError(f"{path.name}: {_one_line(error)}") from error
        raise


def _key_error(error: ConfigKeyError) -> str:
    if not is_dataclass(error.object_type):
        return _one_line(error)
    owner, known = error.object_type.__name__, fields(error.object_type)
    names, key = [field.name for field in known], str(error.key)
    at_top = error.full_key == key
    ends = list(ending_in(key, config_classes())) if at_top else []
    return unknown_key(error.full_key, key, owner, names, ends)


def _not_yaml(error: yaml.MarkedYAMLError, path: Path) -> str:
    """Which line of which file isn't YAML, and why."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{path.name}: not YAML: {error.problem or error}"
    began = error.context_mark
    since = ""
    if began is not None and began.line != mark.line:
        since = f" ({error.context} that begins in line {began.line + 1})"
    file = Path(mark.name).name if Path(mark.name).suffix else path.name
    file = re.sub(rf"^\d+_(?={re.escape(path.name)}$)", "", file)  # of `compose`'s copy
    return f"{file}, line {mark.line + 1}: not YAML: {error.problem}{since}"


def _not_override(given: str, reason: str) -> str:
    given = given.lstrip("+")
    if "=" not in given:
        return f"expected key=value on the command line, found {given!r}; add a value"
    return (
        f"expected key=value on the command line, found {given!r}: {reason}; put a "
        "text with brackets, commas or spaces in quotes of its own: 'key=\"a text\"'"
    )


# What OmegaConf says of a value, and what is meant.
_OF_TYPE = (
    (r"Value '(.*)' of type '\w+' could not be converted to Integer", "an integer"),
    (r"Value '(.*)' of type '\w+' could not be converted to Float", "a number"),
    (r"Value '(.*)' is not a valid bool", "true or false"),
    (r"(?:field|child) '\w*()' is not Optional", "a value"),
)


def _one_line(error: Exception) -> str:
    """The part of a (possibly many-lined) error text that names key and cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first, full = "".join(lines[:1]), getattr(error, "full_key", None)
    if missing := re.search(r"issing mandatory value: ([\w.]+)", first):
        other = "resolving interpolation" in first  # then `full` is who asked for it
        key = missing[1] if other else full or missing[1]
        return f"{key}: expected a value, found none; set it"
    if unknown := re.search(r"In ('.+'): Could not load ('.+')", real_names(first)):
        return _unknown_default(unknown[1].strip("'"), unknown[2].strip("'"))
    named = re.match(r"([\w.]+): (.*)", first)  # some begin with the key
    key = named[1] if named else full
    for pattern, expected in _OF_TYPE:
        wrong = re.match(pattern, named[2] if named else first)
        if wrong and key:
            found = repr(wrong[1]) if wrong[1] else "null"
            return f"{key}: expected {expected}, found {found}; correct it"
    told = [line for line in lines if re.match("full_key: .", line)]
    return real_names(" ".join(lines[:1] + [f"({line})" for line in told[:1]]))


def _unknown_default(file: str, name: str) -> str:
    """Say which of a file's `defaults` is nowhere, and what may have been meant."""
    shipped = (path.relative_to(SHIPPED) for path in sorted(SHIPPED.rglob("*.yaml")))
    known = [str(path.with_suffix("")) for path in shipped]
    near = get_close_matches(name, known, n=3)
    return (
        f"defaults of {file}: expected a file beside it, or one of the package's, "
        f"found none of the name {name}; "
        + (f"did you mean {', '.join(near)}?" if near else "correct it")
    )


def _text_of(config: DictConfig, key: str) -> str:
    """A setting's text; empty where that is not plain."""
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return ""
    return value if isinstance(value, str) else ""


def check_model(model_dir: str | Path, name: str = "--model") -> Path:
    """The model's folder as a Path; a UserError unless it holds a config.json.

    `name` is what the user calls it.
    """
    folder = Path(model_dir).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{name}: expected a model folder, found nothing at {folder}; give the "
            "folder that holds config.json"
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{name}: expected config.json in {folder}, found none; give a folder "
            "written by save_pretrained or by training"
        )
    return folder


def is_hub_name(path: str) -> bool:
    """Whether a path can only be the name of something on the hub."""
    return bool(_HUB_NAME.fullmatch(path)) and not Path(path).exists()


def no_data(block: str, path: str) -> UserError:
    """That the data of a block is nowhere."""
    return UserError(
        f"{block}.path: expected a folder, parquet, JSON lines or CSV files, or the "
        f"name of a dataset on the hub (owner/name), found nothing at {path}; "
        "correct it"
    )
