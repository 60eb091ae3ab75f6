"""The style sheet of the report: legible in light and dark, on a phone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --muted: #5d6772; --line: #dfe3e8;
  --up: #00704f; --down: #b3401a;
  --series-1: #0072b2; --series-2: #e69f00; --series-3: #009e73;
  --series-4: #d55e00; --series-5: #b0578d; --series-6: #56a5d8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1d2126; --ink: #e7eaee; --muted: #9aa5b1; --line: #343b43;
    --up: #3ecf9f; --down: #ff9163;
    --series-1: #4aa8e0; --series-2: #f0b64a; --series-3: #2fc298;
    --series-4: #f5844a; --series-5: #df9cc2; --series-6: #93cdf2;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 1080px;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans",
    sans-serif;
}
h1 { font-size: clamp(1.6rem, 4vw, 2.2rem); line-height: 1.2; margin: 0 0 1rem; }
h2 {
  font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 0.4rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 1.6rem 0 0.5rem; }
p { margin: 0.4rem 0; max-width: 72ch; }
.summary p { font-size: 1.1rem; }
.note, figcaption { color: var(--muted); font-size: 0.875rem; line-height: 1.45; }
.columns { display: grid; gap: 1.25rem 2rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 760px) { .columns { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.scroll { overflow-x: auto; }
table {
  border-collapse: collapse; width: 100%; font-size: 0.95rem; font-variant-numeric: tabular-nums;
}
caption { text-align: left; font-weight: 600; padding-bottom: 0.4rem; }
th, td {
  padding: 0.35rem 0 0.35rem 0.8rem; border-bottom: 1px solid var(--line); white-space: nowrap;
}
thead th { color: var(--muted); font-weight: 500; font-size: 0.875rem; }
th { text-align: left; font-weight: 500; }
th:first-child { padding-left: 0; }
td, thead th + th { text-align: right; }
tr.change td, tr.change th { border-bottom: 0; font-weight: 600; }
.up { color: var(--up); }
.down { color: var(--down); }
@media (max-width: 540px) {
  table { font-size: 0.84rem; }
  th, td { padding-left: 0.5rem; }
}
figure { margin: 0; }
.pictures { display: grid; gap: 0.3rem 0.75rem; margin: 0.75rem 0 1.25rem; }
.pictures.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.pictures.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.pictures.one { grid-template-columns: minmax(0, 640px); }
.crops { display: grid; gap: 0.9rem 0.75rem; margin: 0.75rem 0 1.25rem; }
.crops { grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); }
.crops figcaption { margin-top: 0.25rem; }
pre {
  margin: 0.3rem 0 1rem; padding: 0.7rem 0.9rem; background: var(--card); border-radius: 4px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem; line-height: 1.5;
}
.pictures .head { font-size: 0.875rem; font-weight: 600; align-self: end; }
.pictures .caption { grid-column: 1 / -1; margin: 0 0 0.5rem; }
img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--card); }
.chart { overflow-x: auto; }
.chart svg { display: block; width: 100%; min-width: 400px; height: auto; }
.chart svg text { font-family: inherit !important; }
dl {
  display: grid; grid-template-columns: minmax(0, max-content) minmax(0, 1fr); gap: 0 1rem;
  margin: 0; font-size: 0.9rem;
}
dt { color: var(--muted); padding: 0.15rem 0; }
dd {
  margin: 0; padding: 0.15rem 0; text-align: right; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums;
}
@media print {
  body { max-width: none; padding: 0; }
  .pictures, .crops figure, tr, .chart { break-inside: avoid; }
}
"""
