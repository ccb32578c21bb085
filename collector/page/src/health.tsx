// How the applications of a host are, and the checks that say so: what is not well first.
import { fetchHostChecks, type App, type Check } from "./api";
import { since } from "./format";
import { now, useAsked } from "./state";
import { Text } from "./text";

const ROWS_MAX = 60;
const VERDICTS: Check["verdict"][] = ["critical", "warning", "unknown", "ok"];
const STATES: App["state"][] = ["down", "degraded", "unknown", "healthy"];

export const worstApps = <T extends Pick<App, "name" | "state">>(apps: T[]): T[] =>
  [...apps].sort((a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || a.name.localeCompare(b.name));

const For = ({ since: from }: { since: string | null }) =>
  from === null ? null : <span class="facts"> for {since(from, now.value)}</span>;

function Row({ check }: { check: Check }) {
  return (
    <tr>
      <td class="first"><Text of={check.name} max={64} /></td>
      <td>
        <span class={`standing ${check.verdict}`}>{check.verdict}</span>
        <For since={check.since} />
      </td>
      <td data-word="Application">{check.app ? <Text of={check.app} max={64} /> : "–"}{check.app && !check.essential && <span class="facts"> not essential</span>}</td>
      <td data-word="Kind">{check.kind || "–"}</td>
      <td class="last">{check.reason && <><strong><Text of={check.reason} max={64} /></strong>{check.detail && ": "}</>}<Text of={check.detail} max={300} /></td>
    </tr>
  );
}

/** Nothing where the host has no checks. */
export function Applications({ host, apps }: { host: string; apps: App[] }) {
  const { data } = useAsked(() => fetchHostChecks(host), `checks of ${host}`);
  if (data === undefined || data.length === 0) return null;
  const sorted = [...data].sort((a, b) => VERDICTS.indexOf(a.verdict) - VERDICTS.indexOf(b.verdict) || a.name.localeCompare(b.name));
  return (
    <section>
      <h2>{apps.length > 0 ? "Applications" : "Checks"}</h2>
      {apps.length > 0 && (
        <ul class="chips">
          {worstApps(apps).map((app) => (
            <li key={app.name}>
              <strong><Text of={app.name} max={64} /></strong> <span class={`standing ${app.state}`}>{app.state}</span>
              <For since={app.since} />
            </li>
          ))}
        </ul>
      )}
      <div class="scroll">
        <table class="stacked checks">
          <thead>
            <tr>
              <th scope="col">Check</th>
              <th scope="col">State</th>
              <th scope="col">Application</th>
              <th scope="col">Kind</th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {sorted.slice(0, ROWS_MAX).map((check) => (
              <Row key={check.name} check={check} />
            ))}
          </tbody>
        </table>
      </div>
      {sorted.length > ROWS_MAX && <p class="facts">and {sorted.length - ROWS_MAX} more</p>}
    </section>
  );
}
