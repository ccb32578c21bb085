// The page: a head line that says whether what it shows is true now, and one of three views below it.
import { render } from "preact";
import { useState } from "preact/hooks";
import { login } from "./api";
import { HostPage } from "./host";
import { HostsPage } from "./hosts";
import { link, problem, refresh, route, start } from "./state";
import "./page.css";

const WORDS = { connecting: "connecting", live: "live", lost: "not live", login: "login needed" };

function Login() {
  const [secret, setSecret] = useState("");
  const [refused, setRefused] = useState("");
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    try {
      await login(secret.trim());
      setRefused("");
      await refresh();
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
        <button type="submit">Log in</button>
      </form>
      {refused && <p class="bad">{refused}</p>}
      <p class="facts">
        On the collector, <code>watchbill-collector init</code> wrote the first administrator's token to a file and named it.
      </p>
    </main>
  );
}

function View() {
  if (link.value === "login") return <Login />;
  const host = /^#\/host\/(.+)$/.exec(route.value)?.[1];
  return host === undefined ? <HostsPage /> : <HostPage key={host} instance={decodeURIComponent(host)} />;
}

function Page() {
  return (
    <>
      <header>
        <a class="name" href="#/">
          Watchbill
        </a>
        <span class={`link ${link.value}`} role="status">
          {WORDS[link.value]}
        </span>
      </header>
      {link.value === "lost" && <p class="lost">{problem.value} What you see below is old.</p>}
      <View />
    </>
  );
}

start();
const root = document.getElementById("page");
if (root !== null) render(<Page />, root);
