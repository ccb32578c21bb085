// What the page knows, and the loop that keeps it true: a poll, hurried by the collector's events.
import { computed, signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Alert, ApiError, type Crowd, fetchAlerts, fetchByLabel, fetchHosts, fetchMe, type Host, type Me } from "./api";

const POLL_MS = 5_000;
const POLL_RATIO = 8; // A collector that takes long to answer is asked so much less often.
const EVENT_DELAY_MS = 300; // Several events in a burst are one refresh.
const ME_EVERY_MS = 60_000;

export type Link = "connecting" | "live" | "lost" | "login";

export interface Usage {
  cpu?: number;
  memory?: number;
  disk?: number;
  load?: number;
}

export const link = signal<Link>("connecting");
export const problem = signal("");
export const goodAt = signal(0); // When what is shown was true for the last time.
export const hosts = signal<Host[]>([]);
export const alerts = signal<Alert[]>([]); // The worst, a few of each crowd.
export const crowds = signal<Crowd[]>([]); // All of them, counted.
export const usage = signal<Map<string, Usage>>(new Map());
export const me = signal<Me | undefined>(undefined);
export const now = signal(Date.now());
export const route = signal(location.hash);
export const beat = signal(0); // Counts refreshes that went well: views read their own things anew with it.

const SEVERITIES = ["critical", "page", "major", "minor", "warning", "info", "none"];

/** The severity in our words. */
export function severityOf(labels: Record<string, string>): "critical" | "major" | "minor" | "info" {
  switch (labels.severity) {
    case "critical":
    case "page":
      return "critical";
    case "major":
      return "major";
    case "info":
      return "info";
    default:
      return "minor";
  }
}

export const hushed = (alert: Alert): boolean =>
  alert.inhibited || alert.silences.length > 0 || alert.windows.length > 0;

export const rank = (alert: Alert): number => {
  const position = SEVERITIES.indexOf(alert.labels.severity ?? "none");
  return (alert.state === "firing" ? 0 : 100) + (hushed(alert) ? 50 : 0) + (position < 0 ? SEVERITIES.length : position);
};

export const total = (list: Crowd[]): number => list.reduce((sum, crowd) => sum + crowd.count, 0);

/** What fires and is not hushed. */
export const loud = computed(() => crowds.value.filter((crowd) => crowd.state === "firing" && !crowd.hushed));

/** The worst alert of each host, for its row. */
export const worst = computed(() => {
  const found = new Map<string, Alert>();
  for (const alert of alerts.value) {
    const instance = alert.labels.instance;
    const known = instance === undefined ? undefined : found.get(instance);
    if (instance !== undefined && (known === undefined || rank(alert) < rank(known))) found.set(instance, alert);
  }
  return found;
});

const OPERATING = ["operator", "approver", "admin"];

/** Whether the visitor has one of these roles, for some hosts at least. */
export function may(roles: string[]): boolean {
  return (me.value?.grants ?? []).some((grant) => roles.includes(grant.role));
}

/** Whoever may do it for some hosts alone makes silences that keep to them. */
export const maySilence = computed(() => may(OPERATING));
export const mayTest = computed(() => may(OPERATING));
export const mayAudit = computed(() => may(["operator", "approver", "author", "admin", "auditor"]));
export const seesAll = computed(
  () => me.value?.via === "anonymous" || (me.value?.grants ?? []).some((grant) => grant.scope === ""),
);

const QUERIES: Record<keyof Usage, string> = {
  cpu: '100 * (1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[1m])))',
  memory: "100 * (1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)",
  disk: '100 * max by (instance) (1 - node_filesystem_avail_bytes{fstype!~"tmpfs|squashfs|iso9660|ramfs"} / node_filesystem_size_bytes)',
  load: "node_load1",
};

async function refreshUsage(): Promise<void> {
  const kinds = Object.keys(QUERIES) as (keyof Usage)[];
  const answers = await Promise.all(kinds.map((kind) => fetchByLabel(QUERIES[kind], "instance")));
  const merged = new Map<string, Usage>();
  kinds.forEach((kind, position) => {
    for (const [instance, value] of answers[position] ?? []) {
      merged.set(instance, { ...merged.get(instance), [kind]: value });
    }
  });
  usage.value = merged;
}

/** The views on which a table of hosts with their numbers stands. */
const showsUsage = (): boolean => /^(#\/?|#\/hosts)?$/.test(route.value);

let meAt = 0;

export async function refresh(): Promise<void> {
  try {
    if (Date.now() - meAt > ME_EVERY_MS || link.value !== "live") {
      me.value = await fetchMe();
      meAt = Date.now();
    }
    const [everyHost, everyAlert] = await Promise.all([fetchHosts(), fetchAlerts()]);
    hosts.value = everyHost;
    alerts.value = everyAlert.alerts;
    crowds.value = everyAlert.crowds;
    if (showsUsage()) await refreshUsage();
    link.value = "live";
    problem.value = "";
    goodAt.value = Date.now();
    beat.value += 1;
    listen();
  } catch (error) {
    const status = error instanceof ApiError ? error.status : 0;
    const refused = status === 401 || status === 403;
    if (refused) {
      // What was read as somebody is not shown to nobody.
      hosts.value = [];
      alerts.value = [];
      crowds.value = [];
      usage.value = new Map();
      me.value = undefined;
      events?.close();
    }
    link.value = refused ? "login" : "lost";
    problem.value = error instanceof Error ? error.message : String(error);
  }
  now.value = Date.now();
}

/** Somebody else is here now: everything is read anew. */
export async function changed(): Promise<void> {
  meAt = 0;
  events?.close();
  await refresh();
}

let pending: number | undefined;

export function hurry(): void {
  pending ??= window.setTimeout(() => {
    pending = undefined;
    void refresh();
  }, EVENT_DELAY_MS);
}

let events: EventSource | undefined;

/** Follow the collector's events. A browser gives up for good when it is refused, so this is asked after every poll. */
function listen(): void {
  if (events !== undefined && events.readyState !== EventSource.CLOSED) return;
  events = new EventSource("/api/watchbill/v1/events");
  for (const kind of ["alert", "host", "backup", "run", "resync"]) events.addEventListener(kind, hurry);
  // The stream breaks at once when the collector goes; the next poll could be seconds away.
  events.addEventListener("error", hurry);
}

/** What a view reads for itself, anew at every beat and whenever `key` changes. */
export function useAsked<T>(read: () => Promise<T>, key: string): { data: T | undefined; error: string; again: () => void } {
  const [data, setData] = useState<{ key: string; value: T } | undefined>(undefined);
  const [error, setError] = useState("");
  const [turn, setTurn] = useState(0);
  const running = useRef({ key: "", busy: false });
  const at = beat.value;
  useEffect(() => {
    const wanted = `${key}\n${turn}`;
    // One at a time: a slow answer is waited for and not asked for again at every beat.
    if (running.current.busy && running.current.key === wanted) return;
    const mine = { key: wanted, busy: true };
    running.current = mine;
    read()
      .then(
        (value) => {
          if (running.current !== mine) return;
          setData({ key, value });
          setError("");
        },
        (problem: unknown) => {
          if (running.current === mine) setError(problem instanceof Error ? problem.message : String(problem));
        },
      )
      .finally(() => {
        mine.busy = false;
      });
  }, [key, at, turn]);
  return { data: data?.key === key ? data.value : undefined, error, again: () => setTurn(turn + 1) };
}

export function start(): void {
  window.addEventListener("hashchange", () => {
    route.value = location.hash;
    if (showsUsage()) hurry();
  });
  window.setInterval(() => {
    now.value = Date.now();
  }, 1_000);
  const poll = async (): Promise<void> => {
    const begun = Date.now();
    if (!document.hidden && link.value !== "login") await refresh();
    window.setTimeout(() => void poll(), Math.max(POLL_MS, (Date.now() - begun) * POLL_RATIO));
  };
  document.addEventListener("visibilitychange", hurry);
  void poll();
}
