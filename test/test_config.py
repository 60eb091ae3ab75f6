"""Configuration: defaults, files and overrides, and what is refused with which words."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest

from gbopt_ros import config as config_module
from gbopt_ros.config import Config, load_config, stage_names
from gbopt_ros.structures import GboptError


def write(folder: Path, text: str) -> Path:
    path = folder / "gbopt.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ----------------------------------------------------------------------------------- what is read


def test_defaults_alone() -> None:
    assert load_config() == Config()


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == Config()


def test_override_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, "selection: {k: 7, seed: 3}\ndevice: cpu\n")
    loaded = load_config(path, ["selection.k=5"])
    assert (loaded.selection.k, loaded.selection.seed, loaded.device) == (5, 3, "cpu")
    assert loaded.clip == Config().clip


def test_the_later_override_wins() -> None:
    assert load_config(None, ["clip.length=4", "clip.length=9"]).clip.length == 9


@pytest.mark.parametrize(
    ("override", "stage", "field", "expected"),
    [
        ("clip.length=4", "clip", "length", 4),
        ("clip.max_gap_s=2", "clip", "max_gap_s", 2.0),
        ("learning.learning_rate=1e-4", "learning", "learning_rate", 1e-4),
        ("selection.exhaustive=true", "selection", "exhaustive", True),
        ("selection.reduction=sum", "selection", "reduction", "sum"),
        ("proposal.weights=/data/a=b.safetensors", "proposal", "weights", "/data/a=b.safetensors"),
        ('proposal.weights=""', "proposal", "weights", ""),
    ],
)
def test_override_syntax(override: str, stage: str, field: str, expected: object) -> None:
    value = getattr(getattr(load_config(None, [override]), stage), field)
    assert value == expected
    assert type(value) is type(expected)


def test_nested_override() -> None:
    assert load_config(None, ["pretrain.augment.flip=0"]).pretrain.augment.flip == 0.0


def test_to_dict_is_json_and_loads_again(tmp_path: Path) -> None:
    changed = load_config(None, ["selection.k=3", "learning.augment.blur=0.5"])
    path = tmp_path / "config.json"  # JSON is YAML
    path.write_text(json.dumps(changed.to_dict()), encoding="utf-8")
    assert load_config(path) == changed


def test_stages_are_the_fields() -> None:
    assert set(stage_names()) == set(Config().to_dict()) - {"device"}


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("selection.kk=5", "kk"),
        ("nonsense.k=5", "nonsense"),
        ("selection.k=many", r"selection\.k.*many"),
        ("selection.k=1.5", r"selection\.k.*1\.5"),
        ("selection.k=", r"selection\.k"),
        ("selection.exhaustive=perhaps", r"selection\.exhaustive.*perhaps"),
        ("selection.k", "key=value"),
        ("clip.length=0", r"ClipConfig\.length.*0"),
        ("clip.overlap=30", r"ClipConfig\.overlap.*30"),
        ("clip.max_gap_s=nan", r"ClipConfig\.max_gap_s.*nan"),
        ("proposal.max_proposals=0", r"ProposalConfig\.max_proposals"),
        ("proposal.score_threshold=1", r"ProposalConfig\.score_threshold"),
        ("proposal.nms_iou=0", r"ProposalConfig\.nms_iou"),
        ("background.batch_size=0", r"BackgroundConfig\.batch_size"),
        ("flow.backend=magic", r"FlowConfig\.backend.*magic"),
        ("flow.backend=raft_small", r"FlowConfig\.weights"),
        ("selection.overlap_tolerance=-0.1", r"SelectionConfig\.overlap_tolerance"),
        ("selection.lambda_flow=-1", r"SelectionConfig\.lambda_flow"),
        ("selection.reduction=max", r"SelectionConfig\.reduction.*max"),
        ("selection.epsilon=0.5", r"SelectionConfig\.epsilon"),
        ("learning.rehearsal_share=1.1", r"LearningConfig\.rehearsal_share.*1\.1"),
        ("learning.momentum=1", r"LearningConfig\.momentum"),
        ("learning.learning_rate=0", r"LearningConfig\.learning_rate"),
        ("learning.augment.flip=2", r"AugmentConfig\.flip"),
        ("pretrain.augment.scale_min=3", r"AugmentConfig\.scale_min"),
        ("pretrain.average=1", r"PretrainConfig\.average"),
    ],
)
def test_bad_override(override: str, words: str) -> None:
    with pytest.raises(GboptError, match=words) as caught:
        load_config(None, [override])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("override", ["device=[", "selection={", "selection.k={"])
def test_override_that_is_no_yaml(override: str) -> None:
    with pytest.raises(GboptError, match=re.escape(override)) as caught:
        load_config(None, [override])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("selection: {k: [", "YAML"),
        ("selection:\n\tk: 5\n", "YAML"),
        ("- 1\n- 2\n", "mapping"),
        ("12\n", "mapping"),
        ("hello\n", "hello"),
        ("selection: 5\n", "selection|SelectionConfig"),
        ("selection: {kk: 5}\n", "kk"),
        ("clip: {length: 0}\n", r"ClipConfig\.length"),
        ("clip: {length: [1]}\n", r"clip\.length"),
        ("a: 1\na: 2\n", "YAML"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(GboptError, match=words) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 1


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no such"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(GboptError, match="cannot be read"):
        load_config(tmp_path)
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80\x81")
    with pytest.raises(GboptError):
        load_config(path)


# ---------------------------------------------------------------------------------------- comments


def test_every_field_has_a_comment() -> None:
    """A field that holds another dataclass is described by that one."""
    source = Path(config_module.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    names = {node.name for node in classes}
    assert {c for c in names if dataclasses.is_dataclass(getattr(config_module, c))} == names
    bare = [
        f"{node.name}.{field.target.id}"
        for node in classes
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and ast.unparse(field.annotation) not in names
        and "  # " not in lines[field.end_lineno - 1]
    ]
    assert not bare, f"fields without a comment: {', '.join(bare)}"
