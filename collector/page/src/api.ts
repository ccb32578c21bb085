// Talks to the collector. Every call ends in data or in an ApiError that says what to do.

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly hint = "",
  ) {
    super(message);
  }
}

export const OURS = "/api/watchbill/v1";
const TIMEOUT_MS = 15_000;
const MESSAGE_CHARACTERS_MAX = 600;
const LOGIN_CODE_PREFIX = "wbl1.";

async function ask(path: string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    throw new ApiError(0, "The collector does not answer.");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer: Response): Promise<ApiError> {
  const text = (await answer.text().catch(() => "")).slice(0, 64_000);
  try {
    const document = JSON.parse(text) as { error?: string; hint?: string };
    const message = (document.error ?? text).slice(0, MESSAGE_CHARACTERS_MAX);
    return new ApiError(answer.status, message, (document.hint ?? "").slice(0, MESSAGE_CHARACTERS_MAX));
  } catch {
    return new ApiError(answer.status, text.slice(0, MESSAGE_CHARACTERS_MAX) || `The answer was ${answer.status}.`);
  }
}

export async function get<T>(path: string, params: Record<string, string> = {}): Promise<T> {
  const query = new URLSearchParams(params).toString();
  const answer = await ask(query ? `${path}?${query}` : path, {});
  return (await answer.json()) as T;
}

/** The session's token against forgery: its cookie's name carries the port, of which a browser may know several. */
export function csrfToken(cookies: string, port: string): string {
  let found = "";
  for (const pair of cookies.split("; ")) {
    const match = /^(?:__Host-)?watchbill-csrf-(\d+)=(.*)$/.exec(pair);
    if (match?.[2] === undefined) continue;
    found = match[2];
    if (match[1] === port) break;
  }
  return found;
}

export async function write<T>(method: "POST" | "DELETE", path: string, body?: unknown): Promise<T> {
  const port = location.port || (location.protocol === "https:" ? "443" : "80");
  const headers: Record<string, string> = { "X-Watchbill-CSRF": csrfToken(document.cookie, port) };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await ask(path, { method, headers, body: body === undefined ? null : JSON.stringify(body) });
  return (await answer.json()) as T;
}

export type Labels = Record<string, string>;

export interface App {
  name: string;
  state: "healthy" | "degraded" | "down" | "unknown";
  since: string | null;
  checks: string[];
}

export interface Check {
  name: string;
  app: string;
  kind: string;
  essential: boolean;
  verdict: "ok" | "warning" | "critical" | "unknown";
  since: string | null;
  reason: string;
  detail: string;
}

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
  absence: { kind: "announced" | "overdue" | "unexpected"; reason: string; since: string | null; back_by: string | null } | null;
  apps: App[];
}

export interface Alert {
  fingerprint: string;
  name: string;
  state: "pending" | "firing" | "resolved";
  since: string;
  active_at: string;
  resolved_at: string | null;
  value: number | null;
  labels: Labels;
  annotations: Labels;
  incomplete: string;
  service: string;
  owner: string;
  silences: string[];
  windows: string[];
  inhibited: boolean;
}

/** The alerts of one rule that stand alike. */
export interface Crowd {
  name: string;
  severity: string;
  state: Alert["state"];
  hushed: boolean;
  count: number;
  hosts: number;
}

export interface Alerts {
  alerts: Alert[];
  total: number;
  truncated: boolean;
  crowds: Crowd[];
  crowds_left_out: number;
}

export interface Told {
  notices: {
    key: string;
    channel: string;
    route: string;
    kind: string;
    said: "firing" | "resolved" | "";
    outcome: string;
    attempts: number;
    created: string;
    changed: string;
    detail: string;
  }[];
  waiting: { channel: string; route: string; waits_for: string; due: string | null; attempts: number; why: string }[];
  nobody: "" | "none" | "hushed" | "no_route" | "way";
  truncated: boolean;
}

export interface Warming {
  hosts: number;
  of: number;
  until: string;
  why: string;
}

export interface AlertDetail {
  alert: Alert;
  rule: {
    name: string;
    query: string;
    short: string;
    labels: Labels;
    annotations: Labels;
    health: string;
    last_error: string;
    duration_s: number;
    keep_firing_for_s: number;
    warming: Warming | null;
  } | null;
  group: string;
  file: string;
  interval_s: number;
  chart: {
    value: string;
    for_host: string;
    against: string;
    against_for_host: string;
    limits: { op: string; value: number; clears: boolean }[];
  } | null;
  told: Told;
}

export interface Rule {
  type: "alerting" | "recording";
  name: string;
  query: string;
  labels: Labels;
  annotations?: Labels;
  state?: "inactive" | "pending" | "firing";
  health: "ok" | "err" | "unknown";
  lastError?: string;
  lastEvaluation: string;
  evaluationTime: number;
  shortForm?: string;
  duration?: number;
  keepFiringFor?: number;
  warming: Warming | null;
  series: number;
}

export interface Group {
  name: string;
  file: string;
  interval: number;
  evaluationTime: number;
  lastEvaluation: string;
  rules: Rule[];
}

export interface Silence {
  id: string;
  matchers: string;
  reason: string;
  author: string;
  state: "pending" | "active" | "expired";
  created: string;
  starts: string;
  ends: string;
  firing: number;
  expired_by: string;
  scope: string; // What it keeps to, whatever its matchers say; empty: it reaches everything.
  yours: boolean;
}

export interface Dispatch {
  channels: {
    name: string;
    kind: string;
    ok: boolean;
    failing_since: string | null;
    last_error: string;
    last_delivered: string | null;
    queued: number;
    oldest_s: number;
  }[];
  windows: {
    name: string;
    matchers: string | null;
    cron: string;
    zone: string;
    duration_s: number;
    until: string | null;
    opens: string | null;
  }[];
  notices: {
    key: string;
    channel: string;
    kind: string;
    outcome: string;
    attempts: number;
    created: string;
    changed: string;
    detail: string;
  }[];
  hushed: number;
  unwritten: string;
}

export interface Service {
  name: string;
  owner: string;
  state: "critical" | "major" | "unknown" | "minor" | "ok";
  hosts: { name: string; state: Host["state"] }[];
  hosts_up: number;
  hosts_down: number;
  firing: Record<string, number>;
  depends: string[];
  failing_dependencies: string[];
  dependants: string[];
  selector: string;
  checks: string[];
  backups: string[];
  runbooks: string[];
  objectives: { availability: number | null; rto_s: number | null; rpo_s: number | null };
  channel: string;
  apps: { host: string; name: string; state: App["state"]; since: string | null }[];
}

/** One run of a backup, or one look at its repository. */
export interface BackupEntry {
  id: string;
  kind: "run" | "observe" | "verify" | "restore";
  source: string;
  outcome: "ok" | "partial" | "failed" | "running" | "unknown";
  at: string;
  started: string | null;
  duration_s: number | null;
  exit_code: number | null;
  signal: number | null;
  tool_version: string;
  bytes_source: number | null;
  bytes_stored: number | null;
  files: number | null;
  reason: string;
  errors: string[];
  tail: string;
  copy: string;
  verify: { level: string; ok: boolean; fraction: number; bad: number } | null;
  snapshots: number | null;
}

export interface Backup {
  id: string;
  name: string;
  host: string;
  service: string;
  tool: string;
  word: string;
  level: "ok" | "warn" | "bad" | "unknown";
  severity: string;
  why: string;
  advice: string;
  facets: { name: string; level: string; reason: string; text: string }[];
  since: string | null;
  point: string | null;
  verified_point: string | null;
  rpo_s: number;
  last_run: BackupEntry | null;
  snapshots: number | null;
  size_bytes: number | null;
  paused: { until: string; by: string; reason: string } | null;
  reviewed: { at: string; by: string; word: string; note: string } | null;
}

/** Somebody asked a host to verify a backup, and what it answered: "", begun or refused. */
export interface VerifyRequest {
  id: string;
  host: string;
  level: string;
  by: string;
  at: string;
  answer: string;
  copy: string;
  reason: string;
  why: string;
}

export interface BackupDetail {
  backup: Backup;
  history: {
    definition: {
      schedule: { cron: string; calendar: string; every_s: number; zone: string };
      copies: { name: string; location: string; media: string; immutable: boolean }[];
    };
    due: string | null;
    entries: BackupEntry[];
    truncated: boolean;
    changes: { at: string; before: string; after: string; why: string }[];
    reviews: { at: string; by: string; word: string; note: string }[];
    asked: VerifyRequest[];
  };
  runs: BackupEntry[];
  yours: boolean;
  rpo: { kept: number | null; objective: number; over_s: number; left_s: number } | null;
}

export interface Uncovered {
  hosts: { name: string; state: Host["state"]; services: string[] }[];
  services: { name: string; owner: string; hosts: string[]; missing: string[] }[];
  hosts_total: number;
  services_total: number;
  exempt: number;
}

export interface Me {
  name: string;
  via: "anonymous" | "session" | "token" | string;
  roles: string[];
  version: string;
  grants: { role: string; scope: string }[];
}

export interface AuditRow {
  seq: number;
  time: string;
  actor: string;
  source: string;
  action: string;
  target: string;
  outcome: "done" | "refused" | "failed";
  detail: Record<string, unknown>;
}

interface Envelope<T> {
  data: T;
}

interface Vector {
  result: { metric: Labels; value: [number, string] }[];
}

interface Matrix {
  result: { metric: Labels; values: [number, string][] }[];
}

export const fetchHosts = async (): Promise<Host[]> => (await get<{ hosts: Host[] }>(`${OURS}/hosts`)).hosts;

export const fetchHostChecks = async (name: string): Promise<Check[]> =>
  (await get<{ checks: Check[] }>(`${OURS}/hosts/${encodeURIComponent(name)}`)).checks;

/** Alerts, the worst first, a few of each crowd: whoever wants all of one asks for it. */
export const fetchAlerts = (params: Record<string, string> = {}): Promise<Alerts> =>
  get(`${OURS}/alerts`, { each: "5", ...params });

/** The alerts of one crowd. */
export const fetchCrowd = ({ name, severity, state, hushed }: Crowd, narrow: Record<string, string>, limit: number): Promise<Alerts> =>
  get(`${OURS}/alerts`, { ...narrow, rule: name, severity, state, hushed: hushed ? "1" : "0", limit: String(limit) });

export const fetchAlert = (fingerprint: string): Promise<AlertDetail> =>
  get(`${OURS}/alerts/${encodeURIComponent(fingerprint)}`);

export const fetchRules = async (): Promise<Group[]> =>
  (await get<Envelope<{ groups: Group[] }>>("/api/v1/rules", { exclude_alerts: "true" })).data.groups;

export const fetchSilences = async (expired: boolean): Promise<Silence[]> =>
  (await get<{ silences: Silence[] }>(`${OURS}/silences`, expired ? { expired: "1" } : {})).silences;

export const fetchDispatch = (): Promise<Dispatch> => get(`${OURS}/dispatch`);

export const fetchServices = async (): Promise<Service[]> =>
  (await get<{ services: Service[] }>(`${OURS}/services`)).services;

export const fetchMe = (): Promise<Me> => get(`${OURS}/me`);

export const fetchAudit = (params: Record<string, string>): Promise<{ rows: AuditRow[]; truncated: boolean }> =>
  get(`${OURS}/audit`, params);

export const silence = (matchers: string, seconds: number, reason: string): Promise<{ silence: Silence; matched: number }> =>
  write("POST", `${OURS}/silences`, { matchers, duration_s: seconds, reason });

export const matched = (matchers: string): Promise<{ matchers: string; matched: number; alerts: Alert[]; scope: string }> =>
  write("POST", `${OURS}/silences/match`, { matchers });

export const expire = (id: string): Promise<Silence> => write("DELETE", `${OURS}/silences/${encodeURIComponent(id)}`);

export const testChannel = (name: string): Promise<{ delivered: boolean; detail: string; hint: string; took_s: number }> =>
  write("POST", `${OURS}/channels/${encodeURIComponent(name)}/test`);

export const fetchBackups = (params: Record<string, string>): Promise<{ backups: Backup[]; total: number; words: Record<string, number> }> =>
  get(`${OURS}/backups`, params);

export const fetchBackup = (id: string): Promise<BackupDetail> => get(`${OURS}/backups/${encodeURIComponent(id)}`);

export const fetchUncovered = (): Promise<Uncovered> => get(`${OURS}/backups/uncovered`);

export const reviewBackup = (id: string, note: string): Promise<unknown> =>
  write("POST", `${OURS}/backups/${encodeURIComponent(id)}/review`, { note });

export const verifyBackup = (id: string, level: string): Promise<VerifyRequest> =>
  write("POST", `${OURS}/backups/${encodeURIComponent(id)}/verify`, { level });

export const pauseBackup = (id: string, seconds: number, reason: string): Promise<Backup> =>
  write("POST", `${OURS}/backups/${encodeURIComponent(id)}/pause`, { duration_s: seconds, reason });

export const resumeBackup = (id: string): Promise<Backup> => write("DELETE", `${OURS}/backups/${encodeURIComponent(id)}/pause`);

export const exemptBackup = (kind: "host" | "service", name: string, owner: string, reason: string, seconds: number): Promise<unknown> =>
  write("POST", `${OURS}/backups/exemptions`, { kind, name, owner, reason, duration_s: seconds });

/** An instant query: the value of each result under one label's value. */
export async function fetchByLabel(query: string, label: string): Promise<Map<string, number>> {
  const answer = await get<Envelope<Vector>>("/api/v1/query", { query });
  return new Map(answer.data.result.map((row) => [row.metric[label] ?? "", Number(row.value[1])]));
}

export interface Line {
  labels: Labels;
  points: Map<number, number>; // Seconds since 1970 -> value.
}

/** A range query. */
export async function fetchLines(query: string, start: number, end: number, step: number): Promise<Line[]> {
  const params = { query, start: String(start), end: String(end), step: String(step) };
  const answer = await get<Envelope<Matrix>>("/api/v1/query_range", params);
  return answer.data.result.map((row) => ({
    labels: row.metric,
    points: new Map(row.values.map(([time, value]) => [time, Number(value)])),
  }));
}

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
  if (answer.status === 429) throw new ApiError(429, "Too many failures from your address: wait a minute.");
  if (!answer.ok) throw new ApiError(answer.status, "The collector did not accept that.");
}

export const logout = (): Promise<unknown> => write("POST", "/logout");
