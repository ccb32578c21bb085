// The dialog in which a person says what becomes of a run: what it does, why, and with an approval who he is.
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { hurry, me } from "./state";
import { Text } from "./text";

const REASON_CHARACTERS_MAX = 2_000;
const COMMENT_CHARACTERS_MAX = 500;

interface Decision {
  title: string;
  /** What it means, in a sentence. */
  means: string;
  /** The word on the button. */
  word: string;
  /** A vote takes a comment that may be missing, and the token; everything else a reason. */
  vote: boolean;
  send: (text: string, token: string) => Promise<unknown>;
}

const wanted = signal<Decision | undefined>(undefined);

export function decide(decision: Decision): void {
  wanted.value = decision;
}

function Form({ title, means, word, vote, send, close }: Decision & { close: () => void }) {
  const [text, setText] = useState("");
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  // A program's login is a bearer token already; a browser's session has to be shown to be the same person's still.
  const shows = vote && me.value?.via === "session";
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    try {
      await send(text.trim(), token.trim());
      hurry();
      close();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
      setToken("");
      setBusy(false);
    }
  };
  return (
    <form onSubmit={(event) => void submit(event)}>
      <h2><Text of={title} max={200} /></h2>
      <p>{means}</p>
      <label>
        {vote ? "Comment" : "Reason"}
        <input
          required={!vote} maxLength={vote ? COMMENT_CHARACTERS_MAX : REASON_CHARACTERS_MAX} placeholder={vote ? "may be empty" : "why, for whoever reads this next"}
          value={text} onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      {shows && (
        <label>
          Your token, once more
          <input type="password" autocomplete="current-password" required value={token} onInput={(event) => setToken(event.currentTarget.value)} />
        </label>
      )}
      <p class="facts">As <strong><Text of={me.value?.name ?? ""} max={80} /></strong>. It is written into the run's journal.</p>
      {problem && <p class="bad" role="alert"><Text of={problem} max={600} /></p>}
      <div class="buttons">
        <button type="submit" class="main" disabled={busy || (!vote && !text.trim()) || (shows && !token.trim())}>{word}</button>
        <button type="button" onClick={close}>Cancel</button>
      </div>
    </form>
  );
}

/** Over whatever view. */
export function Deciding() {
  const dialog = useRef<HTMLDialogElement>(null);
  const order = wanted.value;
  useEffect(() => {
    if (order !== undefined && dialog.current?.open === false) dialog.current.showModal();
  }, [order]);
  if (order === undefined) return null;
  return (
    <dialog ref={dialog} onClose={() => { wanted.value = undefined; }} aria-label={order.word}>
      <Form key={order.title} {...order} close={() => dialog.current?.close()} />
    </dialog>
  );
}
