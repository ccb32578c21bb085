// What the page knows, and the loop that keeps it true: a poll, hurried by the collector's events.
import { computed, signal } from "@preact/signals";
import { type Alert, ApiError, fetchAlerts, fetchByLabel, fetchHosts, type Host } from "./api";

const POLL_MS = 5_000;
const EVENT_DELAY_MS = 300; // Several events in a burst are one refresh.

export type Link = "connecting" | "live" | "lost" | "login";

export interface Usage {
  cpu?: number;
  memory?: number;
  disk?: number;
  load?: number;
}

export const link = signal<Link>("connecting");
export const problem = signal("");
export const hosts = signal<Host[]>([]);
export const alerts = signal<Alert[]>([]);
export const usage = signal<Map<string, Usage>>(new Map());
export const now = signal(Date.now());
export const route = signal(location.hash);

const SEVERITIES = ["critical", "page", "major", "minor", "warning", "info", "none"];

export const rank = (alert: Alert): number => {
  const position = SEVERITIES.indexOf(alert.labels.severity ?? "none");
  return (alert.state === "firing" ? 0 : 100) + (position < 0 ? SEVERITIES.length : position);
};

export const firing = computed(() => alerts.value.filter((alert) => alert.state === "firing"));

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

export async function refresh(): Promise<void> {
  try {
    [hosts.value, alerts.value] = await Promise.all([fetchHosts(), fetchAlerts()]);
    await refreshUsage();
    link.value = "live";
    problem.value = "";
    listen();
  } catch (error) {
    const status = error instanceof ApiError ? error.status : 0;
    link.value = status === 401 || status === 403 ? "login" : "lost";
    problem.value = error instanceof Error ? error.message : String(error);
  }
  now.value = Date.now();
}

let pending: number | undefined;

function hurry(): void {
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
  for (const kind of ["alert", "host", "resync"]) events.addEventListener(kind, hurry);
}

export function start(): void {
  window.addEventListener("hashchange", () => {
    route.value = location.hash;
  });
  window.setInterval(() => {
    now.value = Date.now();
  }, 1_000);
  const poll = async (): Promise<void> => {
    if (!document.hidden && link.value !== "login") await refresh();
    window.setTimeout(() => void poll(), POLL_MS);
  };
  document.addEventListener("visibilitychange", hurry);
  void poll();
}
