// Silences with the time they have left, and the maintenance windows.
import { useState } from "preact/hooks";
import { type Dispatch, expire, fetchDispatch, fetchSilences, type Silence } from "./api";
import { countdown, moment, span } from "./format";
import { openSilence } from "./silencing";
import { hurry, maySilence, now, seesAll, useAsked } from "./state";
import { Text } from "./text";

const SOON_S = 600;
const ROWS_MAX = 200;

function Expire({ silence, done }: { silence: Silence; done: () => void }) {
  const [asked, setAsked] = useState(false);
  const [problem, setProblem] = useState("");
  const end = async (): Promise<void> => {
    try {
      await expire(silence.id);
      hurry();
      done();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    }
    setAsked(false);
  };
  if (problem) return <span class="bad" role="alert"><Text of={problem} /></span>;
  if (!asked) return <button type="button" onClick={() => setAsked(true)}>Expire</button>;
  return (
    <span class="buttons">
      <button type="button" class="main" onClick={() => void end()}>{silence.firing ? `Expire: ${silence.firing} will be told` : "Expire now"}</button>
      <button type="button" onClick={() => setAsked(false)}>Keep</button>
    </span>
  );
}

function Left({ silence }: { silence: Silence }) {
  const left = (Date.parse(silence.ends) - now.value) / 1000;
  if (silence.state === "expired" || left <= 0) {
    return <>ended {moment(silence.ends, now.value)}{silence.expired_by && <> by <Text of={silence.expired_by} max={60} /></>}</>;
  }
  if (silence.state === "pending") return <>begins {moment(silence.starts, now.value)}, ends {moment(silence.ends, now.value)}</>;
  return (
    <>
      <strong class={left < SOON_S ? "countdown soon" : "countdown"}>{countdown(left)}</strong> left, until {moment(silence.ends, now.value)}
    </>
  );
}

function Row({ silence, chosen, done }: { silence: Silence; chosen: boolean; done: () => void }) {
  return (
    <li class={`silence ${silence.state}${chosen ? " chosen" : ""}`}>
      <div class="what">
        <code><Text of={silence.matchers} /></code>
        <p><Text of={silence.reason} max={1000} /></p>
        <p class="facts">
          <span>by <strong><Text of={silence.author} max={80} /></strong></span>
          <span>made {moment(silence.created, now.value)}</span>
          {silence.scope && <span>within <strong><Text of={silence.scope} max={200} /></strong></span>}
          {silence.state === "active" && <span>{silence.firing === 1 ? "1 firing alert" : `${silence.firing} firing alerts`} silenced</span>}
          <a href={`#/silences/${encodeURIComponent(silence.id)}`}>link</a>
        </p>
      </div>
      <span class="since"><Left silence={silence} /></span>
      {maySilence.value && silence.yours && silence.state !== "expired" && <span class="do"><Expire silence={silence} done={done} /></span>}
    </li>
  );
}

function Windows({ of }: { of: Dispatch["windows"] }) {
  return (
    <section>
      <h2>Maintenance windows</h2>
      {of.length === 0 && <p class="quiet">None: <code>[[maintenance]]</code> in collector.toml describes them.</p>}
      {of.length > 0 && (
        <div class="scroll">
          <table class="stacked">
            <thead>
              <tr><th scope="col">Window</th><th scope="col">Now</th><th scope="col">Opens next</th><th scope="col">When</th><th scope="col">For</th><th scope="col">What</th></tr>
            </thead>
            <tbody>
              {of.map((window) => (
                <tr key={window.name}>
                  <td class="first"><Text of={window.name} max={80} /></td>
                  <td>{window.until ? <span class="mark quietened">open for {countdown((Date.parse(window.until) - now.value) / 1000)}</span> : "closed"}</td>
                  <td data-word="Opens next">{window.opens ? moment(window.opens, now.value) : "not within a week"}</td>
                  <td data-word="When"><code>{window.cron}</code> {window.zone}</td>
                  <td data-word="For">{span(window.duration_s)}</td>
                  <td data-word="What">{window.matchers === null ? "routes that name it" : <code><Text of={window.matchers} /></code>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </section>
  );
}

export function SilencesPage({ id }: { id: string | undefined }) {
  const [past, setPast] = useState(false);
  const everything = past || id !== undefined;
  const all = seesAll.value;
  const { data, error, again } = useAsked(() => fetchSilences(everything), `silences ${everything}`);
  const dispatch = useAsked(() => (all ? fetchDispatch() : Promise.resolve(undefined)), `dispatch ${all}`);
  const shown = id === undefined ? data : data?.filter((silence) => silence.id === id);
  return (
    <main>
      <div class="title">
        <h1>{id === undefined ? "Silences" : "Silence"}</h1>
        {id !== undefined && <a href="#/silences">all silences</a>}
        <span class="right buttons">
          {id === undefined && <label class="check"><input type="checkbox" checked={past} onChange={(event) => setPast(event.currentTarget.checked)} /> ended ones too</label>}
          {maySilence.value && <button type="button" class="main" onClick={() => openSilence()}>New silence</button>}
        </span>
      </div>
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {shown === undefined && !error && <p class="quiet">asking …</p>}
      {shown?.length === 0 && <p class="quiet">{id === undefined ? "Nothing is silenced." : "There is no such silence."}</p>}
      {shown && shown.length > 0 && (
        <ul class="alerts">
          {shown.slice(0, ROWS_MAX).map((silence) => <Row key={silence.id} silence={silence} chosen={silence.id === id} done={again} />)}
          {shown.length > ROWS_MAX && <li class="facts more">and {shown.length - ROWS_MAX} more: <code>watchbill silences list</code></li>}
        </ul>
      )}
      {id === undefined && dispatch.data && <Windows of={dispatch.data.windows} />}
    </main>
  );
}
