"""How the report looks: on a monitor, on a phone and on paper."""

CSS = """
:root { color-scheme: light; --ink: #17212b; --soft: #5b6773; --line: #dfe4e8; --ground: #f4f6f8; --card: #fff;
  --accent: #0072b2; --band: #9cc7e3; --val: #d55e00; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 0 20px 64px; }
header { max-width: 1040px; margin: 0 auto; padding: 36px 20px 8px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 0 0 4px; letter-spacing: -.005em; }
h3 { font-size: 1rem; margin: 22px 0 6px; }
p { margin: 6px 0 12px; max-width: 46em; }
.soft { color: var(--soft); font-size: .92rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 24px;
  margin-top: 20px; }
.stamp { background: repeating-linear-gradient(135deg, #ffe08a 0 18px, #ffd45c 18px 36px); color: #3d2c00;
  text-align: center; font-weight: 700; padding: 12px 20px; border-bottom: 2px solid #b98900; }
.stamp b { letter-spacing: .28em; margin-right: .3em; font-size: 1.15em; }
.notice { border-left: 4px solid var(--accent); background: #eef5fa; padding: 10px 14px; border-radius: 0 8px 8px 0; }
.notice.warn { border-color: var(--val); background: #fdf1e9; }
.result { display: grid; grid-template-columns: minmax(240px, auto) 1fr; gap: 8px 36px; align-items: center; }
.figure { font-size: 3.9rem; font-weight: 700; line-height: 1; letter-spacing: -.03em; color: var(--accent); }
.figure small { font-size: 1.9rem; font-weight: 600; }
.label { font-weight: 600; margin-bottom: 8px; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 20px 0 0; padding: 0; }
.tiles div { border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.tiles dt { color: var(--soft); font-size: .84rem; line-height: 1.3; }
.tiles dd { margin: 4px 0 0; font-size: 1.3rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.bars { display: grid; grid-template-columns: auto 1fr auto; gap: 9px 16px; align-items: center; margin: 14px 0; }
.bar { display: contents; }
.bars .name { font-weight: 600; overflow-wrap: anywhere; }
.bars .name span { display: block; font-weight: 400; color: var(--soft); font-size: .84rem; line-height: 1.25; }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; font-weight: 650; white-space: nowrap; }
.bars .value span { display: block; font-weight: 400; color: var(--soft); font-size: .84rem; line-height: 1.25; }
.track { position: relative; height: 26px; border-radius: 5px; min-width: 60px;
  background: linear-gradient(90deg, var(--line) 1px, transparent 1px) 0 0 / 25% 100%, #f7f9fa;
  border-right: 1px solid var(--line); }
.track i { position: absolute; top: 50%; transform: translate(-50%, -50%); }
.track .band { height: 10px; transform: translateY(-50%); background: var(--band); border-radius: 5px; }
.track .dot { width: 14px; height: 14px; border-radius: 50%; background: var(--accent); border: 2px solid #fff; }
.track .val { width: 11px; height: 11px; border: 2px solid var(--val); transform: translate(-50%, -50%) rotate(45deg); }
.track .chance { width: 0; height: 100%; border-left: 2px dotted #7b8794; }
.scale { grid-column: 2; position: relative; height: 1.4em; color: var(--soft); font-size: .78rem; }
.scale span { position: absolute; transform: translateX(-50%); }
.scale span:first-child { transform: none; }
.scale span:last-child { transform: translateX(-100%); }
.key { display: flex; flex-wrap: wrap; gap: 4px 20px; color: var(--soft); font-size: .86rem; margin: 0; padding: 0;
  list-style: none; }
.key i { display: inline-block; margin-right: 7px; vertical-align: middle; }
.key .band { width: 22px; height: 9px; background: var(--band); border-radius: 5px; }
.key .dot { width: 12px; height: 12px; border-radius: 50%; background: var(--accent); }
.key .val { width: 9px; height: 9px; border: 2px solid var(--val); transform: rotate(45deg); }
.key .chance { height: 14px; border-left: 2px dotted #7b8794; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px 7px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; font-size: .84rem; vertical-align: bottom; }
tbody th { font-weight: 600; overflow-wrap: break-word; max-width: 16em; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; padding: 7px 0 7px 14px; white-space: nowrap; }
.numbers thead th:not(:first-child) { white-space: normal; }
.lead tbody th { min-width: 11em; }
.lead tbody tr:first-child { background: #eef5fa; }
.pairs th { width: 11em; color: var(--soft); font-weight: 600; }
.pairs td { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; display: block; }
.matrices { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px 32px; }
.matrices figure:first-child:nth-last-child(odd) { grid-column: 1 / -1; }
.matrices figure:first-child:nth-last-child(odd) img { max-width: min(560px, 100%); margin: 0 auto; }
figure { margin: 0; }
figure.small img { max-width: min(430px, 100%); }
.photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 16px; margin-top: 12px; }
.photos img { width: 100%; border-radius: 8px; }
.photos figcaption { font-size: .88rem; line-height: 1.3; margin: 6px 0 0; overflow-wrap: anywhere; }
.photos figcaption span { display: block; font-size: .8rem; }
figcaption { font-weight: 600; margin: 12px 0 4px; }
figcaption span { font-weight: 400; color: var(--soft); }
pre { background: #17212b; color: #e8edf1; padding: 14px 16px; border-radius: 8px; overflow-x: auto;
  font-size: .86rem; }
details { margin-top: 14px; }
summary { cursor: pointer; font-weight: 600; color: var(--accent); }
ul.plain { margin: 6px 0; padding-left: 1.2em; }
footer { color: var(--soft); font-size: .86rem; max-width: 1040px; margin: 0 auto; padding: 0 20px 40px; }
@media (max-width: 640px) {
  body { font-size: 15px; }
  header { padding: 24px 16px 4px; }
  main { padding: 0 10px 40px; }
  section { padding: 18px 14px; border-radius: 10px; margin-top: 12px; }
  h1 { font-size: 1.4rem; }
  .result { grid-template-columns: 1fr; gap: 16px; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: 8px; }
  .bars { grid-template-columns: minmax(0, 1fr); gap: 12px; }
  .bar { display: grid; grid-template: "name value" auto "track track" auto / minmax(0, 1fr) auto; gap: 4px 12px; }
  .bars .name { grid-area: name; }
  .bars .value { grid-area: value; }
  .bars .track { grid-area: track; }
  .scale { grid-column: 1 / -1; }
  .matrices { grid-template-columns: minmax(0, 1fr); }
  .pairs th { width: 7.5em; }
}
@media print {
  body { background: #fff; font-size: 11pt; }
  section { break-inside: avoid; border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: 14px 0; }
  .stamp, .track, .track i, .key i, .notice { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
