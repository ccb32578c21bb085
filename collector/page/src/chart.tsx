// One chart: lines over time, drawn by uPlot, fed by a range query that is asked again while it is looked at.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { fetchLines, type Labels, type Line } from "./api";
import { short } from "./format";
import { now } from "./state";
import { visible } from "./text";

const LINES_MAX = 12;
const POINTS_WANTED = 240;
const REFRESH_MS = 10_000;
const HEIGHT_PX = 150;
const TALL_PX = 240;
const AXIS_PX = 72;
const DAY_S = 86_400;
const SECONDS_UNDER_S = 600; // Ranges in which minutes repeat themselves on the axis.
const NAME_CHARACTERS_MAX = 60;
const COLOURS = ["#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d"];

export interface ChartSpec {
  title: string;
  unit: string;
  query: string;
  labels: string[]; // By whose values the lines are named.
  fixedTop?: number;
  tall?: boolean;
  instead?: string; // Asked when `query` finds nothing.
  only?: Labels; // Lines that contradict these labels are left out.
  against?: string; // A second expression, drawn dashed.
  limits?: { value: number; text: string; clears: boolean }[];
  marks?: { at: number; text: string }[]; // Seconds since 1970.
}

/** Columns on one time axis: uPlot wants equal lengths, null where a line has no point. */
export function columns(lines: Line[], start: number, end: number, step: number): uPlot.AlignedData {
  const times: number[] = [];
  for (let time = start; time <= end; time += step) times.push(time);
  return [times, ...lines.map((line) => times.map((time) => line.points.get(time) ?? null))];
}

/** The last place at which any line has a point. */
function newest(data: uPlot.AlignedData): number {
  for (let place = data[0].length - 1; place > 0; place -= 1) {
    if (data.slice(1).some((line) => line?.[place] != null)) return place;
  }
  return 0;
}

/** Times on the axis: the clock, and over days the date. */
function moments(seconds: number[], span: number): string[] {
  const format = new Intl.DateTimeFormat(
    undefined,
    span > DAY_S
      ? { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }
      : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(span < SECONDS_UNDER_S ? { second: "2-digit" as const } : {}) },
  );
  return seconds.map((second) => format.format(new Date(second * 1000)));
}

/** Limits across, and moments down, over what is drawn. */
function overlay(chart: uPlot, spec: ChartSpec, dark: boolean): void {
  const { ctx, bbox } = chart;
  const bad = dark ? "#f87171" : "#b91c1c";
  const soft = dark ? "#a1a1aa" : "#52525b";
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.lineWidth = devicePixelRatio;
  ctx.textAlign = "left"; // uPlot leaves its axes' own.
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  for (const limit of spec.limits ?? []) {
    const y = Math.round(chart.valToPos(limit.value, "y", true));
    ctx.setLineDash(limit.clears ? [2, 4].map((part) => part * devicePixelRatio) : [6, 4].map((part) => part * devicePixelRatio));
    ctx.strokeStyle = ctx.fillStyle = limit.clears ? soft : bad;
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    const below = y - bbox.top < 16 * devicePixelRatio;
    ctx.textBaseline = below ? "top" : "bottom";
    // At which it clears stands on the other side: the two are often close to each other.
    const x = limit.clears ? bbox.left + bbox.width - ctx.measureText(limit.text).width - 4 * devicePixelRatio : bbox.left + 4 * devicePixelRatio;
    ctx.fillText(limit.text, x, y + (below ? 3 : -3) * devicePixelRatio);
  }
  ctx.setLineDash([]);
  for (const mark of spec.marks ?? []) {
    const x = Math.round(chart.valToPos(mark.at, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.strokeStyle = ctx.fillStyle = soft;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const width = ctx.measureText(mark.text).width;
    const left = x + width + 6 * devicePixelRatio > bbox.left + bbox.width;
    ctx.textBaseline = "bottom";
    ctx.fillText(mark.text, left ? x - width - 4 * devicePixelRatio : x + 4 * devicePixelRatio, bbox.top + bbox.height - 3 * devicePixelRatio);
  }
  ctx.restore();
}

interface Drawn {
  name: string;
  line: Line;
  dashed: boolean;
}

function options(spec: ChartSpec, lines: Drawn[], width: number, dark: boolean): uPlot.Options {
  const ink = dark ? "#a1a1aa" : "#52525b";
  const grid = { stroke: dark ? "#27272a" : "#e4e4e7", width: 1 };
  const limits = (spec.limits ?? []).map((limit) => limit.value);
  return {
    width,
    height: spec.tall ? TALL_PX : HEIGHT_PX,
    legend: { live: true },
    cursor: { y: false },
    scales: {
      y: {
        range: (_chart, low, high) => {
          const top = Math.max(high, ...limits);
          const bottom = Math.min(0, low, ...limits);
          return [bottom < 0 ? bottom * 1.1 : 0, spec.fixedTop ?? (top > 0 ? top * 1.15 : 1)];
        },
      },
    },
    hooks: { draw: [(chart) => overlay(chart, spec, dark)] },
    axes: [
      {
        stroke: ink,
        grid,
        ticks: grid,
        space: 90,
        values: (chart, times) => moments(times, (chart.scales.x?.max ?? 0) - (chart.scales.x?.min ?? 0)),
      },
      { stroke: ink, grid, ticks: grid, size: AXIS_PX, values: (_chart, values) => values.map((v) => short(v) + spec.unit) },
    ],
    series: [
      {},
      ...lines.map((line, position) => ({
        label: line.name || spec.title,
        stroke: line.dashed ? ink : (COLOURS[position % COLOURS.length] ?? ink),
        ...(line.dashed ? { dash: [6, 4] } : {}),
        width: 1.5,
        value: (_chart: uPlot, value: number | null) => (value === null ? "–" : short(value) + spec.unit),
      })),
    ],
  };
}

/** Lines whose labels do not contradict `only`; all of them where that would leave nothing of a single one. */
function wanted(lines: Line[], only: Labels | undefined): Line[] {
  if (only === undefined || lines.length < 2) return lines;
  return lines.filter((line) =>
    Object.entries(line.labels).every(([name, value]) => name === "__name__" || (only[name] ?? value) === value),
  );
}

async function read(spec: ChartSpec, start: number, end: number, step: number): Promise<Drawn[]> {
  let lines = await fetchLines(spec.query, start, end, step);
  if (lines.length === 0 && spec.instead !== undefined) lines = await fetchLines(spec.instead, start, end, step);
  const drawn = wanted(lines, spec.only)
    .slice(0, LINES_MAX)
    .map((line) => ({ name: nameOf(line, spec.labels), line, dashed: false }));
  if (spec.against === undefined) return drawn;
  const others = wanted(await fetchLines(spec.against, start, end, step), spec.only).slice(0, LINES_MAX);
  return [...drawn, ...others.map((line) => ({ name: "compared with", line, dashed: true }))];
}

function nameOf(line: Line, labels: string[]): string {
  const text = visible(labels.map((label) => line.labels[label] ?? "").join(" ").trim());
  return text.length > NAME_CHARACTERS_MAX ? `${text.slice(0, NAME_CHARACTERS_MAX)}…` : text;
}

export function Chart({ spec, seconds }: { spec: ChartSpec; seconds: number }) {
  const box = useRef<HTMLDivElement>(null);
  const [note, setNote] = useState("asking …");

  useEffect(() => {
    let chart: uPlot | undefined;
    let drawn = "";
    let stopped = false;
    let asking = false;
    const scheme = window.matchMedia("(prefers-color-scheme: dark)");
    const step = Math.max(1, Math.ceil(seconds / POINTS_WANTED));

    const draw = async (): Promise<void> => {
      if (asking) return;
      asking = true;
      const end = Math.floor(now.value / 1000); // Not rounded to the step: the newest minutes matter most.
      const start = end - Math.floor(seconds / step) * step;
      try {
        const lines = await read(spec, start, end, step);
        if (stopped || box.current === null) return;
        setNote(lines.length === 0 ? "no data in this range" : "");
        const names = lines.map((line) => line.name).join("\n");
        const data = columns(lines.map((line) => line.line), start, end, step);
        if (chart !== undefined && names === drawn) {
          chart.setData(data);
        } else {
          chart?.destroy();
          drawn = names;
          chart = lines.length
            ? new uPlot(options(spec, lines, box.current.clientWidth, scheme.matches), data, box.current)
            : undefined;
        }
        // While nobody points at a moment, the legend says how it is now.
        // After uPlot has drawn, which empties it.
        window.setTimeout(() => {
          if (chart !== undefined && chart.cursor.idx == null) chart.setLegend({ idx: newest(data) });
        });
      } catch (error) {
        if (!stopped) setNote(error instanceof Error ? visible(error.message) : String(error));
      } finally {
        asking = false;
      }
    };

    const repaint = (): void => {
      drawn = "";
      void draw();
    };
    void draw();
    const timer = window.setInterval(() => void draw(), Math.max(REFRESH_MS, step * 1000));
    const resize = new ResizeObserver(() => {
      if (box.current !== null) chart?.setSize({ width: box.current.clientWidth, height: spec.tall ? TALL_PX : HEIGHT_PX });
    });
    if (box.current !== null) resize.observe(box.current);
    scheme.addEventListener("change", repaint);
    return () => {
      stopped = true;
      window.clearInterval(timer);
      scheme.removeEventListener("change", repaint);
      resize.disconnect();
      chart?.destroy();
    };
  }, [JSON.stringify(spec), seconds]);

  return (
    <figure class={spec.tall ? "chart tall" : "chart"}>
      <figcaption>{spec.title}</figcaption>
      <div ref={box} class="plot" />
      {note && <p class="note">{note}</p>}
    </figure>
  );
}

const RANGES: [string, number][] = [
  ["5 min", 300],
  ["15 min", 900],
  ["1 h", 3600],
  ["6 h", 21_600],
  ["24 h", 86_400],
  ["7 d", 604_800],
];

/** The shortest range in which what began so long ago is well inside. */
export const rangeFor = (age: number): number =>
  RANGES.find(([, seconds]) => seconds >= 900 && seconds >= age * 1.3)?.[1] ?? 604_800;

export function Ranges({ value, choose }: { value: number; choose: (seconds: number) => void }) {
  return (
    <nav class="ranges" aria-label="Time range">
      {RANGES.map(([name, seconds]) => (
        <button key={name} type="button" aria-pressed={seconds === value} onClick={() => choose(seconds)}>
          {name}
        </button>
      ))}
    </nav>
  );
}
