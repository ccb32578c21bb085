// The audit: who did what, what became of it. Whoever is no auditor sees what he did himself.
import { useState } from "preact/hooks";
import { fetchAudit } from "./api";
import { moment } from "./format";
import { mayAudit, now, useAsked } from "./state";
import { Text, visible } from "./text";

export function AuditPage() {
  const [actor, setActor] = useState("");
  const [action, setAction] = useState("");
  const [outcome, setOutcome] = useState("");
  const [before, setBefore] = useState("");
  const params = Object.fromEntries(Object.entries({ actor, action, outcome, before }).filter(([, text]) => text));
  const { data, error } = useAsked(
    () => (mayAudit.value ? fetchAudit(params) : Promise.resolve(undefined)),
    `${mayAudit.value} ${JSON.stringify(params)}`,
  );
  const oldest = data?.rows.at(-1)?.seq;
  return (
    <main>
      <div class="title">
        <h1>Audit</h1>
        <span class="right buttons">
          <input type="search" placeholder="who" aria-label="Who" value={actor} onChange={(event) => { setActor(event.currentTarget.value.trim()); setBefore(""); }} />
          <input type="search" placeholder="what, such as host or silence" aria-label="What" value={action} onChange={(event) => { setAction(event.currentTarget.value.trim()); setBefore(""); }} />
          <select aria-label="Outcome" value={outcome} onChange={(event) => { setOutcome(event.currentTarget.value); setBefore(""); }}>
            <option value="">any outcome</option>
            <option>done</option>
            <option>refused</option>
            <option>failed</option>
          </select>
        </span>
      </div>
      {!mayAudit.value && <p class="quiet">The audit is for those who log in, and not for the role viewer alone.</p>}
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {data?.rows.length === 0 && <p class="quiet">No such row.</p>}
      {data && data.rows.length > 0 && (
        <div class="scroll">
          <table class="stacked">
            <thead><tr><th scope="col">No.</th><th scope="col">When</th><th scope="col">Who</th><th scope="col">From</th><th scope="col">What</th><th scope="col">On</th><th scope="col">Outcome</th><th scope="col">Detail</th></tr></thead>
            <tbody>
              {data.rows.map((row) => (
                <tr key={row.seq}>
                  <td class="first figure">{row.seq}</td>
                  <td class="figure" title={row.time}>{moment(row.time, now.value)}</td>
                  <td data-word="Who"><Text of={row.actor} max={80} /></td>
                  <td data-word="From"><Text of={row.source || "–"} max={60} /></td>
                  <td data-word="What"><Text of={row.action} max={60} /></td>
                  <td data-word="On"><Text of={row.target || "–"} max={120} /></td>
                  <td data-word="Outcome"><span class={`standing ${row.outcome}`}>{row.outcome}</span></td>
                  <td class="form"><code title={visible(JSON.stringify(row.detail).slice(0, 2000))}><Text of={JSON.stringify(row.detail)} max={160} /></code></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <p class="buttons">
        {before && <button type="button" onClick={() => setBefore("")}>Newest</button>}
        {data?.truncated && oldest !== undefined && <button type="button" onClick={() => setBefore(String(oldest))}>Older</button>}
      </p>
    </main>
  );
}
