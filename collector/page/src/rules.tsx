// Rules in both forms: as they were written, and the PromQL that is judged; how they stand and what they cost.
import { useState } from "preact/hooks";
import { AskedAlerts } from "./alerts";
import { fetchRules, type Group, type Labels, type Rule, type Warming } from "./api";
import { duration, moment, span } from "./format";
import { now, severityOf, useAsked } from "./state";
import { LabelList, Lines, Text } from "./text";

const ROWS_MAX = 300;

interface Shown {
  name: string;
  query: string;
  shortForm?: string;
  labels: Labels;
  annotations?: Labels;
  duration?: number;
  keepFiringFor?: number;
  health: string;
  lastError?: string;
  warming: Warming | null;
}

function WarmingMark({ of }: { of: Warming }) {
  return (
    <span class="mark doubt" title={of.why}>
      warming: {of.hosts} of {of.of} until {moment(of.until, now.value)}
    </span>
  );
}

export function RuleFacts({ rule, group, file, interval }: { rule: Shown; group: string; file: string; interval: number }) {
  return (
    <div class="card">
      <p class="marks">
        {rule.health === "err" && <span class="mark broken">failing</span>}
        {rule.warming && <WarmingMark of={rule.warming} />}
      </p>
      {rule.lastError && <p class="bad"><Text of={rule.lastError} /></p>}
      {rule.shortForm && (<><h3>As written</h3><pre><Lines of={rule.shortForm} /></pre></>)}
      <h3>PromQL</h3>
      <pre><Lines of={rule.query} /></pre>
      <p class="facts">
        {rule.duration ? `for ${span(rule.duration)} · ` : ""}
        {rule.keepFiringFor ? `keeps firing for ${span(rule.keepFiringFor)} · ` : ""}
        group <Text of={group} max={120} /> · every {span(interval)} · <Text of={file} max={160} /> ·{" "}
        <a href={`#/query?expr=${encodeURIComponent(rule.query)}`}>ask now</a>
      </p>
      {Object.keys(rule.labels).length > 0 && <LabelList labels={rule.labels} />}
      {Object.entries(rule.annotations ?? {}).map(([name, text]) => (
        <div key={name} class="annotation"><h3><Text of={name} max={60} /></h3><Lines of={text} /></div>
      ))}
    </div>
  );
}

interface Placed {
  rule: Rule;
  group: Group;
  id: string;
}

function place(groups: Group[]): Placed[] {
  const seen = new Map<string, number>();
  return groups.flatMap((group) =>
    group.rules.map((rule) => {
      const base = `${group.name}/${rule.name}`;
      const number = (seen.get(base) ?? 0) + 1;
      seen.set(base, number);
      return { rule, group, id: number > 1 ? `${base}/${number}` : base };
    }),
  );
}

const stateOf = ({ rule }: Placed): string =>
  rule.health === "err" ? "failing" : rule.type === "recording" ? "recording" : (rule.state ?? "inactive");
const ORDER = ["failing", "firing", "pending", "inactive", "recording"];
const ruleHash = (one: Placed): string => `#/rules/${encodeURIComponent(one.id)}`;

function Row({ one }: { one: Placed }) {
  const { rule } = one;
  const state = stateOf(one);
  return (
    <tr>
      <td class="first"><a href={ruleHash(one)}><Text of={rule.name} max={80} /></a></td>
      <td>
        <span class={`standing ${state === "firing" ? severityOf(rule.labels) : state}`}>{state}</span>
        {rule.warming && <div><WarmingMark of={rule.warming} /></div>}
      </td>
      <td class="form">
        <code><Text of={rule.shortForm || rule.query} max={140} /></code>
        {rule.lastError && <span class="bad"> <Text of={rule.lastError} max={200} /></span>}
      </td>
      <td data-word="Severity">{rule.type === "alerting" ? <Text of={rule.labels.severity ?? "–"} max={20} /> : "–"}</td>
      <td data-word="Series" class="figure">{rule.series}</td>
      <td data-word="Took" class="figure">{(rule.evaluationTime * 1000).toFixed(rule.evaluationTime < 0.01 ? 2 : 0)} ms</td>
      <td data-word="Judged" class="figure">{Date.parse(rule.lastEvaluation) > 0 ? `${duration((now.value - Date.parse(rule.lastEvaluation)) / 1000)} ago` : "not yet"}</td>
    </tr>
  );
}

function Table({ list }: { list: Placed[] }) {
  const [filter, setFilter] = useState("");
  const [state, setState] = useState("");
  const sought = filter.toLowerCase();
  const about = ({ rule, group }: Placed): string => `${rule.name} ${rule.query} ${rule.shortForm ?? ""} ${group.name} ${group.file}`.toLowerCase();
  const found = list
    .filter((one) => (!state || stateOf(one) === state || (state === "warming" && one.rule.warming)) && about(one).includes(sought))
    .sort((a, b) => ORDER.indexOf(stateOf(a)) - ORDER.indexOf(stateOf(b)) || a.rule.name.localeCompare(b.rule.name));
  const words = [...ORDER, "warming"].map((word): [string, number] => [
    word, list.filter((one) => (word === "warming" ? one.rule.warming !== null : stateOf(one) === word)).length,
  ]);
  return (
    <>
      <div class="title">
        <h1>Rules</h1>
        <input type="search" placeholder="filter: name, expression, file" aria-label="Filter rules" value={filter} onInput={(event) => setFilter(event.currentTarget.value)} />
      </div>
      <div class="choices" role="group" aria-label="State">
        <button type="button" aria-pressed={state === ""} onClick={() => setState("")}>all {list.length}</button>
        {words.filter(([, count]) => count > 0).map(([word, count]) => (
          <button key={word} type="button" aria-pressed={state === word} onClick={() => setState(state === word ? "" : word)}>{word} {count}</button>
        ))}
      </div>
      <div class="scroll">
        <table class="stacked rules">
          <thead>
            <tr>
              <th scope="col">Rule</th><th scope="col">State</th><th scope="col">Form</th><th scope="col">Severity</th>
              <th scope="col">Series</th><th scope="col">Took</th><th scope="col">Judged</th>
            </tr>
          </thead>
          <tbody>{found.slice(0, ROWS_MAX).map((one) => <Row key={one.id} one={one} />)}</tbody>
        </table>
      </div>
      {found.length > ROWS_MAX && <p class="facts">and {found.length - ROWS_MAX} more: filter</p>}
      {found.length === 0 && <p class="quiet">No rule matches.</p>}
    </>
  );
}

function One({ one }: { one: Placed }) {
  const { rule, group } = one;
  const { severity } = rule.labels;
  // Two rules of one name are told apart by their severity, if by anything.
  const ask: Record<string, string> = { rule: rule.name, ...(severity && !severity.includes("{{") ? { severity } : {}) };
  return (
    <>
      <div class="title">
        <h1><Text of={rule.name} /></h1>
        <span class={`standing ${stateOf(one) === "firing" ? severityOf(rule.labels) : stateOf(one)}`}>{stateOf(one)}</span>
        <span class="facts">
          {rule.type}, {rule.series} series, took {(rule.evaluationTime * 1000).toFixed(2)} ms, judged {moment(rule.lastEvaluation, now.value)}
        </span>
      </div>
      <RuleFacts rule={rule} group={group.name} file={group.file} interval={group.interval} />
      {rule.type === "alerting" && (
        <section>
          <h2>Alerts</h2>
          <AskedAlerts ask={ask} none="Nothing is pending or firing." />
        </section>
      )}
    </>
  );
}

export function RulesPage({ id }: { id: string | undefined }) {
  const { data, error } = useAsked(fetchRules, "rules");
  const list = data === undefined ? undefined : place(data);
  const one = list?.find((candidate) => candidate.id === id) ?? list?.find((candidate) => candidate.rule.name === id);
  return (
    <main>
      {id !== undefined && <p class="trail"><a href="#/rules">All rules</a></p>}
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {list === undefined && !error && <p class="quiet">asking …</p>}
      {id === undefined && list && <Table list={list} />}
      {one && <One one={one} />}
      {id !== undefined && list && !one && <p class="quiet">No rule is called <Text of={id} max={120} />.</p>}
    </main>
  );
}
