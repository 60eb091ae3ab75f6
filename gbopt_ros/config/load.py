"""A configuration from defaults, a YAML profile and overrides."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError
from yaml import YAMLError

from gbopt_ros.config.config import Config
from gbopt_ros.config.renamed import advice
from gbopt_ros.config.section import Setting, build, settings
from gbopt_ros.io.limits import MAX_CONFIG_VALUES
from gbopt_ros.io.resources import find_resource
from gbopt_ros.structures import GboptError

_MAX_BYTES = 1 << 20
_FEW = 6  # names that an error lists
PROFILES = ("paper", "robot")
"""The profiles that come with the package."""
_structured: Callable[[type], Any] = cache(OmegaConf.structured)  # it takes 20 ms, a copy 3


def load_config(
    path: Path | str | None = None, overrides: Sequence[str] = (), *, option: str = "override"
) -> Config:
    """Defaults, then the YAML file, then `key=value` overrides such as `selection.k=5`.

    Args:
        path: a YAML file, or the name of a profile, see `profile_path`.
        option: what an error calls an override, such as `--set`.

    Raises:
        GboptError: the file cannot be read, a name is old or unknown, a type is wrong or a value
            is out of range.
        TypeError: an argument is of another type.
    """
    if isinstance(overrides, str) or not all(isinstance(each, str) for each in overrides):
        raise TypeError(
            f'overrides: expected a list of strings such as ["selection.k=5"], got {overrides!r}'
        )
    merged = copy.deepcopy(_structured(Config))
    reading = str(path)  # what an error names
    set_by: dict[str, str] = {}  # what an error names that is found when all is read
    try:
        if path is not None:
            _check_extent(profile_path(path))
            loaded = OmegaConf.load(profile_path(path))
            if not isinstance(loaded, DictConfig):
                raise GboptError(f"{path}: expected a mapping of sections, got a list")
            merged = _merged(merged, loaded, reading, set_by)
        for override in overrides:
            reading = f"{option} {override}"
            if not override.partition("=")[0].strip() or "=" not in override:
                raise GboptError(f"{reading}: expected key=value, such as selection.k=5")
            merged = _merged(merged, OmegaConf.from_dotlist([override]), reading, set_by)
        return _built(merged, set_by)
    except FileNotFoundError as error:
        raise GboptError(
            f"{path}: no such configuration file; the names of the bundled profiles, "
            f"{' and '.join(PROFILES)}, are taken too"
        ) from error
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise GboptError(f"{reading}: {key}{str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise GboptError(f"{reading}: {error}") from error
    except OSError as error:
        if error.strerror is None:  # OmegaConf's own, for a file that holds one bare value
            raise GboptError(f"{path}: expected a mapping of sections") from error
        raise GboptError(f"{path}: cannot be read ({error.strerror})") from error
    except YAMLError as error:
        raise GboptError(f"{reading}: not valid YAML ({str(error).splitlines()[0]})") from error
    except RecursionError as error:
        raise GboptError(f"{reading}: nested too deeply") from error


def _check_extent(path: Path) -> None:
    """Raise GboptError if a YAML file says more than any configuration.

    A few lines of aliases of aliases would fill the memory.
    """
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    waiting, values = [yaml.compose(text)], 0
    while waiting:
        values += 1
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if values > MAX_CONFIG_VALUES or len(text) > _MAX_BYTES:
            raise GboptError(f"{path}: too long for a configuration")


def profile_path(path: Path | str) -> Path:
    """The file of a profile.

    Args:
        path: a YAML file. Where there is no such file, `paper` and `config/paper.yaml` are the
            profile of this name that comes with the package.

    Raises:
        GboptError: the profile of the package is missing.
        TypeError: `path` is no path.
    """
    if not isinstance(path, str | Path):
        raise TypeError(
            f"path: expected a YAML file, or one of {', '.join(PROFILES)}, got "
            f'{type(path).__name__}; settings are given as overrides=["selection.k=5"]'
        )
    for name in PROFILES:
        if str(path) in (name, f"config/{name}.yaml") and not Path(path).is_file():
            return bundled_profile(name)
    return Path(path)


def bundled_profile(name: str) -> Path:
    """The file of one of `PROFILES`. Raises GboptError if it is missing."""
    return find_resource(f"config/{name}.yaml")


def _merged(config: Any, changes: DictConfig, reading: str, set_by: dict[str, str]) -> Any:
    """The configuration, changed in place.

    Args:
        reading: where the changes are from.
        set_by: gets it, by the names of all sections and settings that are changed.

    Raises:
        GboptError: a name is old or unknown, or a value is of another type.
    """
    values = dict(_values(changes))
    answer = advice(values)
    if answer:
        raise GboptError(f"{reading}: {answer}")
    known, sections = _settings_and_sections()
    for name, value in values.items():
        if name in sections and not isinstance(value, Mapping):
            example = next(each for each in known if each.startswith(f"{name}."))
            raise GboptError(
                f"{reading}: {name} is a section: expected settings such as {example}, "
                f"got {_shown(value)}"
            )
        of_more = isinstance(value, Mapping) and len(value) > 0  # whose names are unknown, too
        if name not in sections and name not in known and not of_more:
            raise GboptError(f"{reading}: {name}: no such setting; {_nearest(name)}")
        set_by[name] = reading
    try:
        return OmegaConf.unsafe_merge(config, changes)
    except ValidationError as error:
        name = str(error.full_key)
        if name not in values or name not in known:
            raise
        raise GboptError(
            f"{reading}: {name}: expected {known[name].expected_value}, got {_shown(values[name])}"
        ) from error


def _built(merged: Any, set_by: Mapping[str, str]) -> Config:
    """The configuration. Raises GboptError if a value is out of range."""
    values: Any = OmegaConf.to_container(merged)
    try:
        return build(Config, values)
    except ValueError as error:
        name = str(error).split(maxsplit=1)[0].rstrip(":")
        known, _ = _settings_and_sections()
        reading, told = set_by.get(name, "configuration"), str(error)
        if name in known and known[name].allows(OmegaConf.select(merged, name)):
            # It contradicts another setting of its section: the last change there is to blame.
            own, reading = reading, set_by.get(name.rpartition(".")[0], reading)
            told += f" ({own})" if own not in (reading, "configuration") else ""
        raise GboptError(f"{reading}: {told}") from error


def _values(changes: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The full names of all sections and settings in a mapping, with their values."""
    for name, value in changes.items():
        yield f"{prefix}{name}", value
        if isinstance(value, Mapping):
            yield from _values(value, f"{prefix}{name}.")


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)


@cache
def _settings_and_sections() -> tuple[dict[str, Setting], frozenset[str]]:
    """All settings by their full names, and the names of all sections."""
    known = {each.name: each for each in settings(Config)}
    return known, frozenset(
        name[:place] for name in known for place, letter in enumerate(name) if letter == "."
    )


def _nearest(unknown: str) -> str:
    """Advice on a name that no setting has: what is spelt so, or nearly so, or its section."""
    known, _ = _settings_and_sections()
    section, _, last = unknown.lower().rpartition(".")
    of_section = [name for name in known if name.startswith(f"{section}.")]
    for found in (
        _ending(last, known),
        [each for each in of_section if each.startswith(f"{section}.{last}") and len(last) > 2],
        _ending(_spelt_nearly(last, of_section, 0.6), of_section),
        _ending(_spelt_nearly(last, known, 0.75), known),
    ):
        if 0 < len(found) <= _FEW:
            return f"did you mean {' or '.join(found)}?"
    if 0 < len(of_section) <= _FEW:
        return f"its section has {', '.join(of_section)}"
    return "docs/settings.md lists all settings"


def _ending(last: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if last and f".{name}".endswith(f".{last}")]


def _spelt_nearly(last: str, names: Iterable[str], similarity: float) -> str:
    found = get_close_matches(last, [name.rpartition(".")[2] for name in names], 1, similarity)
    return found[0] if found else ""
