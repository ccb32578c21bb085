// Numbers and times as people read them.

const STEPS = ["", "k", "M", "G", "T", "P"];

export function short(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  let step = 0;
  let rest = Math.abs(value);
  while (rest >= 1000 && step < STEPS.length - 1) {
    rest /= 1000;
    step += 1;
  }
  const digits = rest >= 100 || Number.isInteger(rest) ? 0 : rest >= 10 ? 1 : 2;
  return `${value < 0 ? "-" : ""}${rest.toFixed(digits)}${STEPS[step]}`;
}

export const percent = (value: number | undefined): string =>
  value === undefined || Number.isNaN(value) ? "–" : `${value.toFixed(value < 9.95 ? 1 : 0)} %`;

/** How long ago, or how long: "12 s", "4 min", "3 h", "2 d". */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 90 * 60) return `${Math.round(whole / 60)} min`;
  if (whole < 36 * 3600) return `${Math.round(whole / 3600)} h`;
  return `${Math.round(whole / 86_400)} d`;
}

export const since = (iso: string | null, now: number): string =>
  iso === null ? "–" : duration((now - Date.parse(iso)) / 1000);
