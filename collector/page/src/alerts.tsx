// Alerts in rows: what is wrong, where, since when, whose it is, and what to do about it; the worst first.
import { useState } from "preact/hooks";
import type { Alert } from "./api";
import { duration, moment, since } from "./format";
import { openSilence } from "./silencing";
import { hushed, maySilence, now, rank, severityOf } from "./state";
import { Address, Text, webLink } from "./text";

const ROWS_MAX = 100;
const ALIKE_MAX = 4; // More alerts of one rule than that stand in one row.
const ALIKE_SHOWN_MAX = 50;
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

/** Many alerts of one rule: how many, where, and a way to see them. */
function Crowd({ list }: { list: Alert[] }) {
  const [open, setOpen] = useState(false);
  const first = list[0];
  if (first === undefined) return null;
  const places = [...new Set(list.map((alert) => alert.labels.instance ?? "").filter(Boolean))];
  const owners = [...new Set(list.map((alert) => alert.owner).filter(Boolean))];
  const services = [...new Set(list.map((alert) => alert.service).filter(Boolean))];
  const begun = list.reduce((least, alert) => (alert.active_at < least ? alert.active_at : least), first.active_at);
  return (
    <>
      <li class={rowClass(first)}>
        <SeverityWord alert={first} />
        <div class="what">
          <button type="button" class="headline plain" aria-expanded={open} onClick={() => setOpen(!open)}>
            {open ? "▾" : "▸"} {list.length} × <Text of={first.name} max={80} />
          </button>
          <p class="facts">
            <span>
              on {places.slice(0, NAMES_SHOWN).map((name, position) => (
                <span key={name}>{position > 0 && ", "}<a href={hostHash(name)}><Text of={name} max={60} /></a></span>
              ))}
              {places.length > NAMES_SHOWN && ` and ${places.length - NAMES_SHOWN} more hosts`}
            </span>
            {services.length > 0 && (
              <span>{services.length === 1 ? "service" : "services"} {services.slice(0, NAMES_SHOWN).join(", ")}</span>
            )}
            {owners.length > 0 && <span class="owner">owner <strong>{owners.slice(0, NAMES_SHOWN).join(", ")}</strong></span>}
          </p>
          <p class="marks"><Marks alert={first} /></p>
        </div>
        <span class="since">
          for {since(begun, now.value)} <span class="facts">the first since {moment(begun, now.value)}</span>
        </span>
        <span class="do"><Guides alert={first} /></span>
      </li>
      {open && list.slice(0, ALIKE_SHOWN_MAX).map((alert) => <Row key={alert.fingerprint} alert={alert} />)}
      {open && list.length > ALIKE_SHOWN_MAX && (
        <li class="facts more">and {list.length - ALIKE_SHOWN_MAX} more: filter, or <code>watchbill alerts</code></li>
      )}
    </>
  );
}

/** Rows: single alerts, and crowds of one rule in the place of their first. */
function crowded(list: Alert[]): Alert[][] {
  const groups = new Map<string, Alert[]>();
  for (const alert of list) {
    const key = `${alert.name}\n${alert.labels.severity ?? ""}\n${alert.state}\n${hushed(alert)}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [alert]);
    else group.push(alert);
  }
  return [...groups.values()].flatMap((group) => (group.length > ALIKE_MAX ? [group] : group.map((alert) => [alert])));
}

const newestFirst = (alert: Alert): string => alert.resolved_at ?? alert.active_at;

export function AlertList({ list }: { list: Alert[] }) {
  const sorted = [...list].sort(
    (a, b) => rank(a) - rank(b) || newestFirst(b).localeCompare(newestFirst(a)) || a.fingerprint.localeCompare(b.fingerprint),
  );
  const rows = crowded(sorted).sort((a, b) => (a[0] && b[0] ? rank(a[0]) - rank(b[0]) : 0));
  return (
    <ul class="alerts">
      {rows.slice(0, ROWS_MAX).map((group) =>
        group.length > 1 ? (
          <Crowd key={`${group[0]?.name} ${group[0]?.labels.severity} ${group[0]?.state}`} list={group} />
        ) : (
          group.map((alert) => <Row key={alert.fingerprint} alert={alert} />)
        ),
      )}
      {rows.length > ROWS_MAX && <li class="facts more">and {rows.length - ROWS_MAX} more rows: <code>watchbill alerts</code></li>}
    </ul>
  );
}
