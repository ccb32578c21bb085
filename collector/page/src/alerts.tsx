// Alerts in rows: what is wrong, where, since when, whose it is, and what to do about it; the worst first.
import { useState } from "preact/hooks";
import { type Alert, type Crowd as CrowdCount, fetchAlerts, fetchCrowd } from "./api";
import { duration, moment, since } from "./format";
import { openSilence } from "./silencing";
import { hushed, maySilence, now, rank, severityOf, useAsked } from "./state";
import { Address, Text, webLink } from "./text";

const ROWS_MAX = 100;
const ALIKE_MAX = 4; // More alerts of one rule than that stand in one row.
const ALIKE_SHOWN = 50;
const ALIKE_SHOWN_MAX = 500;
const NAMES_SHOWN = 6;
const FACTS_MAX = 5;
const VALUE_CHARACTERS_MAX = 48; // In a row; whole on the alert's own page.

export const alertHash = (alert: Alert): string => `#/alerts/${alert.fingerprint}`;
export const hostHash = (name: string): string => `#/host/${encodeURIComponent(name)}`;
export const serviceHash = (name: string): string => `#/services/${encodeURIComponent(name)}`;

/** What there is to open or to look up. */
export function guides(alert: { annotations: Record<string, string> }): { word: string; text: string }[] {
  const found: { word: string; text: string }[] = [];
  const named: [string, string][] = [["runbook_url", "Runbook"], ["runbook", "Runbook"], ["article", "Article"], ["dashboard", "Dashboard"]];
  for (const [name, word] of named) {
    const text = alert.annotations[name];
    if (text && !found.some((one) => one.text === text)) found.push({ word, text });
  }
  return found;
}

export function Guides({ alert }: { alert: Alert }) {
  return (
    <>
      {guides(alert).map(({ word, text }) => (
        <span key={word + text} class="guide">
          {webLink(text) === undefined ? <>{word}: <Text of={text} max={80} /></> : <Address of={text} word={word} />}
        </span>
      ))}
    </>
  );
}

/** Why what is shown may not be told to anybody, or not be the whole truth. */
export function Marks({ alert }: { alert: Alert }) {
  return (
    <>
      {alert.silences.map((id) => (
        <a key={id} class="mark quietened" href={`#/silences/${encodeURIComponent(id)}`}>silenced</a>
      ))}
      {alert.windows.map((name) => (
        <span key={name} class="mark quietened">maintenance: <Text of={name} max={60} /></span>
      ))}
      {alert.inhibited && <span class="mark quietened">its host is down: nobody is told of this</span>}
      {alert.incomplete && <span class="mark doubt">incomplete data: <Text of={alert.incomplete} max={120} /></span>}
    </>
  );
}

export function SeverityWord({ alert }: { alert: Alert }) {
  return <span class="severity">{alert.state === "firing" ? (alert.labels.severity ? <Text of={alert.labels.severity} max={16} /> : "alert") : alert.state}</span>;
}

const rowClass = (alert: Alert): string =>
  `alert ${alert.state} ${severityOf(alert.labels)}${hushed(alert) ? " hushed" : ""}`;

function When({ alert }: { alert: Alert }) {
  if (alert.state === "resolved" && alert.resolved_at !== null) {
    const lasted = (Date.parse(alert.resolved_at) - Date.parse(alert.active_at)) / 1000;
    return (
      <span class="since">
        ended {since(alert.resolved_at, now.value)} ago <span class="facts">after {duration(lasted)}</span>
      </span>
    );
  }
  return (
    <span class="since" title={alert.active_at}>
      for {since(alert.active_at, now.value)} <span class="facts">since {moment(alert.active_at, now.value)}</span>
    </span>
  );
}

function Row({ alert }: { alert: Alert }) {
  const { alertname: _name, instance, severity: _severity, job: _job, ...rest } = alert.labels;
  const others = Object.entries(rest);
  return (
    <li class={rowClass(alert)}>
      <SeverityWord alert={alert} />
      <div class="what">
        <a class="headline" href={alertHash(alert)}>
          <Text of={alert.annotations.summary ?? alert.name} max={240} />
        </a>
        <p class="facts">
          {instance && <a href={hostHash(instance)}><Text of={instance} max={80} /></a>}
          {alert.service && <span>service <a href={serviceHash(alert.service)}>{alert.service}</a></span>}
          {alert.owner && <span class="owner">owner <strong><Text of={alert.owner} max={80} /></strong></span>}
          <span><Text of={alert.name} max={80} /></span>
          {others.slice(0, FACTS_MAX).map(([name, value]) => (
            <span key={name}><Text of={name} max={40} /> <Text of={value} max={VALUE_CHARACTERS_MAX} /></span>
          ))}
          {others.length > FACTS_MAX && <span>+{others.length - FACTS_MAX} labels</span>}
        </p>
        <p class="marks"><Marks alert={alert} /></p>
      </div>
      <When alert={alert} />
      <span class="do">
        <Guides alert={alert} />
        {maySilence.value && alert.state !== "resolved" && (
          <button type="button" onClick={() => openSilence(alert)}>Silence</button>
        )}
      </span>
    </li>
  );
}

/** Those of a crowd, in pages. */
function CrowdRows({ crowd, narrow }: { crowd: CrowdCount; narrow: Record<string, string> }) {
  const [limit, setLimit] = useState(ALIKE_SHOWN);
  const { data, error } = useAsked(() => fetchCrowd(crowd, narrow, limit), JSON.stringify([crowd.name, crowd.severity, crowd.state, crowd.hushed, narrow, limit]));
  if (error) return <li class="bad"><Text of={error} /></li>;
  if (data === undefined) return <li class="facts more">asking …</li>;
  return (
    <>
      {data.alerts.map((alert) => <Row key={alert.fingerprint} alert={alert} />)}
      {data.total > data.alerts.length && (
        <li class="facts more">
          and {data.total - data.alerts.length} more{" "}
          {limit < ALIKE_SHOWN_MAX ? <button type="button" onClick={() => setLimit(limit + ALIKE_SHOWN)}>Show {ALIKE_SHOWN} more</button> : <>: filter, or <code>watchbill alerts --json</code></>}
        </li>
      )}
    </>
  );
}

/** Many alerts of one rule: how many, where, and a way to see them. */
function Crowd({ crowd, list, narrow }: { crowd: CrowdCount; list: Alert[]; narrow: Record<string, string> }) {
  const [open, setOpen] = useState(false);
  const first = list[0];
  if (first === undefined) return null;
  const places = [...new Set(list.map((alert) => alert.labels.instance ?? "").filter(Boolean))];
  const owners = [...new Set(list.map((alert) => alert.owner).filter(Boolean))];
  const services = [...new Set(list.map((alert) => alert.service).filter(Boolean))];
  const whole = list.length >= crowd.count;
  const hostsLeft = crowd.hosts - Math.min(places.length, NAMES_SHOWN);
  const latest = list.reduce((most, alert) => (newestFirst(alert) > most ? newestFirst(alert) : most), newestFirst(first));
  return (
    <>
      <li class={rowClass(first)}>
        <SeverityWord alert={first} />
        <div class="what">
          <button type="button" class="headline plain" aria-expanded={open} onClick={() => setOpen(!open)}>
            {open ? "▾" : "▸"} {crowd.count} × <Text of={first.name} max={80} />
          </button>
          <p class="facts">
            {places.length > 0 && <span>
              on {places.slice(0, NAMES_SHOWN).map((name, position) => (
                <span key={name}>{position > 0 && ", "}<a href={hostHash(name)}><Text of={name} max={60} /></a></span>
              ))}
              {hostsLeft > 0 && ` and ${hostsLeft} more hosts`}
            </span>}
            {services.length > 0 && (
              <span>{services.length === 1 && whole ? "service" : "services"} {services.slice(0, NAMES_SHOWN).join(", ")}{!whole && " …"}</span>
            )}
            {owners.length > 0 && <span class="owner">owner <strong>{owners.slice(0, NAMES_SHOWN).join(", ")}</strong>{!whole && " …"}</span>}
          </p>
          <p class="marks"><Marks alert={first} /></p>
        </div>
        <span class="since">
          {crowd.state === "resolved" ? "ended" : "for"} {since(latest, now.value)} {crowd.state === "resolved" ? "ago" : ""} <span class="facts">the newest</span>
        </span>
        <span class="do"><Guides alert={first} /></span>
      </li>
      {open && <CrowdRows crowd={crowd} narrow={narrow} />}
    </>
  );
}

const likeness = (name: string, severity: string, state: string, quiet: boolean): string => JSON.stringify([name, severity, state, quiet]);

/** Rows: single alerts, and crowds of one rule in the place of their first. */
function crowded(list: Alert[], crowds: CrowdCount[]): { crowd: CrowdCount | undefined; list: Alert[] }[] {
  const counted = new Map(crowds.map((crowd) => [likeness(crowd.name, crowd.severity, crowd.state, crowd.hushed), crowd]));
  const groups = new Map<string, Alert[]>();
  for (const alert of list) {
    const key = likeness(alert.name, alert.labels.severity ?? "", alert.state, hushed(alert));
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [alert]);
    else group.push(alert);
  }
  return [...groups].flatMap(([key, group]): { crowd: CrowdCount | undefined; list: Alert[] }[] => {
    const crowd = counted.get(key);
    if (crowd !== undefined && crowd.count > ALIKE_MAX) return [{ crowd, list: group }];
    return group.map((alert) => ({ crowd: undefined, list: [alert] }));
  });
}

const newestFirst = (alert: Alert): string => alert.resolved_at ?? alert.active_at;

/** What was asked for, in rows. `narrow` is what it was asked for with: a crowd that is opened asks for its own so, too. */
export function AlertList({ list, crowds, narrow = {} }: { list: Alert[]; crowds: CrowdCount[]; narrow?: Record<string, string> }) {
  const sorted = [...list].sort(
    (a, b) => rank(a) - rank(b) || newestFirst(b).localeCompare(newestFirst(a)) || a.fingerprint.localeCompare(b.fingerprint),
  );
  const rows = crowded(sorted, crowds).sort((a, b) => (a.list[0] && b.list[0] ? rank(a.list[0]) - rank(b.list[0]) : 0));
  const told = new Set(list.map((alert) => likeness(alert.name, alert.labels.severity ?? "", alert.state, hushed(alert))));
  const unseen = crowds.filter((crowd) => !told.has(likeness(crowd.name, crowd.severity, crowd.state, crowd.hushed)));
  const left = Math.max(rows.length - ROWS_MAX, 0) + unseen.length;
  return (
    <ul class="alerts">
      {rows.slice(0, ROWS_MAX).map(({ crowd, list: group }) =>
        crowd !== undefined ? (
          <Crowd key={likeness(crowd.name, crowd.severity, crowd.state, crowd.hushed)} crowd={crowd} list={group} narrow={narrow} />
        ) : (
          group.map((alert) => <Row key={alert.fingerprint} alert={alert} />)
        ),
      )}
      {left > 0 && <li class="facts more">and {left} more rows: filter, or <code>watchbill alerts</code></li>}
    </ul>
  );
}

/** The alerts that some question finds. */
export function AskedAlerts({ ask, none }: { ask: Record<string, string>; none: string }) {
  const { data, error } = useAsked(() => fetchAlerts(ask), JSON.stringify(ask));
  if (error) return <p class="bad"><Text of={error} /></p>;
  if (data === undefined) return <p class="quiet">asking …</p>;
  if (data.total > 0) return <AlertList list={data.alerts} crowds={data.crowds} narrow={ask} />;
  return none ? <p class="quiet">{none}</p> : null;
}
