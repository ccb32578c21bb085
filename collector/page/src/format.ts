// Numbers and times as people read them.

const STEPS = ["", "k", "M", "G", "T", "P"];
const PARTS = ["m", "µ", "n"];

export function short(value: number | null): string {
  if (value === null) return "no number";
  if (!Number.isFinite(value)) return String(value);
  let step = 0;
  let rest = Math.abs(value);
  if (rest > 0 && rest < 0.001) {
    let part = 0;
    rest *= 1000;
    while (rest < 1 && part < PARTS.length - 1) {
      rest *= 1000;
      part += 1;
    }
    return `${value < 0 ? "-" : ""}${rest.toFixed(1)}${PARTS[part]}`;
  }
  while (rest >= 1000 && step < STEPS.length - 1) {
    rest /= 1000;
    step += 1;
  }
  const digits = rest >= 100 || Number.isInteger(rest) ? 0 : rest >= 10 ? 1 : 2;
  const text = rest < 0.1 ? String(Number(rest.toPrecision(2))) : rest.toFixed(digits);
  return `${value < 0 ? "-" : ""}${text}${STEPS[step]}`;
}

/** The same without zeros at its end: a limit as somebody wrote it. */
export const plain = (value: number): string => short(value).replace(/(\.\d*?)0+(?=\D*$)/, "$1").replace(/\.(?=\D*$)/, "");

export const percent = (value: number | undefined): string =>
  value === undefined || Number.isNaN(value) ? "–" : `${value.toFixed(value < 9.95 ? 1 : 0)} %`;

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** A size on disk: "10.5 GiB"; "–" where nobody knows. */
export function bytes(count: number | null): string {
  if (count === null) return "–";
  let unit = 0;
  let rest = count;
  while (rest >= 1024 && unit < BYTE_UNITS.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${unit === 0 || rest >= 100 ? rest.toFixed(0) : rest.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** How long ago, or how long: "12 s", "4 min", "3 h", "2 d". */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 90 * 60) return `${Math.round(whole / 60)} min`;
  if (whole < 36 * 3600) return `${Math.round(whole / 3600)} h`;
  return `${Math.round(whole / 86_400)} d`;
}

/** A time that runs out: "59 s", "3:05 min", "1:30 h", "2 d 4 h". */
export function countdown(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  const two = (part: number): string => String(Math.floor(part)).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)} min`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)}:${two((whole % 3600) / 60)} h`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** A duration as configuration has it: "90s", "10m", "1h30m". */
export function span(seconds: number): string {
  const parts: [string, number][] = [["d", 86_400], ["h", 3600], ["m", 60], ["s", 1]];
  let rest = Math.round(seconds);
  let text = "";
  for (const [unit, size] of parts) {
    if (rest >= size) {
      text += `${Math.floor(rest / size)}${unit}`;
      rest %= size;
    }
  }
  return text || "0s";
}

const UNITS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 };

/** Seconds of "90m", "1h30m", "2d"; undefined when it is none. */
export function seconds(text: string): number | undefined {
  const parts = text.trim().replaceAll(" ", "");
  if (!/^(\d{1,6}[smhdw])+$/.test(parts)) return undefined;
  let total = 0;
  for (const [, count, unit] of parts.matchAll(/(\d+)([smhdw])/g)) total += Number(count) * (UNITS[unit ?? "s"] ?? 1);
  return total > 0 ? total : undefined;
}

export const since = (iso: string | null, now: number): string =>
  iso === null ? "–" : duration((now - Date.parse(iso)) / 1000);

const DAY_MS = 86_400_000;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const dated = new Intl.DateTimeFormat(undefined, {
  day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});

/** A moment on the visitor's clock; with the date unless it is within half a day. */
export function moment(iso: string | number | null, now: number): string {
  if (iso === null) return "–";
  const at = typeof iso === "number" ? iso : Date.parse(iso);
  if (!(at > 0)) return "never"; // Prometheus' zero time is in the year 1.
  return Math.abs(now - at) < DAY_MS / 2 ? clock.format(at) : dated.format(at);
}
