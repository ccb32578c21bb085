// Runbooks: which could be run now and why not, who accepted them, when they were rehearsed; and the runs.
import { useEffect } from "preact/hooks";
import { decide } from "./deciding";
import { moment, since, span } from "./format";
import { Recovery, runbookHash, runHash, Standing } from "./run";
import { fetchAutomation, fetchRunbook, fetchRunbooks, fetchRuns, type Run, type Runbook, turnAutomation } from "./runbookdata";
import { may, now, seesAll, useAsked } from "./state";
import { Lines, Text } from "./text";

const RUNS_SHOWN = 20;
const WHYS_SHOWN = 3;
const RUNNING = ["operator", "approver"];

function readiness(book: Runbook): string {
  if (book.findings.some((one) => one.severity === "error")) return "broken";
  return book.ready === null ? "unknown" : book.ready ? "ready" : "not ready";
}

function Drilled({ book }: { book: Runbook }) {
  const overdue = book.drill_due !== null && Date.parse(book.drill_due) < now.value;
  return (
    <>
      {book.last_drill === null ? "never" : <><span class={book.last_drill_state === "succeeded" ? "" : "bad"}>{book.last_drill_state}</span> {since(book.last_drill, now.value)} ago</>}
      {overdue && <span class="bad">, overdue</span>}
    </>
  );
}

function Objective({ book }: { book: Runbook }) {
  if (book.rto_s === 0 && book.recovery_p90_s === null) return <>–</>;
  const over = book.recovery_p90_s !== null && book.rto_s > 0 && book.recovery_p90_s > book.rto_s;
  return (
    <>
      <span class={over ? "bad" : ""}>{book.recovery_p90_s === null ? "not known" : span(book.recovery_p90_s)}</span>
      {book.rto_s > 0 && <span class="facts"> of {span(book.rto_s)}</span>}
    </>
  );
}

const Accepted = ({ book }: { book: Runbook }) => (book.accepted_by ? <Text of={book.accepted_by} max={60} /> : <span class="bad">nobody</span>);

function Table({ list, chosen }: { list: Runbook[]; chosen: string | undefined }) {
  return (
    <div class="scroll">
      <table class="stacked backups runbooks">
        <thead>
          <tr>
            <th scope="col">Runbook</th>
            <th scope="col">State</th>
            <th scope="col">Accepted by</th>
            <th scope="col">Last drill</th>
            <th scope="col" class="wide">Recovery (p90)</th>
            <th scope="col" class="wide">Open runs</th>
          </tr>
        </thead>
        <tbody>
          {list.map((book) => (
            <tr key={book.name} class={book.name === chosen ? "chosen" : ""}>
              <td class="first">
                <a href={runbookHash(book.name)}><Text of={book.name} max={64} /></a>
                {book.about && <p class="facts"><Text of={book.about} max={160} /></p>}
              </td>
              <td data-word="State">
                <Standing of={readiness(book)} />
                {readiness(book) === "not ready" && book.not_ready.slice(0, WHYS_SHOWN).map((why) => <p key={why} class="facts why"><Text of={why} max={160} /></p>)}
                {book.breaker_open && <p class="facts why">breaker open: nothing starts it by itself</p>}
              </td>
              <td data-word="Accepted by"><Accepted book={book} /></td>
              <td data-word="Last drill"><Drilled book={book} /></td>
              <td data-word="Recovery" class="wide figure"><Objective book={book} /></td>
              <td data-word="Open runs" class="wide figure">{book.open_runs || "–"}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function RunTable({ runs }: { runs: Run[] }) {
  return (
    <div class="scroll">
      <table class="stacked runs">
        <thead>
          <tr>
            <th scope="col">Run</th>
            <th scope="col">State</th>
            <th scope="col">Began</th>
            <th scope="col" class="wide">Recovery</th>
            <th scope="col" class="wide">Reason</th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run) => (
            <tr key={run.id}>
              <td class="first">
                <a href={runHash(run.id)}><Text of={run.runbook} max={64} /></a>{run.drill && <> <span class="mark quietened">drill</span></>}
                <p class="facts">{run.id}</p>
              </td>
              <td data-word="State" class="form"><Standing of={run.state} />{run.state_detail && <p class="facts why"><Text of={run.state_detail} max={160} /></p>}</td>
              <td data-word="Began">{moment(run.created, now.value)} <span class="facts">by <Text of={run.requester} max={40} /></span></td>
              <td data-word="Recovery" class="wide"><Recovery run={run} /></td>
              <td data-word="Reason" class="form wide"><Text of={run.reason} max={120} /></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Body({ book, text }: { book: Runbook; text: string }) {
  const state = readiness(book);
  return (
    <>
      <h2><Text of={book.name} max={64} /> <Standing of={state} /></h2>
      {book.about && <p><Text of={book.about} max={500} /></p>}
      {state === "not ready" && (
        <div class="because"><h3>Why it could not be run now</h3><ul>{book.not_ready.map((why) => <li key={why}><Text of={why} max={600} /></li>)}</ul></div>
      )}
      {book.findings.length > 0 && (
        <ul class="findings">
          {book.findings.map((one) => (
            <li key={`${one.line} ${one.where} ${one.message}`} class={one.severity === "error" ? "bad" : ""}>
              <Text of={one.file} max={80} />{one.line > 0 && `:${one.line}`} <strong><Text of={one.where} max={80} /></strong> <Text of={one.message} max={600} />
            </li>
          ))}
        </ul>
      )}
      <dl class="factsheet">
        <dt>Accepted</dt>
        <dd>
          {book.accepted_by ? <>by <Text of={book.accepted_by} max={80} /> <span class="facts">{moment(book.accepted, now.value)}</span></> : <>by nobody: it runs as a drill alone. Somebody who did not write it types <code><Text of={`watchbill runbooks accept ${book.name}`} max={200} /></code></>}
        </dd>
        <dt>Recovery</dt>
        <dd><Objective book={book} />{book.recovery_p90_s !== null && <span class="facts"> (p90)</span>}</dd>
        <dt>Last drill</dt>
        <dd><Drilled book={book} />{book.drill_due !== null && <span class="facts">, next {moment(book.drill_due, now.value)}</span>}</dd>
        {book.trigger && (<><dt>Trigger</dt><dd><Text of={book.trigger} max={200} /> <span class="facts">{book.automatic ? "starts it" : "proposes it"}</span>{book.breaker_open && <span class="bad"> breaker open: <code><Text of={`watchbill runbooks reset-breaker ${book.name}`} max={200} /></code></span>}</dd></>)}
        <dt>Looked at</dt>
        <dd>{book.preflight === null ? "not yet" : `${since(book.preflight, now.value)} ago`}</dd>
        <dt>Text</dt>
        <dd><Text of={book.file} max={120} /> <code class="facts">{book.digest.slice(0, 16)}</code></dd>
        <dt>To run it</dt>
        <dd><code class="type"><Text of={`watchbill run ${book.name} --reason TEXT`} max={200} /></code></dd>
      </dl>
      <pre class="tail text"><Lines of={text} /></pre>
    </>
  );
}

function Drawer({ name }: { name: string }) {
  const { data, error } = useAsked(() => fetchRunbook(name), `runbook ${name}`);
  const runs = useAsked(() => fetchRuns({ runbook: name, limit: "5" }), `runs of ${name}`);
  useEffect(() => {
    const leave = (event: KeyboardEvent): void => {
      if (event.key === "Escape" && document.querySelector("dialog[open]") === null) location.hash = "#/runbooks";
    };
    document.addEventListener("keydown", leave);
    return () => document.removeEventListener("keydown", leave);
  }, []);
  return (
    <aside class="drawer card" aria-label="Runbook">
      <a class="close" href="#/runbooks">✕ <span class="facts">close</span></a>
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {data === undefined && !error && <p class="quiet">asking …</p>}
      {data && <Body book={data.runbook} text={data.text} />}
      {runs.data && runs.data.runs.length > 0 && (
        <>
          <h3>Last runs</h3>
          <ul class="lastruns">
            {runs.data.runs.map((run) => (
              <li key={run.id}><a href={runHash(run.id)}>{run.id}</a> <Standing of={run.state} /> <span class="facts">{moment(run.created, now.value)}</span></li>
            ))}
          </ul>
        </>
      )}
    </aside>
  );
}

function Paused() {
  const { data, again } = useAsked(fetchAutomation, "automation");
  if (data === undefined) return null;
  const offered = may(RUNNING) && seesAll.value;
  const turn = (word: "pause" | "resume"): void =>
    decide({
      title: word === "pause" ? "Pause automation" : "Resume automation",
      means: word === "pause" ? "No trigger starts anything and no run begins a step with an effect. What runs on hosts runs on." : "Triggers act again, and runs go on.",
      word: word === "pause" ? "Pause" : "Resume",
      vote: false,
      send: async (reason) => {
        await turnAutomation(word, reason);
        again();
      },
    });
  if (!data.paused) return offered ? <span class="right"><button type="button" onClick={() => turn("pause")}>Pause automation …</button></span> : null;
  return (
    <p class="trouble" role="status">
      <strong>Automation is paused</strong> by <Text of={data.by} max={80} />, {since(data.since, now.value)} ago: <Text of={data.reason} max={600} />{" "}
      {offered && <button type="button" onClick={() => turn("resume")}>Resume …</button>}
    </p>
  );
}

export function RunbooksPage({ name }: { name: string | undefined }) {
  const books = useAsked(fetchRunbooks, "runbooks");
  const runs = useAsked(() => fetchRuns({ limit: String(RUNS_SHOWN) }), "runs");
  return (
    <main class={name === undefined ? "split" : "split open"}>
      <div class="list">
        <div class="title">
          <h1>Runbooks</h1>
          <Paused />
        </div>
        {books.error && <p class="bad" role="alert"><Text of={books.error} /></p>}
        {books.data === undefined && !books.error && <p class="quiet">asking …</p>}
        {books.data?.length === 0 && <p class="quiet">There is no runbook. They are read from <code>runbooks.d/*.yaml</code> on the collector.</p>}
        {books.data && books.data.length > 0 && <Table list={books.data} chosen={name} />}
        {runs.data && runs.data.runs.length > 0 && (
          <section>
            <h2>Runs</h2>
            <RunTable runs={runs.data.runs} />
            {runs.data.truncated && <p class="facts">and older ones: <code>watchbill runs --limit 1000</code></p>}
          </section>
        )}
      </div>
      {name !== undefined && <Drawer key={name} name={name} />}
    </main>
  );
}
