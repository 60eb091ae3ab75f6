"""Configuration: defaults, files and overrides, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from gbopt_ros import config as config_module
from gbopt_ros.config import Config, ConfigSection, Setting, load_config, section_names, settings
from gbopt_ros.io.resources import find_resource
from gbopt_ros.structures import GboptError


def write(folder: Path, text: str) -> Path:
    path = folder / "gbopt.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ----------------------------------------------------------------------------------- what is read


def test_defaults_alone() -> None:
    assert load_config() == Config()


def test_a_robot_selects_and_learns_with_what_was_measured() -> None:
    """Two profiles have the constants of the demo; they must not drift apart."""
    demo, robot = (load_config(find_resource(f"config/{name}.yaml")) for name in ("demo", "robot"))
    live = {"lag", "optimality_gap", "max_flow_runs"}
    for stage, own in (("selection", live), ("learning", {"iterations"})):
        of_demo, of_robot = (vars(getattr(config, stage)) for config in (demo, robot))
        assert {key for key in of_demo if of_demo[key] != of_robot[key]} == own


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
    assert set(section_names()) == set(Config().to_dict()) - {"device"}


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


# ---------------------------------------------------------------------------------------- settings


SECTIONS = [
    stage
    for stage in vars(config_module).values()
    if isinstance(stage, type) and issubclass(stage, ConfigSection) and stage is not ConfigSection
]
SETTINGS = [
    pytest.param(stage, known, id=f"{stage.__name__}.{known.name}")
    for stage in SECTIONS
    for known in settings(stage)
    if "." not in known.name
]


def accepts(stage: type[ConfigSection], name: str, value: object) -> bool:
    """Whether the value is in range; that another field does not go with it does not count."""
    try:
        stage(**{name: value})
    except ValueError as error:
        return not str(error).startswith(f"{stage.__name__}.{name}: expected")
    return True


@pytest.mark.parametrize("stage", SECTIONS)
def test_every_field_is_a_setting_or_a_stage(stage: type[ConfigSection]) -> None:
    described = {known.name.partition(".")[0] for known in settings(stage)}
    assert described == {field.name for field in dataclasses.fields(stage)}


@pytest.mark.parametrize(("stage", "known"), SETTINGS)
def test_setting(stage: type[ConfigSection], known: Setting) -> None:
    assert type(known.default) is known.type
    assert known.allows(known.default)
    assert known.doc.strip() and not known.doc.endswith(".")


@pytest.mark.parametrize(
    ("stage", "known"),
    [case for case in SETTINGS if case.values[1].type in (int, float)],
)
def test_both_ends_of_a_range(stage: type[ConfigSection], known: Setting) -> None:
    step = 1 if known.type is int else 1e-6
    if known.low is not None:
        assert not accepts(stage, known.name, known.type(known.low) - step)
        assert accepts(stage, known.name, known.type(known.low))
    if known.above is not None:
        assert not accepts(stage, known.name, known.type(known.above))
        assert accepts(stage, known.name, known.type(known.above) + step)
    if known.high is not None:
        assert accepts(stage, known.name, known.type(known.high))
        assert not accepts(stage, known.name, known.type(known.high) + step)
    if known.below is not None:
        assert not accepts(stage, known.name, known.type(known.below))
        assert accepts(stage, known.name, known.type(known.below) - step)
    if known.type is float:
        assert not known.allows(float("nan")) or known.expected == ""


@pytest.mark.parametrize(("stage", "known"), [c for c in SETTINGS if c.values[1].choices])
def test_choices(stage: type[ConfigSection], known: Setting) -> None:
    assert not accepts(stage, known.name, "something else")
    assert all(accepts(stage, known.name, choice) for choice in known.choices)
    assert known.default in known.choices
    assert known.expected == "one of " + ", ".join(known.choices)


@pytest.mark.parametrize(
    ("stage", "values", "message"),
    [
        ("clip", {"length": 0}, "ClipConfig.length: expected at least 1, got 0"),
        ("clip", {"max_gap_s": 0.0}, "ClipConfig.max_gap_s: expected above 0, got 0.0"),
        ("clip", {"overlap": 30}, "ClipConfig.overlap: expected less than length, 30, got 30"),
        (
            "proposal",
            {"score_threshold": 1.0},
            "ProposalConfig.score_threshold: expected at least 0 and below 1, got 1.0",
        ),
        (
            "selection",
            {"reduction": "max"},
            "SelectionConfig.reduction: expected one of mean, sum, got 'max'",
        ),
        (
            "flow",
            {"backend": "raft_small"},
            "FlowConfig.weights: backend 'raft_small' needs a weights file, got none",
        ),
    ],
)
def test_message(stage: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        type(getattr(Config(), stage))(**values)
    assert str(caught.value) == message


def test_nested_settings_have_dotted_names() -> None:
    by_name = {known.name: known for known in settings(config_module.LearningConfig)}
    assert by_name["augment.flip"].high == 1
    assert by_name["augment.flip"].doc == "probability of a horizontal flip"


def test_what_needs_another_network_is_fixed() -> None:
    fixed = {known.name for known in settings(config_module.Config) if known.fixed}
    weights = {f"{stage}.{name}" for stage in ("proposal", "background", "flow")
               for name in ("weights", "half", "batch_size")}  # fmt: skip
    assert weights | {"device", "flow.backend"} <= fixed
    assert not any(name.startswith(("clip.", "selection.", "learning.")) for name in fixed)
