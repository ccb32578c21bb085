// Logging in and out, and who is here.
import { useState } from "preact/hooks";
import { login, logout } from "./api";
import { changed, link, me } from "./state";
import { Text } from "./text";

export function Login() {
  const [secret, setSecret] = useState("");
  const [refused, setRefused] = useState("");
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    try {
      await login(secret.trim());
      setRefused("");
      setSecret("");
      if (location.hash === "#/login") location.hash = "#/";
      await changed();
    } catch (error) {
      setRefused(error instanceof Error ? error.message : String(error));
    }
  };
  return (
    <main class="login">
      <h1>Who is there?</h1>
      <form onSubmit={(event) => void submit(event)}>
        <label>
          One-time code or token
          <input
            type="password"
            autocomplete="current-password"
            value={secret}
            onInput={(event) => setSecret(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="main">Log in</button>
      </form>
      {refused && <p class="bad" role="alert">{refused}</p>}
      <p class="facts">
        <code>watchbill login --browser</code> prints an address that logs this browser in. On the collector,{" "}
        <code>watchbill-collector init</code> wrote the first administrator's token to a file and named it.
      </p>
    </main>
  );
}

/** The visitor's name, what he may, and the way out; the way in for nobody in particular. */
export function Who() {
  const someone = me.value;
  if (link.value === "login" || someone === undefined) return null;
  if (someone.via === "anonymous") return <a class="who" href="#/login">read only · log in</a>;
  const grants = someone.grants.map((grant) => (grant.scope ? `${grant.role} (${grant.scope})` : grant.role));
  const leave = async (): Promise<void> => {
    try {
      await logout();
    } finally {
      await changed();
    }
  };
  return (
    <span class="who">
      <strong><Text of={someone.name} max={40} /></strong>{" "}
      <span class="facts" title={grants.join(", ")}>{grants.length ? <>role <Text of={grants.join(", ")} max={60} /></> : "no role"}</span>
      {someone.via === "session" && <button type="button" onClick={() => void leave()}>Log out</button>}
    </span>
  );
}
