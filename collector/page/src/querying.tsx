// Any expression: its values now, and over time. Where links to rules lead.
import { useState } from "preact/hooks";
import { get, type Labels } from "./api";
import { Chart, Ranges } from "./chart";
import { short } from "./format";
import { useAsked } from "./state";
import { LabelList, Text } from "./text";

const ROWS_MAX = 100;

interface Answer {
  data: { resultType: string; result: unknown };
}

function rowsOf(answer: Answer): { labels: Labels; value: string }[] {
  const { resultType, result } = answer.data;
  if (resultType === "scalar" || resultType === "string") return [{ labels: {}, value: String((result as unknown[])[1]) }];
  return (result as { metric: Labels; value?: [number, string]; values?: [number, string][] }[]).map((row) => ({
    labels: row.metric,
    value: row.value?.[1] ?? `${row.values?.length ?? 0} samples`,
  }));
}

function Values({ query }: { query: string }) {
  const { data, error } = useAsked(() => get<Answer>("/api/v1/query", { query, limit: String(ROWS_MAX + 1) }), query);
  if (error) return <p class="bad" role="alert"><Text of={error} /></p>;
  if (data === undefined) return <p class="quiet">asking …</p>;
  const rows = rowsOf(data);
  if (rows.length === 0) return <p class="quiet">Nothing has a value now.</p>;
  return (
    <ul class="alerts">
      {rows.slice(0, ROWS_MAX).map((row) => (
        <li key={JSON.stringify(row.labels)} class="channel">
          <div class="what"><LabelList labels={row.labels} /></div>
          <strong class="figure" title={row.value}>{/^[-+\d]/.test(row.value) && !row.value.includes(" ") ? short(Number(row.value)) : <Text of={row.value} />}</strong>
        </li>
      ))}
      {rows.length > ROWS_MAX && <li class="facts more">and more: <code>watchbill query</code></li>}
    </ul>
  );
}

export function QueryPage({ expr }: { expr: string }) {
  const [text, setText] = useState(expr);
  const [seconds, setSeconds] = useState(3600);
  return (
    <main>
      <h1>Query</h1>
      <form class="query" onSubmit={(event) => { event.preventDefault(); location.hash = `#/query?expr=${encodeURIComponent(text)}`; }}>
        <textarea
          class="code" aria-label="PromQL expression" rows={3} spellcheck={false} value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); event.currentTarget.form?.requestSubmit(); } }}
        />
        <button type="submit" class="main">Ask</button>
      </form>
      {expr && (
        <>
          <Ranges value={seconds} choose={setSeconds} />
          <Chart spec={{ title: "Over time", unit: "", tall: true, query: expr, labels: ["__name__", "instance", "mountpoint", "device"] }} seconds={seconds} />
          <h2>Now</h2>
          <Values query={expr} />
        </>
      )}
    </main>
  );
}
