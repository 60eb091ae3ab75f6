"""A configuration from defaults, a YAML profile and overrides."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gbopt_ros.config.config import Config
from gbopt_ros.config.renamed import advice
from gbopt_ros.io.limits import MAX_CONFIG_VALUES
from gbopt_ros.io.resources import find_resource
from gbopt_ros.structures import GboptError

_MAX_BYTES = 1 << 20
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
    try:
        if path is not None:
            _check_extent(profile_path(path))
            loaded = OmegaConf.load(profile_path(path))
            if not isinstance(loaded, DictConfig):
                raise GboptError(f"{path}: expected a mapping of sections, got a list")
            merged = _merged(merged, loaded, reading)
        for override in overrides:
            reading = f"{option} {override}"
            if "=" not in override:
                raise GboptError(f"{reading}: expected key=value, such as selection.k=5")
            merged = _merged(merged, OmegaConf.from_dotlist([override]), reading)
        reading = "configuration"
        config = OmegaConf.to_object(merged)
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
    assert isinstance(config, Config)
    return config


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
        bundled = f"config/{name}.yaml"
        if str(path) in (name, bundled) and not Path(path).is_file():
            return find_resource(bundled)
    return Path(path)


def _merged(config: Any, changes: DictConfig, reading: str) -> Any:
    """The configuration, changed in place. Raises GboptError if the changes have an old name."""
    answer = advice(_names(changes))
    if answer:
        raise GboptError(f"{reading}: {answer}")
    return OmegaConf.unsafe_merge(config, changes)


def _names(changes: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The full names of all sections and settings in a mapping."""
    for name, value in changes.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")
