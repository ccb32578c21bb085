// How notices get out: channels, what waits, what was said lately.
import { useState } from "preact/hooks";
import { type Dispatch, fetchDispatch, testChannel } from "./api";
import { duration, moment, since } from "./format";
import { mayTest, now, seesAll, useAsked } from "./state";
import { Text } from "./text";

function Try({ name }: { name: string }) {
  const [busy, setBusy] = useState(false);
  const [said, setSaid] = useState<{ good: boolean; text: string } | undefined>(undefined);
  const send = async (): Promise<void> => {
    setBusy(true);
    try {
      const trial = await testChannel(name);
      setSaid({ good: trial.delivered, text: `${trial.detail}${trial.hint ? ` – ${trial.hint}` : ""}` });
    } catch (error) {
      setSaid({ good: false, text: error instanceof Error ? error.message : String(error) });
    }
    setBusy(false);
  };
  return (
    <>
      <button type="button" disabled={busy} onClick={() => void send()}>{busy ? "sending …" : "Send a test"}</button>
      {said && <p class={said.good ? "good" : "bad"} role="status">{said.good ? "Delivered: " : "Not delivered: "}<Text of={said.text} /></p>}
    </>
  );
}

function Channel({ channel }: { channel: Dispatch["channels"][number] }) {
  return (
    <li class={`channel ${channel.ok ? "fine" : "broken"}`}>
      <div class="what">
        <strong>{channel.name}</strong> <span class="facts">{channel.kind}</span>
        {channel.ok ? (
          <p class="facts">works{channel.last_delivered ? `, delivered ${since(channel.last_delivered, now.value)} ago` : ", nothing sent yet"}</p>
        ) : (
          <p class="bad">fails since {since(channel.failing_since, now.value)}: <Text of={channel.last_error} /></p>
        )}
      </div>
      <span class="since">{channel.queued > 0 ? `${channel.queued} waiting, the oldest for ${duration(channel.oldest_s)}` : "nothing waits"}</span>
      {mayTest.value && <span class="do"><Try name={channel.name} /></span>}
    </li>
  );
}

export function NoticesPage() {
  const { data, error } = useAsked(() => (seesAll.value ? fetchDispatch() : Promise.resolve(undefined)), `dispatch ${seesAll.value}`);
  return (
    <main>
      <h1>Notices</h1>
      {!seesAll.value && <p class="quiet">Notices speak of all hosts: they are not for those who may see a part of them alone.</p>}
      {error && <p class="bad" role="alert"><Text of={error} /></p>}
      {data?.unwritten && <p class="trouble" role="alert">The outbox cannot be written: <Text of={data.unwritten} /></p>}
      {data && (
        <>
          <h2>Channels</h2>
          {data.channels.length === 0 && <p class="quiet">No channel: nobody is told of anything. <code>[[channel]]</code> in collector.toml describes them.</p>}
          {data.channels.length > 0 && <ul class="alerts">{data.channels.map((channel) => <Channel key={channel.name} channel={channel} />)}</ul>}
          <h2>Newest notices</h2>
          {data.notices.length === 0 && <p class="quiet">Nothing was sent yet.</p>}
          {data.notices.length > 0 && (
            <div class="scroll">
              <table class="stacked">
                <thead><tr><th scope="col">When</th><th scope="col">Channel</th><th scope="col">Kind</th><th scope="col">Outcome</th><th scope="col">Tries</th><th scope="col">What was answered</th></tr></thead>
                <tbody>
                  {data.notices.map((notice) => (
                    <tr key={notice.key + notice.channel}>
                      <td class="first figure">{moment(notice.created, now.value)}</td>
                      <td data-word="Channel"><Text of={notice.channel} max={60} /></td>
                      <td data-word="Kind">{notice.kind}</td>
                      <td data-word="Outcome"><span class={`standing ${notice.outcome}`}>{notice.outcome.replace("_", " ")}</span></td>
                      <td data-word="Tries" class="figure">{notice.attempts}</td>
                      <td class="form"><Text of={notice.detail} max={200} /></td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          )}
        </>
      )}
    </main>
  );
}
