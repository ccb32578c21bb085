// Services: what hosts are for, whose they are, what they need, and how they stand.
import { AskedAlerts, hostHash, serviceHash } from "./alerts";
import { fetchServices, type Service } from "./api";
import { BackupsOf } from "./backups";
import { span } from "./format";
import { worstApps } from "./health";
import { useAsked } from "./state";
import { Text } from "./text";

const ORDER = ["critical", "major", "unknown", "minor", "ok"];
const HOSTS_SHOWN_MAX = 200;

const State = ({ of }: { of: string }) => <span class={`standing ${of}`}>{of}</span>;

const Names = ({ of }: { of: string[] }) => (
  <>
    {of.map((name, position) => (
      <span key={name}>
        {position > 0 && ", "}
        <a href={serviceHash(name)}>{name}</a>
      </span>
    ))}
  </>
);

function firingWords(service: Service): string {
  return ORDER.filter((severity) => (service.firing[severity] ?? 0) > 0)
    .map((severity) => `${service.firing[severity]} ${severity}`)
    .join(", ");
}

function Table({ list }: { list: Service[] }) {
  const sorted = [...list].sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || a.name.localeCompare(b.name));
  return (
    <div class="scroll">
      <table class="stacked">
        <thead>
          <tr>
            <th scope="col">Service</th>
            <th scope="col">State</th>
            <th scope="col">Owner</th>
            <th scope="col">Hosts up</th>
            <th scope="col">Firing</th>
            <th scope="col">Because of</th>
          </tr>
        </thead>
        <tbody>
          {sorted.map((service) => (
            <tr key={service.name}>
              <td class="first"><a href={serviceHash(service.name)}>{service.name}</a></td>
              <td><State of={service.state} /></td>
              <td data-word="Owner">{service.owner ? <Text of={service.owner} max={60} /> : "–"}</td>
              <td data-word="Hosts up" class="figure">{service.hosts_up} of {service.hosts.length}</td>
              <td data-word="Firing">{firingWords(service) || "–"}</td>
              <td data-word="Because of">{service.failing_dependencies.length ? <Names of={service.failing_dependencies} /> : "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function One({ service }: { service: Service }) {
  const { availability, rto_s, rpo_s } = service.objectives;
  return (
    <>
      <div class="title">
        <h1>{service.name}</h1>
        <State of={service.state} />
      </div>
      <dl class="factsheet">
        <dt>Owner</dt>
        <dd>{service.owner ? <strong><Text of={service.owner} /></strong> : "nobody named"}</dd>
        {service.depends.length > 0 && (<><dt>Depends on</dt><dd><Names of={service.depends} /></dd></>)}
        {service.failing_dependencies.length > 0 && (<><dt>Because of</dt><dd class="bad"><Names of={service.failing_dependencies} /></dd></>)}
        {service.dependants.length > 0 && (<><dt>Needed by</dt><dd><Names of={service.dependants} /></dd></>)}
        {availability !== null && (<><dt>Availability</dt><dd>{+(availability * 100).toFixed(6)} % promised</dd></>)}
        {rto_s !== null && (<><dt>Back within</dt><dd>{span(rto_s)} <span class="facts">after a disaster (RTO)</span></dd></>)}
        {rpo_s !== null && (<><dt>May lose</dt><dd>{span(rpo_s)} <span class="facts">of data (RPO)</span></dd></>)}
        {service.runbooks.length > 0 && (<><dt>Runbooks</dt><dd><Text of={service.runbooks.join(", ")} /></dd></>)}
        {service.checks.length > 0 && (<><dt>Checks</dt><dd><Text of={service.checks.join(", ")} /></dd></>)}
        {service.backups.length > 0 && (<><dt>Backups</dt><dd><Text of={service.backups.join(", ")} /></dd></>)}
        {service.channel && (<><dt>Channel</dt><dd><Text of={service.channel} /></dd></>)}
        {service.selector && (<><dt>Hosts</dt><dd><code><Text of={service.selector} /></code></dd></>)}
      </dl>
      <section>
        <h2>Alerts</h2>
        <AskedAlerts ask={{ service: service.name }} none="Nothing is pending or firing." />
      </section>
      {service.apps.length > 0 && (
        <section>
          <h2>Applications</h2>
          <ul class="chips">
            {worstApps(service.apps).slice(0, HOSTS_SHOWN_MAX).map((app) => (
              <li key={`${app.host} ${app.name}`}>
                <strong><Text of={app.name} max={64} /></strong> on <a href={hostHash(app.host)}><Text of={app.host} max={60} /></a>{" "}
                <span class={`standing ${app.state}`}>{app.state}</span>
              </li>
            ))}
          </ul>
          {service.apps.length > HOSTS_SHOWN_MAX && <p class="facts">and {service.apps.length - HOSTS_SHOWN_MAX} more</p>}
        </section>
      )}
      <BackupsOf service={service.name} />
      <section>
        <h2>Hosts</h2>
        <ul class="chips">
          {service.hosts.slice(0, HOSTS_SHOWN_MAX).map((host) => (
            <li key={host.name}>
              <a href={hostHash(host.name)}><Text of={host.name} max={60} /></a> <span class={`state ${host.state}`}>{host.state}</span>
            </li>
          ))}
        </ul>
        {service.hosts.length === 0 && <p class="quiet">Its selector finds no host.</p>}
        {service.hosts.length > HOSTS_SHOWN_MAX && <p class="facts">and {service.hosts.length - HOSTS_SHOWN_MAX} more</p>}
      </section>
    </>
  );
}

export function ServicesPage({ name }: { name: string | undefined }) {
  const { data, error } = useAsked(fetchServices, "services");
  const one = data?.find((service) => service.name === name);
  return (
    <main>
      {name === undefined ? <h1>Services</h1> : <p class="trail"><a href="#/services">All services</a></p>}
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {data === undefined && !error && <p class="quiet">asking …</p>}
      {name === undefined && data && data.length > 0 && <Table list={data} />}
      {name === undefined && data?.length === 0 && (
        <p class="quiet">No service is described. Name them in <code>services.d/*.toml</code>: who owns them, which hosts serve them, what they depend on.</p>
      )}
      {one && <One service={one} />}
      {name !== undefined && data && !one && <p class="quiet">No service is called <Text of={name} max={80} />.</p>}
    </main>
  );
}
