// One chart: lines over time, drawn by uPlot, fed by a range query that is asked again while it is looked at.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { fetchLines, type Line } from "./api";
import { short } from "./format";
import { now } from "./state";

const LINES_MAX = 12;
const POINTS_WANTED = 240;
const REFRESH_MS = 10_000;
const HEIGHT_PX = 150;
const AXIS_PX = 72;
const DAY_S = 86_400;
const COLOURS = ["#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d"];

export interface ChartSpec {
  title: string;
  unit: string;
  query: string;
  labels: string[];
  fixedTop?: number;
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
      : { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  );
  return seconds.map((second) => format.format(new Date(second * 1000)));
}

function options(spec: ChartSpec, lines: Line[], width: number, dark: boolean): uPlot.Options {
  const ink = dark ? "#a1a1aa" : "#52525b";
  const grid = { stroke: dark ? "#27272a" : "#e4e4e7", width: 1 };
  return {
    width,
    height: HEIGHT_PX,
    legend: { live: true },
    cursor: { y: false },
    scales: { y: { range: (_chart, low, high) => [Math.min(0, low), spec.fixedTop ?? (high > 0 ? high * 1.1 : 1)] } },
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
        label: line.name.trim() || spec.title,
        stroke: COLOURS[position % COLOURS.length] ?? ink,
        width: 1.5,
        value: (_chart: uPlot, value: number | null) => (value === null ? "–" : short(value) + spec.unit),
      })),
    ],
  };
}

export function Chart({ spec, seconds }: { spec: ChartSpec; seconds: number }) {
  const box = useRef<HTMLDivElement>(null);
  const [note, setNote] = useState("asking …");

  useEffect(() => {
    let chart: uPlot | undefined;
    let drawn = "";
    let stopped = false;
    const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
    const step = Math.max(1, Math.ceil(seconds / POINTS_WANTED));

    const draw = async (): Promise<void> => {
      const end = Math.floor(now.value / 1000); // Not rounded to the step: the newest minutes matter most.
      const start = end - Math.floor(seconds / step) * step;
      try {
        const lines = (await fetchLines(spec.query, start, end, step, spec.labels)).slice(0, LINES_MAX);
        if (stopped || box.current === null) return;
        setNote(lines.length === 0 ? "no data in this range" : "");
        const names = lines.map((line) => line.name).join("\n");
        const data = columns(lines, start, end, step);
        if (chart !== undefined && names === drawn) {
          chart.setData(data);
        } else {
          chart?.destroy();
          drawn = names;
          chart = lines.length ? new uPlot(options(spec, lines, box.current.clientWidth, dark), data, box.current) : undefined;
        }
        // While nobody points at a moment, the legend says how it is now.
        // After uPlot has drawn, which empties it.
        window.setTimeout(() => {
          if (chart !== undefined && chart.cursor.idx == null) chart.setLegend({ idx: newest(data) });
        });
      } catch (error) {
        if (!stopped) setNote(error instanceof Error ? error.message : String(error));
      }
    };

    void draw();
    const timer = window.setInterval(() => void draw(), Math.max(REFRESH_MS, step * 1000));
    const resize = new ResizeObserver(() => {
      if (box.current !== null) chart?.setSize({ width: box.current.clientWidth, height: HEIGHT_PX });
    });
    if (box.current !== null) resize.observe(box.current);
    return () => {
      stopped = true;
      window.clearInterval(timer);
      resize.disconnect();
      chart?.destroy();
    };
  }, [spec.query, seconds]);

  return (
    <figure class="chart">
      <figcaption>{spec.title}</figcaption>
      <div ref={box} class="plot" />
      {note && <p class="note">{note}</p>}
    </figure>
  );
}
