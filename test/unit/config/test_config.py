"""Configuration: defaults, files and overrides, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import json
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from gbopt_ros import config as config_module
from gbopt_ros.config import Config, ConfigSection, Setting, load_config, settings
from gbopt_ros.config.load import PROFILES
from gbopt_ros.config.renamed import REMOVED, RENAMED, advice
from gbopt_ros.io.resources import find_resource
from gbopt_ros.structures import GboptError


def write(folder: Path, text: str) -> Path:
    path = folder / "gbopt.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ----------------------------------------------------------------------------------- what is read


def test_load_config_gives_the_defaults() -> None:
    assert load_config() == Config()


def test_robot_profile_changes_only_what_bounds_the_delay() -> None:
    robot, default = load_config(find_resource("config/robot.yaml")), Config()
    changed = {
        known.name
        for known in settings(Config)
        if attrgetter(known.name)(robot) != attrgetter(known.name)(default)
    }
    assert changed == {
        "clip.overlap", "selection.lag", "selection.optimality_gap", "selection.max_flow_runs",
    }  # fmt: skip


@pytest.mark.parametrize("name", PROFILES)
def test_load_config_takes_the_name_of_a_bundled_profile(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundled = load_config(find_resource(f"config/{name}.yaml"))
    assert bundled != Config()
    for given in (name, f"config/{name}.yaml", Path(name)):
        assert load_config(given) == bundled
    write(tmp_path, "device: cpu\n").rename(tmp_path / name)
    assert load_config(name).device == "cpu"  # a file of the user comes first


def test_load_config_of_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == Config()


def test_load_config_override_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, "selection: {k: 7, seed: 3}\ndevice: cpu\n")
    loaded = load_config(path, ["selection.k=5"])
    assert (loaded.selection.k, loaded.selection.seed, loaded.device) == (5, 3, "cpu")
    assert loaded.clip == Config().clip


def test_load_config_later_override_wins() -> None:
    assert load_config(None, ["clip.length=4", "clip.length=9"]).clip.length == 9


@pytest.mark.parametrize(
    ("override", "section", "field", "expected"),
    [
        ("clip.length=4", "clip", "length", 4),
        ("clip.max_gap_s=2", "clip", "max_gap_s", 2.0),
        ("learning.learning_rate=1e-4", "learning", "learning_rate", 1e-4),
        ("selection.exhaustive=true", "selection", "exhaustive", True),
        ("outline.method=network", "outline", "method", "network"),
        ("proposal.weights=/data/a=b.safetensors", "proposal", "weights", "/data/a=b.safetensors"),
        ('proposal.weights=""', "proposal", "weights", ""),
    ],
)
def test_load_config_override_syntax(
    override: str, section: str, field: str, expected: object
) -> None:
    value = getattr(getattr(load_config(None, [override]), section), field)
    assert value == expected
    assert type(value) is type(expected)


def test_load_config_override_of_a_nested_section() -> None:
    assert load_config(None, ["pretrain.augment.flip=0"]).pretrain.augment.flip == 0.0


def test_to_dict_is_json_that_load_config_takes(tmp_path: Path) -> None:
    changed = load_config(None, ["selection.k=3", "learning.augment.blur=0.5"])
    path = tmp_path / "config.json"  # JSON is YAML
    path.write_text(json.dumps(changed.to_dict()), encoding="utf-8")
    assert load_config(path) == changed


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
        ("clip.length=0", r"clip\.length.*0"),
        ("clip.overlap=30", r"clip\.overlap.*30"),
        ("clip.max_gap_s=nan", r"clip\.max_gap_s.*nan"),
        ("proposal.max_proposals=0", r"proposal\.max_proposals"),
        ("proposal.score_threshold=1", r"proposal\.score_threshold"),
        ("proposal.nms_iou=0", r"proposal\.nms_iou"),
        ("background.batch_size=0", r"background\.batch_size"),
        ("flow.backend=magic", r"flow\.backend.*magic"),
        ("flow.backend=raft_small", r"flow\.weights"),
        ("selection.overlap_tolerance=-0.1", r"selection\.overlap_tolerance"),
        ("selection.lambda_flow=-1", r"selection\.lambda_flow"),
        ("outline.method=max", r"outline\.method.*max"),
        ("selection.epsilon=0.5", r"selection\.epsilon"),
        ("learning.rehearsal_share=1.1", r"learning\.rehearsal_share.*1\.1"),
        ("learning.momentum=1", r"learning\.momentum"),
        ("learning.learning_rate=0", r"learning\.learning_rate"),
        ("learning.augment.flip=2", r"learning\.augment\.flip"),
        ("pretrain.augment.scale_min=3", r"pretrain\.augment\.scale_min"),
        ("pretrain.ema_decay=1", r"pretrain\.ema_decay"),
        ("pretrain.lr_milestones=9,9", r"pretrain\.lr_milestones.*9,9"),
    ],
)
def test_load_config_refuses_an_override(override: str, words: str) -> None:
    with pytest.raises(GboptError, match=words) as caught:
        load_config(None, [override])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("override", ["device=[", "selection={", "selection.k={"])
def test_load_config_refuses_an_override_that_is_no_yaml(override: str) -> None:
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
        ("selection: 5\n", "selection is a section: expected settings such as selection.k, got 5"),
        ("selection:\n", "selection is a section: .*, got nothing"),
        ("selection: {kk: 5}\n", "kk"),
        ("clip: {length: 0}\n", r"gbopt\.yaml: clip\.length: expected at least 1, got 0"),
        ("clip: {length: [1]}\n", r"clip\.length"),
        ("a: 1\na: 2\n", "YAML"),
    ],
)
def test_load_config_refuses_a_file(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(GboptError, match=words) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 1


def test_load_config_refuses_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(GboptError, match="no such configuration file; the names of the bundled "):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(GboptError, match="cannot be read"):
        load_config(tmp_path)
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80\x81")
    with pytest.raises(GboptError):
        load_config(path)


@pytest.mark.parametrize("path", [{"clip": {"length": 2}}, ["clip.length=2"], 3])
def test_load_config_says_that_it_expected_a_path(path: Any) -> None:
    words = (
        f"path: expected a YAML file, or one of paper, robot, got {type(path).__name__}; "
        'settings are given as overrides=["selection.k=5"]'
    )
    with pytest.raises(TypeError, match=f"^{re.escape(words)}$"):
        load_config(path)


@pytest.mark.parametrize("overrides", ["clip.length=2", [2], {"clip.length": 2}.items()])
def test_load_config_says_that_it_expected_a_list_of_overrides(overrides: Any) -> None:
    words = f'overrides: expected a list of strings such as ["selection.k=5"], got {overrides!r}'
    with pytest.raises(TypeError, match=f"^{re.escape(words)}$"):
        load_config(None, overrides)


def test_load_config_names_the_option_of_an_override() -> None:
    with pytest.raises(GboptError, match=r"^override clip\.kk=1: clip\.kk: "):
        load_config(None, ["clip.kk=1"])
    with pytest.raises(GboptError, match=r"^--set clip\.kk=1: clip\.kk: "):
        load_config(None, ["clip.kk=1"], option="--set")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("k=5", "k: no such setting; did you mean selection.k?"),
        ("max_proposals=4", "max_proposals: no such setting; did you mean proposal.max_proposals?"),
        ("proposal.max=4", "proposal.max: no such setting; did you mean proposal.max_proposals?"),
        ("selection.K=5", "selection.K: no such setting; did you mean selection.k?"),
        ("lamda_flow=1", "lamda_flow: no such setting; did you mean selection.lambda_flow?"),
        ("nonsense.k=5", "nonsense.k: no such setting; did you mean selection.k?"),
        ("flip=1", "flip: no such setting; did you mean learning.augment.flip or "
         "pretrain.augment.flip?"),
        ("flow.name=raft", "flow.name: no such setting; its section has flow.backend, "
         "flow.weights, flow.batch_size, flow.half"),
        ("zzz=5", "zzz: no such setting; docs/settings.md lists all settings"),
        ("=5", "expected key=value, such as selection.k=5"),
        ("selection.k=many", "selection.k: expected a whole number of 64 bits, at least 1, got "
         "'many'"),
        ("selection.k=0", "selection.k: expected at least 1, got 0"),
        ("selection=5", "selection is a section: expected settings such as selection.k, got 5"),
        ("selection.exhaustive=perhaps", "selection.exhaustive: expected true or false, got "
         "'perhaps'"),
        ("flow.backend=raft", "flow.backend: expected one of auto, dis, raft_small, raft_large, "
         "got 'raft'"),
        ("flow.backend=raft_large", "flow.weights: backend 'raft_large' needs weights, got none; "
         "`gbopt models pull raft_large` downloads them, then flow.weights=raft_large"),
        ("pretrain.augment.flip=2", "pretrain.augment.flip: expected at least 0 and at most 1, "
         "got 2.0"),
    ],
)  # fmt: skip
def test_load_config_names_the_setting_its_range_and_the_nearest_one(
    override: str, message: str
) -> None:
    with pytest.raises(GboptError) as caught:
        load_config(None, ["clip.length=5", override, "learning.seed=1"], option="--set")
    assert str(caught.value) == f"--set {override}: {message}"


@pytest.mark.parametrize(
    ("profile", "overrides", "expected"),
    [
        ("clip: {overlap: 7}", ["clip.length=7"], "override clip.length=7: {} ({path})"),
        ("clip: {overlap: 7, length: 7}", ["outline.method=network"], "{path}: {}"),
        ("clip: {length: 7}", ["clip.overlap=7"], "override clip.overlap=7: {}"),
        ("clip: {length: 9}", ["clip.length=7", "clip.overlap=7"], "override clip.overlap=7: {}"),
    ],
)
def test_load_config_blames_the_last_change_for_a_contradiction(
    tmp_path: Path, profile: str, overrides: list[str], expected: str
) -> None:
    path = write(tmp_path, f"{profile}\n")
    with pytest.raises(GboptError) as caught:
        load_config(path, overrides)
    told = "clip.overlap: expected less than length, 7, got 7"
    assert str(caught.value) == expected.format(told, path=path)


# ---------------------------------------------------------------------------------------- settings


SECTIONS = [
    section
    for section in vars(config_module).values()
    if isinstance(section, type)
    and issubclass(section, ConfigSection)
    and section is not ConfigSection
]
SETTINGS = [
    pytest.param(section, known, id=f"{section.__name__}.{known.name}")
    for section in SECTIONS
    for known in settings(section)
    if "." not in known.name
]


def accepts(section: type[ConfigSection], name: str, value: object) -> bool:
    """Whether the value is in range; that another field does not go with it does not count."""
    try:
        section(**{name: value})
    except ValueError as error:
        return not str(error).startswith(f"{section.__name__}.{name}: expected")
    return True


@pytest.mark.parametrize("section", SECTIONS)
def test_settings_cover_every_field(section: type[ConfigSection]) -> None:
    described = {known.name.partition(".")[0] for known in settings(section)}
    assert described == {field.name for field in dataclasses.fields(section)}


@pytest.mark.parametrize(("section", "known"), SETTINGS)
def test_setting_default_is_allowed(section: type[ConfigSection], known: Setting) -> None:
    assert type(known.default) is known.type
    assert known.allows(known.default)


@pytest.mark.parametrize(("section", "known"), SETTINGS)
def test_setting_doc_is_plain_english(section: type[ConfigSection], known: Setting) -> None:
    """Whole sentences, that do not begin in the middle of one."""
    assert re.fullmatch(r"[A-Z].*\.", known.doc)
    assert not re.match(r"(Of|Its|Those|That)\b", known.doc)
    assert "  " not in known.doc
    if known.name.endswith("_s"):
        assert "seconds" in known.doc


@pytest.mark.parametrize(
    ("section", "known"),
    [case for case in SETTINGS if case.values[1].type in (int, float)],
)
def test_setting_allows_both_ends_of_its_range(
    section: type[ConfigSection], known: Setting
) -> None:
    step = 1 if known.type is int else 1e-6
    if known.low is not None:
        assert not accepts(section, known.name, known.type(known.low) - step)
        assert accepts(section, known.name, known.type(known.low))
    if known.above is not None:
        assert not accepts(section, known.name, known.type(known.above))
        assert accepts(section, known.name, known.type(known.above) + step)
    if known.high is not None:
        assert accepts(section, known.name, known.type(known.high))
        assert not accepts(section, known.name, known.type(known.high) + step)
    if known.below is not None:
        assert not accepts(section, known.name, known.type(known.below))
        assert accepts(section, known.name, known.type(known.below) - step)
    if known.type is float:
        assert not known.allows(float("nan")) or known.expected == ""


@pytest.mark.parametrize(("section", "known"), [c for c in SETTINGS if c.values[1].choices])
def test_setting_allows_its_choices(section: type[ConfigSection], known: Setting) -> None:
    assert not accepts(section, known.name, "something else")
    assert all(accepts(section, known.name, choice) for choice in known.choices)
    assert known.default in known.choices
    assert known.expected == "one of " + ", ".join(known.choices)


@pytest.mark.parametrize(
    ("section", "values", "message"),
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
            "outline",
            {"method": "max"},
            "OutlineConfig.method: expected one of guided, network, got 'max'",
        ),
        (
            "flow",
            {"backend": "raft_small"},
            "FlowConfig.weights: backend 'raft_small' needs weights, got none; `gbopt models pull "
            "raft_small` downloads them, then flow.weights=raft_small",
        ),
    ],
)
def test_config_section_error_names_field_range_and_value(
    section: str, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        type(getattr(Config(), section))(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("section", "name", "value", "expected"),
    [
        (Config, "clip", {"length": 20}, "Config.clip: expected ClipConfig, got {'length': 20}"),
        (Config, "flow", None, "Config.flow: expected FlowConfig, got None"),
        (
            config_module.LearningConfig,
            "augment",
            0.5,
            "LearningConfig.augment: expected AugmentConfig, got 0.5",
        ),
    ],
)
def test_config_section_refuses_a_nested_section_of_another_type(
    section: type[ConfigSection], name: str, value: object, expected: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        section(**{name: value})


def test_settings_of_a_nested_section_have_dotted_names() -> None:
    by_name = {known.name: known for known in settings(config_module.LearningConfig)}
    assert by_name["augment.flip"].high == 1
    assert by_name["augment.flip"].doc == "Probability that an image is mirrored."


def test_settings_that_need_another_network_or_two_nodes_that_agree_are_fixed() -> None:
    fixed = {known.name for known in settings(config_module.Config) if known.fixed}
    weights = {f"{section}.{name}" for section in ("proposal", "background", "flow")
               for name in ("weights", "half", "batch_size")}  # fmt: skip
    student = {"learning.student", "learning.student_clips"}  # learner and proposal node
    assert weights | student | {"device", "flow.backend"} <= fixed
    fixed -= {"selection.photograph", *student}
    assert not any(name.startswith(("clip.", "selection.", "learning.")) for name in fixed)


# -------------------------------------------------------------------------------------- old names


OLD_SETTINGS = {old for old in RENAMED | REMOVED if "." in old}


def test_advice_names_only_settings_that_exist() -> None:
    """Every new name exists, and no old one does."""
    names = {known.name for known in settings(Config)}
    assert {RENAMED[old] for old in OLD_SETTINGS & {*RENAMED}} <= names
    assert not (OLD_SETTINGS | {"adapt", "probe"}) & (names | {*Config().to_dict()})


@pytest.mark.parametrize("old", sorted(OLD_SETTINGS))
def test_load_config_tells_the_new_name_of_an_old_override(old: str) -> None:
    with pytest.raises(GboptError) as caught:
        load_config(None, ["selection.k=5", f"{old}=0.5"])
    expected = f"is now called {RENAMED[old]}" if old in RENAMED else REMOVED[old]
    assert str(caught.value).startswith(f"override {old}=0.5: {old} is ")
    assert str(caught.value).endswith(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("selection: {score_memory: 0.5}\n", "selection.score_memory is now called selection."),
        ("learning: {outlines: true}\n", "is now called learning.localization_losses"),
        ("adapt: {rounds: 2}\n", "adapt is no longer a setting"),
        ("selection: {confidence_bias: 1.0}\n", "gbopt calibrate"),
    ],
)
def test_load_config_tells_the_new_name_in_an_old_profile(
    tmp_path: Path, text: str, words: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(GboptError, match=re.escape(words)) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_advice_on_a_setting_of_a_removed_section() -> None:
    assert advice(["selection.k", "adapt.rounds"]).startswith("adapt.rounds is no longer a setting")
    assert advice(["adaptation.rounds", "selection.k"]) == ""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selection.epsilon=.nan", "selection.epsilon: expected a finite number, got nan"),
        ("selection.lambda_flow=.inf", "lambda_flow: expected a finite number, got inf"),
        ("selection.lambda_flow=1e999", "lambda_flow: expected a finite number, got inf"),
        ("selection.seed=9223372036854775808", "seed: expected a whole number of 64 bits, got 9"),
        ("selection.seed=-1", "seed: expected at least 0, got -1"),
    ],
)
def test_settings_are_finite_and_of_64_bits(override: str, message: str) -> None:
    with pytest.raises(GboptError, match=message):
        load_config(None, [override])
    assert load_config(None, ["selection.seed=9223372036854775807"]).selection.seed == 2**63 - 1


@pytest.mark.parametrize("setting", settings(Config), ids=lambda known: known.name)
def test_every_setting_refuses_another_type(setting: Setting) -> None:
    wrong: list[object] = [None, [], {}, float("nan"), 2**63, -(2**63) - 1, b"a"]
    wrong += [0, 1.0] if setting.type in (bool, str) else ["1", True, float("inf") * -1]
    wrong = [v for v in wrong if not (setting.type is float and type(v) is int)]
    assert all(setting.refuses_type(value) for value in wrong)
    assert not setting.refuses_type(setting.default) and setting.allows(setting.default)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "too long for a configuration"),
        ("clip: " + "[" * 5000, "nested too deeply|not valid YAML"),
        ("a0: &a0 [x, x]\n" + "".join(
            f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
        ), "too long for a configuration"),
        ("#" * (1 << 20) + "\nclip: {length: 5}", "too long for a configuration"),
    ],
)  # fmt: skip
def test_load_config_bounds_what_a_file_says(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(GboptError, match=rf"a\.yaml: ({message})"):
        load_config(tmp_path / "a.yaml")
