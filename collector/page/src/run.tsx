// One run: how it stands, its steps from top to bottom with who agreed and what was printed, and what a person can do.
import { useEffect, useRef, useState } from "preact/hooks";
import { hostHash } from "./alerts";
import { decide } from "./deciding";
import { duration, moment, since, span } from "./format";
import { approveGate, type Attempt, changeRun, fetchJournal, fetchRun, fetchRuns, type JournalRow, type Run, type Step, type Verb } from "./runbookdata";
import { may, me, now, useAsked } from "./state";
import { Lines, Text } from "./text";

const RUNNING = ["operator", "approver"];
const APPROVING = ["approver"];
const ENDED = ["succeeded", "failed", "undone", "cancelled", "expired"];
const HOSTS_SHOWN = 40;
const JOURNAL_SHOWN = 300;
const OPEN_SHOWN = 8;

export const runHash = (id: string): string => `#/runs/${encodeURIComponent(id)}`;
export const runbookHash = (name: string): string => `#/runbooks/${encodeURIComponent(name)}`;

export const Standing = ({ of }: { of: string }) => <span class={`standing ${of.replaceAll(" ", "-")}`}>{of}</span>;

/** An argv as a shell would need it: where one element ends is to be seen. */
export const quoted = (argv: string[]): string =>
  argv.map((part) => (/^[\w@%+=:,./-]+$/.test(part) ? part : `'${part.replaceAll("'", `'"'"'`)}'`)).join(" ");

/** The recovery clock against what was promised. */
export function Recovery({ run, meter = false }: { run: Run; meter?: boolean }) {
  const passed = run.recovery_s ?? ((run.ended === null ? now.value : Date.parse(run.ended)) - Date.parse(run.created)) / 1000;
  const over = run.rto_s > 0 && passed > run.rto_s;
  const words = run.recovery_s !== null ? `recovered in ${span(Math.max(0, passed))}` : run.ended === null ? `${span(Math.max(0, passed))} so far` : "not recovered";
  return (
    <span class={over ? "clock bad" : "clock"}>
      {meter && run.rto_s > 0 && <meter class={over ? "high" : passed > 0.8 * run.rto_s ? "raised" : ""} min={0} max={run.rto_s} value={Math.min(passed, run.rto_s)} aria-label="Share of the promised recovery time" />}
      <span class="figure">{words}{run.rto_s > 0 && <> of {span(run.rto_s)}</>}{over && run.ended === null && ", too late"}</span>
    </span>
  );
}

const MEANING: Record<Verb, string> = {
  retry: "The step is tried once more, as a new attempt.",
  skip: "The run goes on without this step.",
  "mark-done": "You say that it has happened: you looked. The run goes on after it.",
  undo: "What was done is undone, the last step first.",
  abort: "The run ends where it is. Nothing is undone.",
  start: "What was proposed begins.",
};

function Verbs({ run, done }: { run: Run; done: () => void }) {
  if (!may(RUNNING) || ENDED.includes(run.state)) return null;
  const held = run.steps.find((step) => step.state === "held" || step.state === "unknown");
  const verbs: Verb[] = run.state === "proposed" ? ["start", "abort"] : run.state === "held" ? ["retry", "skip", "mark-done", "undo", "abort"] : ["abort"];
  const open = (verb: Verb): void =>
    decide({
      title: `${verb} ${run.id}${held === undefined || verb === "abort" || verb === "undo" ? "" : `: ${held.id}`}`,
      means: MEANING[verb],
      word: verb,
      vote: false,
      send: async (reason) => {
        await changeRun(run.id, verb, "", reason);
        done();
      },
    });
  return (
    <span class="buttons verbs">
      {verbs.map((verb) => (
        <button key={verb} type="button" class={verb === "retry" || verb === "start" ? "main" : ""} onClick={() => open(verb)}>{verb} …</button>
      ))}
    </span>
  );
}

interface Effect {
  step: string;
  host: string;
  action: string;
  arguments: Record<string, unknown>;
  /** How often it may begin; 0: it only looks, 1 in manifests that do not say. */
  times?: number;
}

/** What would be done behind a gate; none where it cannot be read. */
function effects(manifest: string): Effect[] {
  try {
    return (JSON.parse(manifest) as { effects: Effect[] }).effects;
  } catch {
    return [];
  }
}

function Gate({ run, step, done }: { run: Run; step: Step; done: () => void }) {
  if (step.state !== "waiting") return null;
  const behind = effects(step.manifest);
  const own = me.value?.name === run.requester;
  const vote = (yes: boolean): void =>
    decide({
      title: `${yes ? "Agree to" : "Say no to"} ${run.runbook}: ${step.id}`,
      means: yes ? `You agree to what ${run.id} wants to do after this gate.` : "One no is enough: the run does not go on by itself.",
      word: yes ? "Agree" : "Say no",
      vote: true,
      send: async (comment, token) => {
        await approveGate(run.id, step.id, yes, comment, token);
        done();
      },
    });
  return (
    <div class="gate">
      {step.gate_expires && <p>Ends {moment(step.gate_expires, now.value)}.</p>}
      {behind.length > 0 && (
        <ul>
          {behind.slice(0, HOSTS_SHOWN).map((one, at) => (
            <li key={at}>
              <code><Text of={one.action} max={80} /></code> on <Text of={one.host} max={80} />
              {Object.entries(one.arguments).map(([name, value]) => (
                <span key={name} class="facts"> <Text of={`${name}=${JSON.stringify(value)}`} max={300} /></span>
              ))}
              {(one.times ?? 1) > 1 && <span class="facts"> up to {one.times} times</span>}
            </li>
          ))}
          {behind.length > HOSTS_SHOWN && <li class="facts">and {behind.length - HOSTS_SHOWN} more</li>}
        </ul>
      )}
      {step.verified_on_host ? (
        <p>
          Hosts look at the signatures themselves. Who may agree types:<br />
          <code class="type"><Text of={`watchbill approve ${run.id} ${step.id}`} max={300} /></code>
        </p>
      ) : own ? (
        <p class="facts">You asked for this run: somebody else has to agree.</p>
      ) : may(APPROVING) ? (
        <span class="buttons">
          <button type="button" class="main" onClick={() => vote(true)}>Agree …</button>
          <button type="button" onClick={() => vote(false)}>Say no …</button>
        </span>
      ) : (
        <p class="facts">An approver has to agree, here or with <code>watchbill approve</code>.</p>
      )}
    </div>
  );
}

/** What was printed, at its end: that is where it says why. */
function Output({ of, bad = false }: { of: string; bad?: boolean }) {
  const box = useRef<HTMLPreElement>(null);
  useEffect(() => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [of]);
  return <pre class={bad ? "tail bad" : "tail"} ref={box} tabIndex={0}><Lines of={of} /></pre>;
}

function AttemptRow({ attempt }: { attempt: Attempt }) {
  const ended = attempt.outcome || attempt.state;
  const bad = attempt.state === "unknown" || !["", "ok"].includes(attempt.outcome);
  const took = attempt.started !== null && attempt.ended !== null ? (Date.parse(attempt.ended) - Date.parse(attempt.started)) / 1000 : null;
  return (
    <details open={bad}>
      <summary>
        <Standing of={ended} /> <a href={hostHash(attempt.host)}><Text of={attempt.host} max={80} /></a>
        <span class="facts">
          {attempt.purpose !== "step" && attempt.purpose && <> {attempt.purpose}</>}
          {attempt.attempt > 1 && <>, attempt {attempt.attempt}</>}
          {attempt.exit_code !== null && attempt.exit_code !== 0 && <>, code {attempt.exit_code}</>}
          {took !== null && <>, {duration(took)}</>}
        </span>
        {attempt.detail && <>: <Text of={attempt.detail} max={400} /></>}
      </summary>
      {attempt.argv.length > 0 && <pre class="argv"><Lines of={quoted(attempt.argv)} /></pre>}
      {attempt.output && <Output of={attempt.output} />}
      {attempt.errors && <Output of={attempt.errors} bad />}
    </details>
  );
}

function StepRow({ run, step, done }: { run: Run; step: Step; done: () => void }) {
  const agreed = step.votes.filter((vote) => vote.approve && vote.counted).length;
  return (
    <li class={`step ${step.state}`}>
      <p class="stephead">
        <strong><Text of={step.id} max={80} /></strong> <Standing of={step.state} />
        <span class="facts">
          {step.kind === "approve" ? <> {agreed} of {step.needed} of <Text of={step.role} max={60} /> have agreed</> : <> {step.kind}</>}
          {step.started !== null && <>, {moment(step.started, now.value)}</>}
        </span>
      </p>
      {step.detail && !(step.kind === "approve" && step.state === "ok") && <p class="facts"><Text of={step.detail} max={600} /></p>}
      {step.votes.map((vote) => (
        <p key={vote.person + vote.at} class="facts">
          <strong><Text of={vote.person} max={80} /></strong> {vote.approve ? "agreed" : "said no"} {moment(vote.at, now.value)}
          {!vote.counted && <span class="bad">, not counted: <Text of={vote.why_not} max={300} /></span>}
          {vote.comment && <>: <Text of={vote.comment} max={500} /></>}
        </p>
      ))}
      {step.kind === "approve" && <Gate run={run} step={step} done={done} />}
      {step.attempts.slice(0, HOSTS_SHOWN).map((attempt) => <AttemptRow key={`${attempt.key}${attempt.attempt}`} attempt={attempt} />)}
      {step.attempts.length > HOSTS_SHOWN && <p class="facts">and {step.attempts.length - HOSTS_SHOWN} more: <code>watchbill runs show {run.id} --output</code></p>}
    </li>
  );
}

/** For programs: they read the journal itself. */
const NOISE = ["agent", "boot", "covers", "digest", "host_ms", "hosts", "key", "ledger", "manifest", "phase", "signed", "targets"];

function said(row: JournalRow): string {
  return Object.entries(row.detail).filter(([name]) => !NOISE.includes(name)).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`).join(" ");
}

/** What came of a command is told by its key alone: its intent says where it belongs. */
function placed(rows: JournalRow[]): JournalRow[] {
  const places = new Map<unknown, { step: string; host: string }>();
  return rows.map((row) => {
    const { key } = row.detail;
    if (key === undefined) return row;
    if (row.step) places.set(key, { step: row.step, host: row.host });
    return { ...row, ...(row.step ? {} : places.get(key)) };
  });
}

function Rows({ id }: { id: string }) {
  const { data, error } = useAsked(() => fetchJournal(id), `journal ${id}`);
  if (error) return <p class="bad" role="alert"><Text of={error} /></p>;
  if (data === undefined) return <p class="quiet">asking …</p>;
  return (
    <ol class="timeline journal">
      {placed(data).slice(-JOURNAL_SHOWN).map((row) => (
        <li key={row.n}>
          <span class="facts figure">{row.n} · {moment(row.at, now.value)}</span>
          <span><strong><Text of={row.kind} max={40} /></strong> <Text of={row.step} max={80} /></span>
          <span class="said">{row.actor && <strong><Text of={row.actor} max={80} /> </strong>}{row.host && <><Text of={row.host} max={80} /> </>}<span class="facts"><Text of={said(row)} max={400} /></span></span>
        </li>
      ))}
    </ol>
  );
}

function Journal({ id }: { id: string }) {
  const [open, setOpen] = useState(false);
  return (
    <section>
      <h2><button type="button" class="plain" aria-expanded={open} onClick={() => setOpen(!open)}>{open ? "▾" : "▸"} Journal</button></h2>
      {open && <Rows id={id} />}
    </section>
  );
}

/** What is under way or waits for somebody, for the first screen. */
export function OpenRuns() {
  const { data } = useAsked(() => fetchRuns({ open: "1", limit: String(OPEN_SHOWN) }), "open runs");
  if (data === undefined || data.runs.length === 0) return null;
  return (
    <section>
      <h2>Runs</h2>
      <ul class="openruns">
        {data.runs.map((run) => (
          <li key={run.id}>
            <a href={runHash(run.id)}><Text of={run.runbook} max={64} /></a>{run.drill && <> <span class="mark quietened">drill</span></>} <Standing of={run.state} />{" "}
            <Text of={run.state_detail} max={160} /> <span class="facts">by <Text of={run.requester} max={40} />, <Recovery run={run} /></span>
          </li>
        ))}
        {data.truncated && <li><a href="#/runbooks">and more</a></li>}
      </ul>
    </section>
  );
}

function Facts({ run }: { run: Run }) {
  const parameters = Object.entries(run.parameters);
  return (
    <dl class="factsheet">
      <dt>Asked by</dt>
      <dd><strong><Text of={run.requester} max={80} /></strong> {moment(run.created, now.value)} <span class="facts">({since(run.created, now.value)} ago)</span></dd>
      <dt>Reason</dt>
      <dd><Text of={run.reason} max={2000} /></dd>
      {run.trigger && (<><dt>Trigger</dt><dd><Text of={run.trigger} max={200} /></dd></>)}
      <dt>Recovery</dt>
      <dd><Recovery run={run} meter /></dd>
      {parameters.length > 0 && (<><dt>Parameters</dt><dd>{parameters.map(([name, value]) => <span key={name} class="parameter"><Text of={`${name}=${value}`} max={200} /> </span>)}</dd></>)}
      {run.lock && (<><dt>Lock</dt><dd><Text of={run.lock} max={200} /></dd></>)}
      <dt>Text</dt>
      <dd><a href={runbookHash(run.runbook)}><Text of={run.runbook} max={80} /></a> <code class="facts">{run.digest.slice(0, 16)}</code></dd>
    </dl>
  );
}

export function RunPage({ id }: { id: string }) {
  const { data, error, again } = useAsked(() => fetchRun(id), `run ${id}`);
  return (
    <main>
      <p class="kicker"><a href="#/runbooks">Runbooks</a></p>
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {data === undefined && !error && <p class="quiet">asking …</p>}
      {data && (
        <>
          <div class={`card run ${data.state}`}>
            <h1><Text of={data.runbook} max={80} />{data.drill && <> <span class="mark quietened">drill</span></>} <Standing of={data.state} /></h1>
            <p class="kicker facts">{data.id}</p>
            {data.state_detail && <p class="because" role="status"><Text of={data.state_detail} max={1000} /></p>}
            <Verbs run={data} done={again} />
            <Facts run={data} />
          </div>
          <section>
            <h2>Steps</h2>
            <ol class="steps">
              {data.steps.map((step) => <StepRow key={step.id} run={data} step={step} done={again} />)}
            </ol>
          </section>
          <Journal id={id} />
        </>
      )}
    </main>
  );
}
