// Backups: how each stands and in which word, and for one of them why, what to do, and what happened.
import { useEffect, useRef, useState } from "preact/hooks";
import {
  type Backup, type BackupDetail, type BackupEntry, exemptBackup, fetchBackup, fetchBackups, fetchUncovered, pauseBackup, resumeBackup, reviewBackup,
  type Uncovered, verifyBackup, type VerifyRequest,
} from "./api";
import { hostHash, serviceHash } from "./alerts";
import { Chart } from "./chart";
import { bytes, duration, moment, seconds, since, span } from "./format";
import { may, now, useAsked } from "./state";
import { Lines, Text } from "./text";

const ROWS_MAX = 500;
const RUNS_SHOWN = 30;
const ENTRIES_SHOWN = 40;
const BARE_SHOWN = 100;
const CHART_S = 7 * 86_400;
const OPERATING = ["operator", "approver", "admin"];

export const backupHash = (id: string): string => `#/backups/${encodeURIComponent(id)}`;

const Word = ({ of }: { of: string }) => <span class={`word ${of}`}>{of}</span>;

/** How old what can be restored is, and how much of what it may be that is. */
function Age({ point, rpo }: { point: string | null; rpo: number }) {
  if (point === null) return <>nothing</>;
  const age = (now.value - Date.parse(point)) / 1000;
  return (
    <span class={rpo > 0 && age > rpo ? "bad" : ""} title={moment(point, now.value)}>
      {age < 0 ? "in the future" : `${duration(age)} old`}
      {rpo > 0 && <span class="facts"> of {span(rpo)}</span>}
    </span>
  );
}

function LastRun({ run }: { run: BackupEntry | null }) {
  if (run === null) return <>–</>;
  return (
    <>
      <span class={`standing ${run.outcome}`}>{run.outcome}</span> {since(run.at, now.value)} ago
      {run.duration_s !== null && <span class="facts"> in {duration(run.duration_s)}</span>}
    </>
  );
}

function Table({ list, chosen }: { list: Backup[]; chosen: string | undefined }) {
  return (
    <div class="scroll">
      <table class="stacked backups">
        <thead>
          <tr>
            <th scope="col">Backup</th>
            <th scope="col">State</th>
            <th scope="col">Restorable</th>
            <th scope="col">Last run</th>
            <th scope="col" class="wide">Proven</th>
            <th scope="col" class="wide">Size</th>
            <th scope="col" class="wide">Service</th>
          </tr>
        </thead>
        <tbody>
          {list.map((job) => (
            <tr key={job.id} class={job.id === chosen ? "chosen" : ""}>
              <td class="first">
                <a href={backupHash(job.id)}><Text of={job.name} max={64} /></a>
                <p class="facts">on <a href={hostHash(job.host)}><Text of={job.host} max={60} /></a></p>
              </td>
              <td data-word="State">
                <Word of={job.word} />
                {job.why && job.word !== "OK" && <p class="facts why"><Text of={job.why} max={160} /></p>}
              </td>
              <td data-word="Restorable"><Age point={job.point} rpo={job.rpo_s} /></td>
              <td data-word="Last run"><LastRun run={job.last_run} /></td>
              <td data-word="Proven" class="wide">{job.verified_point === null ? "nothing" : `${since(job.verified_point, now.value)} old`}</td>
              <td data-word="Size" class="wide figure">{bytes(job.size_bytes)}</td>
              <td data-word="Service" class="wide">{job.service ? <a href={serviceHash(job.service)}><Text of={job.service} max={40} /></a> : "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Runs as a row of blocks, the oldest first. */
function Strip({ runs }: { runs: BackupEntry[] }) {
  const shown = runs.slice(0, RUNS_SHOWN).reverse();
  return (
    <ol class="strip" aria-label="Last runs, the oldest first">
      {shown.map((run) => (
        <li key={run.id} class={run.outcome} title={`${moment(run.started ?? run.at, now.value)}: ${run.outcome}${run.duration_s === null ? "" : ` after ${duration(run.duration_s)}`}`}>
          <span class="unseen">{run.outcome}</span>
        </li>
      ))}
    </ol>
  );
}

/** What a run or an observation says of itself. */
function Said({ entry }: { entry: BackupEntry }) {
  const parts: string[] = [];
  if (entry.reason) parts.push(entry.reason);
  parts.push(...entry.errors.slice(0, 2));
  if (entry.verify !== null) parts.push(`${entry.verify.level} ${entry.verify.ok ? "holds" : `fails: ${entry.verify.bad} bad`}${entry.verify.fraction < 1 ? ` (${+(entry.verify.fraction * 100).toPrecision(3)} % looked at)` : ""}`);
  if (entry.exit_code !== null && entry.exit_code !== 0) parts.push(`code ${entry.exit_code}`);
  if (entry.signal !== null) parts.push(`signal ${entry.signal}`);
  if (entry.snapshots !== null) parts.push(entry.snapshots === 1 ? "1 snapshot" : `${entry.snapshots} snapshots`);
  if (entry.bytes_source !== null) parts.push(`${bytes(entry.bytes_source)} read`);
  if (entry.files !== null) parts.push(`${entry.files} files`);
  if (entry.copy) parts.push(`copy ${entry.copy}`);
  return <Text of={parts.join("; ") || "–"} max={300} />;
}

interface Happened {
  at: string;
  what: string;
  how: string;
  said: preact.ComponentChildren;
  key: string;
}

/** What a host says to a request. */
function answered(request: VerifyRequest): string {
  const what = [request.level, request.copy && `of copy ${request.copy}`].filter(Boolean).join(" ");
  if (request.answer === "refused") return `${request.host} does not verify it: ${request.why} (${request.reason})`;
  if (request.answer === "begun") return `${request.host} verifies it now: ${what}`;
  return `${request.host} was asked and has not answered yet`;
}

function happened({ history }: BackupDetail): Happened[] {
  const rows: Happened[] = [
    ...history.entries.map((entry) => ({
      at: entry.at, what: entry.kind, how: entry.outcome, said: <Said entry={entry} />, key: entry.id,
    })),
    ...history.changes.map((change) => ({
      at: change.at, what: "word", how: change.after, key: `word ${change.at} ${change.after}`,
      said: <>was {change.before || "not known"}{change.why && <>: <Text of={change.why} max={300} /></>}</>,
    })),
    ...history.reviews.map((review) => ({
      at: review.at, what: "review", how: review.word, key: `review ${review.at}`,
      said: <><strong><Text of={review.by} max={80} /></strong>: <Text of={review.note} max={600} /></>,
    })),
    ...history.asked.map((request) => ({
      at: request.at, what: "asked", how: request.answer, key: `asked ${request.id}`,
      said: <><strong><Text of={request.by} max={80} /></strong>: verify{request.level && <> <Text of={request.level} max={20} /></>}{request.reason && <>; <Text of={`${request.reason}: ${request.why}`} max={300} /></>}</>,
    })),
  ];
  return rows.sort((a, b) => Date.parse(b.at) - Date.parse(a.at));
}

function Timeline({ detail }: { detail: BackupDetail }) {
  const rows = happened(detail);
  return (
    <section>
      <h3>What happened</h3>
      {rows.length === 0 && <p class="quiet">Nothing was told of it yet.</p>}
      <ol class="timeline">
        {rows.slice(0, ENTRIES_SHOWN).map((row) => (
          <li key={row.key} class={row.how}>
            <span class="facts figure">{moment(row.at, now.value)}</span>
            <span><strong>{row.what}</strong> <span class={row.what === "word" || row.what === "review" ? `word ${row.how}` : `standing ${row.how}`}>{row.how}</span></span>
            <span class="said">{row.said}</span>
          </li>
        ))}
      </ol>
      {(rows.length > ENTRIES_SHOWN || detail.history.truncated) && <p class="facts">and older ones: <code>watchbill backups show {detail.backup.id}</code></p>}
    </section>
  );
}

function Doing({ detail, done }: { detail: BackupDetail; done: () => void }) {
  const [what, setWhat] = useState<"" | "review" | "pause">("");
  const [text, setText] = useState("");
  const [howLong, setHowLong] = useState("1d");
  const [problem, setProblem] = useState("");
  const [answer, setAnswer] = useState("");
  const { backup } = detail;
  const long = seconds(howLong);
  const act = async (work: () => Promise<unknown>): Promise<void> => {
    try {
      await work();
      setWhat("");
      setText("");
      setProblem("");
      done();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
  };
  const send = (): Promise<void> =>
    act(() => (what === "review" ? reviewBackup(backup.id, text) : pauseBackup(backup.id, long ?? 0, text)));
  return (
    <section class="doing">
      {problem && <p class="bad" role="alert"><Text of={problem} /></p>}
      {answer && <p role="status"><Text of={answer} max={400} /></p>}
      {what === "" ? (
        <span class="buttons">
          <button type="button" onClick={() => setWhat("review")}>Review …</button>
          <button type="button" title="have its host prove what is due first" onClick={() => void act(async () => setAnswer(answered(await verifyBackup(backup.id, ""))))}>Verify now</button>
          {backup.paused === null ? (
            <button type="button" onClick={() => setWhat("pause")}>Pause …</button>
          ) : (
            <button type="button" onClick={() => void act(() => resumeBackup(backup.id))}>Resume</button>
          )}
        </span>
      ) : (
        <form onSubmit={(event) => { event.preventDefault(); void send(); }}>
          {what === "pause" && (
            <label>Pause for <input value={howLong} size={6} onInput={(event) => setHowLong(event.currentTarget.value)} /> {long === undefined && <span class="bad">a duration such as 2d</span>}</label>
          )}
          <label>
            {what === "review" ? "What you found" : "Why"}
            <textarea rows={2} value={text} onInput={(event) => setText(event.currentTarget.value)} />
          </label>
          <span class="buttons">
            <button type="submit" class="main" disabled={!text.trim() || (what === "pause" && long === undefined)}>{what === "review" ? "Sign" : "Pause"}</button>
            <button type="button" onClick={() => setWhat("")}>Cancel</button>
          </span>
        </form>
      )}
    </section>
  );
}

function schedule({ history }: BackupDetail): string {
  const { cron, calendar, every_s, zone } = history.definition.schedule;
  if (every_s > 0) return `every ${span(every_s)}`;
  return cron || calendar ? `${cron || calendar} (${zone})` : "none: its age alone counts";
}

/** Never rounded up to the whole: 100 % are 100 %. */
const share = (kept: number): string => (kept >= 1 ? "100 %" : `${(Math.floor(kept * 100_000) / 1_000).toString()} %`);

const budget = (rpo: { objective: number; left_s: number }): string =>
  `wanted ${share(rpo.objective)}: budget ${rpo.left_s >= 0 ? `of ${span(rpo.left_s)} left` : `overspent by ${span(-rpo.left_s)}`}`;

function Facts({ detail }: { detail: BackupDetail }) {
  const { backup, history } = detail;
  const { definition } = history;
  const version = history.entries.find((entry) => entry.tool_version)?.tool_version;
  return (
    <dl class="factsheet">
      <dt>Host</dt>
      <dd><a href={hostHash(backup.host)}><Text of={backup.host} max={80} /></a></dd>
      {backup.service && (<><dt>Service</dt><dd><a href={serviceHash(backup.service)}><Text of={backup.service} max={80} /></a></dd></>)}
      <dt>Restorable to</dt>
      <dd>{moment(backup.point, now.value)} <span class="facts">(<Age point={backup.point} rpo={backup.rpo_s} />)</span></dd>
      <dt>Proven to</dt>
      <dd>{backup.verified_point === null ? "nothing yet" : moment(backup.verified_point, now.value)}</dd>
      {detail.rpo && detail.rpo.kept !== null && (
        <>
          <dt>RPO kept</dt>
          <dd>{share(detail.rpo.kept)} of 30 days <span class="facts">{budget(detail.rpo)}</span></dd>
        </>
      )}
      <dt>Last run</dt>
      <dd><LastRun run={backup.last_run} /></dd>
      <dt>Next run</dt>
      <dd>{history.due === null ? "–" : moment(history.due, now.value)} <span class="facts"><Text of={schedule(detail)} max={120} /></span></dd>
      <dt>Tool</dt>
      <dd><Text of={backup.tool || "–"} max={60} />{version && <span class="facts"> <Text of={version} max={60} /></span>}</dd>
      <dt>Size</dt>
      <dd>{bytes(backup.size_bytes)}{backup.snapshots !== null && <span class="facts"> in {backup.snapshots === 1 ? "1 snapshot" : `${backup.snapshots} snapshots`}</span>}</dd>
      {definition.copies.length > 0 && (
        <>
          <dt>Copies</dt>
          <dd><Text of={definition.copies.map((copy) => [copy.name, copy.location, copy.media, copy.immutable ? "immutable" : ""].filter(Boolean).join(" ")).join(", ")} /></dd>
        </>
      )}
      {backup.paused && (<><dt>Paused</dt><dd>until {moment(backup.paused.until, now.value)} by <Text of={backup.paused.by} max={80} />: <Text of={backup.paused.reason} max={600} /></dd></>)}
      {backup.reviewed && (<><dt>Reviewed</dt><dd>{moment(backup.reviewed.at, now.value)} by <Text of={backup.reviewed.by} max={80} />: <Text of={backup.reviewed.note} max={600} /></dd></>)}
    </dl>
  );
}

function Body({ detail, done }: { detail: BackupDetail; done: () => void }) {
  const { backup } = detail;
  const on = `instance=${JSON.stringify(backup.host)},backup=${JSON.stringify(backup.name)}`;
  const tail = detail.runs[0]?.tail ?? "";
  return (
    <>
      <h2><Text of={backup.name} max={64} /> <Word of={backup.word} /></h2>
      <p class="facts">
        {backup.severity && <>{backup.severity} · </>}{backup.since !== null && <>for {since(backup.since, now.value)} · </>}{backup.id}
      </p>
      {backup.why && <p class="because"><Text of={backup.why} max={1000} /></p>}
      {backup.advice && (<div class="todo"><h3>What to do</h3><p><Text of={backup.advice} max={1000} /></p></div>)}
      {detail.yours && <Doing detail={detail} done={done} />}
      {backup.facets.length > 0 && (
        <table class="facets">
          <thead class="unseen"><tr><th scope="col">Side</th><th scope="col">Level</th><th scope="col">In words</th></tr></thead>
          <tbody>
            {backup.facets.map((facet) => (
              <tr key={facet.name}>
                <th scope="row">{facet.name}</th>
                <td><span class={`standing ${facet.level}`}>{facet.level}</span></td>
                <td><Text of={facet.text || facet.reason || "–"} max={300} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {detail.runs.length > 0 && <Strip runs={detail.runs} />}
      <Facts detail={detail} />
      <Chart
        seconds={CHART_S}
        spec={{
          title: "How old what can be restored is", unit: " h", labels: ["backup"], query: `watchbill_backup_rpo_seconds{${on}} / 3600`,
          limits: backup.rpo_s > 0 ? [{ value: backup.rpo_s / 3600, text: `wanted within ${span(backup.rpo_s)}`, clears: false }] : [],
        }}
      />
      <Timeline detail={detail} />
      {tail && (<section><h3>What the last run printed</h3><pre class="tail"><Lines of={tail} /></pre></section>)}
    </>
  );
}

function Drawer({ id, done }: { id: string; done: () => void }) {
  const { data, error, again } = useAsked(() => fetchBackup(id), `backup ${id}`);
  useEffect(() => {
    const leave = (event: KeyboardEvent): void => {
      if (event.key === "Escape" && !/^(INPUT|TEXTAREA)$/.test((event.target as HTMLElement).tagName)) location.hash = "#/backups";
    };
    document.addEventListener("keydown", leave);
    return () => document.removeEventListener("keydown", leave);
  }, []);
  return (
    <aside class="drawer card" aria-label="Backup">
      <a class="close" href="#/backups">✕ <span class="facts">close</span></a>
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {data === undefined && !error && <p class="quiet">asking …</p>}
      {data && <Body key={id} detail={data} done={() => { again(); done(); }} />}
    </aside>
  );
}

function Exempt({ kind, name, done }: { kind: "host" | "service"; name: string; done: () => void }) {
  const [open, setOpen] = useState(false);
  const [owner, setOwner] = useState("");
  const [reason, setReason] = useState("");
  const [howLong, setHowLong] = useState("180d");
  const [problem, setProblem] = useState("");
  const long = seconds(howLong);
  const send = async (): Promise<void> => {
    try {
      await exemptBackup(kind, name, owner, reason, long ?? 0);
      done();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
  };
  if (!open) return <button type="button" onClick={() => setOpen(true)}>It needs none …</button>;
  return (
    <form class="exempt" onSubmit={(event) => { event.preventDefault(); void send(); }}>
      <label>Owner <input value={owner} onInput={(event) => setOwner(event.currentTarget.value)} /></label>
      <label>Why <input value={reason} onInput={(event) => setReason(event.currentTarget.value)} /></label>
      <label>For <input size={6} value={howLong} onInput={(event) => setHowLong(event.currentTarget.value)} /></label>
      <button type="submit" class="main" disabled={!owner.trim() || !reason.trim() || long === undefined}>Exempt</button>
      {problem && <p class="bad" role="alert"><Text of={problem} /></p>}
    </form>
  );
}

function Bare({ of, done }: { of: Uncovered; done: () => void }) {
  const count = of.hosts.length + of.services.length;
  const [open, setOpen] = useState(false);
  const offered = may(OPERATING);
  return (
    <section>
      <h2>
        <button type="button" class="plain" aria-expanded={open} onClick={() => setOpen(!open)}>
          {open ? "▾" : "▸"} Without a backup ({count})
        </button>
      </h2>
      <p class="facts">{of.hosts.length} of {of.hosts_total} hosts, {of.services.length} of {of.services_total} services{of.exempt > 0 && <>; {of.exempt} exempt: <code>watchbill backups exemptions</code></>}</p>
      {open && (
        <ul class="alerts">
          {of.services.slice(0, BARE_SHOWN).map((service) => (
            <li key={`s ${service.name}`} class="channel">
              <div class="what">
                service <a href={serviceHash(service.name)}><Text of={service.name} max={80} /></a>{service.owner && <span class="facts"> of <Text of={service.owner} max={60} /></span>}
                <p class="facts">{service.missing.length > 0 ? <>no host has <Text of={service.missing.join(", ")} max={200} /></> : "no backup names it"}</p>
              </div>
              {offered && <span class="do"><Exempt kind="service" name={service.name} done={done} /></span>}
            </li>
          ))}
          {of.hosts.slice(0, BARE_SHOWN).map((host) => (
            <li key={`h ${host.name}`} class="channel">
              <div class="what">
                host <a href={hostHash(host.name)}><Text of={host.name} max={80} /></a> <span class={`state ${host.state}`}>{host.state}</span>
                {host.services.length > 0 && <p class="facts">serves <Text of={host.services.join(", ")} max={200} /></p>}
              </div>
              {offered && <span class="do"><Exempt kind="host" name={host.name} done={done} /></span>}
            </li>
          ))}
          {count > 2 * BARE_SHOWN && <li class="facts more">and more: <code>watchbill backups --uncovered</code></li>}
        </ul>
      )}
    </section>
  );
}

const CHIPS_MAX = 50;

/** The backups of one host or service, the worst first, where there are any. */
export function BackupsOf({ host, service }: { host?: string; service?: string }) {
  const narrow: Record<string, string> = host === undefined ? { service: service ?? "" } : { host };
  const { data } = useAsked(() => fetchBackups({ ...narrow, limit: String(CHIPS_MAX) }), `backups of ${host ?? ""} ${service ?? ""}`);
  if (data === undefined || data.backups.length === 0) return null;
  const of = `{service=${JSON.stringify(service)}} / 3600`;
  return (
    <section>
      <h2>Backups</h2>
      <ul class="chips">
        {data.backups.map((job) => (
          <li key={job.id}>
            <a href={backupHash(job.id)}><Text of={job.name} max={64} /></a>{host === undefined && <span class="facts"> on <Text of={job.host} max={40} /></span>} <Word of={job.word} />
          </li>
        ))}
      </ul>
      {data.total > data.backups.length && <p class="facts">and {data.total - data.backups.length} more</p>}
      {service !== undefined && (
        <Chart
          seconds={CHART_S}
          spec={{
            title: "How old what can be restored of all of it is", unit: " h", labels: ["service"],
            query: `watchbill_backup_service_rpo_seconds${of}`, against: `watchbill_backup_service_rpo_objective_seconds${of}`,
          }}
        />
      )}
    </section>
  );
}

export function BackupsPage({ id }: { id: string | undefined }) {
  const [word, setWord] = useState("");
  const [filter, setFilter] = useState("");
  const said = filter.trim();
  const params: Record<string, string> = { limit: String(ROWS_MAX), ...(word ? { word } : {}), ...(said ? { words: said } : {}) };
  const asked = useAsked(() => fetchBackups(params), `backups ${word} ${said}`);
  const { error, again } = asked;
  // What was asked before stays until the answer is there: words to choose from do not come and go.
  const last = useRef(asked.data);
  if (asked.data !== undefined) last.current = asked.data;
  const data = last.current;
  const bare = useAsked(fetchUncovered, "uncovered");
  const words = Object.entries(data?.words ?? {});
  return (
    <main class={id === undefined ? "split" : "split open"}>
      <div class="list">
        <div class="title">
          <h1>Backups</h1>
          <input type="search" placeholder="filter: name, host, service, why" aria-label="Filter backups" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
        </div>
        {words.length > 0 && (
          <p class="words" role="group" aria-label="Words">
            {words.map(([name, count]) => (
              <button key={name} type="button" class={`word ${name}`} aria-pressed={word === name} onClick={() => setWord(word === name ? "" : name)}>{name} {count}</button>
            ))}
          </p>
        )}
        {error && <p class="bad" role="alert"><Text of={error} /></p>}
        {data === undefined && !error && <p class="quiet">asking …</p>}
        {data?.backups.length === 0 && (
          <p class="quiet">{word || said ? "No backup is like that." : <>No host has told of a backup yet. Describe them in <code>backups.d/*.toml</code> on the host.</>}</p>
        )}
        {data && data.backups.length > 0 && <Table list={data.backups} chosen={id} />}
        {data && data.total > data.backups.length && <p class="facts">and {data.total - data.backups.length} more: filter, or <code>watchbill backups</code></p>}
        {bare.data && <Bare of={bare.data} done={bare.again} />}
      </div>
      {id !== undefined && <Drawer key={id} id={id} done={again} />}
    </main>
  );
}
