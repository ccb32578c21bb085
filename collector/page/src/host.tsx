// One host: what it is, its alerts, its applications, its charts.
import { useState } from "preact/hooks";
import { AskedAlerts } from "./alerts";
import { BackupsOf } from "./backups";
import { Chart, type ChartSpec, Ranges } from "./chart";
import { since } from "./format";
import { Applications } from "./health";
import { Absence } from "./hosts";
import { hosts, link, now } from "./state";
import { LabelList, Text } from "./text";

/** PromQL's way of writing any text as a string. */
const quoted = (text: string): string => JSON.stringify(text);

function charts(instance: string): ChartSpec[] {
  const on = `instance=${quoted(instance)}`;
  return [
    {
      title: "CPU busy", unit: " %", labels: [], fixedTop: 100,
      query: `100 * (1 - avg(rate(node_cpu_seconds_total{mode="idle",${on}}[1m])))`,
    },
    {
      title: "Memory in use", unit: " %", labels: [], fixedTop: 100,
      query: `100 * (1 - node_memory_MemAvailable_bytes{${on}} / node_memory_MemTotal_bytes{${on}})`,
    },
    { title: "Load, 1 min", unit: "", labels: [], query: `node_load1{${on}}` },
    {
      title: "Waiting (pressure)", unit: " %", labels: ["what"],
      query:
        `100 * (label_replace(rate(node_pressure_cpu_waiting_seconds_total{${on}}[1m]), "what", "cpu", "", "")` +
        ` or label_replace(rate(node_pressure_memory_waiting_seconds_total{${on}}[1m]), "what", "memory", "", "")` +
        ` or label_replace(rate(node_pressure_io_waiting_seconds_total{${on}}[1m]), "what", "disk", "", ""))`,
    },
    {
      title: "Filesystems in use", unit: " %", labels: ["mountpoint"], fixedTop: 100,
      query: `100 * (1 - node_filesystem_avail_bytes{fstype!~"tmpfs|squashfs|ramfs",${on}} / node_filesystem_size_bytes{${on}})`,
    },
    {
      title: "Disk busy", unit: " %", labels: ["device"],
      query: `100 * rate(node_disk_io_time_seconds_total{${on}}[1m])`,
    },
    {
      title: "Network in", unit: "B/s", labels: ["device"],
      query: `rate(node_network_receive_bytes_total{device!="lo",${on}}[1m])`,
    },
    {
      title: "Network out", unit: "B/s", labels: ["device"],
      query: `rate(node_network_transmit_bytes_total{device!="lo",${on}}[1m])`,
    },
  ];
}

export function HostPage({ instance }: { instance: string }) {
  const [seconds, setSeconds] = useState(900);
  const host = hosts.value.find((candidate) => candidate.name === instance);
  return (
    <main>
      <p class="trail">
        <a href="#/hosts">All hosts</a>
      </p>
      <div class="title">
        <h1><Text of={instance} /></h1>
        {host && <span class={`state ${host.state}`}>{host.state}</span>}
        {host && <Absence host={host} />}
        {host && (
          <span class="facts">
            for {since(host.since, now.value)} · {host.series} series · agent {host.agent_version || "unknown"}
          </span>
        )}
        {!host && link.value === "live" && <span class="facts">no host of this name is known</span>}
      </div>
      {host && Object.keys(host.labels).length > 0 && <LabelList labels={host.labels} />}
      <AskedAlerts ask={{ host: instance }} none="" />
      {host && <Applications host={instance} apps={host.apps} />}
      <BackupsOf host={instance} />
      <Ranges value={seconds} choose={setSeconds} />
      <div class="charts">
        {charts(instance).map((spec) => (
          <Chart key={spec.title} spec={spec} seconds={seconds} />
        ))}
      </div>
    </main>
  );
}
