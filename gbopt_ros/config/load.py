"""A configuration out of defaults, a YAML profile and overrides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gbopt_ros.config import Config
from gbopt_ros.config.renamed import advice
from gbopt_ros.structures import GboptError


def load_config(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Defaults, then the YAML file, then `key=value` overrides such as `selection.k=5`.

    Raises:
        GboptError: the file cannot be read, a name is unknown or an old one, a type is wrong or
            a value is out of range.
    """
    merged: Any = OmegaConf.structured(Config)
    reading = str(path)  # what an error is about
    try:
        if path is not None:
            loaded = OmegaConf.load(path)
            if not isinstance(loaded, DictConfig):
                raise GboptError(f"{path}: expected a mapping of sections, got a list")
            merged = _merged(merged, loaded, reading)
        for override in overrides:
            reading = f"--set {override}"
            if "=" not in override:
                raise GboptError(f"{reading}: expected key=value, such as selection.k=5")
            merged = _merged(merged, OmegaConf.from_dotlist([override]), reading)
        reading = "configuration"
        config = OmegaConf.to_object(merged)
    except FileNotFoundError as error:
        raise GboptError(f"{path}: no such configuration file") from error
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
    assert isinstance(config, Config)
    return config


def _merged(config: Any, changes: DictConfig, reading: str) -> Any:
    """Both merged. Raises GboptError where `changes` has an old name."""
    answer = advice(_names(changes))
    if answer:
        raise GboptError(f"{reading}: {answer}")
    return OmegaConf.merge(config, changes)


def _names(changes: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The full names of all sections and settings in a mapping."""
    for name, value in changes.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")
