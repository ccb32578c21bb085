// The form that silences: matchers, for how long, why; and before it is done, what it would silence now.
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Alert, matched, silence } from "./api";
import { duration, moment, seconds } from "./format";
import { hurry, me, now } from "./state";
import { matchersOf, Text } from "./text";

const PREVIEW_DELAY_MS = 250;
const PREVIEW_SHOWN = 8;
const REASON_CHARACTERS_MAX = 1_000;
const CHOICES = ["30m", "1h", "2h", "4h", "8h", "1d", "3d", "1w"];
const DEFAULT = "2h";

interface Wanted {
  presets: { word: string; matchers: string }[];
}

const wanted = signal<Wanted | undefined>(undefined);

export function openSilence(alert?: Alert): void {
  const presets: Wanted["presets"] = [];
  if (alert !== undefined) {
    const { alertname = alert.name, instance } = alert.labels;
    presets.push({ word: "this alert alone", matchers: matchersOf(Object.entries(alert.labels)) });
    if (instance !== undefined) {
      presets.push({ word: "this rule on this host", matchers: matchersOf([["alertname", alertname], ["instance", instance]]) });
      presets.push({ word: "everything of this host", matchers: matchersOf([["instance", instance]]) });
    }
    presets.push({ word: "this rule everywhere", matchers: matchersOf([["alertname", alertname]]) });
  }
  wanted.value = { presets };
}

interface Preview {
  state: "asking" | "good" | "bad";
  matched: number;
  alerts: Alert[];
  scope: string;
  error: string;
}

const ASKING: Preview = { state: "asking", matched: 0, alerts: [], scope: "", error: "" };

function usePreview(matchers: string): Preview {
  const [preview, setPreview] = useState<Preview>(ASKING);
  useEffect(() => {
    let stopped = false;
    setPreview(matchers.trim() ? ASKING : { ...ASKING, state: "bad", error: "Matchers are missing." });
    const timer = window.setTimeout(() => {
      if (!matchers.trim()) return;
      matched(matchers).then(
        (found) => {
          if (!stopped) setPreview({ state: "good", matched: found.matched, alerts: found.alerts, scope: found.scope, error: "" });
        },
        (error: unknown) => {
          if (!stopped) setPreview({ ...ASKING, state: "bad", error: error instanceof Error ? error.message : String(error) });
        },
      );
    }, PREVIEW_DELAY_MS);
    return () => {
      stopped = true;
      window.clearTimeout(timer);
    };
  }, [matchers]);
  return preview;
}

const counted = (count: number): string => (count === 1 ? "1 alert" : `${count} alerts`);

function Found({ preview }: { preview: Preview }) {
  if (preview.state === "asking") return <p class="preview">asking what this matches …</p>;
  if (preview.state === "bad") return <p class="preview bad" role="alert"><Text of={preview.error} /></p>;
  return (
    <div class="preview" role="status">
      <p><strong>{preview.matched === 0 ? "Matches nothing that is pending or firing now." : `Silences ${counted(preview.matched)} now:`}</strong></p>
      <ul>
        {preview.alerts.slice(0, PREVIEW_SHOWN).map((alert) => (
          <li key={alert.fingerprint}>
            <Text of={alert.name} max={60} /> {alert.labels.instance && <>on <Text of={alert.labels.instance} max={60} /></>} <span class="facts">{alert.state}</span>
          </li>
        ))}
        {preview.matched > PREVIEW_SHOWN && <li class="facts">and {preview.matched - PREVIEW_SHOWN} more</li>}
      </ul>
    </div>
  );
}

function Form({ presets, close }: Wanted & { close: () => void }) {
  const [matchers, setMatchers] = useState(presets[0]?.matchers ?? "");
  const [length, setLength] = useState(DEFAULT);
  const [reason, setReason] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const preview = usePreview(matchers);
  const lasts = seconds(length);
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    if (lasts === undefined || !reason.trim() || preview.state !== "good" || busy) return;
    setBusy(true);
    try {
      await silence(matchers, lasts, reason.trim());
      hurry();
      close();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
      setBusy(false);
    }
  };
  return (
    <form onSubmit={(event) => void submit(event)}>
      <h2>Silence</h2>
      {presets.length > 0 && (
        <div class="choices" role="group" aria-label="What to silence">
          {presets.map((preset) => (
            <button key={preset.word} type="button" aria-pressed={matchers === preset.matchers} onClick={() => setMatchers(preset.matchers)}>
              {preset.word}
            </button>
          ))}
        </div>
      )}
      <label>
        Matchers
        <textarea class="code" rows={3} spellcheck={false} autocapitalize="off" value={matchers} onInput={(event) => setMatchers(event.currentTarget.value)} />
      </label>
      <Found preview={preview} />
      <div class="field">
        <span id="for-how-long">For how long</span>
        <div class="choices" role="group" aria-labelledby="for-how-long">
          {CHOICES.map((choice) => (
            <button key={choice} type="button" aria-pressed={choice === length} onClick={() => setLength(choice)}>{choice}</button>
          ))}
          <input class="length" aria-label="Another duration" value={length} onInput={(event) => setLength(event.currentTarget.value)} />
        </div>
        <span class={lasts === undefined ? "facts bad" : "facts"}>
          {lasts === undefined ? "a duration such as 90m, 1h30m or 2d" : `until ${moment(now.value + lasts * 1000, now.value)}`}
        </span>
      </div>
      <label>
        Reason
        <input required maxLength={REASON_CHARACTERS_MAX} placeholder="why, for whoever reads this next" value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
      </label>
      <p class="facts">As <strong>{me.value?.name}</strong>{preview.scope && <>, within <strong><Text of={preview.scope} max={200} /></strong></>}. They stay visible; whoever still fires when it ends is told then.</p>
      {problem && <p class="bad" role="alert"><Text of={problem} /></p>}
      <div class="buttons">
        <button type="submit" class="main" disabled={busy || preview.state !== "good" || lasts === undefined || !reason.trim()}>
          {preview.state === "good" ? `Silence ${preview.matched ? counted(preview.matched) : "what comes"} for ${lasts === undefined ? "…" : duration(lasts)}` : "Silence"}
        </button>
        <button type="button" onClick={close}>Cancel</button>
      </div>
    </form>
  );
}

/** The dialog, over whatever view. */
export function Silencing() {
  const dialog = useRef<HTMLDialogElement>(null);
  const order = wanted.value;
  useEffect(() => {
    if (order !== undefined) dialog.current?.showModal();
  }, [order]);
  if (order === undefined) return null;
  const close = (): void => {
    wanted.value = undefined;
  };
  return (
    <dialog ref={dialog} onClose={close} aria-label="Silence alerts">
      <Form key={order.presets.map((preset) => preset.matchers).join()} presets={order.presets} close={() => dialog.current?.close()} />
    </dialog>
  );
}
