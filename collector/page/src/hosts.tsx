// All hosts: those in trouble first, each with the few numbers that say whether to look closer.
import { useState } from "preact/hooks";
import { AlertList } from "./alerts";
import type { Host } from "./api";
import { percent, short, since } from "./format";
import { alerts, firing, hosts, link, now, rank, usage, worst } from "./state";

const ROWS_MAX = 300;
const STATES: Host["state"][] = ["down", "unknown", "pending", "never", "up", "stopped", "retired", "revoked"];

function trouble(host: Host): number {
  const alert = worst.value.get(host.name);
  return STATES.indexOf(host.state) * 1000 + (alert === undefined ? 900 : rank(alert));
}

function Meter({ value }: { value: number | undefined }) {
  const level = value === undefined ? "" : value >= 90 ? "high" : value >= 75 ? "raised" : "";
  return (
    <td class="meter">
      <span class="figure">{percent(value)}</span>
      <meter class={level} min={0} max={100} value={value ?? 0} aria-hidden="true" />
    </td>
  );
}

function Row({ host }: { host: Host }) {
  const used = usage.value.get(host.name);
  const alert = worst.value.get(host.name);
  return (
    <tr>
      <td>
        <a href={`#/host/${encodeURIComponent(host.name)}`}>{host.name}</a>
      </td>
      <td>
        <span class={`state ${host.state}`}>{host.state}</span>
        {host.state !== "up" && <span class="facts"> for {since(host.since, now.value)}</span>}
      </td>
      <Meter value={used?.cpu} />
      <Meter value={used?.memory} />
      <Meter value={used?.disk} />
      <td class="figure">{used?.load === undefined ? "–" : short(used.load)}</td>
      <td>{alert && <span class={`badge ${alert.state} ${alert.labels.severity ?? "none"}`}>{alert.labels.alertname}</span>}</td>
    </tr>
  );
}

export function HostsPage() {
  const [filter, setFilter] = useState("");
  const wanted = hosts.value
    .filter((host) => host.name.toLowerCase().includes(filter.toLowerCase()))
    .sort((a, b) => trouble(a) - trouble(b) || a.name.localeCompare(b.name, undefined, { numeric: true }));
  const down = hosts.value.filter((host) => host.state === "down").length;
  return (
    <main>
      <section class="summary">
        <p class={firing.value.length ? "count bad" : "count good"}>
          <strong>{firing.value.length}</strong> firing
        </p>
        <p class={down ? "count bad" : "count good"}>
          <strong>{down}</strong> down
        </p>
        <p class="count">
          <strong>{hosts.value.filter((host) => host.state === "up").length}</strong> up
        </p>
      </section>
      <section>
        <h2>Alerts</h2>
        {alerts.value.length > 0 ? (
          <AlertList list={alerts.value} />
        ) : (
          <p class="quiet">{link.value === "live" ? "Nothing is pending or firing." : "Not known yet."}</p>
        )}
      </section>
      <section>
        <div class="title">
          <h2>Hosts</h2>
          <input
            type="search"
            placeholder="filter by name"
            aria-label="Filter hosts by name"
            value={filter}
            onInput={(event) => setFilter(event.currentTarget.value)}
          />
        </div>
        <div class="scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">Host</th>
                <th scope="col">State</th>
                <th scope="col">CPU</th>
                <th scope="col">Memory</th>
                <th scope="col">Fullest disk</th>
                <th scope="col">Load</th>
                <th scope="col">Alert</th>
              </tr>
            </thead>
            <tbody>
              {wanted.slice(0, ROWS_MAX).map((host) => (
                <Row key={host.agent_id} host={host} />
              ))}
            </tbody>
          </table>
        </div>
        {wanted.length > ROWS_MAX && <p class="facts">and {wanted.length - ROWS_MAX} more: filter by name</p>}
        {hosts.value.length === 0 && link.value === "live" && (
          <p class="quiet">
            No host yet. On the collector: <code>watchbill enroll create --name HOST</code>, and paste what it prints on the host.
          </p>
        )}
      </section>
    </main>
  );
}
