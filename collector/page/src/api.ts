// Talks to the collector. Every call ends in data or in an ApiError that says what to do.

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const TIMEOUT_MS = 15_000;

async function get<T>(path: string, params: Record<string, string> = {}): Promise<T> {
  const query = new URLSearchParams(params).toString();
  let answer: Response;
  try {
    answer = await fetch(query ? `${path}?${query}` : path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    throw new ApiError(0, "The collector does not answer.");
  }
  if (!answer.ok) {
    const text = await answer.text();
    let message = text.slice(0, 300);
    try {
      message = (JSON.parse(text) as { error?: string }).error ?? message;
    } catch {
      // Not JSON: the text itself is the message.
    }
    throw new ApiError(answer.status, message);
  }
  return (await answer.json()) as T;
}

export type Labels = Record<string, string>;

export interface Host {
  agent_id: string;
  name: string;
  state: "up" | "down" | "unknown" | "stopped" | "never" | "retired" | "revoked" | "pending";
  since: string | null;
  last_seen: string | null;
  series: number;
  agent_version: string | null;
  clock_skew_s: number | null;
  labels: Labels;
}

export interface Alert {
  labels: Labels;
  annotations: Labels;
  state: "pending" | "firing";
  activeAt: string;
  value: string;
}

interface Envelope<T> {
  status: "success" | "error";
  data: T;
}

interface Vector {
  result: { metric: Labels; value: [number, string] }[];
}

interface Matrix {
  result: { metric: Labels; values: [number, string][] }[];
}

export const fetchHosts = async (): Promise<Host[]> =>
  (await get<{ hosts: Host[] }>("/api/watchbill/v1/hosts")).hosts;

export const fetchAlerts = async (): Promise<Alert[]> =>
  (await get<Envelope<{ alerts: Alert[] }>>("/api/v1/alerts")).data.alerts;

/** An instant query: the value of each result under one label's value. */
export async function fetchByLabel(query: string, label: string): Promise<Map<string, number>> {
  const answer = await get<Envelope<Vector>>("/api/v1/query", { query });
  return new Map(answer.data.result.map((row) => [row.metric[label] ?? "", Number(row.value[1])]));
}

export interface Line {
  name: string;
  points: Map<number, number>; // Seconds since 1970 -> value.
}

/** A range query: one line per result, named by the labels given. */
export async function fetchLines(
  query: string,
  start: number,
  end: number,
  step: number,
  labels: string[],
): Promise<Line[]> {
  const params = { query, start: String(start), end: String(end), step: String(step) };
  const answer = await get<Envelope<Matrix>>("/api/v1/query_range", params);
  return answer.data.result.map((row) => ({
    name: labels.map((label) => row.metric[label] ?? "").join(" "),
    points: new Map(row.values.map(([time, value]) => [time, Number(value)])),
  }));
}

const LOGIN_CODE_PREFIX = "wbl1.";

/** Exchange a one-time code or a bearer token for a session. */
export async function login(secret: string): Promise<void> {
  if (secret.startsWith(LOGIN_CODE_PREFIX)) {
    location.assign(`/login?${new URLSearchParams({ code: secret })}`);
    return;
  }
  const answer = await fetch("/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token: secret }),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!answer.ok) throw new ApiError(answer.status, "The collector did not accept that.");
}
