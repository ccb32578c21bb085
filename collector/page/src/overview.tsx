// The first screen: what is wrong, where, since when, whose it is, what to do. Then the hosts.
import { useState } from "preact/hooks";
import { AlertList, AskedAlerts, serviceHash } from "./alerts";
import { type Alert, type Crowd, type Dispatch, fetchAlerts, fetchDispatch, fetchServices, type Service } from "./api";
import { since } from "./format";
import { HostTable } from "./hosts";
import { OpenRuns } from "./run";
import { alerts, crowds, hosts, hushed, link, loud, now, seesAll, severityOf, total, useAsked } from "./state";
import { Text } from "./text";

const FILTER_FROM = 8; // Alerts from which on a filter helps.
const NAMES_SHOWN = 6;

function Count({ count, word, bad }: { count: number; word: string; bad: "bad" | "raised" | "" }) {
  return (
    <p class={`count ${count > 0 ? bad : bad === "" ? "" : "good"}`}>
      <strong>{count}</strong> {word}
    </p>
  );
}

/** What keeps this page, or the notices, from telling the truth. */
function Trouble({ dispatch }: { dispatch: Dispatch | undefined }) {
  const failing = dispatch?.channels.filter((channel) => !channel.ok) ?? [];
  if (failing.length === 0 && !dispatch?.unwritten) return null;
  return (
    <p class="trouble" role="alert">
      {failing.slice(0, NAMES_SHOWN).map((channel) => (
        <span key={channel.name}>
          Notices do not get out by <a href="#/notices"><strong>{channel.name}</strong></a> since {since(channel.failing_since, now.value)}: <Text of={channel.last_error} max={160} />{" "}
        </span>
      ))}
      {dispatch?.unwritten && <span>The outbox cannot be written: <Text of={dispatch.unwritten} max={160} /></span>}
    </p>
  );
}

function ServicesInTrouble({ services }: { services: Service[] }) {
  const bad = services.filter((service) => service.state === "critical" || service.state === "major");
  if (bad.length === 0) return null;
  return (
    <p class="serving">
      <strong>Services hit:</strong>{" "}
      {bad.slice(0, NAMES_SHOWN).map((service) => (
        <a key={service.name} class={`chip ${service.state}`} href={serviceHash(service.name)}>
          {service.name} <span class="facts">{service.state}{service.owner && <>, <Text of={service.owner} max={40} /></>}</span>
        </a>
      ))}
      {bad.length > NAMES_SHOWN && <a href="#/services">and {bad.length - NAMES_SHOWN} more</a>}
    </p>
  );
}

function Fold({ title, count, children, open }: { title: string; count?: number; children: () => preact.ComponentChildren; open?: boolean }) {
  const [shown, setShown] = useState(open ?? false);
  return (
    <section>
      <h2>
        <button type="button" class="plain" aria-expanded={shown} onClick={() => setShown(!shown)}>
          {shown ? "▾" : "▸"} {title}{count !== undefined && ` (${count})`}
        </button>
      </h2>
      {shown && children()}
    </section>
  );
}

function Alerts() {
  const [filter, setFilter] = useState("");
  const words = filter.trim();
  const narrow: Record<string, string> = words ? { words } : {};
  // What is filtered is asked for: what is here is a few of each crowd.
  const asked = useAsked(() => (words ? fetchAlerts(narrow) : Promise.resolve(undefined)), `words ${words}`);
  const every: Alert[] = words ? (asked.data?.alerts ?? []) : alerts.value;
  const counted: Crowd[] = words ? (asked.data?.crowds ?? []) : crowds.value;
  const part = (state: string, quiet: boolean | undefined): { list: Alert[]; crowds: Crowd[] } => ({
    list: every.filter((alert) => alert.state === state && (quiet === undefined || hushed(alert) === quiet)),
    crowds: counted.filter((crowd) => crowd.state === state && (quiet === undefined || crowd.hushed === quiet)),
  });
  const told = part("firing", false);
  const quiet = part("firing", true);
  const pending = part("pending", undefined);
  const silent = total(told.crowds) === 0;
  return (
    <>
      <section>
        <div class="title">
          <h2>Firing</h2>
          {(total(crowds.value) >= FILTER_FROM || filter) && (
            <input type="search" placeholder="filter: host, service, owner, label" aria-label="Filter alerts" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
          )}
        </div>
        {asked.error && words && <p class="bad"><Text of={asked.error} /></p>}
        {!silent ? (
          <AlertList {...told} narrow={narrow} />
        ) : (
          <p class="quiet">{link.value === "live" ? (words ? (asked.data ? "Nothing that fires matches." : "asking …") : total(quiet.crowds) ? "Nothing that is not silenced." : "Nothing is firing.") : "Not known yet."}</p>
        )}
      </section>
      {total(quiet.crowds) > 0 && <Fold title="Silenced" count={total(quiet.crowds)} open={silent}>{() => <AlertList {...quiet} narrow={narrow} />}</Fold>}
      {total(pending.crowds) > 0 && <Fold title="Pending" count={total(pending.crowds)} open={silent}>{() => <AlertList {...pending} narrow={narrow} />}</Fold>}
      <Fold title="Ended lately">{() => <AskedAlerts ask={{ state: "resolved" }} none="Nothing ended lately." />}</Fold>
    </>
  );
}

export function Overview() {
  const dispatch = useAsked(() => (seesAll.value ? fetchDispatch() : Promise.resolve(undefined)), `dispatch ${seesAll.value}`);
  const services = useAsked(fetchServices, "services");
  const of = (severity: string): number => total(loud.value.filter((crowd) => severityOf({ severity: crowd.severity }) === severity));
  const down = hosts.value.filter((host) => host.state === "down").length;
  const minor = of("minor") + of("info");
  return (
    <main>
      <h1 class="unseen">Now</h1>
      <section class="summary" aria-label="Summary">
        <Count count={of("critical")} word="critical" bad="bad" />
        <Count count={of("major")} word="major" bad="bad" />
        <Count count={minor} word="minor" bad="raised" />
        <Count count={down} word={down === 1 ? "host down" : "hosts down"} bad="bad" />
        <Count count={hosts.value.filter((host) => host.state === "up").length} word="up" bad="" />
      </section>
      <Trouble dispatch={dispatch.data} />
      <ServicesInTrouble services={services.data ?? []} />
      <OpenRuns />
      <Alerts />
      <HostTable few />
    </main>
  );
}
