// Charts over time, drawn by uPlot in the theme's colours.

import { number, time, dayTime } from "./format.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./ui.js";

const DAY_MS = 86_400_000;

export const colour = (index, others = false) => `var(--c${others ? 9 : (index % 8) + 1})`;

function resolved(value) {
  const name = /var\((--[\w-]+)\)/.exec(value);
  return name ? getComputedStyle(document.documentElement).getPropertyValue(name[1]).trim() : value;
}

/** Changes whenever the colours do. */
function useTheme() {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const again = () => setTurn((old) => old + 1);
    const media = matchMedia("(prefers-color-scheme: dark)");
    media.addEventListener("change", again);
    const watcher = new MutationObserver(again);
    watcher.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => { media.removeEventListener("change", again); watcher.disconnect(); };
  }, []);
  return turn;
}

/** Stacked bars of `series` [{label, values, colour}] at the times `at` (ISO), `format` for their figures. */
export function Stacked({ at, series, format, label, height = 260, limit = null }) {
  const holder = useRef(null);
  const theme = useTheme();
  const [tip, setTip] = useState(null);
  const xs = useMemo(() => at.map((each) => Date.parse(each) / 1000), [at]);
  const stacks = useMemo(() => {
    const sum = new Array(at.length).fill(0);
    return series.map((one) => one.values.map((value, i) => (sum[i] += number(value))));
  }, [at, series]);
  useLayoutEffect(() => {
    const node = holder.current;
    if (!node || !globalThis.uPlot || xs.length === 0) return undefined;
    const long = (xs.at(-1) - xs[0]) * 1000 > 2 * DAY_MS;
    const step = xs.length > 1 ? xs[1] - xs[0] : 60;
    const [line, dim] = [resolved("var(--line)"), resolved("var(--dim)")];
    const font = `12px ${resolved("var(--font)")}`;
    const bars = globalThis.uPlot.paths.bars({ size: [0.78, 40], radius: 0.12 });
    const axis = { stroke: dim, font, ticks: { show: false } };
    // The highest stack is drawn first, the others in front of it.
    const order = stacks.map((_, i) => i).reverse();
    const plot = new globalThis.uPlot(
      {
        width: node.clientWidth,
        height,
        padding: [10, 8, 0, 0],
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
        scales: { x: { time: true, range: (_, from, to) => [from - step / 2, to + step / 2] }, y: { range: (_, __, top) => [0, Math.max(top ?? 0, limit ?? 0, 1e-9) * 1.06] } },
        axes: [
          { ...axis, grid: { show: false }, size: 30, gap: 6, space: 70, values: (_, splits) => splits.map((split) => (long ? dayLabel(split * 1000) : time(split * 1000))) },
          { ...axis, grid: { stroke: line, width: 1 }, size: 62, gap: 6, space: 44, values: (_, splits) => splits.map((split) => format(split)) },
        ],
        series: [{}, ...order.map((i) => ({ label: series[i].label, fill: resolved(series[i].colour), width: 0, paths: bars, points: { show: false } }))],
        hooks: {
          setCursor: [(u) => setTip(u.cursor.idx === null || u.cursor.idx === undefined || u.cursor.left < 0 ? null : { index: u.cursor.idx, left: u.cursor.left + u.bbox.left / devicePixelRatio, width: node.clientWidth })],
        },
      },
      [xs, ...order.map((i) => stacks[i])],
      node,
    );
    const observer = new ResizeObserver(() => { if (node.clientWidth) plot.setSize({ width: node.clientWidth, height }); });
    observer.observe(node);
    return () => { observer.disconnect(); plot.destroy(); };
  }, [xs, stacks, height, theme, limit]);
  const total = series.reduce((sum, one) => sum + one.values.reduce((a, b) => a + number(b), 0), 0);
  return html`<figure class="chart" role="img" aria-label=${`${label}: ${format(total)} in all, ${series.map((one) => one.label).join(", ")}`}>
    <div ref=${holder} style=${{ minHeight: `${height}px` }} onMouseLeave=${() => setTip(null)}></div>
    ${tip && html`<${Tip} tip=${tip} at=${at} series=${series} format=${format} />`}
  </figure>`;
}

function dayLabel(ms) {
  const at = new Date(ms);
  return at.getHours() === 0 ? at.toLocaleDateString("en-GB", { day: "numeric", month: "short" }) : time(ms);
}

function Tip({ tip, at, series, format }) {
  const rows = series.map((one) => ({ ...one, value: number(one.values[tip.index]) })).filter((one) => one.value > 0).sort((a, b) => b.value - a.value);
  const left = tip.left > tip.width / 2 ? { right: `${tip.width - tip.left + 14}px` } : { left: `${tip.left + 14}px` };
  return html`<div class="tip" style=${{ top: "10px", ...left }}>
    <div class="line dim"><span class="fill">${dayTime(at[tip.index])}</span><span class="num">${format(rows.reduce((sum, one) => sum + one.value, 0))}</span></div>
    ${rows.slice(0, 9).map((one) => html`<div class="line"><i class="swatch" style=${{ background: one.colour }}></i><span class="fill cut">${one.label}</span><span class="num">${format(one.value)}</span></div>`)}
  </div>`;
}

export const Key = ({ series }) => html`<ul class="key">${series.map((one) => html`<li><i class="swatch" style=${{ background: one.colour }}></i><span class="cut">${one.label}</span></li>`)}</ul>`;
