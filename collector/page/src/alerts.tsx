// The alerts that are pending or firing, the worst first.
import type { Alert } from "./api";
import { since } from "./format";
import { now, rank } from "./state";

const ROWS_MAX = 100;

function Row({ alert }: { alert: Alert }) {
  const { alertname, instance, severity, ...rest } = alert.labels;
  const others = Object.entries(rest).filter(([name]) => name !== "job");
  return (
    <li class={`alert ${alert.state} ${severity ?? "none"}`}>
      <span class="severity">{alert.state === "firing" ? (severity ?? "alert") : "pending"}</span>
      <span class="what">
        <strong>{alert.annotations.summary ?? alertname}</strong>
        <span class="facts">
          {alertname}
          {others.map(([name, value]) => ` · ${name} ${value}`)}
        </span>
      </span>
      {instance && <a href={`#/host/${encodeURIComponent(instance)}`}>{instance}</a>}
      <span class="since">for {since(alert.activeAt, now.value)}</span>
    </li>
  );
}

export function AlertList({ list }: { list: Alert[] }) {
  const sorted = [...list].sort((a, b) => rank(a) - rank(b) || Date.parse(b.activeAt) - Date.parse(a.activeAt));
  return (
    <ul class="alerts" aria-live="polite">
      {sorted.slice(0, ROWS_MAX).map((alert) => (
        <Row key={JSON.stringify(alert.labels)} alert={alert} />
      ))}
      {sorted.length > ROWS_MAX && <li class="facts">and {sorted.length - ROWS_MAX} more: watchbill alerts</li>}
    </ul>
  );
}
