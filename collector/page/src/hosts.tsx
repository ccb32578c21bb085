// All hosts: those in trouble first, each with the few numbers that say whether to look closer.
import { useState } from "preact/hooks";
import { alertHash, hostHash } from "./alerts";
import type { App, Host } from "./api";
import { moment, percent, short, since } from "./format";
import { worstApps } from "./health";
import { hosts, link, now, rank, severityOf, usage, worst } from "./state";
import { Text } from "./text";

const ROWS_MAX = 300;
const FEW = 12;
const APPS_SHOWN_MAX = 3;
const STATES: Host["state"][] = ["down", "unknown", "pending", "never", "up", "stopped", "retired", "revoked"];

function trouble(host: Host): number {
  const alert = worst.value.get(host.name);
  const app = worstApps(host.apps)[0]?.state;
  const calm = app === "down" ? 700 : app === "degraded" ? 800 : 900;
  return STATES.indexOf(host.state) * 1000 + (alert === undefined ? calm : rank(alert));
}

function Meter({ value, word }: { value: number | undefined; word: string }) {
  const level = value === undefined ? "" : value >= 90 ? "high" : value >= 75 ? "raised" : "";
  return (
    <td class="meter" data-word={word}>
      <span class="figure">{percent(value)}</span>
      <meter class={level} min={0} max={100} value={value ?? 0} aria-hidden="true" />
    </td>
  );
}

/** Why a host is not there, when that is known. */
export function Absence({ host }: { host: Host }) {
  const absence = host.absence;
  if (!absence) return null;
  if (absence.kind === "unexpected") return <span class="facts"> · {host.state === "up" ? "link lost" : "unexpected"}</span>;
  const by = absence.back_by && moment(absence.back_by, now.value);
  return (
    <span class="facts">
      {" · "}<Text of={absence.reason} max={40} />
      {by && (absence.kind === "overdue" ? `, overdue since ${by}` : `, back by ${by}`)}
    </span>
  );
}

/** Applications that are not healthy, the worst first, while their host is there. */
function Unwell({ apps }: { apps: App[] }) {
  const bad = worstApps(apps).filter((app) => app.state === "down" || app.state === "degraded");
  return (
    <>
      {bad.slice(0, APPS_SHOWN_MAX).map((app) => (
        <span key={app.name}> <span class={`standing ${app.state}`} title={app.state}><Text of={app.name} max={24} /></span></span>
      ))}
      {bad.length > APPS_SHOWN_MAX && <span class="facts"> +{bad.length - APPS_SHOWN_MAX}</span>}
    </>
  );
}

function Row({ host }: { host: Host }) {
  const used = usage.value.get(host.name);
  const alert = worst.value.get(host.name);
  return (
    <tr>
      <td class="first">
        <a href={hostHash(host.name)}><Text of={host.name} max={80} /></a>
      </td>
      <td>
        <span class={`state ${host.state}`}>{host.state}</span>
        {host.state !== "up" && <span class="facts"> for {since(host.since, now.value)}</span>}
        <Absence host={host} />
        <Unwell apps={host.apps} />
      </td>
      <Meter value={used?.cpu} word="CPU" />
      <Meter value={used?.memory} word="Memory" />
      <Meter value={used?.disk} word="Disk" />
      <td class="figure" data-word="Load">{used?.load === undefined ? "–" : short(used.load)}</td>
      <td class="last">
        {alert && <a href={alertHash(alert)} class={`badge ${alert.state} ${severityOf(alert.labels)}`}><Text of={alert.name} max={40} /></a>}
      </td>
    </tr>
  );
}

export function HostTable({ few = false }: { few?: boolean }) {
  const [filter, setFilter] = useState("");
  const sought = filter.toLowerCase();
  const sorted = hosts.value
    .filter((host) => !sought || host.name.toLowerCase().includes(sought) || Object.values(host.labels).some((value) => value.toLowerCase().includes(sought)))
    .sort((a, b) => trouble(a) - trouble(b) || a.name.localeCompare(b.name, undefined, { numeric: true }));
  const most = few ? FEW : ROWS_MAX;
  return (
    <section>
      <div class="title">
        <h2>Hosts</h2>
        <input
          type="search"
          placeholder="filter: name or label"
          aria-label="Filter hosts"
          value={filter}
          onInput={(event) => setFilter(event.currentTarget.value)}
        />
      </div>
      <div class="scroll">
        <table class="hosts">
          <thead>
            <tr>
              <th scope="col">Host</th>
              <th scope="col">State</th>
              <th scope="col">CPU</th>
              <th scope="col">Memory</th>
              <th scope="col">Fullest disk</th>
              <th scope="col">Load</th>
              <th scope="col">Worst alert</th>
            </tr>
          </thead>
          <tbody>
            {sorted.slice(0, most).map((host) => (
              <Row key={host.agent_id} host={host} />
            ))}
          </tbody>
        </table>
      </div>
      {sorted.length > most && (
        <p class="facts">
          {few ? <a href="#/hosts">all {sorted.length} hosts</a> : `and ${sorted.length - most} more: filter by name or label`}
        </p>
      )}
      {hosts.value.length === 0 && link.value === "live" && (
        <p class="quiet">
          No host yet. On the collector: <code>watchbill enroll create --name HOST</code>, and paste what it prints on the host.
        </p>
      )}
    </section>
  );
}

export const HostsPage = () => (
  <main>
    <h1 class="unseen">Hosts</h1>
    <HostTable />
  </main>
);
