// The page: a head line that says whether what it shows is true now, the ways, and one view below.
import { effect } from "@preact/signals";
import { render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { AlertPage } from "./alert";
import { AuditPage } from "./auditing";
import { BackupsPage } from "./backups";
import { Deciding } from "./deciding";
import { Login, Who } from "./entry";
import { moment, since } from "./format";
import { HostPage } from "./host";
import { HostsPage } from "./hosts";
import { NoticesPage } from "./notices";
import { Overview } from "./overview";
import { QueryPage } from "./querying";
import { RulesPage } from "./rules";
import { RunPage } from "./run";
import { RunbooksPage } from "./runbooks";
import { ServicesPage } from "./services";
import { SilencesPage } from "./silences";
import { Silencing } from "./silencing";
import { goodAt, link, loud, mayAudit, now, problem, route, start, total } from "./state";
import "./page.css";

const WORDS = { connecting: "connecting", live: "live", lost: "not live", login: "login needed" };

const WAYS: [string, string][] = [
  ["", "Now"], ["hosts", "Hosts"], ["services", "Services"], ["backups", "Backups"], ["runbooks", "Runbooks"], ["rules", "Rules"], ["silences", "Silences"], ["notices", "Notices"], ["query", "Query"],
];
const PARENTS: Record<string, string> = { alerts: "", host: "hosts", runs: "runbooks" };

interface Place {
  view: string;
  name: string | undefined;
  expr: string;
}

/** `#/VIEW/NAME?expr=...`; a name that cannot be read is none. */
function placeOf(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const slash = path.indexOf("/");
  const view = slash < 0 ? path : path.slice(0, slash);
  let name: string | undefined;
  try {
    name = slash < 0 ? undefined : decodeURIComponent(path.slice(slash + 1)) || undefined;
  } catch {
    name = undefined;
  }
  return { view, name, expr: new URLSearchParams(query).get("expr") ?? "" };
}

/** Addresses of Prometheus' own page, which notices and dashboards link to, as ours. */
function adopt(): void {
  const { pathname, search } = location;
  if (pathname === "/") return;
  const asked = new URLSearchParams(search).get("g0.expr");
  const hash = asked !== null ? `#/query?expr=${encodeURIComponent(asked)}` : pathname === "/rules" ? "#/rules" : location.hash || "#/";
  history.replaceState(null, "", `/${hash}`);
  route.value = hash;
}

function View({ view, name, expr }: Place) {
  if (link.value === "login" || view === "login") return <Login />;
  switch (view) {
    case "alerts":
      return name === undefined ? <Overview /> : <AlertPage key={name} fingerprint={name} />;
    case "hosts":
      return <HostsPage />;
    case "host":
      return name === undefined ? <HostsPage /> : <HostPage key={name} instance={name} />;
    case "services":
      return <ServicesPage name={name} />;
    case "backups":
      return <BackupsPage id={name} />;
    case "runbooks":
      return <RunbooksPage name={name} />;
    case "runs":
      return name === undefined ? <RunbooksPage name={undefined} /> : <RunPage key={name} id={name} />;
    case "rules":
      return <RulesPage id={name} />;
    case "silences":
      return <SilencesPage key={name} id={name} />;
    case "notices":
      return <NoticesPage />;
    case "audit":
      return <AuditPage />;
    case "query":
      return <QueryPage key={expr} expr={expr} />;
    default:
      return <Overview />;
  }
}

function Ways({ at }: { at: string }) {
  const ways = mayAudit.value ? [...WAYS, ["audit", "Audit"] as [string, string]] : WAYS;
  const nav = useRef<HTMLElement>(null);
  useEffect(() => {
    // On a telephone the views are wider than the window: the one that is shown is to be seen.
    const shown = nav.current?.querySelector<HTMLElement>("[aria-current]");
    if (nav.current && shown) nav.current.scrollLeft = shown.offsetLeft - nav.current.offsetLeft - (nav.current.clientWidth - shown.offsetWidth) / 2;
  }, [at]);
  return (
    <nav class="ways" aria-label="Views" ref={nav}>
      {ways.map(([view, word]) => (
        <a key={view} href={`#/${view}`} aria-current={view === at ? "page" : undefined}>{word}</a>
      ))}
    </nav>
  );
}

function Stale() {
  if (link.value !== "lost") return null;
  return (
    <p class="lost" role="alert">
      {problem.value} What you see below is old{goodAt.value > 0 && <>: stale since {moment(goodAt.value, now.value)}, {since(new Date(goodAt.value).toISOString(), now.value)} ago</>}.
    </p>
  );
}

function Page() {
  const place = placeOf(route.value);
  useEffect(() => {
    window.scrollTo(0, 0);
  }, [route.value]);
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => { event.preventDefault(); document.querySelector<HTMLElement>("main a, main button, main input")?.focus(); }}>to the content</a>
      <header>
        <a class="name" href="#/">Watchbill</a>
        {link.value !== "login" && <Ways at={PARENTS[place.view] ?? place.view} />}
        <Who />
        <span class={`link ${link.value}`} role="status">{WORDS[link.value]}</span>
      </header>
      <Stale />
      <div class={link.value === "lost" ? "view old" : "view"}><View {...place} /></div>
      <Silencing />
      <Deciding />
    </>
  );
}

/** "/" goes to the filter of the view. */
function keys(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
  const field = document.querySelector<HTMLInputElement>("main input[type=search]");
  if (field !== null) {
    event.preventDefault();
    field.focus();
  }
}

adopt();
start();
document.addEventListener("keydown", keys);
// A tab in the background says it, too.
effect(() => {
  const count = total(loud.value);
  document.title = link.value === "lost" ? "not live · Watchbill" : count > 0 ? `${count} firing · Watchbill` : "Watchbill";
});
const root = document.getElementById("page");
if (root !== null) render(<Page />, root);
