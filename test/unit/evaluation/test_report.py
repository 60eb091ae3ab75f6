"""The HTML report and the tables: complete, self-contained, small and whole."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from gbopt_ros.evaluation import charts, report
from gbopt_ros.evaluation.coco_metrics import METRICS, InstanceMetrics
from gbopt_ros.evaluation.mask_quality import MaskQuality, MatchCounts, PrecisionRecallCurve
from gbopt_ros.evaluation.report import write_report
from gbopt_ros.evaluation.report_content import (
    ClipEnergies,
    ClipStrip,
    Command,
    FoundMask,
    FramePair,
    MetricsTable,
    ReportContent,
    SelectionNumbers,
    StillTriplet,
    StripFrame,
    ThresholdComparison,
)
from gbopt_ros.evaluation.tables import format_cell, markdown_table, metric_rows, text_table
from gbopt_ros.structures import FrameEnergy, GboptError

BEFORE = InstanceMetrics(21.9, 51.7, 15.0, 10.0, 25.0, 30.0)
AFTER = InstanceMetrics(26.14, 59.4, 15.02, 9.0, 25.0, 31.5)
VOID = {"meta", "img", "br", "link"}


def picture(seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    return cv2.GaussianBlur(small, (7, 7), 2)


def content() -> ReportContent:
    curve = PrecisionRecallCurve(
        np.array([0.9, 0.5, 0.1]), np.array([0.8, 0.5, 0.25]), np.array([0.1, 0.3, 0.6]), 40
    )
    with_sizes = replace(BEFORE, AP_M=20.0)  # the table has no column for it
    return ReportContent(
        title="Unseen <objects> & more",
        summary=("AP rose from 21.9 to 26.1.",),
        tables=(MetricsTable("Unseen", {"before": with_sizes, "after": AFTER}, "64 stills"),),
        clips=(ClipStrip("Clip 0", (StripFrame("frame 7", picture(0), picture(1)),)),),
        stills=(StillTriplet("still 3", picture(2), picture(3), picture(4)),),
        comparison=ThresholdComparison(
            curve, MaskQuality(0.75, 0.3, MatchCounts(12, 16, 40, 0.81))
        ),
        losses={"loss_mask": [1.0, 0.5, 0.25], "total": [2.0, 1.0, 0.5]},
        energies=(
            ClipEnergies("Clip 0", (FrameEnergy(0.1, 0.2, -0.4), FrameEnergy(0.1, 0.0, 0.0))),
            ClipEnergies("Clip 1", (FrameEnergy(0.3, 0.0, 0.0),)),
        ),
        facts={"Seconds": {"selection": 12.345}, "Run": {"seed": 0}},
    )


def own_content(learnt: bool = True) -> ReportContent:
    """A recording without ground truth."""
    before = SelectionNumbers((0.15, 0.95, 0.92), (2, 1), ((-1.5, True), (-0.5, False)))
    after = SelectionNumbers((0.85,) * 4, (2, 2), ((-2.0, True), (-1.0, True)))
    return ReportContent(
        title="Own",
        pairs=(FramePair("frame 3: 2 and 2 masks", picture(0), picture(1) if learnt else None),),
        found=(FoundMask("frame 3, confidence 0.85", picture(2)),) if learnt else (),
        found_note="1 mask is new." if learnt else "",
        selections={"before": before, "after": after} if learnt else {"before": before},
        commands=(Command("Go on:", "gbopt replay 'my <bag>' --out x"),),
    )


class Page(HTMLParser):
    """Checks that tags are balanced and collects attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def written(tmp_path: Path, what: ReportContent) -> str:
    path = tmp_path / "out" / "report.html"
    write_report(path, what)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("report"), content())


def test_write_report_is_well_formed_and_self_contained(full_page: str):
    page = Page(full_page)
    assert "<script" not in full_page
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/jpeg;base64,", "#")), (tag, name, value[:40])
    assert "@import" not in full_page and "url(http" not in full_page
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {v[1:] for _, name, v in page.attributes if name in ("href", "xlink:href")}
    used |= set(re.findall(r"url\(#([^)]+)\)", full_page))
    assert used <= set(ids)


def test_write_report_shows_its_content(full_page: str):
    words = " ".join(Page(full_page).words)
    for expected in (
        "Unseen <objects> & more", "AP rose from 21.9 to 26.1.", "64 stills", "frame 7", "still 3",
        "proposals at threshold 0", "ground truth", "12.3", "precision 75.0 % at recall 30.0 %",
        "precision of 50.0 %", "+25.0 points", "recall (%)", "optimiser step", "weighted energy",
    ):  # fmt: skip
        assert expected in words, expected
    assert full_page.count("<svg") == 4
    assert full_page.count("<img") == 5


def test_write_report_shows_the_change_with_its_sign(full_page: str):
    changes = re.search(r'<tr class="change">(.*?)</tr>', full_page).group(1)
    assert re.findall(r"<td[^>]*>(.*?)</td>", changes) == [
        "+4.2", "+7.7", "0.0", "&minus;1.0", "0.0", "+1.5"
    ]  # fmt: skip
    assert changes.count('class="up"') == 3 and changes.count('class="down"') == 1


def test_write_report_has_a_heading_for_every_cell(full_page: str):
    for table in re.findall(r"<table>.*?</table>", full_page, re.DOTALL):
        rows = re.findall(r"<tr.*?</tr>", table)
        assert len({len(re.findall("<t[dh]", row)) for row in rows}) == 1, table


def test_write_report_embeds_the_given_pictures(full_page: str):
    first = re.search(r"base64,([^\"]+)", full_page).group(1)
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(first), np.uint8), cv2.IMREAD_COLOR)
    difference = np.abs(decoded[:, :, ::-1].astype(int) - picture(0))
    assert difference.mean() < 4


def test_charts_take_all_colours_from_the_page(full_page: str):
    charts = "".join(re.findall(r"<svg.*?</svg>", full_page, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}", charts)) <= {"#ffffff"}  # the transparent background
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)\)", charts)):
        assert full_page.count(f"{variable}:") == 2, f"{variable} must be defined in light and dark"


def test_write_report_leaves_empty_parts_out(tmp_path: Path):
    text = written(tmp_path, ReportContent("Nothing"))
    Page(text)
    assert "<section" not in text and "<svg" not in text and "<img" not in text


def test_write_report_shows_a_recording_before_and_after(tmp_path: Path):
    text = written(tmp_path, own_content())
    words = " ".join(Page(text).words)
    for expected in (
        "Selected masks before and after", "frame 3: 2 and 2 masks", "1 mask is new.",
        "frame 3, confidence 0.85", "Masks a frame, mean: before 1.5; after 2.0.",
        "before 1 of 2 clips; after 2 of 2 clips", "mean: before 0.67; after 0.85.",
        "not proven minimal", "How to go on", "gbopt replay 'my <bag>' --out x",
    ):  # fmt: skip
        assert expected in words, expected
    assert text.count("<img") == 3 and text.count("<svg") == 3
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_write_report_shows_a_recording_from_which_nothing_was_learnt(tmp_path: Path):
    text = written(tmp_path, own_content(learnt=False))
    words = " ".join(Page(text).words)
    assert "Selected masks" in words and "before and after" not in words
    assert "Found after learning" not in words
    assert text.count("<img") == 1


def test_confidence_chart_counts_by_tenths():
    svg = charts.confidence_chart({"before": (0.15, 0.95, 0.92, 1.0), "after": (0.0, 0.05)})
    labels = re.findall(r">([^<>]+)</text>", svg)
    assert {"before", "after", "confidence", "selected masks"} <= set(labels)
    # The highest bar, that of the three from 0.9 on, ends the axis.
    assert "3" in labels and "4" not in labels


def test_mask_count_and_clip_energy_charts_take_a_single_frame():
    assert charts.mask_count_chart({"before": (2,)}).startswith("<svg")
    svg = charts.clip_energy_chart({"before": ((-1.0, True),)})
    assert svg.startswith("<svg") and "not proven minimal" not in svg


def test_write_report_says_that_no_threshold_reaches_the_recall(tmp_path: Path):
    curve = PrecisionRecallCurve(np.zeros(0), np.zeros(0), np.zeros(0), 5)
    quality = MaskQuality(1.0, 0.4, MatchCounts(2, 2, 5, 0.9))
    text = written(tmp_path, ReportContent("x", comparison=ThresholdComparison(curve, quality)))
    assert "No score threshold reaches this recall" in text


def test_write_report_is_deterministic(full_page: str, tmp_path: Path):
    assert written(tmp_path, content()) == full_page


def test_write_report_shrinks_pictures_until_the_page_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    many = ReportContent("x", stills=(StillTriplet("noise", noise, noise, noise),))
    full = len(written(tmp_path, many))
    monkeypatch.setattr(report, "MAX_BYTES", full // 3)
    assert full // 8 < len(written(tmp_path, many)) <= full // 3
    monkeypatch.setattr(report, "MAX_BYTES", 2000)
    with pytest.raises(GboptError, match="fewer pictures"):
        write_report(tmp_path / "never.html", many)
    assert not (tmp_path / "never.html").exists()


def test_write_report_refuses_an_unwritable_path(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(GboptError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", ReportContent("x"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(GboptError, match="cannot be written"):
        write_report(tmp_path / "taken", ReportContent("x"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_format_cell():
    assert format_cell([38.94]) == "38.9"
    assert format_cell([38.5, 38.9, 39.3]) == "38.9 ± 0.4"
    assert format_cell([1.0, 2.0], digits=2) == "1.50 ± 0.71"
    assert format_cell([]) == "-"


def test_markdown_table_and_text_table():
    rows = {**metric_rows({"before": [BEFORE]}), "ours": {"AP": [1.0, 3.0]}}
    assert markdown_table({"a": {"AP": [1.25]}, "long": {"AP": [10.0, 12.0]}}) == (
        "|      |         AP |\n"
        "| :--- | ---------: |\n"
        "| a    |        1.2 |\n"
        "| long | 11.0 ± 1.4 |\n"
    )
    header, before, ours = text_table(rows).splitlines()
    assert header.split() == [*METRICS]
    assert before.split() == ["before", "21.9", "51.7", "15.0", "10.0", "25.0", "30.0"]
    assert ours.split() == ["ours", "2.0", "±", "1.4", *["-"] * 5]
    with pytest.raises(GboptError, match="at least one row"):
        text_table({})
