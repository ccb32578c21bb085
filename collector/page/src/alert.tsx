// One alert: what it says, whose it is, what to do, the rule's value over time, and the rule.
import { useState } from "preact/hooks";
import { type AlertDetail, fetchAlert, type Told } from "./api";
import { guides, hostHash, Marks, serviceHash, SeverityWord } from "./alerts";
import { Chart, type ChartSpec, rangeFor, Ranges } from "./chart";
import { duration, moment, plain, short, since, span } from "./format";
import { RuleFacts } from "./rules";
import { openSilence } from "./silencing";
import { hushed, maySilence, now, severityOf, useAsked } from "./state";
import { Address, LabelList, Lines, Text, webLink } from "./text";

const TOLD = ["summary", "runbook", "runbook_url", "article", "dashboard", "notify"];
/** Labels by which the lines of a rule's value are told apart. */
const NAMING = ["instance", "mountpoint", "device", "check"];

function chartOf({ alert, chart, rule }: AlertDetail): ChartSpec | undefined {
  if (chart === null) return undefined;
  const ruled = Object.keys(rule?.labels ?? {});
  const only = Object.fromEntries(Object.entries(alert.labels).filter(([name]) => !ruled.includes(name)));
  return {
    title: "What the rule looks at",
    unit: "",
    tall: true,
    query: chart.for_host || chart.value,
    ...(chart.for_host ? { instead: chart.value } : {}),
    ...(chart.against ? { against: chart.against_for_host || chart.against } : {}),
    labels: NAMING,
    only,
    limits: chart.limits.map(({ op, value, clears }) => ({
      value, clears, text: clears ? `clears at ${plain(value)}` : `${op} ${plain(value)}`,
    })),
    marks: [{ at: Date.parse(alert.active_at) / 1000, text: "began" }],
  };
}

function Facts({ detail }: { detail: AlertDetail }) {
  const { alert } = detail;
  const { instance } = alert.labels;
  const limit = detail.chart?.limits.find((one) => !one.clears);
  return (
    <dl class="factsheet">
      <dt>Since</dt>
      <dd>
        {moment(alert.active_at, now.value)} <span class="facts">({since(alert.active_at, now.value)} ago)</span>
        {alert.state === "firing" && alert.since !== alert.active_at && <>, firing since {moment(alert.since, now.value)}</>}
        {alert.state === "pending" && detail.rule && <>, fires after {span(detail.rule.duration_s)}</>}
        {alert.resolved_at && <>, ended {moment(alert.resolved_at, now.value)} after {duration((Date.parse(alert.resolved_at) - Date.parse(alert.active_at)) / 1000)}</>}
      </dd>
      {instance && (<><dt>Host</dt><dd><a href={hostHash(instance)}><Text of={instance} /></a></dd></>)}
      <dt>Service</dt>
      <dd>{alert.service ? <a href={serviceHash(alert.service)}>{alert.service}</a> : <span class="facts">none described</span>}</dd>
      <dt>Owner</dt>
      <dd>{alert.owner ? <strong><Text of={alert.owner} /></strong> : <span class="facts">nobody named</span>}</dd>
      <dt>Value</dt>
      <dd>
        <strong>{short(alert.value)}</strong>
        {limit && <span class="facts"> (limit {limit.op} {plain(limit.value)})</span>}
      </dd>
    </dl>
  );
}

function Body({ detail }: { detail: AlertDetail }) {
  const { alert, rule } = detail;
  const age = (now.value - Date.parse(alert.active_at)) / 1000;
  const [seconds, setSeconds] = useState(() => rangeFor(age));
  const spec = chartOf(detail);
  const todo = guides(alert);
  const others = Object.entries(alert.annotations).filter(([name]) => !TOLD.includes(name));
  return (
    <>
      <section class={`card alert ${alert.state} ${severityOf(alert.labels)}${hushed(alert) ? " hushed" : ""} detail`}>
        <p class="kicker"><SeverityWord alert={alert} /> <Text of={alert.name} /></p>
        <h1><Text of={alert.annotations.summary ?? alert.name} max={1000} /></h1>
        <p class="marks">
          <Marks alert={alert} />
          {rule?.warming && <span class="mark doubt">its rule is warming: {rule.warming.hosts} of {rule.warming.of} hosts cannot be judged until {moment(rule.warming.until, now.value)}</span>}
        </p>
        <Facts detail={detail} />
        {others.map(([name, text]) => (
          <div key={name} class="annotation">
            <h3><Text of={name} /></h3>
            {webLink(text) === undefined ? <Lines of={text} /> : <Address of={text} />}
          </div>
        ))}
        <div class="todo">
          <h3>What to do</h3>
          {todo.map(({ word, text }) => (
            <p key={word + text}>{word}: <Address of={text} /></p>
          ))}
          {todo.length === 0 && <p class="facts">The rule names no runbook: annotations <code>runbook</code> or <code>runbook_url</code>.</p>}
          {maySilence.value && alert.state !== "resolved" && (
            <button type="button" onClick={() => openSilence(alert)}>Silence …</button>
          )}
        </div>
      </section>
      {spec && (
        <section>
          <Ranges value={seconds} choose={setSeconds} />
          <Chart spec={spec} seconds={seconds} />
        </section>
      )}
      <Informed told={detail.told} pending={alert.state === "pending"} />
      <section>
        <h2>Labels</h2>
        <LabelList labels={alert.labels} />
      </section>
      {rule && (
        <section>
          <h2>Rule</h2>
          <RuleFacts
            group={detail.group} file={detail.file} interval={detail.interval_s}
            rule={{ ...rule, shortForm: rule.short, duration: rule.duration_s, keepFiringFor: rule.keep_firing_for_s, lastError: rule.last_error }}
          />
        </section>
      )}
      {!rule && <p class="quiet">Its rule is no longer loaded.</p>}
    </>
  );
}

const WAITS: Record<string, string> = {
  turn: "waits for its turn",
  retry: "is tried again",
  mending: "waits until somebody mends the channel",
  group: "waits for more of its group",
  repeat: "is told again while it fires",
  digest: "comes with the daily digest",
  channel: "waits for a channel that is no longer configured",
};
const NOBODY: Record<string, string> = {
  none: "There is no channel: nobody is told of anything.",
  hushed: "Nobody is told while it is silenced, in maintenance, or its host is down.",
  no_route: "No route takes it: nobody is told.",
  way: "Its severity, its rule or its route says that it is recorded and sent nowhere.",
};

/** Who was told, when, by which channel, what came of it; and what waits, and for what. */
function Informed({ told, pending }: { told: Told; pending: boolean }) {
  return (
    <section>
      <h2>Who was told</h2>
      {told.nobody && <p class="quiet">{NOBODY[told.nobody]}</p>}
      {told.notices.length > 0 && (
        <div class="scroll">
          <table class="stacked">
            <thead><tr><th scope="col">When</th><th scope="col">Channel</th><th scope="col">Said</th><th scope="col">Outcome</th><th scope="col">Tries</th><th scope="col">What was answered</th></tr></thead>
            <tbody>
              {told.notices.map((notice) => (
                <tr key={notice.key}>
                  <td class="first figure">{moment(notice.changed, now.value)}</td>
                  <td data-word="Channel"><Text of={notice.channel} max={60} />{notice.route && <span class="facts"> by <Text of={notice.route} max={60} /></span>}</td>
                  <td data-word="Said">{notice.said || "one of those it counts"}{notice.kind === "digest" && " (digest)"}</td>
                  <td data-word="Outcome"><span class={`standing ${notice.outcome}`}>{notice.outcome.replace("_", " ")}</span></td>
                  <td data-word="Tries" class="figure">{notice.attempts}</td>
                  <td class="form"><Text of={notice.detail} max={200} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {told.truncated && <p class="facts">and older ones</p>}
      {told.waiting.map((wait) => (
        <p key={wait.channel + wait.route} class={wait.why ? "bad" : "facts"}>
          <Text of={wait.channel} max={60} />: {WAITS[wait.waits_for]}
          {wait.due && <>, {moment(wait.due, now.value)}</>}
          {wait.attempts > 0 && <>, tried {wait.attempts === 1 ? "once" : `${wait.attempts} times`}</>}
          {wait.why && <>: <Text of={wait.why} max={300} /></>}
        </p>
      ))}
      {!told.nobody && told.notices.length === 0 && told.waiting.length === 0 && (
        <p class="quiet">{pending ? "Nobody yet: it is pending." : "Nobody."}</p>
      )}
    </section>
  );
}

export function AlertPage({ fingerprint }: { fingerprint: string }) {
  const { data, error } = useAsked(() => fetchAlert(fingerprint), fingerprint);
  return (
    <main>
      <p class="trail"><a href="#/">All alerts</a></p>
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {data === undefined && !error && <p class="quiet">asking …</p>}
      {data && <Body key={fingerprint} detail={data} />}
    </main>
  );
}
